"""Rows and pages of an account: which fields they need, and how many are asked for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from storage.schema import DAY_MS, Rejected
from tasks.exchange.private_events import (
    ExecutionNews,
    OrderNews,
    read_execution,
    read_order,
)
from tasks.exchange.wire_values import BadMessage
from tasks.sandbox.faults import Action, Fault, Match, Reply
from tests.orders.cells import (
    EXECUTION,
    KEY,
    MARKET,
    OPEN,
    ORDER,
)
from tests.sandbox import actions
from tests.sandbox.outside import Outside


@pytest.mark.parametrize(
    ("read", "row", "needed"),
    [
        (read_order, ORDER, {"symbol", "orderStatus", "orderLinkId", "orderId"}),
        (read_execution, EXECUTION, {"symbol", "execId", "execQty", "execPrice", "side"}),
    ],
)
def test_field_that_is_left_out_or_empty_changes_nothing(
    read: Callable[..., OrderNews | ExecutionNews], row: dict[str, Any], needed: set[str]
) -> None:
    whole = read(row, 1)
    for name in row.keys() - needed:
        assert read({other: value for other, value in row.items() if other != name}, 1) == whole
        assert read(row | {name: None}, 1) == whole


@pytest.mark.parametrize(
    "text", ["1e999999999", "-1e999999999", "1e-999999999", "9" * 5_000_000, "NaN", "inf", "x", []]
)
def test_number_that_nothing_can_be_is_refused_at_once(text: object) -> None:
    with pytest.raises(BadMessage):
        read_order(ORDER | {"updatedTime": text}, 1)


def test_pages_that_go_round_in_a_circle_and_a_clock_that_moves_end(open_desk: OPEN) -> None:
    here = open_desk()
    here.want("0.4")
    here.work()
    spoil = actions.result_fields({"nextPageCursor": "again"}).spoil
    loop = Action("a circle", spoil, lambda params: {name: text for name, text in params.items() if name != "cursor"})
    here.sandbox.follow([Fault(Match(path="/v5/execution/list", times=None), loop)])
    asked = len(here.sandbox.requests)
    booked, _ = here.trading.executions(MARKET, here.sandbox.clock.now_ms() - 1_000)
    assert len(booked) == len(here.orders[0].fills)
    assert len(here.sandbox.requests) <= asked + 4


def pages(told: list[list[str]], cursors: list[str]) -> Action:
    """Answer page after page with executions of these names, each with its cursor."""
    left = iter(zip(told, cursors, strict=True))

    def spoil(reply: Reply) -> None:
        names, cursor = next(left)
        (row, *_) = reply.envelope["result"]["list"]
        reply.envelope["result"] = {"list": [row | {"execId": name} for name in names], "nextPageCursor": cursor}

    return Action("pages", spoil, lambda params: {name: text for name, text in params.items() if name != "cursor"})


@pytest.mark.promise(15)
@pytest.mark.parametrize("again", [["b", "a"], ["a"], []])
def test_page_that_brings_nothing_new_is_not_the_last_one_while_there_are_others(
    open_desk: OPEN, again: list[str]
) -> None:
    here = open_desk()
    here.want("0.4")
    here.work()
    page = pages([["a", "b"], again, ["c"]], ["1", "2", ""])
    here.sandbox.follow([Fault(Match(path="/v5/execution/list", times=3), page)])
    booked, _ = here.trading.executions(MARKET, here.sandbox.clock.now_ms() - 1_000)
    assert [one.fill.exec_id for one in booked] == ["a", "b", "c"]


@pytest.mark.parametrize("cursors", ["1231231231", "1234567890"])
def test_pages_that_bring_nothing_new_again_and_again_are_not_followed_for_ever(open_desk: OPEN, cursors: str) -> None:
    here = open_desk()
    here.want("0.4")
    here.work()
    asked = len(here.sandbox.requests)
    page = pages([["a", "b"]] + [["b"]] * 9, list(cursors))
    here.sandbox.follow([Fault(Match(path="/v5/execution/list", times=10), page)])
    booked, _ = here.trading.executions(MARKET, here.sandbox.clock.now_ms() - 1_000)
    assert {one.fill.exec_id for one in booked} == {"a", "b"}
    assert len(here.sandbox.requests) == asked + 1 + 4  # the time, and the pages


def test_pages_without_end_are_not_read_to_the_end(open_desk: OPEN, monkeypatch: pytest.MonkeyPatch) -> None:
    here, numbers = open_desk(), count()
    here.want("0.4")
    here.work()

    def another(reply: Reply) -> None:
        (row, *_) = reply.envelope["result"]["list"]
        reply.envelope["result"] = {"list": [row | {"execId": f"made-up-{next(numbers)}"}], "nextPageCursor": "more"}

    page = Action("one more", another, lambda params: {name: text for name, text in params.items() if name != "cursor"})
    here.sandbox.follow([Fault(Match(path="/v5/execution/list", times=None), page)])
    monkeypatch.setattr("tasks.exchange.trading_account._MOST_PAGES", 5)
    with pytest.raises(Rejected, match="more than 5 executions in a week"):
        here.trading.executions(MARKET, here.sandbox.clock.now_ms() - 1_000)
    assert next(numbers) == 5


@pytest.mark.promise(15)
def test_what_was_booked_in_weeks_in_which_nobody_ran_is_asked_for_week_by_week_and_once(open_desk: OPEN) -> None:
    here = open_desk()
    outside, clock = Outside(here.sandbox.desk, KEY.key), here.sandbox.clock
    began_ms, booked_ms = clock.now_ms(), list[int]()
    for _ in range(4):
        for side in ("Buy", "Sell"):
            outside.order(MARKET.symbol, side, "0.3")
        booked_ms.append(clock.now_ms())
        clock.advance(6 * DAY_MS)

    def weeks_asked() -> int:
        return sum(request.path == "/v5/execution/list" for request in here.sandbox.requests)

    booked, known_ms = here.trading.executions(MARKET, began_ms)
    assert sorted({one.time_ms for one in booked}) == booked_ms
    assert sum(one.fill.quantity if one.side == "Buy" else -one.fill.quantity for one in booked) == 0
    assert (known_ms, weeks_asked()) == (clock.now_ms(), 4)
    here.start()
    here.desk.reconcile()
    clock.advance(3 * 7 * DAY_MS)
    here.desk.reconcile()
    assert (here.desk.trouble, weeks_asked()) == ("", 4 + 1 + 3)
    here.desk.reconcile()
    assert weeks_asked() == 4 + 1 + 3 + 1  # all until then is known
