"""The replay shows what has closed, in any interval, and nothing of the future."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.schema import CANDLE_COLUMNS, DAY_MS, Candles, Market
from tasks.sandbox.candle_files import read_candle_file
from tasks.sandbox.replay import Replay, aggregate, bar_open, decimal_text, encode_rows

START_MS = 1_735_689_600_000  # 2025-01-01T00:00Z, a Wednesday
STEP_MS = 300_000

#        open  high  low  close volume turnover
TABLE = [
    (10.0, 12.0, 9.0, 11.0, 1.0, 10.0),
    (11.0, 11.5, 10.5, 11.2, 2.0, 22.0),
    (11.2, 13.0, 11.0, 12.0, 3.0, 35.0),
    (12.0, 12.5, 8.0, 8.5, 4.0, 40.0),
    (8.5, 9.0, 8.1, 8.8, 5.0, 44.0),
]


def table_candles(starts: list[int] | None = None) -> Candles:
    columns = np.array(TABLE).T
    start_ms = np.array(starts or [START_MS + STEP_MS * i for i in range(len(TABLE))])
    return Candles(start_ms=start_ms, **dict(zip(CANDLE_COLUMNS, columns, strict=True)))


def table_replay() -> Replay:
    return Replay(candles=table_candles(), market=Market())


def rows_of(candles: Candles) -> list[tuple[float, ...]]:
    return list(zip(candles.start_ms, *[getattr(candles, name) for name in CANDLE_COLUMNS], strict=True))


def test_aggregate_to_15_minutes_equals_the_table_by_hand() -> None:
    bars = aggregate(table_candles(), "15")
    assert rows_of(bars) == [
        (START_MS, 10.0, 13.0, 9.0, 12.0, 6.0, 67.0),
        (START_MS + 3 * STEP_MS, 12.0, 12.5, 8.0, 8.8, 9.0, 84.0),
    ]


def test_aggregate_when_candles_are_missing_leaves_whole_missing_bars_out() -> None:
    starts = [START_MS + STEP_MS * i for i in (0, 1, 2, 9, 10)]
    assert aggregate(table_candles(starts), "15").start_ms.tolist() == [START_MS, START_MS + 9 * STEP_MS]


def test_aggregate_when_one_turnover_is_unknown_leaves_the_sum_unknown() -> None:
    candles = table_candles()
    candles.turnover[1] = np.nan
    assert np.isnan(aggregate(candles, "15").turnover).tolist() == [True, False]


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("interval", "rule"),
    [("30", "30min"), ("240", "4h"), ("D", "1D"), ("W", "W-MON")],
)
def test_aggregate_equals_pandas_resample(make_candles: Callable[..., Candles], interval: str, rule: str) -> None:
    pd = pytest.importorskip("pandas", reason="oracle of the aggregation")
    candles = make_candles(20_000)  # 69 days: not whole weeks
    frame = pd.DataFrame(
        {name: getattr(candles, name) for name in CANDLE_COLUMNS}, index=pd.to_datetime(candles.start_ms, unit="ms")
    )
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum", "turnover": "sum"}
    expected = frame.resample(rule, label="left", closed="left").agg(how)
    bars = aggregate(candles, interval)
    assert bars.start_ms.tolist() == [int(stamp.timestamp() * 1000) for stamp in expected.index]
    for name in how:
        # Sums in another order of addition may differ in the last digits.
        np.testing.assert_allclose(getattr(bars, name), expected[name].to_numpy(), rtol=1e-12)


def test_real_minutes_aggregate_to_the_real_five_minute_candles() -> None:
    folder = os.environ.get("DSC_TEST_DATA")
    if not folder:
        pytest.skip("needs real candles: DSC_TEST_DATA is not set")
    minutes = read_candle_file(Path(folder) / "candles" / "bybit_linear_BTCUSDT_1m.parquet")
    truth = read_candle_file(Path(folder) / "candles" / "bybit_linear_BTCUSDT_5m.parquet")
    whole = aggregate(minutes, "5")[1:-1]  # the file may begin and end inside a bar
    expected = truth[np.isin(truth.start_ms, whole.start_ms)]
    assert len(whole) == len(expected) > 8_000
    for name in ("start_ms", "open", "high", "low", "close"):
        assert np.array_equal(getattr(whole, name), getattr(expected, name)), name
    np.testing.assert_allclose(whole.volume, expected.volume, rtol=1e-9)


@pytest.mark.parametrize(
    ("interval", "opens"),
    [("5", START_MS), ("D", START_MS), ("W", START_MS - 2 * DAY_MS)],  # Monday 2024-12-30
)
def test_bar_open_follows_the_calendar(interval: str, opens: int) -> None:
    inside = np.array([START_MS, START_MS + 1, START_MS + STEP_MS - 1])
    assert bar_open(inside, interval).tolist() == [opens] * 3


def test_forming_candle_after_the_last_close_is_flat_at_that_close() -> None:
    replay = table_replay()
    forming = replay.forming("5", replay.end_ms + 1)
    assert rows_of(forming) == [(START_MS + 5 * STEP_MS, 8.8, 8.8, 8.8, 8.8, 0.0, 0.0)]


def test_forming_candle_of_a_longer_interval_holds_only_what_has_closed() -> None:
    # Candles 3 and 4 lie in the second quarter of an hour; now 3 has closed and 4 has opened, with 0.4 of its 5 coins.
    forming = table_replay().forming("15", START_MS + 4 * STEP_MS + 1)
    assert rows_of(forming) == [(START_MS + 3 * STEP_MS, 12.0, 12.5, 8.0, 8.5, 6.0, 57.6)]


@pytest.mark.parametrize(
    ("quarter", "candle"),  # candle 0 rises from 10 to 11 with 1 coin: open, low, high, close
    [
        (0, (10.0, 10.0, 10.0, 10.0, 0.4, 4.0)),
        (1, (10.0, 10.0, 9.0, 9.0, 0.65, 6.5)),
        (2, (10.0, 12.0, 9.0, 12.0, 0.9, 9.0)),
        (3, (10.0, 12.0, 9.0, 11.0, 1.0, 10.0)),
    ],
)
def test_forming_candle_opens_at_its_open_and_grows_with_each_trade(quarter: int, candle: tuple[float, ...]) -> None:
    (forming,) = rows_of(table_replay().forming("5", START_MS + STEP_MS * quarter // 4))
    assert forming == pytest.approx((START_MS, *candle), rel=1e-12)  # sums of shares


def test_forming_candle_where_the_file_has_none_is_flat_at_the_last_close() -> None:
    replay = Replay(candles=table_candles([START_MS + STEP_MS * i for i in (0, 1, 2, 4, 5)]), market=Market())
    forming = replay.forming("5", START_MS + 3 * STEP_MS + 9)
    assert rows_of(forming) == [(START_MS + 3 * STEP_MS, 12.0, 12.0, 12.0, 12.0, 0.0, 0.0)]


def test_forming_candle_before_the_first_candle_opens_does_not_exist() -> None:
    assert len(table_replay().forming("5", START_MS - 1)) == 0


@pytest.mark.parametrize("interval", ["5", "15", "60"])
@pytest.mark.parametrize("bars", [1, 7, 40])
def test_replay_at_a_time_is_unchanged_when_the_future_is_cut_off(
    make_candles: Callable[..., Candles], interval: str, bars: int
) -> None:
    candles = make_candles(60)
    now_ms = int(candles.start_ms[bars]) + 17
    cut = candles[: bars + 1]
    cut.high[-1], cut.low[-1], cut.close[-1] = cut.open[-1] + 9, cut.open[-1] - 9, cut.open[-1] - 5
    pages = [
        Replay(candles=known, market=Market()).page(interval, now_ms, None, None, 1_000, "newest")
        for known in (make_candles(60), cut)
    ]
    # Of the bar that has opened, the open is known. A trade's size is a share of its bar's, which no price depends on.
    assert encode_rows(pages[0], 5) == encode_rows(pages[1], 5)


@settings(deadline=None, max_examples=150)
@given(
    bars=st.integers(1, 40),
    gap=st.integers(0, 39),
    now=st.integers(-2, 50),
    start=st.none() | st.integers(-3, 50),
    end=st.none() | st.integers(-3, 50),
    limit=st.integers(1, 12),
    policy=st.sampled_from(["newest", "oldest"]),
    nudge=st.sampled_from([0, 1, STEP_MS - 1]),
)
def test_page_equals_a_walk_over_all_bars(
    bars: int, gap: int, now: int, start: int | None, end: int | None, limit: int, policy: str, nudge: int
) -> None:
    starts = [START_MS + STEP_MS * i for i in range(bars) if i != gap or bars == 1]
    one = np.arange(1.0, len(starts) + 1)
    candles = Candles(start_ms=np.array(starts), **dict.fromkeys(CANDLE_COLUMNS, one))
    now_ms = START_MS + STEP_MS * now + nudge
    start_ms = None if start is None else START_MS + STEP_MS * start + nudge
    end_ms = None if end is None else START_MS + STEP_MS * end + nudge
    page = Replay(candles=candles, market=Market()).page("5", now_ms, start_ms, end_ms, limit, policy)  # type: ignore[arg-type]

    shown = [ms for ms in starts if ms + STEP_MS <= now_ms]
    if now_ms >= starts[0]:
        shown.append(now_ms // STEP_MS * STEP_MS)
    since = -1 if start_ms is None else start_ms // STEP_MS * STEP_MS
    asked = [ms for ms in shown if since <= ms and (end_ms is None or ms <= end_ms)]
    forward = start is not None and (end is None or policy == "oldest")
    assert page.start_ms.tolist() == (asked[:limit] if forward else asked[-limit:])


@given(st.floats(allow_infinity=False, allow_nan=False))
def test_decimal_text_reads_back_as_the_same_number_and_has_no_exponent(value: float) -> None:
    text = decimal_text(value)
    assert float(text) == value
    assert set(text) <= set("-0123456789.")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (93530.0, "93530"),
        (0.1, "0.1"),
        (1e-05, "0.00001"),
        (0.0, "0"),
        (float("nan"), ""),
        (1e22, "10000000000000000000000"),
    ],
)
def test_decimal_text_is_what_bybit_would_write(value: float, text: str) -> None:
    assert decimal_text(value) == text


def test_encode_rows_writes_seven_strings_and_five_for_the_mark_price() -> None:
    candles = table_candles()[:1]
    candles.turnover[0] = np.nan
    assert encode_rows(candles) == [["1735689600000", "10", "12", "9", "11", "1", ""]]
    assert encode_rows(candles, 5) == [["1735689600000", "10", "12", "9", "11"]]


def test_replay_serves_multiples_of_its_interval_alone() -> None:
    replay = table_replay()
    served = [
        code
        for code in ("1", "3", "5", "15", "30", "60", "120", "240", "360", "720", "D", "W", "M")
        if replay.serves(code)
    ]
    assert served == ["5", "15", "30", "60", "120", "240", "360", "720", "D", "W"]
