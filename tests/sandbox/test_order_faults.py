"""What each fault of an order does, seen by a client that does nothing about it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import requests
from pybit.exceptions import FailedRequestError, InvalidRequestError

from tasks.sandbox.faults import CREATE_PATH, Action, Fault, Match, OrderTwist
from tests.sandbox.actions import delivery
from tests.sandbox.conftest import SPEC, STEP_MS
from tests.sandbox.order_actions import FAULTS, late_request, order_fault
from tests.sandbox.outside import Outside
from tests.sandbox.trader import LIMIT_BUY, MARKET_BUY, SYMBOL, only_position, refused, told

OPEN = Callable[..., Any]
USUAL = ["order New", "execution", "order Filled", "position", "wallet"]


@pytest.fixture
def meet(open_sandbox: OPEN, open_client: OPEN) -> Callable[..., Any]:
    """Return a starter of a sandbox whose next order meets a fault, with a client."""

    def start(name: str, **options: Any) -> tuple[Any, Any]:
        sandbox = open_sandbox(ack_to_fill_ms=0)
        sandbox.follow(order_fault(name, SYMBOL, **options))
        return sandbox, open_client(sandbox)

    return start


def orders_of(sandbox: Any) -> list[tuple[str, str, Decimal]]:
    orders = sandbox.account(SPEC.key).orders.values()
    return [(order.link_id, order.status, order.filled) for order in orders]


def rows(ask: Callable[..., Any], **params: Any) -> list[Any]:
    return list(ask(category="linear", **params)["result"]["list"])


def test_there_are_eighteen() -> None:
    assert len(set(FAULTS)) == 18


def test_accepted_order_whose_answer_is_lost_is_there(meet: OPEN) -> None:
    sandbox, client = meet("accepted, answer lost")
    with pytest.raises(requests.ConnectionError):
        client.place_order(**MARKET_BUY, orderLinkId="bar-1")
    assert orders_of(sandbox) == [("bar-1", "Filled", 1)]
    refused(client.place_order, 110072, **MARKET_BUY, orderLinkId="bar-1")


def test_refused_order_whose_answer_is_lost_is_not_there(meet: OPEN) -> None:
    sandbox, client = meet("refused, answer lost")
    with pytest.raises(requests.ConnectionError):
        client.place_order(**MARKET_BUY, orderLinkId="bar-1")
    assert orders_of(sandbox) == []
    client.place_order(**MARKET_BUY, orderLinkId="bar-1")


def test_invisible_order_is_refused_as_duplicate_when_sent_again(meet: OPEN) -> None:
    sandbox, client = meet("accepted, invisible, refused as duplicate when sent again", polls=2)
    asked = {"symbol": SYMBOL, "orderLinkId": "bar-1"}
    refused(client.place_order, 10016, **MARKET_BUY, orderLinkId="bar-1")
    for _ in range(2):
        for ask in (client.get_open_orders, client.get_order_history, client.get_executions):
            assert rows(ask, **asked) == []
    refused(client.place_order, 110072, **MARKET_BUY, orderLinkId="bar-1")
    for ask in (client.get_open_orders, client.get_order_history, client.get_executions):
        assert len(rows(ask, **asked)) == 1
    assert orders_of(sandbox) == [("bar-1", "Filled", 1)]


@pytest.mark.parametrize(
    ("name", "status", "filled"),
    [
        ("acknowledged, then rejected", "Rejected", "0"),
        ("acknowledged, then cancelled unfilled", "Cancelled", "0"),
        ("partly filled, then cancelled", "Cancelled", "1.5"),
    ],
)
def test_acknowledged_order_does_not_fill_as_asked(meet: OPEN, name: str, status: str, filled: str) -> None:
    sandbox, client = meet(name)
    client.place_order(**MARKET_BUY | {"qty": "3"}, orderLinkId="bar-1")
    assert orders_of(sandbox) == [("bar-1", status, Decimal(filled))]
    assert only_position(client)["size"] == filled


def test_part_that_is_left_is_in_whole_steps(meet: OPEN) -> None:
    sandbox, client = meet("partly filled, then cancelled")
    client.place_order(**MARKET_BUY | {"qty": "0.333"}, orderLinkId="bar-1")
    assert orders_of(sandbox) == [("bar-1", "Cancelled", Decimal("0.166"))]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("end told twice", [*USUAL[:3], "order Filled", *USUAL[3:]]),
        ("execution told before the order", ["execution", "order New", *USUAL[2:]]),
        ("execution told twice", [*USUAL[:2], "execution", *USUAL[2:]]),
        ("acknowledged, then rejected", ["order New", "order Rejected"]),
        ("acknowledged, then cancelled unfilled", ["order New", "order Cancelled"]),
    ],
)
def test_order_is_told_in_another_way(meet: OPEN, open_stream: OPEN, name: str, said: list[str]) -> None:
    sandbox, client = meet(name)
    stream = open_stream(sandbox)
    client.place_order(**MARKET_BUY)
    assert told(stream.wait(lambda messages: len(messages) == len(said))) == said
    assert len(sandbox.account(SPEC.key).executions) == said.count("execution") - (name == "execution told twice")
    assert len({row["execId"] for row in stream.rows("execution")}) <= 1


def test_second_end_gives_its_own_reason(meet: OPEN, open_stream: OPEN) -> None:
    sandbox, client = meet("end told twice")
    stream = open_stream(sandbox)
    client.place_order(**MARKET_BUY, stopLoss="95")
    stream.wait_for_end()
    reasons = [row["rejectReason"] for row in stream.rows("order") if row["orderStatus"] == "Filled"]
    assert reasons == ["EC_NoError", "EC_OrigClOrdIDDoesNotExist"]


@pytest.mark.parametrize(
    ("name", "read"), [("realtime lags", "get_open_orders"), ("history lags", "get_order_history")]
)
def test_read_lags_while_the_other_knows(meet: OPEN, name: str, read: str) -> None:
    _, client = meet(name, polls=3)
    client.place_order(**MARKET_BUY, orderLinkId="bar-1")
    asked = {"symbol": SYMBOL, "orderLinkId": "bar-1"}
    found = [len(rows(getattr(client, read), **asked)) for _ in range(4)]
    assert found == [0, 0, 0, 1]
    (other,) = {"get_open_orders", "get_order_history"} - {read}
    assert len(rows(getattr(client, other), **asked)) == 1


def test_position_lags_behind_the_fill(meet: OPEN) -> None:
    sandbox, client = meet("position lags", polls=2)
    client.place_order(**MARKET_BUY)
    assert [only_position(client)["size"] for _ in range(3)] == ["0", "0", "1"]
    assert Outside(sandbox.desk, SPEC.key).size(SYMBOL) == 1


def test_fill_while_the_private_stream_is_down_is_told_to_nobody(
    open_sandbox: OPEN, open_client: OPEN, open_raw: OPEN
) -> None:
    sandbox = open_sandbox(faults=order_fault("filled while the private stream is down", SYMBOL))
    client, raw = open_client(sandbox), open_raw(sandbox)
    raw.authenticate(SPEC)
    raw.ask({"op": "subscribe", "args": ["order"]})
    client.place_order(**MARKET_BUY)
    with pytest.raises(Exception, match=r"closed|lost|reset|Broken"):
        raw.ask({"op": "ping"})
    assert raw.messages == []
    open_raw(sandbox)  # it is back
    assert only_position(client)["size"] == "1"


def test_foreign_order_follows(meet: OPEN) -> None:
    sandbox, client = meet("foreign order", foreign_qty="0.4")
    client.place_order(**MARKET_BUY, orderLinkId="bar-1")
    assert orders_of(sandbox) == [("bar-1", "Filled", 1), ("", "Filled", Decimal("0.4"))]
    assert only_position(client)["size"] == "1.4"


def test_position_is_deleveraged(meet: OPEN) -> None:
    sandbox, client = meet("deleveraged")
    client.place_order(**MARKET_BUY, orderLinkId="bar-1")
    assert [one.exec_type for one in sandbox.account(SPEC.key).executions] == ["Trade", "AdlTrade"]
    assert only_position(client)["size"] == "0"


def test_leverage_is_reset(meet: OPEN) -> None:
    _, client = meet("leverage reset")
    client.place_order(**MARKET_BUY)
    assert only_position(client)["leverage"] == "10"


def test_acknowledgement_comes_late_for_what_is_long_filled(
    open_sandbox: OPEN, open_client: OPEN, open_stream: OPEN
) -> None:
    sandbox = open_sandbox(faults=order_fault("acknowledged after recv_window", SYMBOL, late_s=30.0))
    client, stream = open_client(sandbox, timeout_s=(3.05, 0.2)), open_stream(sandbox)
    with pytest.raises(requests.ReadTimeout):
        client.place_order(**MARKET_BUY, orderLinkId="bar-1")
    assert told(stream.wait_for_end()) == USUAL
    assert orders_of(sandbox) == [("bar-1", "Filled", 1)]


def test_403_on_create_is_no_order(meet: OPEN) -> None:
    sandbox, client = meet("HTTP 403 on create")
    with pytest.raises(FailedRequestError) as ban:
        client.place_order(**MARKET_BUY)
    assert ban.value.status_code == 403
    assert orders_of(sandbox) == []


def test_request_that_is_late_arrives_when_its_client_has_left(
    open_sandbox: OPEN, open_client: OPEN, open_stream: OPEN
) -> None:
    plan = [Fault(Match(method="POST", path=CREATE_PATH), late_request(0.3))]
    sandbox = open_sandbox(faults=plan)
    client, stream = open_client(sandbox, timeout_s=(3.05, 0.1)), open_stream(sandbox)
    with pytest.raises(requests.ReadTimeout):
        client.place_order(**MARKET_BUY, orderLinkId="bar-1")
    assert told(stream.wait_for_end()) == USUAL


def test_request_that_arrives_after_its_window_is_refused(open_sandbox: OPEN, open_client: OPEN) -> None:
    sandbox = open_sandbox(faults=[Fault(Match(method="POST", path=CREATE_PATH), late_request(0.3))])
    client = open_client(sandbox)
    client.recv_window = 100
    refused(client.place_order, 10002, **MARKET_BUY)
    assert orders_of(sandbox) == []


@pytest.mark.parametrize("name", FAULTS)
def test_fault_means_the_order_that_matches_alone(meet: OPEN, name: str) -> None:
    sandbox, client = meet(name, params={"orderLinkId": "bar-2"}, late_s=0.1)
    client.place_order(**MARKET_BUY, orderLinkId="bar-1")
    assert orders_of(sandbox) == [("bar-1", "Filled", 1)]


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_order_fills_in_parts_as_far_as_steps_allow(meet: OPEN, parts: int) -> None:
    sandbox, client = meet("end told twice", parts=parts)
    client.place_order(**MARKET_BUY | {"qty": "0.1"})
    sizes = [one.qty for one in sandbox.account(SPEC.key).executions]
    assert sum(sizes) == Decimal("0.1")
    assert len(sizes) >= parts


def test_fault_of_reads_leaves_an_order_alone_and_its_other_way_round(open_sandbox: OPEN, open_client: OPEN) -> None:
    sandbox = open_sandbox(faults=[Fault(Match(path=None), delivery("reset"))])
    client = open_client(sandbox)
    client.place_order(**LIMIT_BUY)
    with pytest.raises(requests.ConnectionError):
        only_position(client)


def test_late_fill_waits_for_its_time_whatever_the_clock_does(open_sandbox: OPEN, open_client: OPEN) -> None:
    action = Action("late", twist=OrderTwist(late_s=3_600))
    sandbox = open_sandbox(faults=[Fault(Match(method="POST", path=CREATE_PATH), action)])
    open_client(sandbox).place_order(**MARKET_BUY, orderLinkId="bar-1")
    sandbox.clock.advance(STEP_MS)
    assert orders_of(sandbox) == [("bar-1", "New", 0)]


def test_code_that_is_answered_for_an_accepted_order_is_seen(meet: OPEN) -> None:
    sandbox, client = meet("accepted, invisible, refused as duplicate when sent again")
    with pytest.raises(InvalidRequestError, match="Internal server error"):
        client.place_order(**MARKET_BUY)
    assert len(orders_of(sandbox)) == 1
