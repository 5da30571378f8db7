"""The result by year and regime: every day is in exactly one year, and the parts compound to the whole."""

import numpy as np
import pytest

from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, buy_and_hold, run_backtest
from tasks.execution.metrics import total_return
from tasks.execution.slices import slices

DAY_BARS = 288
NEW_YEAR_MS = 1_767_225_600_000  # 2026-01-01


@pytest.fixture
def two_years(make_bars):
    rng = np.random.default_rng(5)
    price = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, 10 * DAY_BARS)))
    bars = make_bars(price, first_ms=NEW_YEAR_MS - 4 * 86_400_000)
    target = np.where(np.arange(len(price)) // 100 % 2, 1, -1)
    result = run_backtest(bars, target, Costs(), BacktestConfig(), trained_until_ms=None, label_span_ms=0)
    return result, buy_and_hold(bars, Costs(), BacktestConfig())


def test_years_part_the_days_and_compound_to_the_whole(two_years):
    result, held = two_years
    vol = np.full(len(result.bars), 1e-3)
    found = {part.name: part for part in slices(result, held, vol)}
    assert (found["2025"].days, found["2026"].days) == (4, 6)
    own = (1 + found["2025"].total_return) * (1 + found["2026"].total_return) - 1
    other = (1 + found["2025"].held_return) * (1 + found["2026"].held_return) - 1
    assert own == pytest.approx(total_return(result.equity), rel=1e-12)
    assert other == pytest.approx(total_return(held.equity), rel=1e-12)
    assert found["2025"].num_trades + found["2026"].num_trades == len(result.trades)


def test_thirds_of_volatility_hold_a_third_of_the_days_each(two_years):
    result, held = two_years
    vol = np.repeat(np.linspace(1e-3, 2e-3, 10), DAY_BARS)
    vol[:DAY_BARS] = np.nan  # warming up: a day without volatility belongs to no third
    found = {part.name: part.days for part in slices(result, held, vol)}
    assert [found[name] for name in found if "third" in name] == [3, 3, 3]


def test_rising_and_falling_days_are_told_apart(two_years):
    result, held = two_years
    found = {part.name: part for part in slices(result, held, np.full(len(result.bars), np.nan))}
    assert found["days on which holding gained"].held_return > 0 > found["days on which holding lost"].held_return
    assert not [name for name in found if "third" in name]
