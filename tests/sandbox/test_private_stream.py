"""The private stream: who may listen, and what is said in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import websocket

from tests.sandbox.conftest import FLAT, SPEC, START_MS, STEP_MS, candles_of
from tests.sandbox.outside import Outside
from tests.sandbox.trader import LIMIT_BUY, MARKET_BUY, SYMBOL, told

OPEN = Callable[..., Any]


def test_life_of_a_market_order_is_told_in_order(open_sandbox: OPEN, open_client: OPEN, open_stream: OPEN) -> None:
    sandbox = open_sandbox()
    stream = open_stream(sandbox)
    order_id = open_client(sandbox).place_order(**MARKET_BUY, orderLinkId="bar-1")["result"]["orderId"]
    messages = stream.wait_for_end()
    assert told(messages) == ["order New", "execution", "order Filled", "position", "wallet"]
    assert all(set(message) == {"topic", "id", "creationTime", "data"} for message in messages)
    assert {message["creationTime"] for message in messages} == {sandbox.clock.now_ms()}
    (execution,) = stream.rows("execution")
    assert (execution["orderId"], execution["orderLinkId"], execution["category"]) == (order_id, "bar-1", "linear")
    assert (execution["execPrice"], execution["execQty"], execution["leavesQty"]) == ("100", "1", "0")
    assert (execution["feeRate"], execution["execType"], execution["isMaker"]) == ("0.00055", "Trade", False)
    (position,) = stream.rows("position")
    assert (position["entryPrice"], position["size"], "avgPrice" in position) == ("100", "1", False)
    (wallet,) = stream.rows("wallet")
    assert wallet["coin"][0]["walletBalance"] == "9999.945"


def test_rows_of_the_stream_are_those_of_rest(open_sandbox: OPEN, open_client: OPEN, open_stream: OPEN) -> None:
    sandbox = open_sandbox()
    stream, client = open_stream(sandbox), open_client(sandbox)
    client.place_order(**MARKET_BUY, stopLoss="95")
    stream.wait_for_end()
    linear = {"category": "linear"}
    (entry,) = client.get_open_orders(**linear, symbol=SYMBOL, openOnly=1)["result"]["list"]
    (stop,) = client.get_open_orders(**linear, symbol=SYMBOL)["result"]["list"]
    assert stream.rows("order")[1:] == [linear | entry, linear | stop]
    assert stream.rows("execution") == [linear | client.get_executions(**linear)["result"]["list"][0]]
    (position,) = client.get_positions(**linear, symbol=SYMBOL)["result"]["list"]
    assert stream.rows("position") == [linear | {"entryPrice": position.pop("avgPrice")} | position]
    assert stream.rows("wallet") == client.get_wallet_balance(accountType="UNIFIED")["result"]["list"]


def test_order_over_several_levels_is_told_execution_by_execution(
    open_sandbox: OPEN, open_client: OPEN, open_stream: OPEN
) -> None:
    sandbox = open_sandbox(candles=candles_of([FLAT] * 3, volume=100.0))
    stream = open_stream(sandbox)
    asked = {"qty": "50", "slippageToleranceType": "Percent", "slippageTolerance": "0.1"}
    open_client(sandbox).place_order(**MARKET_BUY | asked)
    partial = ["execution", "order PartiallyFilled"]
    assert told(stream.wait_for_end()) == ["order New", *partial, *partial, "order Cancelled", "position", "wallet"]
    done = [Decimal(row["cumExecQty"]) for row in stream.rows("order")]
    assert done == sorted(done)
    assert done[-1] == sum(Decimal(row["execQty"]) for row in stream.rows("execution"))


def test_stop_that_triggers_is_told(open_sandbox: OPEN, open_client: OPEN, open_stream: OPEN) -> None:
    sandbox = open_sandbox()
    stream = open_stream(sandbox)
    open_client(sandbox).place_order(**MARKET_BUY, stopLoss="95", orderLinkId="bar-1")
    assert told(stream.wait_for_end())[3:] == ["order Untriggered", "position", "wallet"]
    sandbox.clock.advance(2 * STEP_MS)
    said = told(stream.wait_for_end(2))[6:]
    assert said == ["order Triggered", "execution", "order Filled", "position", "wallet"]
    execution = stream.rows("execution")[-1]
    assert (execution["stopOrderType"], execution["closedSize"], execution["execPrice"]) == ("StopLoss", "1", "94")
    assert stream.rows("order")[-1]["parentOrderLinkId"] == "bar-1"


def test_funding_is_told_as_an_execution(open_sandbox: OPEN, open_stream: OPEN) -> None:
    sandbox = open_sandbox(funding=[(START_MS + 2 * STEP_MS, 0.0001)])
    stream = open_stream(sandbox)
    Outside(sandbox.desk, SPEC.key).order(SYMBOL, "Buy", "1")
    stream.wait_for_end()
    sandbox.clock.advance(STEP_MS)
    assert told(stream.wait_for_end(2))[5:] == ["execution", "wallet"]
    assert stream.rows("execution")[-1]["execType"] == "Funding"


def test_cancelled_order_is_told(open_sandbox: OPEN, open_client: OPEN, open_stream: OPEN) -> None:
    sandbox = open_sandbox()
    stream, client = open_stream(sandbox), open_client(sandbox)
    client.place_order(**LIMIT_BUY, orderLinkId="bar-1")
    client.cancel_order(category="linear", symbol=SYMBOL, orderLinkId="bar-1")
    messages = stream.wait(lambda messages: len(messages) == 2)
    assert told(messages) == ["order New", "order Cancelled"]


def test_nothing_is_heard_before_one_has_said_who_one_is(open_sandbox: OPEN, open_client: OPEN, open_raw: OPEN) -> None:
    sandbox = open_sandbox()
    raw = open_raw(sandbox)
    subscribe = {"op": "subscribe", "req_id": "s", "args": ["order"]}
    refusal = raw.ask(subscribe)
    assert (refusal["success"], refusal["ret_msg"], refusal["req_id"]) == (False, "Request not authorized", "s")
    open_client(sandbox).place_order(**MARKET_BUY)
    answer = raw.authenticate(SPEC)
    assert (answer["success"], answer["op"], answer["ret_msg"]) == (True, "auth", "")
    assert raw.ask(subscribe)["success"] is True
    raw.ask({"op": "ping"})
    assert raw.messages == []
    open_client(sandbox).place_order(**MARKET_BUY)
    raw.ask({"op": "ping"})
    assert [message["topic"] for message in raw.messages] == ["order", "order"]


@pytest.mark.parametrize("wrong", [{"key": "nobody"}, {"signature": "0" * 64}, {"expires_in_ms": -1}])
def test_authentication_that_is_wrong_is_refused(open_sandbox: OPEN, open_raw: OPEN, wrong: dict[str, Any]) -> None:
    raw = open_raw(open_sandbox())
    assert raw.authenticate(SPEC, **wrong)["success"] is False
    assert raw.ask({"op": "subscribe", "args": ["order"]})["success"] is False


def test_key_hears_its_own_account_alone(open_sandbox: OPEN, open_raw: OPEN) -> None:
    other = dataclasses.replace(SPEC, key="another")
    sandbox = open_sandbox(accounts=[SPEC, other])
    raw = open_raw(sandbox)
    raw.authenticate(other)
    raw.ask({"op": "subscribe", "args": ["execution"]})
    for key in (SPEC.key, other.key):
        Outside(sandbox.desk, key).order(SYMBOL, "Buy", "1")
    raw.ask({"op": "ping"})
    (message,) = raw.messages
    assert message["data"][0]["execId"] == sandbox.account(other.key).executions[0].exec_id


def test_pings_are_answered_in_the_private_streams_own_form(open_sandbox: OPEN, open_raw: OPEN) -> None:
    sandbox = open_sandbox()
    pong = open_raw(sandbox).ask({"op": "ping", "req_id": "7"})
    assert (pong["op"], pong["req_id"], pong["args"]) == ("pong", "7", [str(sandbox.clock.now_ms())])


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"op": "subscribe", "args": ["greeks"]}, "handler not found,topic:greeks"),
        ({"op": "subscribe", "args": ["wallet.linear"]}, "handler not found"),
        ({"op": "subscribe", "args": "order"}, "invalid args"),
        ({"op": "subscribe", "args": [["order"]]}, "handler not found"),
        ({"op": "auth", "args": [["key"], "soon", 3]}, "invalid"),
        ({"op": "buy"}, "invalid op"),
        ("no json", "Failed to decode"),
        ("[]", "Failed to decode"),
    ],
)
def test_request_that_is_none_is_refused(open_sandbox: OPEN, open_raw: OPEN, request_: Any, says: str) -> None:
    raw = open_raw(open_sandbox())
    raw.authenticate(SPEC)
    answer = raw.ask(request_)
    assert answer["success"] is False
    assert says in answer["ret_msg"]


def test_topic_is_subscribed_once(open_sandbox: OPEN, open_raw: OPEN) -> None:
    raw = open_raw(open_sandbox())
    raw.authenticate(SPEC)
    raw.ask({"op": "subscribe", "args": ["execution", "position"]})
    assert "already subscribed" in raw.ask({"op": "subscribe", "args": ["position"]})["ret_msg"]


def test_pybit_that_lost_its_connection_hears_again_and_what_was_said_meanwhile_is_lost(
    open_sandbox: OPEN, open_stream: OPEN
) -> None:
    sandbox = open_sandbox()
    stream, outside = open_stream(sandbox), Outside(sandbox.desk, SPEC.key)
    outside.order(SYMBOL, "Buy", "1")
    stream.wait_for_end()
    sandbox.private_stream.cut()
    outside.order(SYMBOL, "Buy", "2")
    sandbox.private_stream.restore()
    sandbox.wait_for_subscribers("order", "execution", "position", "wallet")
    outside.order(SYMBOL, "Buy", "3")
    stream.wait_for_end(2)
    assert [row["execQty"] for row in stream.rows("execution")] == ["1", "3"]


def test_stream_that_is_down_refuses_connections(open_sandbox: OPEN, open_raw: OPEN) -> None:
    sandbox = open_sandbox()
    open_raw(sandbox)
    sandbox.private_stream.cut()
    with pytest.raises(websocket.WebSocketBadStatusException, match="503"):
        open_raw(sandbox)
    sandbox.private_stream.restore()
    open_raw(sandbox)


def test_sandbox_without_accounts_has_no_private_stream(open_sandbox: OPEN, open_raw: OPEN) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        open_raw(open_sandbox(accounts=[]))
