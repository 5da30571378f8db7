"""The trading rules and the funding rates, read or refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from storage.schema import Instrument, Market
from tasks.exchange.reference import collect_funding, read_funding, read_instrument, read_time
from tasks.exchange.transport import Answer
from tasks.exchange.wire_values import BadMessage

HOUR_MS = 3_600_000
T0 = 1_735_689_600_000

# The shape of Bybit's documented answers, with only the fields that are read.
LINEAR = {
    "symbol": "BTCUSDT",
    "status": "Trading",
    "launchTime": "1585526400000",
    "fundingInterval": 480,
    "priceFilter": {"tickSize": "0.10", "minPrice": "0.10"},
    "lotSizeFilter": {"qtyStep": "0.001", "minOrderQty": "0.001", "minNotionalValue": "5"},
}
SPOT = {
    "symbol": "BTCUSDT",
    "status": "Trading",
    "priceFilter": {"tickSize": "0.1"},
    "lotSizeFilter": {"basePrecision": "0.000001", "minOrderQty": "0.000011", "minOrderAmt": "5"},
}


def answer(*rows: Any) -> Answer:
    return Answer(result={"list": list(rows)}, time_ms=None)


def test_rules_of_a_perpetual_keep_decimals_as_text() -> None:
    assert read_instrument(answer(LINEAR), Market(symbol="BTCUSDT")) == Instrument(
        symbol="BTCUSDT", category="linear", status="Trading", launch_ms=1_585_526_400_000, tick_size="0.10",
        qty_step="0.001", min_qty="0.001", min_notional="5", funding_interval_min=480,
    )  # fmt: skip


def test_rules_of_spot_have_no_launch_and_no_funding() -> None:
    rules = read_instrument(answer(SPOT), Market(symbol="BTCUSDT", category="spot"))
    assert (rules.launch_ms, rules.funding_interval_min) == (0, 0)
    assert (rules.qty_step, rules.min_qty, rules.min_notional) == ("0.000001", "0.000011", "5")


@pytest.mark.parametrize(
    ("step", "found"),
    [
        ("0", "qtyStep must be > 0, was '0'"), ("-0.001", "qtyStep must be > 0, was '-0.001'"),
        ("1e-400", "qtyStep must be a number, was '1e-400'"), ("1_0", "qtyStep must be a number, was '1_0'"),
        ("\u0661", "qtyStep must be a number"), ("nan", "qtyStep must be a number"),
    ],
)  # fmt: skip
def test_step_by_which_nothing_can_be_rounded_is_no_rule(step: str, found: str) -> None:
    lots = LINEAR["lotSizeFilter"] | {"qtyStep": step}  # type: ignore[operator]
    with pytest.raises(BadMessage, match=found):
        read_instrument(answer(LINEAR | {"lotSizeFilter": lots}), Market(symbol="BTCUSDT"))


@pytest.mark.parametrize(
    ("name", "found"),
    [("minOrderQty", "minOrderQty must be >= 0, was '-1'"), ("maxMktOrderQty", "maxMktOrderQty must be > 0, was '-1'")],
)
def test_limit_below_0_is_no_rule(name: str, found: str) -> None:
    lots = LINEAR["lotSizeFilter"] | {name: "-1"}  # type: ignore[operator]
    with pytest.raises(BadMessage, match=found):
        read_instrument(answer(LINEAR | {"lotSizeFilter": lots}), Market(symbol="BTCUSDT"))


def test_rules_without_a_least_notional_have_none() -> None:
    lots = {"qtyStep": "1", "minOrderQty": "1"}
    assert read_instrument(answer(LINEAR | {"lotSizeFilter": lots}), Market(symbol="BTCUSDT")).min_notional == "0"


def test_empty_list_of_instruments_has_no_rules() -> None:
    assert read_instrument(answer(), Market(symbol="BTCUSDT")) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"symbol": "ETHUSDT"}, "the answer is about symbol 'ETHUSDT'"),
        ({"status": ""}, "the answer lacks status"),
        ({"launchTime": "soon"}, "launchTime must be a whole number, was 'soon'"),
        ({"launchTime": None}, "launchTime must be a whole number, was 'None'"),
        ({"fundingInterval": True}, "fundingInterval must be a whole number, was 'True'"),
        ({"priceFilter": None}, "the answer lacks tickSize"),
        ({"priceFilter": {"tickSize": "fine"}}, "tickSize must be a number, was 'fine'"),
        ({"priceFilter": {"tickSize": "inf"}}, "tickSize must be a number, was 'inf'"),
        ({"lotSizeFilter": {"qtyStep": 1}}, "the answer lacks qtyStep"),
    ],
)
def test_rules_that_cannot_be_read_are_unusable(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadMessage, match=message):
        read_instrument(answer(LINEAR | change), Market(symbol="BTCUSDT"))


@pytest.mark.parametrize("rows", [None, {}, [[]], ["BTCUSDT"]])
def test_list_that_is_none_is_unusable(rows: Any) -> None:
    with pytest.raises(BadMessage, match="the answer holds no list of rows"):
        read_instrument(Answer(result={"list": rows}, time_ms=None), Market(symbol="BTCUSDT"))


def test_time_is_read_from_the_nanoseconds() -> None:
    result = {"timeSecond": "1688639403", "timeNano": "1688639403423213947"}
    assert read_time(Answer(result=result, time_ms=None)) == 1_688_639_403_423
    with pytest.raises(BadMessage, match="timeNano must be a whole number, was 'None'"):
        read_time(Answer(result={}, time_ms=None))


def stamp(hour: int, rate: str = "0.0001", symbol: str = "BTCUSDT") -> dict[str, str]:
    return {"symbol": symbol, "fundingRate": rate, "fundingRateTimestamp": str(T0 + hour * HOUR_MS)}


def read_rates(*rows: Any) -> list[tuple[int, float]]:
    return read_funding(answer(*rows), "BTCUSDT", T0, T0 + 100 * HOUR_MS)


def test_funding_is_read_oldest_first_and_repeated_rows_count_once() -> None:
    assert read_rates(stamp(16, "-0.00002"), stamp(8), stamp(16, "-0.00002"), stamp(0)) == [
        (T0, 0.0001), (T0 + 8 * HOUR_MS, 0.0001), (T0 + 16 * HOUR_MS, -0.00002),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (stamp(8, symbol="ETHUSDT"), "the answer is about symbol 'ETHUSDT'"),
        (stamp(101), f"a funding stamp lies outside the range that was asked for: {T0 + 101 * HOUR_MS}"),
        (stamp(-1), "a funding stamp lies outside the range that was asked for"),
        (stamp(0, "0.0002"), f"two funding rates for one stamp: {T0}"),
        (stamp(8, ""), "the answer lacks fundingRate"),
        (stamp(8, "NaN"), "fundingRate must be a number, was 'NaN'"),
        (stamp(8) | {"fundingRateTimestamp": "now"}, "fundingRateTimestamp must be a whole number, was 'now'"),
    ],
)
def test_funding_that_cannot_be_trusted_is_unusable(row: dict[str, str], message: str) -> None:
    with pytest.raises(BadMessage, match=message):
        read_rates(stamp(0), row)


@pytest.mark.parametrize("newest", [True, False])
# Three years are 17 spans of 199 * 8 hours; a full one is split: 1 + 2 requests at 4 hours, 1 + 2 + 4 + 8 at one.
@pytest.mark.parametrize(("step_hours", "requests"), [(8, 17), (4, 17 * 3), (1, 17 * 15)])
def test_collected_funding_is_whole_whichever_end_a_full_answer_is_cut_at(
    newest: bool, step_hours: int, requests: int
) -> None:
    years = [(T0 + hour * HOUR_MS, float(hour)) for hour in range(0, 3 * 365 * 24, step_hours)]
    asked: list[tuple[int, int]] = []

    def ask(first_ms: int, last_ms: int) -> list[tuple[int, float]]:
        asked.append((first_ms, last_ms))
        found = [pair for pair in years if first_ms <= pair[0] <= last_ms]
        return found[-200:] if newest else found[:200]

    assert collect_funding(ask, T0, years[-1][0]) == years
    assert len(asked) == requests


def test_empty_funding_answer_is_asked_for_once_more_and_then_believed() -> None:
    asked: list[int] = []

    def ask(first_ms: int, last_ms: int) -> list[tuple[int, float]]:
        asked.append(first_ms)
        return [(T0, 0.1)] if first_ms == T0 and len(asked) > 1 else []

    assert collect_funding(ask, T0, T0 + 30 * 24 * HOUR_MS) == [(T0, 0.1)]
    assert len(asked) == 2
    assert collect_funding(lambda first, last: [], T0, T0 + 30 * 24 * HOUR_MS) == []


def test_funding_of_an_empty_range_asks_nothing() -> None:
    assert collect_funding(lambda first, last: pytest.fail("asked"), T0, T0 - 1) == []


@pytest.mark.parametrize(("page", "category"), [("market__instrument__2", "spot")])
def test_documented_rules_are_read(page: str, category: Any) -> None:
    folder = os.environ.get("DSC_TEST_DATA")
    if not folder:
        pytest.skip("needs the documented answers: DSC_TEST_DATA is not set")
    body = json.loads((Path(folder) / "bybit_v5" / f"{page}.json").read_text())
    rules = read_instrument(Answer(result=body["result"], time_ms=None), Market(symbol="BTCUSDT", category=category))
    assert (rules.tick_size, rules.qty_step, rules.min_qty, rules.min_notional) == ("0.1", "0.000001", "0.000011", "5")


def test_documented_funding_is_read() -> None:
    folder = os.environ.get("DSC_TEST_DATA")
    if not folder:
        pytest.skip("needs the documented answers: DSC_TEST_DATA is not set")
    body = json.loads((Path(folder) / "bybit_v5" / "market__history-fund-rate__0.json").read_text())
    rates = read_funding(Answer(result=body["result"], time_ms=None), "ETHPERP", 0, 2_000_000_000_000)
    assert rates == [(1_672_041_600_000, 0.0001)]


@pytest.mark.promise(19)
def test_time_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(BadMessage, match="launchTime must be a time, was 9999999999999999"):
        read_instrument(answer(LINEAR | {"launchTime": "9999999999999999"}), Market(symbol="BTCUSDT"))
