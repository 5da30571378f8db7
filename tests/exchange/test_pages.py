"""From rows that came to candles that may be stored, and a reason for every row that may not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.schema import CANDLE_COLUMNS, Candles, Market, Window
from tasks.exchange.pages import plausible, read_page
from tasks.exchange.transport import Answer
from tasks.exchange.wire_values import BadMessage

MARKET = Market(symbol="BTCUSDT", interval="5")
START_MS = 1_735_689_600_000
STEP_MS = 300_000
NOW_MS = START_MS + 100 * STEP_MS
WINDOW = Window(first_ms=START_MS, last_ms=START_MS + 3 * STEP_MS)


def row(bar: float, *changes: tuple[int, Any]) -> list[Any]:
    fields: list[Any] = [str(START_MS + int(bar * STEP_MS)), "10", "12", "9", "11", "5", "50"]
    for column, value in changes:
        fields[column] = value
    return fields


FULL = [row(3), row(2), row(1), row(0)]


def read(rows: Any, *, window: Window = WINDOW, now_ms: int = NOW_MS, time_ms: int | None = None, **result: Any) -> Any:
    return read_page(Answer(result={"list": rows} | result, time_ms=time_ms), MARKET, window, now_ms)


def bars_of(starts: Any) -> list[int]:
    return [(int(ms) - START_MS) // STEP_MS for ms in starts]


def test_full_page_becomes_candles_oldest_first() -> None:
    page = read(FULL, symbol="BTCUSDT", category="linear")
    assert bars_of(page.candles.start_ms) == [0, 1, 2, 3]
    assert [getattr(page.candles, name)[0] for name in CANDLE_COLUMNS] == [10, 12, 9, 11, 5, 50]
    assert (page.rejected, len(page.missing), page.is_doubtful) == ((), 0, False)


@pytest.mark.parametrize("rows", [FULL[::-1], [FULL[2], FULL[0], FULL[3], FULL[1]], [*FULL, FULL[1], FULL[1]]])
def test_order_and_repeated_rows_do_not_matter(rows: list[Any]) -> None:
    page = read(rows)
    assert bars_of(page.candles.start_ms) == [0, 1, 2, 3]
    assert not page.is_doubtful


NUMBER = st.one_of(
    st.floats(0, 1e12).map(str), st.integers(0, 10**9).map(str), st.sampled_from(["nan", "-inf", "1e309", "-0", "+1"])
)


@given(st.lists(st.lists(NUMBER, min_size=6, max_size=6), min_size=1, max_size=4))
def test_page_reads_the_same_in_one_go_and_row_by_row(rows: list[list[str]]) -> None:
    whole = [[str(START_MS + bar * STEP_MS), *numbers] for bar, numbers in enumerate(rows)]
    in_one_go, row_by_row = read(whole), read([*whole, None])
    assert len(row_by_row.rejected) == 1
    for name in ("start_ms", *CANDLE_COLUMNS):
        np.testing.assert_array_equal(getattr(in_one_go.candles, name), getattr(row_by_row.candles, name))


def test_absent_rows_are_missing_and_doubtful() -> None:
    page = read([row(3), row(0)])
    assert bars_of(page.missing) == [1, 2]
    assert page.is_doubtful


def test_empty_list_is_a_window_of_missing_bars() -> None:
    page = read([])
    assert bars_of(page.missing) == [0, 1, 2, 3]
    assert len(page.candles) == 0


def test_forming_candle_is_left_out_and_not_missed() -> None:
    page = read(FULL, now_ms=START_MS + 4 * STEP_MS - 1)
    assert bars_of(page.candles.start_ms) == [0, 1, 2]
    assert (page.rejected, len(page.missing), page.is_doubtful) == ((), 0, False)


def test_candle_that_closes_at_this_moment_is_closed() -> None:
    assert bars_of(read(FULL, now_ms=START_MS + 4 * STEP_MS).candles.start_ms) == [0, 1, 2, 3]


def test_forming_candle_beyond_the_window_is_left_out_without_a_word() -> None:
    page = read([row(4), *FULL], now_ms=START_MS + 5 * STEP_MS - 1)
    assert bars_of(page.candles.start_ms) == [0, 1, 2, 3]
    assert not page.is_doubtful


def test_bar_is_closed_only_when_the_answers_own_clock_says_so_too() -> None:
    page = read(FULL, now_ms=NOW_MS, time_ms=START_MS + 3 * STEP_MS + 5)  # the clock that was read before was ahead
    assert bars_of(page.candles.start_ms) == [0, 1, 2]
    assert bars_of(page.missing) == [3]


@pytest.mark.promise(2)
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (row(1)[:6], "must be a list of 7 fields"),
        ([*row(1), "1"], "must be a list of 7 fields"),
        ({"start": 1}, "must be a list of 7 fields"),
        ("row", "must be a list of 7 fields"),
        (None, "must be a list of 7 fields"),
        (row(1, (0, "soon")), "start must be whole milliseconds, was 'soon'"),
        (row(1, (0, "-5")), "start must be whole milliseconds, was '-5'"),
        (row(1, (0, "1e12")), "start must be whole milliseconds, was '1e12'"),
        (row(1, (0, "9" * 30)), "start must be whole milliseconds, was '9999"),
        (row(1, (0, None)), "start must be whole milliseconds, was None"),
        (row(1, (4, "")), "could not convert string to float: ''"),
        (row(1, (4, "null")), "could not convert string to float: 'null'"),
        (row(1, (4, "1,5")), "could not convert string to float: '1,5'"),
        (row(1, (4, None)), "every field must be text"),
        (row(1, (4, 11.0)), "every field must be text"),
        (row(1, (4, float("nan"))), "every field must be text"),
        (row(1, (4, "1_1")), "a number must be ASCII without a blank or underscore"),
        (row(1, (4, " 11")), "a number must be ASCII without a blank or underscore"),
        (row(1, (4, "\u0661\u0661")), "a number must be ASCII without a blank or underscore"),
        (row(1, (5, "")), "could not convert string to float: ''"),
        (row(1.5), "opens off the 5 grid"),
        (row(4), "outside the window that was asked for, 2025-01-01T00:00Z..2025-01-01T00:15Z"),
        (row(-1), "outside the window that was asked for, 2025-01-01T00:00Z..2025-01-01T00:15Z"),
    ],
)
def test_row_that_can_be_no_candle_of_the_window_is_rejected_with_its_reason(broken: Any, reason: str) -> None:
    page = read([row(3), row(2), broken, row(0)])
    (rejected,) = page.rejected
    assert rejected.reason.startswith(reason)
    assert bars_of(page.candles.start_ms) == [0, 2, 3]
    assert bars_of(page.missing) == [1]
    assert page.is_doubtful


def test_rejected_row_keeps_its_start_and_its_text() -> None:
    (rejected,) = read([row(3), row(2), row(1, (2, "abc")), row(0)]).rejected
    assert rejected.start_ms == START_MS + STEP_MS
    assert json.loads(rejected.raw) == row(1, (2, "abc"))


def test_rejected_row_is_cut_to_500_characters() -> None:
    (rejected,) = read([*FULL, ["9" * 5_000]]).rejected
    assert len(rejected.raw) == 500
    (rejected,) = read([*FULL, row(0, (2, "x" * 5_000))]).rejected
    assert len(rejected.reason) == 200


@pytest.mark.promise(2)
def test_rows_that_contradict_each_other_are_both_rejected_not_chosen_from() -> None:
    page = read([*FULL, row(1, (4, "11.5")), row(2)])
    assert bars_of(page.candles.start_ms) == [0, 2, 3]
    assert [(bars_of([r.start_ms]), r.reason) for r in page.rejected] == [
        ([1], "contradicts another row of the same bar")
    ] * 2
    assert bars_of(page.missing) == [1]


def test_contradiction_among_three_rows_of_one_bar_rejects_all_three() -> None:
    page = read([*FULL, row(1), row(1, (4, "11.5"))])
    assert len(page.rejected) == 3
    assert bars_of(page.missing) == [1]


@pytest.mark.parametrize(
    ("column", "value", "kept"),
    [
        (4, "NaN", np.nan),
        (2, "1e309", np.inf),
        (3, "-1", -1.0),
        (1, "0", 0.0),
        (5, "-5", -5.0),
        (2, "8", 8.0),
        (3, "11.5", 11.5),
    ],
)
def test_number_that_is_no_price_is_kept_for_the_contract_to_judge_but_is_doubtful(
    column: int, value: str, kept: float
) -> None:
    page = read([row(3), row(2), row(1, (column, value)), row(0)])
    np.testing.assert_equal(getattr(page.candles, CANDLE_COLUMNS[column - 1])[1], kept)
    assert (page.rejected, len(page.missing)) == ((), 0)
    assert page.is_doubtful
    assert page.usable == 3


def test_turnover_that_bybit_leaves_empty_is_unknown_and_not_doubtful() -> None:
    page = read([row(bar, (6, "")) for bar in (3, 2, 1, 0)])
    assert np.isnan(page.candles.turnover).all()
    assert not page.is_doubtful


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"symbol": "ETHUSDT"}, "the answer is about symbol 'ETHUSDT'"),
        ({"category": "spot"}, "the answer is about category 'spot'"),
        ({"symbol": None}, "the answer is about symbol 'None'"),
        ({"list": None}, "the answer holds no list of rows"),
        ({"list": {"0": []}}, "the answer holds no list of rows"),
    ],
)
def test_answer_that_is_no_page_of_this_market_is_unusable(result: dict[str, Any], message: str) -> None:
    with pytest.raises(BadMessage, match=message):
        read(FULL, **result)


def test_further_fields_around_the_rows_do_not_matter() -> None:
    assert not read(FULL, colour="blue").is_doubtful


def test_plausible_candle_has_low_and_high_around_open_and_close() -> None:
    #         good  h<l   h<c   l>o   zero  neg v  inf t  nan t
    columns = {
        "open": [10.0, 10, 10, 10, 10, 10, 10, 10],
        "high": [12.0, 8, 10.5, 12, 12, 12, 12, 12],
        "low": [9.0, 9, 9, 10.5, 0, 9, 9, 9],
        "close": [11.0, 11, 11, 11, 11, 11, 11, 11],
        "volume": [1.0, 1, 1, 1, 1, -1, 1, 0],
        "turnover": [1.0, 1, 1, 1, 1, 1, np.inf, np.nan],
    }
    arrays = {name: np.array(values) for name, values in columns.items()}
    candles = Candles(start_ms=np.arange(8), **arrays)
    assert plausible(candles).tolist() == [True, False, False, False, False, False, False, True]


@pytest.mark.parametrize(
    ("column", "inside", "outside"),
    [("high", 1e12, 1.1e12), ("low", 1e-12, 0.9e-12), ("volume", 1e20, 1.1e20), ("turnover", 1e20, 1.1e20)],
)
def test_candle_beyond_what_any_market_has_is_not_plausible(column: str, inside: float, outside: float) -> None:
    columns = {name: np.full(2, 10.0) for name in ("open", "high", "low", "close", "volume", "turnover")}
    columns[column] = np.array([inside, outside])
    assert plausible(Candles(start_ms=np.arange(2), **columns)).tolist() == [True, False]


def test_closed_bars_of_weeks_open_on_mondays() -> None:
    week = 7 * 86_400_000
    monday = 1_735_516_800_000  # 2024-12-30
    market = Market(interval="W")
    window = Window(first_ms=monday, last_ms=monday + 5 * week)
    assert window.closed(market, monday + 2 * week).tolist() == [monday, monday + week]
    page = read_page(Answer(result={"list": [[str(monday), *["1"] * 6]]}, time_ms=None), market, window, monday + week)
    assert page.candles.start_ms.tolist() == [monday]


def test_documented_page_is_read_without_doubt() -> None:
    folder = os.environ.get("DSC_TEST_DATA")
    if not folder:
        pytest.skip("needs the documented answers: DSC_TEST_DATA is not set")
    body = json.loads((Path(folder) / "bybit_v5" / "market__kline__0.json").read_text())
    market = Market(symbol="BTCUSD", interval="60")
    window = Window(first_ms=1_670_601_600_000, last_ms=1_670_608_800_000)
    answer = Answer(result=body["result"] | {"category": "linear"}, time_ms=body["time"])
    page = read_page(answer, market, window, body["time"])
    assert page.candles.close.tolist() == [17071.5, 17071, 17055.5]
    assert page.candles.turnover[0] == 0.37288112
    assert not page.is_doubtful
