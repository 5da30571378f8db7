import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.schema import DAY_MS, MINUTE_MS
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, buy_and_hold, flat, run_backtest
from tasks.execution.metrics import (
    bar_returns,
    break_even_cost_per_side,
    cagr,
    daily_returns,
    expectancy_bp,
    max_drawdown,
    max_drawdown_bars,
    profit_factor,
    sharpe_ratio,
    sortino_ratio,
    summarize,
    win_rate,
)

BARS_PER_YEAR = 105_120  # five minutes
EXACT = {"rel": 1e-12}


def run(bars, target, costs, config):
    return run_backtest(bars, np.asarray(target), costs, config, trained_until_ms=None, label_span_ms=0)


@pytest.fixture(scope="module")
def traded(random_market):
    """Twenty days of five-minute bars, traded with all costs."""
    bars, target = random_market(20 * 288, seed=23)
    return run(bars, target, Costs(), BacktestConfig())


# --- ratios -----------------------------------------------------------------------------------------------------------


def test_sharpe_is_mean_over_sample_deviation_by_the_root_of_the_year():
    # mean 0.01, deviations +-0.02 and 0: variance 0.0008 / 2
    assert sharpe_ratio(np.array([0.03, -0.01, 0.01]), 365) == pytest.approx(math.sqrt(365) * 0.01 / 0.02, **EXACT)


def test_sortino_divides_by_the_losses_of_all_periods():
    # mean 0.01; losses 0, 0.02, 0, 0.02: mean square 0.0002
    returns = np.array([0.03, -0.02, 0.05, -0.02])
    assert sortino_ratio(returns, 365) == pytest.approx(math.sqrt(365) * 0.01 / math.sqrt(0.0002), **EXACT)


@pytest.mark.parametrize("ratio", [sharpe_ratio, sortino_ratio])
@pytest.mark.parametrize("returns", [[], [0.01], [0.0, 0.0, 0.0], [0.001] * 1_000])
def test_ratio_is_undefined_when_returns_do_not_vary(ratio, returns):
    """Equal gains have no spread and no loss; their computed deviation is rounding, not zero."""
    assert ratio(np.array(returns), 365) is None


def test_sharpe_is_undefined_but_sortino_is_not_when_all_losses_are_equal():
    assert sharpe_ratio(np.full(100, -0.001), 365) is None
    assert sortino_ratio(np.full(100, -0.001), 365) == pytest.approx(-math.sqrt(365), **EXACT)


# --- equity -----------------------------------------------------------------------------------------------------------


def test_drawdown_counts_from_the_start_and_lasts_until_the_high_is_back():
    equity = np.array([100.0, 80, 90, 100, 120, 60, 110, 119])
    assert max_drawdown(equity) == 0.5
    assert max_drawdown_bars(equity) == 3  # 60, 110, 119
    assert max_drawdown(np.array([100.0, 80.0])) == pytest.approx(0.2, **EXACT)  # the start is a high
    assert max_drawdown_bars(np.array([100.0, 80, 90, 100])) == 2
    assert (max_drawdown(np.array([1.0, 2, 2])), max_drawdown_bars(np.array([1.0, 2, 2]))) == (0.0, 0)


def test_growth_rate_is_undefined_under_ninety_days():
    doubled = np.geomspace(1.0, 2.0, 366)
    assert cagr(doubled, 365) == pytest.approx(1.0, **EXACT)
    assert cagr(doubled[:91], 365) == pytest.approx(1.0, **EXACT)
    assert cagr(doubled[:90], 365) is None


def test_daily_returns_end_with_each_utc_day_and_span_days_without_bars():
    """Bars of 8 hours from noon; no bar on the third day, one on the fourth."""
    start_ms = np.array([12, 20, 24, 32, 40, 80]) * 60 * MINUTE_MS
    equity = np.array([100.0, 101, 110, 105, 107, 121, 242])
    assert daily_returns(equity, start_ms) == pytest.approx([0.10, 0.10, 0.0, 1.0], **EXACT)


def test_daily_returns_equal_pandas_when_resampled_by_utc_day(traded):
    index = pd.to_datetime(traded.bars.start_ms, unit="ms", utc=True)
    closes = pd.Series(traded.equity[1:], index=index).resample("D").last()
    expected = closes / closes.shift(1, fill_value=traded.equity[0]) - 1
    np.testing.assert_allclose(daily_returns(traded.equity, traded.bars.start_ms), expected, rtol=0, atol=1e-14)


def test_returns_are_zero_after_ruin():
    assert bar_returns(np.array([100.0, 50, 0, 0])).tolist() == [-0.5, -1.0, 0.0]


# --- trades -----------------------------------------------------------------------------------------------------------


def test_trade_metrics_equal_the_hand_calculation(make_bars):
    """One coin, free: the long earns 20, the short loses 5, the next long loses 10.

    Win rate 1/3; profit factor 20/15; expectancy the mean of 20/100, -5/120 and -10/125.
    """
    bars = make_bars([100, 100, 110, 120, 125, 115, 115])
    config = BacktestConfig(initial_capital=1_000.0, fixed_coins=1.0)
    result = run(bars, [1, 1, -1, 1, 0, 0, 0], Costs(commission=0.0, slippage=0.0), config)
    assert result.trades.net.tolist() == [20, -5, -10]
    assert win_rate(result.trades) == pytest.approx(1 / 3, **EXACT)
    assert profit_factor(result.trades) == pytest.approx(20 / 15, **EXACT)
    assert expectancy_bp(result.trades) == pytest.approx(1e4 * (0.2 - 5 / 120 - 0.08) / 3, **EXACT)
    metrics = summarize(result, BARS_PER_YEAR)
    assert metrics.num_trades == 3
    assert metrics.mean_hold_bars == pytest.approx(4 / 3, **EXACT)
    assert metrics.exposure == pytest.approx(4 / 7, **EXACT)
    assert metrics.total_return == pytest.approx(0.005, **EXACT)
    # Traded: buy 100, flip 240, flip 250, sell 115, over the equity at the close before; 7 of 288 bars of a day.
    turnover = 100 / 1000 + 240 / 1020 + 250 / 1015 + 115 / 1005
    assert metrics.turnover_per_day == pytest.approx(turnover * 288 / 7, **EXACT)
    held = 110 / 1010 + 120 / 1020 + 125 / 1015 + 115 / 1005
    assert metrics.mean_weight == pytest.approx(held / 7, **EXACT)


