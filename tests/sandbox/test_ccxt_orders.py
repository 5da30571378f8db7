"""Another client, ccxt, creates, reads and closes orders on the sandbox, and sees what pybit sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.sandbox.conftest import SPEC, STEP_MS
from tests.sandbox.trader import MARKET_BUY, SYMBOL

pytestmark = pytest.mark.oracle

PAIR = "SYNTH/USDT:USDT"
OPEN = Callable[..., Any]


@pytest.fixture
def trader(open_sandbox: OPEN) -> tuple[Any, Any]:
    """Return a sandbox and ccxt's client of its account."""
    ccxt = pytest.importorskip("ccxt", reason="ccxt, another client of the exchange, is not installed")
    from tests.clients.ccxt_client import ccxt_options

    sandbox = open_sandbox()
    client = ccxt.bybit(ccxt_options(sandbox) | {"apiKey": SPEC.key, "secret": SPEC.secret})
    client.has["fetchCurrencies"] = False  # an endpoint of its own, which no order needs
    return sandbox, client


def test_ccxt_opens_reads_and_closes_a_position(trader: tuple[Any, Any]) -> None:
    sandbox, client = trader
    placed = client.create_order(PAIR, "market", "buy", 1.5, params={"clientOrderId": "bar-1"})
    order = client.fetch_order(placed["id"], PAIR, {"acknowledged": True})
    assert (order["status"], order["clientOrderId"]) == ("closed", "bar-1")
    assert (order["average"], order["filled"], order["fee"]) == (100.0, 1.5, {"cost": 0.0825, "currency": "USDT"})
    (position,) = client.fetch_positions([PAIR])
    assert (position["side"], position["contracts"], position["entryPrice"]) == ("long", 1.5, 100.0)
    assert (position["leverage"], position["unrealizedPnl"]) == (1.0, 0.0)
    client.create_order(PAIR, "market", "sell", 1.5, params={"reduceOnly": True})
    trades = client.fetch_my_trades(PAIR)
    assert [(trade["side"], trade["price"], trade["amount"]) for trade in trades] == [
        ("buy", 100.0, 1.5), ("sell", 99.9, 1.5)
    ]  # fmt: skip
    account = sandbox.account(SPEC.key)
    assert [trade["id"] for trade in trades] == [one.exec_id for one in account.executions]
    assert client.fetch_balance()["USDT"]["total"] == float(account.wallet)


def test_ccxt_cancels_a_limit_order(trader: tuple[Any, Any]) -> None:
    _, client = trader
    placed = client.create_order(PAIR, "limit", "buy", 1, 99.0)
    (waiting,) = client.fetch_open_orders(PAIR)
    assert (waiting["id"], waiting["price"], waiting["remaining"]) == (placed["id"], 99.0, 1.0)
    client.cancel_order(placed["id"], PAIR)
    assert client.fetch_open_orders(PAIR) == []
    (over,) = client.fetch_canceled_and_closed_orders(PAIR)
    assert (over["id"], over["status"]) == (placed["id"], "canceled")


def test_ccxt_understands_refusals(trader: tuple[Any, Any]) -> None:
    import ccxt

    _, client = trader
    client.create_order(PAIR, "limit", "buy", 1, 99.0, {"clientOrderId": "bar-1"})
    with pytest.raises(ccxt.InvalidOrder, match="110072"):
        client.create_order(PAIR, "limit", "buy", 1, 99.0, {"clientOrderId": "bar-1"})
    with pytest.raises(ccxt.InsufficientFunds, match="110007"):
        client.create_order(PAIR, "limit", "buy", 1_000, 99.0)
    with pytest.raises(ccxt.OrderNotFound, match="110001"):
        client.cancel_order("none", PAIR)
    client.secret = "wrong"  # noqa: S105  # on purpose
    with pytest.raises(ccxt.AuthenticationError, match="10004"):
        client.fetch_open_orders(PAIR)


def test_ccxt_sees_the_orders_and_executions_that_pybit_made(trader: tuple[Any, Any], open_client: OPEN) -> None:
    sandbox, client = trader
    pybit = open_client(sandbox)
    pybit.place_order(**MARKET_BUY, orderLinkId="bar-1", stopLoss="95")
    sandbox.clock.advance(2 * STEP_MS)
    seen = {order["id"]: (order["filled"], order["cost"]) for order in client.fetch_closed_orders(PAIR)}
    orders = sandbox.account(SPEC.key).orders.values()
    assert seen == {order.order_id: (float(order.filled), float(order.value)) for order in orders}
    rows = pybit.get_executions(category="linear", symbol=SYMBOL)["result"]["list"]
    assert [trade["id"] for trade in client.fetch_my_trades(PAIR)] == [row["execId"] for row in rows[::-1]]
