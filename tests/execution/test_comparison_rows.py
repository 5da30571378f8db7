"""Baseline comparison: the same labels for all, leads with their test, and what random timing earns."""

import numpy as np
import pytest

from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, Positions, run_backtest
from tasks.execution.comparison_rows import common_labels, rate_forecasts
from tasks.execution.metrics import total_return
from tasks.execution.random_positions import random_positions, shuffled_positions

COSTS, ACCOUNT = Costs(), BacktestConfig()
UNSEEN = {"trained_until_ms": None, "label_span_ms": 0}


def test_lead_and_its_test_by_hand():
    #            true class 0        true class 1
    model = np.array([[0.8, 0.2], [0.4, 0.6], [0.5, 0.5]])
    other = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    rated = rate_forecasts("model", {"model": model, "coin": other}, np.array([0, 1, -1]), overlap=0, bars_per_day=1.0)
    expected = -(np.log(0.8) + np.log(0.6)) / 2
    assert rated["model"]["log_loss"] == pytest.approx(expected, rel=1e-12)
    assert rated["coin"]["log_loss"] == pytest.approx(np.log(2), rel=1e-12)
    assert rated["coin"]["lead"] == pytest.approx(np.log(2) - expected, rel=1e-12)
    assert rated["model"]["accuracy"] == 1.0
    assert "lead" not in rated["model"]  # nobody leads over itself
    assert 0.0 < rated["coin"]["p_value"] < 0.05


def test_everyone_is_judged_on_the_labels_that_all_know():
    one, two = np.full((4, 2), 0.5), np.full((4, 2), 0.5)
    one[0], two[1] = np.nan, np.nan
    known = common_labels(np.array([0, 1, 1, -1]), {"one": one, "two": two})
    np.testing.assert_array_equal(known, [False, False, True, False])


def test_direction_is_the_share_of_moves_that_went_to_the_side_named():
    #               sell hold buy   true: sell       buy              buy              hold
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.5, 0.4], [0.3, 0.5, 0.2], [0.6, 0.2, 0.2]])
    rated = rate_forecasts("model", {"model": p}, np.array([0, 2, 2, 1]), overlap=0, bars_per_day=1.0)
    assert rated["model"]["direction"] == pytest.approx(2 / 3, rel=1e-12)


def test_equal_forecasts_have_no_test():
    half = np.full((10, 2), 0.5)
    rated = rate_forecasts("a", {"a": half, "b": half.copy()}, np.zeros(10, np.int64), overlap=2, bars_per_day=1.0)
    assert rated["b"]["lead"] == 0.0
    assert rated["b"]["p_value"] is None


@pytest.mark.parametrize("seed", range(5))
def test_random_timing_keeps_exposure_and_turnover(random_market, seed):
    _, target = random_market(2_000, seed)
    drawn = shuffled_positions(target, np.random.default_rng(seed))
    for state in (-1, 0, 1):
        assert np.count_nonzero(drawn == state) == np.count_nonzero(target == state)
    # Turned around its ends: a run may be cut in two there, or two ends may meet and be one.
    changes = [np.count_nonzero(np.diff(positions)) for positions in (target, drawn)]
    assert abs(changes[0] - changes[1]) <= 1
    assert not np.array_equal(drawn, target)


def test_foresight_beats_all_random_timings_and_its_reverse_none(random_market):
    bars, _ = random_market(1_500, 4)
    foresight = np.sign(np.append(np.diff(np.append(bars.open[1:], bars.open[-1])), 0.0)).astype(np.int8)
    free = Costs(commission=0.0, slippage=0.0, funding=False)
    best = random_positions(bars, Positions(foresight), free, ACCOUNT, **UNSEEN, draws=50)
    worst = random_positions(bars, Positions(-foresight), free, ACCOUNT, **UNSEEN, draws=50)
    assert (best.percentile, worst.percentile) == (1.0, 0.0)
    assert best.low < best.total_return < best.high


def test_flat_model_stands_in_the_middle_of_its_own_kind(random_market):
    bars, target = random_market(500, 5)
    drawn = random_positions(bars, Positions(np.zeros_like(target)), COSTS, ACCOUNT, **UNSEEN, draws=20)
    assert drawn.percentile == 0.5  # every draw is flat too: all tie
    assert (drawn.total_return, drawn.sharpe_ratio) == (0.0, None)


def test_random_timing_in_a_market_without_signal_earns_what_the_model_earns_on_average(random_market):
    # A model that knows nothing is one more draw: over many models its percentile is uniform, so its mean is 1/2.
    found = []
    for seed in range(40):
        bars, target = random_market(600, 100 + seed)
        drawn = random_positions(bars, Positions(target), COSTS, ACCOUNT, **UNSEEN, draws=40, seed=seed)
        found.append(drawn.percentile)
    # 40 uniform numbers: standard error 0.29 / sqrt(40) = 0.046; three of them.
    assert np.mean(found) == pytest.approx(0.5, abs=0.14)


def test_same_seed_draws_the_same_positions(random_market):
    bars, target = random_market(800, 6)
    first, second = (random_positions(bars, Positions(target), COSTS, ACCOUNT, **UNSEEN, draws=30) for _ in range(2))
    assert first == second
    assert first.draws == 30
    assert total_return(run_backtest(bars, target, COSTS, ACCOUNT, **UNSEEN).equity) != first.total_return
