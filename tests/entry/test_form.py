"""The parameter form: every field says what it means, and its bounds are those of the constructor."""

import re

import pytest
from prefect.exceptions import ParameterTypeError, SignatureMismatchError
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.entry.form import described_fields
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.monitor import monitor
from flows.pipeline import pipeline
from flows.retrain import retrain
from flows.rollback import rollback
from flows.trade import trade
from storage.schema import ConfigError, Market
from tasks.champion.health import MonitorConfig
from tasks.exchange.connection import ExchangeConfig
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig
from tasks.execution.decision import DecisionConfig
from tasks.ingestion.quality import QualityConfig
from tasks.live.session_config import SessionConfig
from tasks.market.labels import LabelConfig
from tasks.market.synthetic import SyntheticMarket
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.baseline_config import BaselineConfig
from tasks.network.fit_config import FitConfig
from tasks.strategy.promotion_rule import PromotionRule
from tasks.strategy.recipe import Recipe

BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
FLOWS = (ingest, retrain, pipeline, monitor, evaluate, rollback, trade)
DEFINITIONS = {
    name: body for flow in (pipeline, monitor, trade) for name, body in parameter_schema(flow).definitions.items()
}
CONFIGS = {
    config.__name__: config
    for config in (
        BacktestConfig, BaselineConfig, Costs, DSCConfig, DecisionConfig, ExchangeConfig, FitConfig,
        FoldConfig, LabelConfig, Market, MonitorConfig, PromotionRule, SessionConfig, SyntheticMarket,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_field_of_the_form_is_described(name):
    assert DEFINITIONS[name]["description"]
    assert {field for field, body in DEFINITIONS[name]["properties"].items() if not body["description"]} == set()


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_field_of_the_form_has_a_title_in_words_of_its_own(flow):
    schema = parameter_schema(flow)
    for fields in (schema.properties, *(body["properties"] for body in schema.definitions.values())):
        titles = [field["title"] for field in fields.values()]
        assert len(set(titles)) == len(titles)
        for title in titles:
            assert re.fullmatch(r"[A-Z][a-zA-Z, µ'-]{3,}", title), title


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_description_has_nothing_that_a_browser_takes_for_markup(flow):
    schema = parameter_schema(flow)
    said = [*schema.properties.values(), *schema.definitions.values()]
    said += [field for body in schema.definitions.values() for field in body["properties"].values()]
    assert [text for one in said if re.search("<|&", text := one.get("description", ""))] == []


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_form_shows_few_fields_until_a_part_is_opened(flow):
    schema = parameter_schema(flow)

    def shown(fields: dict) -> int:
        inside = [schema.definitions[field["$ref"].rpartition("/")[2]] for field in fields.values() if "$ref" in field]
        return len(fields) + sum(shown(one["properties"]) for one in inside)

    assert shown(schema.properties) <= 18
    for config in schema.definitions.values():
        assert [name for name, field in config["properties"].items() if "$ref" in field] == []


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"market": {"interval": "7"}}, r"'market.interval'.*'7' is not one of \['1', '3', '5', .* 'D', 'W'\]"),
        ({"market": {"symbol": "btc usdt"}}, r"'market.symbol'.*'btc usdt' does not match"),
        ({"symbols": ["BTCUSDT", "btc usdt"]}, r"'symbols\[1\]'.*'btc usdt' does not match"),
        ({"exchange": {"exchange": "nyse"}}, r"'exchange.exchange'.*'nyse' is not one of"),
        ({"recipe": {"folds": {"folds": 0}}}, r"'recipe.folds.folds'.* 0 is less than the minimum of 1"),
    ],
)
def test_value_that_breaks_a_rule_is_refused_by_the_servers_check_before_a_run_begins(parameters, reason):
    with pytest.raises(ValidationError, match=reason):
        validate(parameters, parameter_schema(pipeline).model_dump(), raise_on_error=True)


@pytest.mark.parametrize("interval", ["1", "720", "D", "W"])
def test_value_that_keeps_the_rules_passes_the_servers_check(interval):
    parameters = {"market": {"symbol": "BTC-27MAR26", "interval": interval}, "symbols": [], "recipe": None}
    assert validate(parameters, parameter_schema(pipeline).model_dump(), raise_on_error=True) == []


def test_part_left_as_usual_is_what_the_flow_takes_without_it():
    folded = {"quality": None, "recipe": {"labels": None, "network": None, "folds": {"folds": 2}}, "exchange": None}
    taken = pipeline.validate_parameters(folded)
    assert taken["quality"] == QualityConfig()
    assert taken["exchange"] == ExchangeConfig()
    assert taken["recipe"] == Recipe(folds=FoldConfig(folds=2))


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
                if key in BOUNDS:
                    outward = -1 if "inimum" in key else 1
                    step = 1 if option["type"] == "integer" else 1e-6
                    beyond = limit + outward * step if not key.startswith("exclusive") else limit
                    within = limit if not key.startswith("exclusive") else limit - outward * step
                    assert not refused(config, field, within)
                    assert refused(config, field, beyond)


@pytest.mark.parametrize(
    ("config", "field", "expected"),
    [
        ("FoldConfig", "folds", {"minimum": 1}),
        ("Costs", "commission", {"minimum": 0, "exclusiveMaximum": 0.1}),
        ("DSCConfig", "hidden_channels", {"minimum": 1, "maximum": 1024}),
        ("BacktestConfig", "position_fraction", {"exclusiveMinimum": 0, "maximum": 1}),
        ("LabelConfig", "k", {"minimum": 0}),
    ],
)
def test_form_states_the_bounds_of_a_number(config, field, expected):
    body = DEFINITIONS[config]["properties"][field]
    assert {key: limit for key, limit in body.items() if key in BOUNDS} == expected


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
