"""The same decisions under every circumstance, and two sides on the same bars."""

import numpy as np
import pytest

from tasks.execution import comparison
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, Positions, run_backtest
from tasks.execution.comparison import COST_FACTORS, COSTS_PER_SIDE, DELAYS, compare, duel
from tasks.execution.metrics import bar_returns
from tasks.execution.significance import stationary_bootstrap_test

BARS_PER_YEAR, DAY_BARS = 105_120.0, 288
ONE_COIN = BacktestConfig(initial_capital=1e8, fixed_coins=1.0)
UNSEEN = {"trained_until_ms": -10_000_000, "label_span_ms": 0}


@pytest.fixture
def traded(random_market):
    return random_market(30 * DAY_BARS, seed=3, switch=0.05)


def compared(traded, costs):
    bars, target = traded
    return compare(bars, lambda costs: Positions(target), costs, ONE_COIN, bars_per_year=BARS_PER_YEAR, **UNSEEN)


def test_sweep_takes_off_what_the_traded_notional_pays(traded):
    """One coin a position: quantities are the same at every cost, so the net result falls in a straight line."""
    sweep = compared(traded, Costs(commission=0.001, slippage=0.0))
    traded_notional = sweep.model.result.traded.sum()
    gross = sweep.model.result.gross_profit
    for factor, side in zip(COST_FACTORS, sweep.by_costs, strict=True):
        left = side.result.equity[-1] - side.result.equity[0]
        assert left == pytest.approx(gross - factor * 0.001 * traded_notional, abs=1e-5)
    for per_side, side in zip(COSTS_PER_SIDE, sweep.by_fee, strict=True):
        left = side.result.equity[-1] - side.result.equity[0]
        assert left == pytest.approx(gross - per_side * traded_notional, abs=1e-5)
    assert (COST_FACTORS, COSTS_PER_SIDE) == ((0.0, 1.0, 1.5, 2.0), (0.0, 0.0002, 0.00055, 0.001, 0.0015))
    break_even = sweep.model.metrics.break_even_cost_per_side
    assert break_even == pytest.approx(gross / traded_notional, rel=1e-9)


def test_sweep_decides_again_at_each_cost_beside_the_same_positions_dearer_or_cheaper(traded):
    """A rule that trades on a forecast which pays a round trip: at no cost always, at 15 bp a side hardly ever."""
    bars, _ = traded
    forecast = np.random.default_rng(5).normal(0.0, 1e-3, len(bars))

    def decide(costs: Costs):
        return Positions(np.where(np.abs(forecast) > 2 * costs.per_side, np.sign(forecast), 0).astype(int))

    assumed = Costs(commission=0.001, slippage=0.0)
    sweep = compare(bars, decide, assumed, ONE_COIN, bars_per_year=BARS_PER_YEAR, **UNSEEN)
    paid = [assumed.at(per_side) for per_side in COSTS_PER_SIDE] + [assumed.scaled(factor) for factor in COST_FACTORS]
    again, repriced = sweep.redecided_by_fee + sweep.redecided_by_costs, sweep.by_fee + sweep.by_costs
    for costs, one, other in zip(paid, again, repriced, strict=True):
        expected = run_backtest(bars, decide(costs).target, costs, ONE_COIN, **UNSEEN)
        np.testing.assert_array_equal(one.result.equity, expected.equity)
        np.testing.assert_array_equal(np.sign(other.result.quantity), np.sign(sweep.model.result.quantity))
        assert one.name == other.name
    trades = [one.metrics.num_trades for one in sweep.redecided_by_fee]
    assert trades == sorted(trades, reverse=True)
    assert trades[0] > 10 * trades[-1]
    assert {one.metrics.num_trades for one in sweep.by_fee} == {sweep.model.metrics.num_trades}


def test_delays_fill_the_same_decisions_one_and_two_bars_later(traded):
    bars, target = traded
    sweep = compared(traded, Costs())
    assert DELAYS == (0, 1, 2)
    for delay, side in zip(DELAYS, sweep.by_delay, strict=True):
        held = np.sign(side.result.quantity).astype(int)
        np.testing.assert_array_equal(held[1 + delay :], target[: len(bars) - 1 - delay])
    np.testing.assert_array_equal(sweep.by_delay[0].result.equity, sweep.model.result.equity)


def fought(traded, challenger, champion, horizon, level=0.05):
    bars, _ = traded
    return duel(
        bars, Positions(challenger), Positions(champion), Costs(), ONE_COIN,
        cost_stress=1.5, bars_per_year=BARS_PER_YEAR, horizon=horizon, level=level, **UNSEEN,
    )  # fmt: skip


@pytest.mark.promise(13)
@pytest.mark.parametrize("looks", [1, 101, 3_650])
def test_certain_lead_is_below_the_level_of_any_number_of_looks(traded, looks):
    bars, _ = traded
    up = np.sign(np.append(np.diff(np.log(bars.open))[1:], [0.0, 0.0])).astype(np.int64)  # knows what comes
    assert fought(traded, up, -up, 12, level=0.05 / looks).p_value < 0.05 / looks


@pytest.mark.promise(13)
@pytest.mark.parametrize(
    ("horizon", "hold", "block"), [(12, 5, DAY_BARS), (400, 5, 400), (12, 350, 350)], ids=["a day", "label", "position"]
)
def test_blocks_of_a_duel_outlast_label_day_and_position(traded, monkeypatch, horizon, hold, block):
    bars, _ = traded
    blocks = []

    def spy(difference, mean_block, **rest):
        blocks.append(mean_block)
        return stationary_bootstrap_test(difference, mean_block, **rest)

    monkeypatch.setattr(comparison, "stationary_bootstrap_test", spy)
    challenger = np.where(np.arange(len(bars)) // hold % 2, 1, -1)
    fight = fought(traded, challenger, np.zeros(len(bars), np.int64), horizon)
    # The first position lacks the bar before its fill, and the last one ends with the data.
    assert blocks == [pytest.approx(block, rel=0.05)]
    assert blocks[0] >= max(horizon, DAY_BARS, fight.challenger.metrics.mean_hold_bars)


@pytest.mark.promise(13)
def test_duel_tests_the_difference_of_both_sides_on_the_same_bars(traded, monkeypatch):
    bars, target = traded
    tested = []
    monkeypatch.setattr(comparison, "stationary_bootstrap_test", lambda difference, *_, **__: tested.append(difference))
    fight = fought(traded, target, -target, 12)
    sides = [bar_returns(run_backtest(bars, one, Costs(), ONE_COIN, **UNSEEN).equity) for one in (target, -target)]
    np.testing.assert_allclose(tested, [sides[0] - sides[1]], rtol=1e-12, atol=1e-15)
    dearer = run_backtest(bars, target, Costs().scaled(1.5), ONE_COIN, **UNSEEN)
    assert fight.stressed.result.equity[-1] == dearer.equity[-1]


def test_duel_has_no_test_when_the_sides_never_differ_or_too_few_days_are_there(traded, random_market):
    _, target = traded
    assert fought(traded, target, target, 12).p_value is None
    few = random_market(19 * DAY_BARS, seed=4, switch=0.05)
    assert fought(few, few[1], np.zeros(len(few[1]), np.int64), 12).p_value is None
