"""A recipe as a document: what a version keeps of how it was made."""

import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from storage.results import canonical_json
from storage.schema import ConfigError, Market
from tasks.execution.accounting import Costs
from tasks.execution.decision import DecisionConfig, decide
from tasks.market.labels import LabelConfig
from tasks.network.architecture import preset
from tasks.network.baseline_config import BaselineConfig
from tasks.network.fit_config import fit_preset
from tasks.strategy.promotion_rule import PromotionRule
from tasks.strategy.recipe import Recipe, decision_params
from tasks.strategy.vol_forecast_rule import VolForecastRule


@pytest.mark.parametrize("name", ["default", "source"])
def test_recipe_comes_back_from_its_document_with_presets_filled_in(name):
    recipe = Recipe(preset=name, labels=LabelConfig(horizon=7))
    back = TypeAdapter(Recipe).validate_json(canonical_json(recipe.resolved))
    assert back.network == preset(name)
    assert back.fit == fit_preset(name)
    assert back.labels == LabelConfig(horizon=7)
    assert back == back.resolved == recipe.resolved


def test_source_preset_trades_every_change_of_the_most_probable_class():
    assert Recipe(preset="source").decision_config.rule == "argmax"
    assert Recipe().decision_config.rule == "value"


def test_second_seed_is_another_of_every_member_and_nothing_else():
    recipe = Recipe(labels=LabelConfig(horizon=7), refit=True)
    first, second = recipe.fit_config.seed, recipe.second_seed.fit_config.seed
    members = range(recipe.network_config.members)
    assert {first + member for member in members}.isdisjoint({second + member for member in members})
    assert recipe.second_seed == replace(recipe, fit=replace(recipe.fit_config, seed=second), refit=False)


@pytest.mark.parametrize("rule", ["value", "argmax"])
@pytest.mark.parametrize(("category", "lowest"), [("linear", -1), ("spot", 0)])
def test_decision_of_a_recipe_sells_short_except_on_spot(rule, category, lowest):
    recipe = Recipe(decision=DecisionConfig(rule=rule))
    params = decision_params(recipe, Market(category=category), np.array([-1.0, 0.0, 1.0]))
    assert decide(1.0, 0.0, 0.0, 0.01, math.nan, 0, 1, params) == lowest  # a fall of sqrt(horizon) percent is certain


def test_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="preset must be default or source, was 'fast'"):
        Recipe(preset="fast")


SIZED = DecisionConfig(sizing="volatility")


@pytest.mark.promise(14)
@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe(), ()),
        (Recipe(promotion=PromotionRule(min_trades=1, min_days=60.0)), ("min_trades 1 (100)",)),
        (Recipe(decision=SIZED), ()),
        (Recipe(decision=SIZED, risk=VolForecastRule(least_r2=-1.0, hours=12.0)), ("risk.least_r2 -1 (0.2)",)),
        (Recipe(risk=VolForecastRule(least_r2=-1.0)), ()),  # where nothing is sized by it, it decides nothing
        (
            Recipe(baselines=BaselineConfig(strengths=(0.1,), leaves=(2,), most_trees=1)),
            ("baselines.strengths without 0.0001, 0.001, 0.01", "baselines.leaves without 4, 12, 32",
             "baselines.most_trees 1 (400)"),
        ),
        (Recipe(baselines=BaselineConfig(boosting_rate=1e-9)), ("baselines.boosting_rate 1e-09 (0.05)",)),
        (Recipe(baselines=BaselineConfig(most_trees=800, patience=40, twin=False)), ()),
        (Recipe(fees="own", costs=Costs(slippage=0.0)), ("costs.slippage 0 (0.0001)",)),
    ],
)  # fmt: skip
def test_recipe_says_wherever_its_promotion_asks_for_less_than_the_default(recipe, said):
    assert recipe.asks_less() == said


LINEAR, SPOT = Market(symbol="BTCUSDT"), Market(symbol="BTCUSDT", category="spot")
OWN = Costs(commission=0.0002)


@pytest.mark.parametrize(
    ("recipe", "market", "is_made_up", "fees", "commission"),
    [
        (Recipe(), LINEAR, False, "bybit-linear", 0.00055),  # of an exchange, and of what it recorded
        (Recipe(), SPOT, False, "bybit-spot", 0.001),
        (Recipe(), LINEAR, True, "source", 0.001),  # no venue
        (Recipe(preset="source"), LINEAR, False, "source", 0.001),
        (Recipe(costs=OWN), LINEAR, False, "own", 0.0002),
        (Recipe(costs=Costs(funding=False)), LINEAR, False, "bybit-linear", 0.00055),
        (Recipe(fees="source"), LINEAR, False, "source", 0.001),
        (Recipe(fees="bybit-linear"), LINEAR, True, "bybit-linear", 0.00055),
        (Recipe(fees="own"), LINEAR, False, "own", 0.001),
    ],
)
def test_venue_is_paid_what_it_asks_unless_somebody_says_otherwise(recipe, market, is_made_up, fees, commission):
    charged = recipe.charged(market, is_made_up=is_made_up)
    assert (charged.fees, charged.costs.commission) == (fees, commission)
    assert charged.costs.funding == recipe.costs.funding
    assert charged.charged(market, is_made_up=is_made_up) == charged


def test_floor_of_the_labels_is_what_a_round_trip_costs_at_the_venue():
    assert Recipe().charged(LINEAR, is_made_up=False).costs.round_trip == pytest.approx(0.0013)