def test_break_even_cost_is_what_leaves_nothing_of_the_profit(random_market):
    """Trading fixed coins at exactly that cost ends where it began; funding is paid on top."""
    bars, target = random_market(3_000, seed=4)
    rate = np.where(np.arange(3_000) % 96 == 0, 1e-4, 0.0)
    bars = dataclasses.replace(bars, funding_rate=rate)
    config = BacktestConfig(initial_capital=1e7, fixed_coins=1.0)
    free = run(bars, target, Costs(commission=0.0, slippage=0.0), config)
    side = np.sign(free.gross_profit - free.funding_paid)  # a losing run breaks even backwards
    if side < 0:
        target, free = -target, run(bars, -target, Costs(commission=0.0, slippage=0.0), config)
    paid = run(bars, target, Costs(commission=break_even_cost_per_side(free), slippage=0.0), config)
    assert paid.fees_paid > 0
    assert paid.equity[-1] == pytest.approx(1e7, abs=1e-5)
    assert break_even_cost_per_side(paid) == pytest.approx(break_even_cost_per_side(free), rel=1e-9)


# --- the whole --------------------------------------------------------------------------------------------------------


def test_summary_equals_pandas_when_derived_again(traded):
    metrics = summarize(traded, BARS_PER_YEAR)
    equity = pd.Series(traded.equity)
    returns = equity.pct_change().dropna()
    daily = pd.Series(daily_returns(traded.equity, traded.bars.start_ms))
    assert metrics.sharpe_ratio == pytest.approx(daily.mean() / daily.std() * math.sqrt(365), rel=1e-9)
    downside = math.sqrt((daily.clip(upper=0) ** 2).mean())
    assert metrics.sortino_ratio == pytest.approx(daily.mean() / downside * math.sqrt(365), rel=1e-9)
    # 324.2 = sqrt(105,120): the notes' table for five minutes
    assert metrics.sharpe_per_bar == pytest.approx(returns.mean() / returns.std() * 324.2, rel=1e-4)
    assert metrics.max_drawdown == pytest.approx((1 - equity / equity.cummax()).max(), rel=1e-12)
    assert metrics.num_trades == len(traded.trades) > 100
    assert metrics.days == pytest.approx(20.0, **EXACT)
    assert metrics.fees_paid == pytest.approx(10 * metrics.slippage_paid, rel=1e-3)  # 10 bp against 1 bp
    assert metrics.gross_return - metrics.cost_drag == pytest.approx(metrics.total_return, abs=1e-12)
    assert (metrics.cagr, metrics.calmar) == (None, None)


def test_growth_and_calmar_are_reported_from_ninety_days_on(random_market):
    bars, _ = random_market(100 * 288, seed=2)
    result = buy_and_hold(bars, Costs(), BacktestConfig())
    metrics = summarize(result, BARS_PER_YEAR)
    expected = (result.equity[-1] / 100_000) ** 3.65 - 1
    assert metrics.cagr == pytest.approx(expected, rel=1e-9)
    assert metrics.calmar == pytest.approx(expected / metrics.max_drawdown, rel=1e-9)


def test_flat_account_has_no_ratios_and_no_losses(make_bars):
    metrics = dataclasses.asdict(
        summarize(flat(make_bars(np.full(600, 100.0)), Costs(), BacktestConfig()), BARS_PER_YEAR)
    )
    undefined = {name for name, value in metrics.items() if value is None}
    assert undefined == {
        "sharpe_ratio",
        "sortino_ratio",
        "win_rate",
        "profit_factor",
        "expectancy_bp",
        "mean_hold_bars",
        "cost_share_of_gross",
        "break_even_cost_per_side",
        "sharpe_per_bar",
        "sortino_per_bar",
        "cagr",
        "calmar",
    }
    assert {value for name, value in metrics.items() if name not in undefined | {"days"}} == {0}


@given(seed=st.integers(0, 10_000), bars=st.integers(1, 400), fraction=st.floats(0.01, 1.0), wild=st.floats(1e-4, 0.5))
@settings(deadline=None, max_examples=100)
def test_summary_holds_plain_finite_numbers_or_none_whatever_happens(make_bars, seed, bars, fraction, wild):
    """Ruin, single bars, single days, no trades: no NaN, no inf, no NumPy scalar."""
    rng = np.random.default_rng(seed)
    price = 100 * np.exp(np.clip(np.cumsum(rng.normal(0, wild, bars + 1)), -50, 50))
    target = np.repeat(rng.integers(-1, 2, bars), 5)[:bars]
    first_ms = int(rng.integers(0, 288)) * 5 * MINUTE_MS + 20_000 * DAY_MS
    result = run(
        make_bars(price[:-1], price[1:], first_ms=first_ms), target, Costs(), BacktestConfig(position_fraction=fraction)
    )
    for name, value in dataclasses.asdict(summarize(result, BARS_PER_YEAR)).items():
        assert value is None or (type(value) in (int, float) and math.isfinite(value)), name
