"""Months, drawdowns and rolling ratios against hand calculations; the chart's data against the bars they stand for."""

import math

import numpy as np
import pytest

from storage.schema import DAY_MS
from tasks.execution.trades import Trades
from tasks.reporting.explorer import MOST_BARS, MOST_TRADES, explorer_data
from tasks.reporting.report_data import Equity
from tasks.reporting.track import (
    days_of,
    drawdown,
    largest_month,
    monthly_returns,
    rolling_sharpe,
    trade_rows,
    used_months,
    worst_drawdowns,
)
from tests.reporting.example_report import START_MS, market_of, round_trips

HOUR = 3_600_000


def daily(model: list[float], held: list[float] | None = None, start_ms: int = START_MS) -> Equity:
    """Return an account on daily bars."""
    bars = len(model) - 1
    candles = market_of([1.0] * bars, DAY_MS, start_ms)
    return Equity(
        candles=candles,
        interval_ms=DAY_MS,
        model=np.array(model),
        buy_and_hold=np.array(held or [1.0] * (bars + 1)),
        trades=round_trips(candles, 0),
    )


def test_drawdown_counts_from_the_highest_so_far() -> None:
    equity = np.array([100.0, 110.0, 99.0, 121.0, 60.5])
    np.testing.assert_allclose(drawdown(equity), [0.0, 0.0, -0.1, 0.0, -0.5], atol=1e-15)


def test_days_belong_to_the_day_in_which_their_bars_open_also_behind_a_gap() -> None:
    bars = market_of([1.0] * 4, 12 * HOUR)
    bars.start_ms[2:] += 2 * DAY_MS  # two days are missing
    equity = Equity(
        candles=bars,
        interval_ms=12 * HOUR,
        model=np.array([1, 1.1, 1.1, 2.2, 2.2]),
        buy_and_hold=np.ones(5),
        trades=round_trips(bars, 0),
    )
    np.testing.assert_allclose(days_of(equity, equity.model), [0.1, 0.0, 0.0, 1.0], atol=1e-15)


def test_months_compound_their_days_and_the_year_its_months() -> None:
    # 30 days from 2025-12-31: one day of 2025, 29 of January 2026
    equity = daily([100.0, 110.0, *([110.0] * 28), 55.0], start_ms=START_MS + 364 * DAY_MS)
    table = monthly_returns(equity)
    assert list(table) == [2025, 2026]
    assert list(table[2025]) == ["this model", "buy and hold"]
    last, first = table[2025]["this model"], table[2026]["this model"]
    assert last[11] == pytest.approx(0.1)
    assert last[12] == pytest.approx(0.1)
    assert first[0] == pytest.approx(-0.5)
    assert math.isnan(first[1])
    assert used_months(table) == [0, 11]
    assert largest_month(table) == pytest.approx(0.5)


def test_drawdowns_come_deepest_first_with_when_they_began_and_ended() -> None:
    equity = daily([100.0, 90.0, 100.0, 120.0, 60.0, 90.0])
    deepest, other = worst_drawdowns(equity)
    assert (deepest["fall"], other["fall"]) == (pytest.approx(-0.5), pytest.approx(-0.1))
    assert list(deepest.values())[1:] == ["2025-01-04", "2025-01-05", "not yet", 2.0]
    assert list(other.values())[1:] == ["2025-01-01", "2025-01-02", "2025-01-03", 2.0]
    assert worst_drawdowns(equity, most=1)[0]["lowest"] == "2025-01-05"
    assert worst_drawdowns(daily([1.0, 2.0, 2.0])) == []


def test_rolling_ratio_is_that_of_its_window_and_undefined_where_the_account_hardly_moved() -> None:
    rng = np.random.default_rng(3)
    days = np.r_[np.zeros(30), rng.normal(0.001, 0.01, 40)]
    window, ratios = rolling_sharpe(days)
    assert window == 30
    assert len(ratios) == 41
    assert np.isnan(ratios).tolist() == [True] * 5 + [False] * 36  # the sixth window holds five days that moved
    last = days[-30:]
    assert ratios[-1] == pytest.approx(math.sqrt(365) * last.mean() / last.std(ddof=1), rel=1e-12)
    assert rolling_sharpe(np.zeros(180))[0] == 90
    assert rolling_sharpe(days[:59]) is None


