"""Which candles and features are let through, and what is said of the others."""
# ruff: noqa: S603 - every process that is started runs a text of this file

import json
import math
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.contracts import split_candles, validate_features
from storage.schema import (
    CANDLE_COLUMNS,
    FEATURES,
    CandleError,
    Candles,
    DatasetError,
    Market,
)

STEP = 300_000
START = 1_735_689_600_000  # 2025-01-01
LATER = START + 10**9


def spoilt(candles: Candles, bar: int, **values: float) -> Candles:
    """The candles with other values in one bar."""
    columns = {name: getattr(candles, name).copy() for name in values}
    for name, value in values.items():
        columns[name][bar] = value
    return replace(candles, **columns)


# --- candles ----------------------------------------------------------------------------------------------------------


def test_clean_candles_pass_unchanged(market, make_candles, equal):
    candles = make_candles(50)
    good, rejected = split_candles(candles, market, now_ms=LATER)
    assert equal(good, candles)
    assert rejected == ()


def test_no_candles_pass(market):
    good, rejected = split_candles(Candles.empty(), market, now_ms=LATER)
    assert (len(good), rejected) == (0, ())


@pytest.mark.promise(2)
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"open": math.nan}, "open: not NaN"),
        ({"close": math.nan}, "close: not NaN"),
        ({"volume": math.nan}, "volume: not NaN"),
        ({"high": math.inf}, "high: in (0, 1e+09]"),
        ({"low": 0.0}, "low: in (0, 1e+09]"),
        ({"low": -1.0}, "low: in (0, 1e+09]"),
        ({"volume": -1e-9}, "volume: in [0, 1e+18]"),
        ({"volume": math.inf}, "volume: in [0, 1e+18]"),
        ({"turnover": -1.0}, "turnover: in [0, 1e+18], or unknown"),
        ({"turnover": math.inf}, "turnover: in [0, 1e+18], or unknown"),
        ({"high": 100.5}, "high is the highest"),
        ({"low": 103.0, "high": 103.0}, "low is the lowest"),
        ({"low": math.inf}, "high is the highest; low is the lowest; low: in (0, 1e+09]"),
        ({"open": math.nan, "volume": -2.0}, "open: not NaN; volume: in [0, 1e+18]"),
    ],
)
def test_candle_that_breaks_the_contract_is_set_aside_with_every_failed_check(
    market, make_candles, equal, values, reason
):
    candles = replace(make_candles(5), open=np.full(5, 100.0), close=np.full(5, 101.0), high=np.full(5, 102.0))
    candles = spoilt(replace(candles, low=np.full(5, 99.5)), 2, **values)
    good, (row,) = split_candles(candles, market, now_ms=LATER)
    assert equal(good, candles[[0, 1, 3, 4]])
    assert (row.start_ms, row.reason) == (START + 2 * STEP, reason)
    raw = json.loads(row.raw)
    assert raw[0] == START + 2 * STEP
    for name, value in values.items():
        assert repr(raw[1 + CANDLE_COLUMNS.index(name)]) == repr(value)


@pytest.mark.promise(1)
def test_candle_off_the_grid_or_not_closed_is_set_aside(market, make_candles):
    candles = make_candles(5)
    shifted = replace(candles, start_ms=candles.start_ms + np.array([0, 1, 0, 0, 0]))
    closes = START + 5 * STEP
    _, (row,) = split_candles(shifted, market, now_ms=closes)
    assert (row.start_ms, row.reason) == (START + STEP + 1, "start_ms: on the interval grid")
    _, (row,) = split_candles(candles, market, now_ms=closes - 1)
    assert (row.start_ms, row.reason) == (START + 4 * STEP, "start_ms: closed")


def test_weekly_candles_open_on_mondays(make_candles):
    weekly, week = Market(symbol="BTCUSDT", interval="W"), 7 * 86_400_000
    monday = 1_736_121_600_000  # 2025-01-06
    candles = make_candles(3, first_ms=monday, step=week)
    good, rejected = split_candles(candles, weekly, now_ms=monday + 3 * week)
    assert (len(good), rejected) == (3, ())
    thursdays = replace(candles, start_ms=candles.start_ms + 3 * 86_400_000)  # multiples of a week since 1970
    assert len(split_candles(thursdays, weekly, now_ms=monday + 9 * week)[1]) == 3


def test_rows_in_any_order_and_equal_repeats_count_once(market, make_candles, equal):
    candles = make_candles(30)
    order = np.random.default_rng(5).permutation(np.r_[0:30, 3, 3, 17])
    good, rejected = split_candles(candles[order], market, now_ms=LATER)
    assert equal(good, candles)
    assert rejected == ()


