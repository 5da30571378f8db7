"""Realised variance ahead and behind: by hand, against pandas, and across gaps, where nothing is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storage.schema import DAY_MS, FloatArray, IntArray
from tasks.market.labels import realised_variance
from tasks.market.volatility import har_inputs, trailing_variance


def walk(bars: int = 500, seed: int = 3) -> FloatArray:
    return np.asarray(np.exp(np.cumsum(0.01 * np.random.default_rng(seed).standard_normal(bars))))


def runs(*lengths: int) -> IntArray:
    return np.repeat(np.arange(len(lengths)), lengths)


def test_realised_variance_is_the_sum_of_the_next_squared_returns() -> None:
    close = np.array([100.0, 110.0, 99.0, 99.0, 120.0])
    steps = np.log([110 / 100, 99 / 110, 99 / 99, 120 / 99]) ** 2
    found = realised_variance(close, runs(5), 2)
    np.testing.assert_allclose(found[:3], [steps[0] + steps[1], steps[1] + steps[2], steps[2] + steps[3]], rtol=1e-12)
    assert np.isnan(found[3:]).all()


def test_realised_variance_agrees_with_a_rolling_sum_of_pandas() -> None:
    close = walk()
    squares = pd.Series(np.log(close)).diff() ** 2
    np.testing.assert_allclose(
        realised_variance(close, runs(500), 24), squares.rolling(24).sum().shift(-24).to_numpy(), rtol=1e-9
    )


@pytest.mark.promise(6)
def test_realised_variance_reads_exactly_the_horizon() -> None:
    close = walk(100)
    before = realised_variance(close, runs(100), 10)
    for bar, moves in ((60, True), (61, False)):  # the close of bar 60 is the last that bar 50 reads
        other = close.copy()
        other[bar] *= 2
        assert bool(realised_variance(other, runs(100), 10)[50] != before[50]) is moves
    other = close.copy()
    other[:50] *= 2  # the past scales away but for the return into bar 50, which is not read
    np.testing.assert_allclose(realised_variance(other, runs(100), 10)[50], before[50], rtol=1e-12)


def test_realised_variance_is_unknown_where_a_gap_lies_ahead() -> None:
    close, segment = walk(30), runs(12, 18)
    found = realised_variance(close, segment, 5)
    assert np.isnan(found[7:12]).all()
    assert np.isnan(found[25:]).all()
    np.testing.assert_allclose(found[:7], realised_variance(close[:12], runs(12), 5)[:7], rtol=1e-12)
    np.testing.assert_allclose(found[12:25], realised_variance(close[12:], runs(18), 5)[:13], rtol=1e-12)


def test_a_candle_that_is_none_spoils_its_own_run_alone() -> None:
    close, segment = walk(21), runs(10, 1, 10)
    close[10] = np.nan
    found = realised_variance(close, segment, 3)
    assert np.isfinite(found[:7]).all()
    assert np.isnan(found[7:11]).all()
    assert np.isfinite(found[11:18]).all()


def test_realised_variance_refuses_a_horizon_of_nothing_and_columns_of_two_lengths() -> None:
    with pytest.raises(ValueError, match="horizon must be >= 1 bar, was 0"):
        realised_variance(walk(5), runs(5), 0)
    with pytest.raises(ValueError, match="one length, were 5 and 4"):
        realised_variance(walk(5), runs(4), 1)


def test_trailing_variance_agrees_with_pandas_from_the_least_number_of_returns_on() -> None:
    close = walk()
    squares = pd.Series(np.log(close)).diff() ** 2
    np.testing.assert_allclose(
        trailing_variance(close, runs(500), 100, 20), squares.rolling(100, min_periods=20).mean().to_numpy(), rtol=1e-9
    )


def test_trailing_variance_starts_again_behind_a_gap() -> None:
    close, segment = walk(60), runs(30, 30)
    found = trailing_variance(close, segment, 20, 5)
    np.testing.assert_allclose(found[30:], trailing_variance(close[30:], runs(30), 20, 5), rtol=1e-9)
    assert np.isnan(found[30:35]).all()
    with pytest.raises(ValueError, match=r"least must be in 1 \.\. bars, was 21 with bars 20"):
        trailing_variance(close, segment, 20, 21)


@pytest.mark.parametrize(("interval_ms", "day"), [(DAY_MS // 24, 24), (DAY_MS // 4, 4), (DAY_MS, 1), (7 * DAY_MS, 1)])
def test_har_reads_a_day_a_week_and_a_month_whatever_the_interval(interval_ms: int, day: int) -> None:
    close = walk(1_000)
    found = har_inputs(close, runs(1_000), interval_ms)
    week, month = (max(round(days * DAY_MS / interval_ms), 1) for days in (7, 30))
    for column, bars in enumerate((day, week, month)):
        np.testing.assert_allclose(found[:, column], trailing_variance(close, runs(1_000), bars, day), rtol=1e-12)
    assert np.isnan(found[:day]).all()
    assert np.isfinite(found[day:]).all()
