"""The parameter form: every field says what it means, and its bounds are those of the constructor."""

import dataclasses
from dataclasses import dataclass

import pytest
from prefect.exceptions import ParameterTypeError, SignatureMismatchError
from prefect.utilities.callables import parameter_schema

from flows.form import bounds, described_fields
from flows.monitor import monitor
from flows.pipeline import pipeline
from storage.schema import ConfigError, Market
from tasks.connection import ExchangeConfig
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig
from tasks.execution.decision import DecisionConfig
from tasks.execution.expiry import ExpiryRule
from tasks.execution.promotion import PromotionRule
from tasks.market.labels import LabelConfig
from tasks.market.samples import FoldConfig
from tasks.market.synthetic import SyntheticMarket
from tasks.monitoring import MonitorConfig
from tasks.network.architecture import DSCConfig
from tasks.network.baselines import BaselineConfig
from tasks.network.fit_config import FitConfig

DEFINITIONS = {name: body for flow in (pipeline, monitor) for name, body in parameter_schema(flow).definitions.items()}
CONFIGS = {
    config.__name__: config
    for config in (
        BacktestConfig, BaselineConfig, Costs, DSCConfig, DecisionConfig, ExchangeConfig, ExpiryRule, FitConfig,
        FoldConfig, LabelConfig, Market, MonitorConfig, PromotionRule, SyntheticMarket,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_field_of_the_form_is_described(name):
    assert DEFINITIONS[name]["description"]
    assert {field for field, body in DEFINITIONS[name]["properties"].items() if not body["description"]} == set()


def refused(config: type, field: str, value: float) -> bool:
    """Return whether the constructor refuses a value for what it is; rules over several fields are no bounds."""
    try:
        config(**{field: value})
    except ConfigError as err:
        return str(err).startswith(f"{field} must")
    return False


@pytest.mark.parametrize("name", CONFIGS)
def test_stated_bounds_are_where_the_constructor_begins_to_refuse(name):
    config = CONFIGS[name]
    for field, body in DEFINITIONS[name]["properties"].items():
        for option in body.get("anyOf", [body]):
            for key, limit in option.items():
                if key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                    outward = -1 if "inimum" in key else 1
                    step = 1 if option["type"] == "integer" else 1e-6
                    beyond = limit + outward * step if not key.startswith("exclusive") else limit
                    within = limit if not key.startswith("exclusive") else limit - outward * step
                    assert not refused(config, field, within)
                    assert refused(config, field, beyond)


@pytest.mark.parametrize(
    ("config", "field", "whole", "expected"),
    [
        (FoldConfig, "folds", True, {"minimum": 1}),
        (Costs, "commission", False, {"minimum": 0.0, "exclusiveMaximum": 0.1}),
        (ExchangeConfig, "threads", True, {"minimum": 1, "maximum": 32}),
        (BacktestConfig, "position_fraction", False, {"exclusiveMinimum": 0.0, "maximum": 1.0}),
        (SyntheticMarket, "psi", False, {"exclusiveMinimum": -1.0, "exclusiveMaximum": 1.0}),
        (SyntheticMarket, "beta", False, {}),
    ],
)
def test_bounds_are_those_of_the_docstring(config, field, whole, expected):
    assert bounds(config, field, whole=whole) == expected


def test_rule_that_is_no_bound_gives_none():
    @dataclass(frozen=True, kw_only=True)
    class Odd:
        taps: int = 5

        def __post_init__(self) -> None:
            if self.taps % 2 == 0:
                raise ConfigError(f"taps must be odd, was {self.taps}")

    assert bounds(Odd, "taps", whole=True) == {}
    assert dataclasses.fields(Odd)[0].default == 5


def test_description_joins_lines_and_shares_a_line_between_names():
    class Pair:
        """What it is.

        More words.

        Attributes:
            low, high: Both ends,
                on two lines.
            name: Its name.
        """

    summary, fields = described_fields(Pair)
    assert summary == "What it is."
    assert fields == {"low": "Both ends, on two lines.", "high": "Both ends, on two lines.", "name": "Its name."}


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"recipe": {"network": {"separable": True}}}, "recipe.network.separable: Unexpected keyword argument"),
        ({"colour": "red"}, r"expects parameters \['market', .* but was provided with parameters \['colour'\]"),
    ],
)
def test_parameters_of_an_older_deployment_are_refused_by_name(parameters, reason):
    with pytest.raises((ParameterTypeError, SignatureMismatchError), match=reason):
        pipeline.validate_parameters(parameters)
