"""The default market is one on which the main job ends promoted, and without its signal one on which it does not."""

import json
import math
import re

import numpy as np
import pytest

from storage.schema import Candles, FloatArray, Market, sandbox_source
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, BacktestResult, run_backtest
from tasks.execution.bars import Bars
from tasks.execution.decision import decide_series, packed
from tasks.market.synthetic import SyntheticMarket, description, generate
from tasks.strategy.recipe import Recipe
from tests.verification.promoted_seeds import SEEDS, TABLE

MARKET, RECIPE = SyntheticMarket(), Recipe()
UNSEEN = round(0.4 * MARKET.bars) - 1_000  # about what the folds test on
DRIFTS, NOTHING = json.loads(TABLE.read_text())[:-1], json.loads(TABLE.read_text())[-1]


def test_table_is_of_the_market_that_is_the_default():
    assert {row["source"] for row in DRIFTS} == {sandbox_source(description(MARKET))}
    assert [row["arguments"] for row in DRIFTS] == [f"--fit.seed {seed}" for seed in SEEDS]


@pytest.mark.parametrize("row", DRIFTS, ids=[row["arguments"] for row in DRIFTS])
def test_every_training_seed_ended_promoted_with_500_trades(row):
    assert row["verdict"].startswith("PROMOTED - ")
    assert [name for name, (passed, _) in row["checks"].items() if not passed] == []
    assert row["this model"]["num_trades"] >= 500
    assert row["lines_in_a_pipe"] <= 40


def test_market_without_a_signal_ended_not_promoted():
    assert NOTHING["verdict"].startswith("NOT PROMOTED - no position is taken.")
    failed = {name for name, (passed, _) in NOTHING["checks"].items() if not passed}
    assert any(re.match("direction of moves", name) for name in failed)


def test_whoever_knows_the_signal_earns_at_half_as_much_again_in_costs():
    dear = RECIPE.costs.scaled(RECIPE.promotion.cost_stress)
    candles = generate(MARKET)[-UNSEEN:]
    signal = np.log(candles.volume) - 3.0  # the law says so
    result = informed(candles, signal, RECIPE.costs)
    assert len(result.trades) >= 500
    assert result.equity[-1] > result.equity[0]
    assert informed(candles, signal, RECIPE.costs, dear).equity[-1] > result.equity[0]
    unrelated = np.random.default_rng(0).permutation(signal)
    assert informed(candles, unrelated, RECIPE.costs).equity[-1] < result.equity[0]


def informed(candles: Candles, signal: FloatArray, decided: Costs, charged: Costs | None = None) -> BacktestResult:
    """Trade on what the signal makes of the next bars, as the decision rule does on a model's probabilities.

    The mean return of `horizon` bars is volatility * k * s * (1 - psi^horizon) / (1 - psi).
    """
    horizon = RECIPE.labels.horizon
    reach = (1 - MARKET.psi**horizon) / (1 - MARKET.psi)
    vol = np.full(len(signal), MARKET.volatility)
    lean = np.clip(MARKET.k * signal * reach / math.sqrt(horizon), -1, 1)
    probabilities = np.column_stack([(1 - lean) / 2, np.zeros(len(lean)), (1 + lean) / 2])
    bars = Bars.of(candles, Market().interval_ms)
    rule = packed(RECIPE.decision_config, decided, np.array([-1.0, 0.0, 1.0]), horizon)
    target = decide_series(probabilities, vol, bars.contiguous, rule)
    return run_backtest(bars, target, charged or decided, BacktestConfig(), trained_until_ms=None, label_span_ms=0)