@pytest.mark.parametrize("bars", [1, 7, MOST_BARS, MOST_BARS + 1, 10 * MOST_BARS + 3])
def test_chart_holds_few_candles_and_loses_no_high_no_low_and_no_fall(bars: int) -> None:
    rng = np.random.default_rng(11)
    candles = market_of((100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, bars)))).tolist())
    model = 1e5 * np.exp(np.cumsum(np.r_[0.0, rng.normal(0, 0.01, bars)]))
    held, none = np.ones(bars + 1), round_trips(candles, 0)
    chart = explorer_data(Equity(candles=candles, interval_ms=300_000, model=model, buy_and_hold=held, trades=none))
    assert len(chart["time"]) <= MOST_BARS
    assert {len(chart[name]) for name in ("time", "open", "high", "low", "close")} == {len(chart["time"])}
    assert (chart["open"][0], chart["close"][-1]) == pytest.approx((candles.open[0], candles.close[-1]), rel=1e-5)
    assert max(chart["high"]) == pytest.approx(candles.high.max(), rel=1e-5)
    assert min(chart["low"]) == pytest.approx(candles.low.min(), rel=1e-5)
    ours = chart["series"]["this model"]
    assert list(chart["series"]) == ["this model", "buy and hold"]
    assert ours["equity"][-1] == pytest.approx(model[-1], rel=1e-5)
    deepest = 100.0 * (model / np.maximum.accumulate(model) - 1.0).min()
    assert min(ours["drawdown"]) == pytest.approx(deepest, rel=1e-5)


def test_chart_marks_the_newest_trades_where_and_when_they_were_filled() -> None:
    candles = market_of([float(price) for price in range(1, 30_001)])
    trades = round_trips(candles, MOST_TRADES + 5)
    equity = Equity(
        candles=candles, interval_ms=300_000, model=np.ones(30_001), buy_and_hold=np.ones(30_001), trades=trades
    )
    marks = explorer_data(equity)["trades"]
    assert len(marks) == MOST_TRADES
    side, entered, paid, left, got, net = marks[-1]
    assert (side, entered, paid) == (trades.side[-1], candles.start_ms[-6], candles.open[-6])
    assert left == candles.start_ms[-1] + 300_000  # at that bar's close
    assert got == trades.exit_price[-1]
    assert net == pytest.approx(trades.net[-1], rel=1e-5)
    assert marks[0][1] == candles.start_ms[trades.entry_bar[5]]


def test_newest_round_trips_are_listed_with_their_costs() -> None:
    candles = market_of([100.0] * 5 + [110.0] * 5)
    one = Trades(
        entry_bar=np.array([2]), exit_bar=np.array([7]), at_close=np.array([False]), side=np.array([-1]),
        quantity=np.array([2.0]), entry_price=np.array([100.0]), exit_price=np.array([110.0]), gross=np.array([-20.0]),
        entry_fee=np.array([0.2]), exit_fee=np.array([0.22]), entry_slippage=np.array([0.1]),
        exit_slippage=np.array([0.11]), funding=np.array([-0.5]), exit=np.array([1]),
    )  # fmt: skip
    equity = Equity(candles=candles, interval_ms=300_000, model=np.ones(11), buy_and_hold=np.ones(11), trades=one)
    (row,) = trade_rows(equity)
    assert row == {
        "entered": "2025-01-01T00:10Z", "side": "short", "bars": 5, "entry": 100.0, "exit": 110.0, "gross": -20.0,
        "fees": 0.42, "slippage": 0.21, "funding": -0.5, "net": -20.13, "ended by": "gap",
    }  # fmt: skip
