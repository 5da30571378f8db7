"""What counts as another strategy on a market's unseen bars: whatever somebody chose."""

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from storage.schema import DAY_MS, DatasetRef, Market, Source
from storage.trials import Trial, sharpe_per_strategy
from tasks.strategy.backtest_record import trial_of
from tasks.strategy.recipe import Recipe

DATA = DatasetRef(id="0123456789abcdef", source=Source("bybit"), market=Market())
RECIPE = Recipe().resolved


def trial(recipe: Recipe = RECIPE, first_day: int = 20_000, last_days: float | None = None) -> Trial:
    """Return the trial of an evaluation whose bars begin on a day and whose unseen ones a hundred days later."""
    evaluation = SimpleNamespace(
        daily_returns=np.array([0.01, 0.02]),
        samples=SimpleNamespace(
            dataset=SimpleNamespace(candles=SimpleNamespace(start_ms=(first_day + np.arange(102)) * DAY_MS))
        ),
        unseen=SimpleNamespace(start=100),
    )
    return trial_of("backtest-0123456789abcdef", DATA, recipe, evaluation, "exchange", last_days)


def strategies(trials: Iterable[Trial]) -> int:
    return len(sharpe_per_strategy(trials))


@pytest.mark.promise(13)
def test_every_pool_is_another_trial_and_newer_bars_of_its_markets_are_none():
    pools = [(), ("BTCUSDT:a", "ETHUSDT:b"), ("BTCUSDT:a", "SOLUSDT:c"), ("ADAUSDT:d", "BTCUSDT:a")]
    assert strategies(trial(replace(RECIPE, pool=pool)) for pool in pools) == 4
    newer = [("BTCUSDT:a", "ETHUSDT:b"), ("BTCUSDT:e", "ETHUSDT:f")]
    assert strategies(trial(replace(RECIPE, pool=pool)) for pool in newer) == 1
    assert trial(replace(RECIPE, pool=newer[1])).made_from["pool"] == ["BTCUSDT", "ETHUSDT"]


@pytest.mark.promise(13)
def test_every_first_day_that_is_chosen_is_another_trial_and_one_that_moves_by_itself_is_none():
    days = range(20_000, 20_012)
    assert strategies(trial(first_day=day) for day in days) == 12
    assert strategies(trial(first_day=day, last_days=180.0) for day in days) == 1
    assert strategies(trial(first_day=day, last_days=length) for day in days for length in (180.0, 365.0)) == 2


@pytest.mark.promise(13)
def test_bounds_of_promotion_are_no_other_trial():
    assert strategies([trial(), trial(replace(RECIPE, promotion=replace(RECIPE.promotion, min_days=9.0)))]) == 1