@pytest.mark.promise(2)
def test_rows_that_disagree_about_a_bar_are_all_set_aside(market, make_candles, equal):
    candles = make_candles(10)
    other = spoilt(candles, 4, volume=7.25)
    good, rejected = split_candles(Candles.join([candles, other[4:5]]), market, now_ms=LATER)
    assert equal(good, candles[candles.start_ms != START + 4 * STEP])
    assert [row.start_ms for row in rejected] == [START + 4 * STEP] * 2
    assert {row.reason for row in rejected} == {"start_ms: one row a bar"}
    assert {json.loads(row.raw)[5] for row in rejected} == {7.25, candles.volume[4]}


def keeps_contract(row: dict[str, float]) -> bool:
    """The contract again, row by row and in plain Python."""
    prices = [row[name] for name in ("open", "high", "low", "close")]
    return (
        all(0 < price <= 1e9 for price in prices)
        and row["high"] == max(prices)
        and row["low"] == min(prices)
        and 0 <= row["volume"] <= 1e18
        and (math.isnan(row["turnover"]) or 0 <= row["turnover"] <= 1e18)
        and row["start_ms"] % STEP == 0
    )


numbers = st.sampled_from([1.0, 2.0, 3.0, 3.0, 2.0, 0.0, -1.0, 1e9, 2e18, math.nan, math.inf, -math.inf, 5e-324])


@pytest.mark.promise(2)
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"start_ms": st.integers(0, 12).map(lambda bar: START + bar * STEP + (bar == 12))}
            | dict.fromkeys(("open", "close"), st.sampled_from([2.0, 2.0, 2.0, 3.0, math.nan]))
            | {"high": st.just(3.0) | numbers, "low": st.just(1.0) | numbers}
            | {"volume": st.just(1.0) | numbers, "turnover": st.just(1.0) | numbers}
        ),
        max_size=20,
    )
)
def test_each_row_is_good_or_set_aside_and_none_is_lost(rows):
    columns = {name: np.array([row[name] for row in rows], float) for name in CANDLE_COLUMNS}
    start_ms = np.array([row["start_ms"] for row in rows], np.int64)
    good, rejected = split_candles(
        Candles(start_ms=start_ms, **columns), Market(symbol="BTCUSDT", interval="5"), now_ms=LATER
    )
    distinct = {repr(sorted(row.items())): row for row in rows}.values()
    claims = [row["start_ms"] for row in distinct]
    expected = sorted(row["start_ms"] for row in distinct if keeps_contract(row) and claims.count(row["start_ms"]) == 1)
    assert good.start_ms.tolist() == expected
    assert sorted(expected + [row.start_ms for row in rejected]) == sorted(claims)
    assert all(row.reason for row in rejected)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("volume", np.arange(3), r"failed: volume: dtype\('float64'\)"),
        ("start_ms", np.arange(3.0) * STEP, r"failed: start_ms: dtype\('int64'\)"),
    ],
)
def test_column_of_another_type_is_refused_as_a_whole(market, make_candles, column, values, message):
    with pytest.raises(CandleError, match="candles must have int64 times and float64 values, " + message):
        split_candles(replace(make_candles(3), **{column: values}), market, now_ms=LATER)


@pytest.mark.promise(2)
def test_half_a_thousand_bad_rows_are_all_set_aside(market, make_candles):
    candles = replace(make_candles(500), open=np.zeros(500))
    good, rejected = split_candles(candles, market, now_ms=LATER)
    assert (len(good), len(rejected)) == (0, 500)
    assert [row.start_ms for row in rejected] == candles.start_ms.tolist()


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def features():
    """(values, vol, start_ms) of 100 bars; the first ten are not ready."""
    values, vol = np.full((100, len(FEATURES)), 0.25), np.full(100, 0.001)
    values[:10], vol[:10] = np.nan, np.nan
    return values, vol, START + np.arange(100, dtype=np.int64) * STEP


def test_features_pass_when_ready_and_in_range(features):
    validate_features(*features, STEP)


def test_features_pass_over_a_gap_of_whole_bars(features):
    values, vol, start_ms = features
    start_ms[60:] += 7 * STEP
    validate_features(values, vol, start_ms, STEP)


@pytest.mark.parametrize(
    ("bar", "name", "value", "message"),
    [
        (
            20,
            "rsi",
            0.51,
            r"rsi: in \[-0\.5, 0\.5\], not so in 1 of 100 bars, the first was 0\.51 at 2025-01-01T01:40Z",
        ),
        (20, "return_1", math.inf, r"return_1: in \[-1e\+07, 1e\+07\], not so in 1 of 100 bars, the first was inf"),
        (20, "log_volume", -5.1, r"log_volume: in \[-5, 5\], .* was -5\.1"),
        (20, "range", -0.001, r"range: in \[0, 1e\+07\], .* was -0\.001"),
        (20, "macd", math.nan, "all known or none, not so in 1 of 100 bars, the first at 2025-01-01T01:40Z"),
        (5, "macd", 0.0, "all known or none, not so in 1 of 100 bars, the first at 2025-01-01T00:25Z"),
    ],
)
def test_feature_that_breaks_the_contract_is_named_with_its_first_bar(features, bar, name, value, message):
    values, vol, start_ms = features
    values[bar, FEATURES.index(name)] = value
    with pytest.raises(DatasetError, match="^features break the contract: " + message):
        validate_features(values, vol, start_ms, STEP)


def test_vol_is_checked_beside_the_features(features):
    values, vol, start_ms = features
    vol[[30, 40]] = -1e-6
    with pytest.raises(DatasetError, match=r"vol: in \[0, 10\], not so in 2 of 100 bars, the first was -1e-06"):
        validate_features(values, vol, start_ms, STEP)


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (1, "start_ms: on the interval grid, not so in 1 of 100 bars, the first at 2025-01-01T04:10Z"),
        (-STEP, "start_ms: strictly increasing, not so in 1 of 100 bars, the first at 2025-01-01T04:05Z"),
    ],
)
def test_time_of_a_feature_must_increase_on_the_grid(features, shift, message):
    values, vol, start_ms = features
    start_ms[50:] += shift
    with pytest.raises(DatasetError, match=message):
        validate_features(values, vol, start_ms, STEP)


@pytest.mark.parametrize("rows_at_once", [7, 33, 50, 51, 1_000])  # of 33, a last one alone
def test_what_is_found_does_not_depend_on_how_many_rows_are_looked_at_at_once(features, monkeypatch, rows_at_once):
    monkeypatch.setattr("storage.contracts._ROWS_AT_ONCE", rows_at_once)
    values, vol, start_ms = features
    validate_features(*features, STEP)
    start_ms[50:] += 1
    start_ms[51:] -= 2 * STEP
    values[20:60, FEATURES.index("rsi")] = 0.75
    values[30, 0] = math.nan
    with pytest.raises(DatasetError) as caught:
        validate_features(values, vol, start_ms, STEP)
    assert str(caught.value) == (
        "features break the contract: "
        "all known or none, not so in 1 of 100 bars, the first at 2025-01-01T02:30Z; "
        "rsi: in [-0.5, 0.5], not so in 40 of 100 bars, the first was 0.75 at 2025-01-01T01:40Z; "
        "start_ms: on the interval grid, not so in 1 of 100 bars, the first at 2025-01-01T04:10Z; "
        "start_ms: strictly increasing, not so in 1 of 100 bars, the first at 2025-01-01T04:05Z"
    )


@pytest.mark.promise(19)
def test_features_of_years_of_minutes_are_checked_in_the_memory_of_a_day(features):
    values, vol, start_ms = (np.tile(column[10:], (2_000, 1) if column.ndim == 2 else 2_000) for column in features)
    start_ms = start_ms[0] + np.arange(len(start_ms)) * STEP
    tracemalloc.start()  # NumPy's arrays are counted, whatever the machine's other work
    validate_features(values, vol, start_ms, STEP)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values.nbytes > 50_000_000
    assert peak < values.nbytes


def test_report_is_capped_when_everything_is_wrong(features):
    _, vol, start_ms = features
    # 35 features, vol, and features without vol in the first bars: 37 kinds, of which five are told.
    with pytest.raises(DatasetError, match=r"; and 32 more kinds$") as caught:
        validate_features(np.full((100, len(FEATURES)), np.inf), -vol, start_ms, STEP)
    assert len(str(caught.value)) < 800


def test_features_of_another_shape_are_refused(features):
    values, vol, start_ms = features
    text = r"features must be \(100, 35\) with \(100,\) vol, were \(100, 9\) with \(100,\)"
    with pytest.raises(DatasetError, match=text):
        validate_features(values[:, :9], vol, start_ms, STEP)


# --- cost -------------------------------------------------------------------------------------------------------------


def test_importing_the_module_loads_neither_pandas_nor_pandera():
    script = "import sys, storage.contracts; print([name for name in ('pandas', 'pandera') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
