"""Orders over REST, asked by pybit: what is done, and what is refused with which code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.sandbox.conftest import FLAT, INSTRUMENT, SPEC, START_MS, STEP_MS, candles_of
from tests.sandbox.outside import Outside
from tests.sandbox.trader import LIMIT_BUY, MARKET_BUY, SYMBOL, only_position, order_of, place, refused

OPEN = Callable[..., Any]


def test_market_order_fills_at_the_best_price_and_pays_the_taker_fee(desk: Any) -> None:
    _, client = desk
    order = place(client, **MARKET_BUY, orderLinkId="bar-1")
    assert (order["orderStatus"], order["orderLinkId"], order["timeInForce"]) == ("Filled", "bar-1", "IOC")
    assert (order["avgPrice"], order["cumExecQty"], order["leavesQty"]) == ("100", "1", "0")
    assert (order["cumExecFee"], order["cumFeeDetail"]) == ("0.055", {"USDT": "0.055"})  # 100 * 0.00055
    position = only_position(client)
    assert (position["side"], position["size"], position["avgPrice"]) == ("Buy", "1", "100")
    (wallet,) = client.get_wallet_balance(accountType="UNIFIED")["result"]["list"]
    assert (wallet["totalWalletBalance"], wallet["totalAvailableBalance"]) == ("9999.945", "9899.945")


def test_sale_fills_at_the_bid_and_what_a_round_trip_costs_is_realised(desk: Any) -> None:
    sandbox, client = desk
    client.place_order(**MARKET_BUY)
    order = place(client, **MARKET_BUY | {"side": "Sell"})
    assert (order["avgPrice"], order["closedPnl"]) == ("99.9", "-0.1")
    account = sandbox.account(SPEC.key)
    assert account.wallet == Decimal("10000") - Decimal("0.1") - Decimal("0.055") - Decimal("0.054945")
    assert [one.closed for one in account.executions] == [0, 1]
    position = only_position(client)
    assert (position["side"], position["size"], position["avgPrice"]) == ("", "0", "0")


def test_order_larger_than_the_best_level_takes_the_next_ones(open_sandbox: OPEN, open_client: OPEN) -> None:
    sandbox = open_sandbox(candles=candles_of([FLAT] * 3, volume=100.0))
    client = open_client(sandbox)
    book = sandbox.listings["linear", SYMBOL].book(sandbox.clock.now_ms(), levels=3)
    sizes = [Decimal(size) for _, size in book.asks]
    qty = sizes[0] + sizes[1] + Decimal("0.5")
    order = place(client, **MARKET_BUY | {"qty": str(qty)})
    rows = client.get_executions(category="linear", symbol=SYMBOL)["result"]["list"][::-1]
    found = [(Decimal(row["execPrice"]), Decimal(row["execQty"])) for row in rows]
    assert found == [(Decimal("100"), sizes[0]), (Decimal("100.1"), sizes[1]), (Decimal("100.2"), Decimal("0.5"))]
    assert Decimal(order["cumExecValue"]) == sum(price * size for price, size in found)


def test_level_of_the_book_is_the_same_at_every_depth(desk: Any) -> None:
    sandbox, _ = desk
    listing, now_ms = sandbox.listings["linear", SYMBOL], sandbox.clock.now_ms()
    deep = listing.book(now_ms, levels=50)
    for levels in (1, 3):
        book = listing.book(now_ms, levels=levels)
        assert (book.bids, book.asks) == (deep.bids[:levels], deep.asks[:levels])


def test_slippage_tolerance_cuts_a_market_order_and_the_rest_is_cancelled(
    open_sandbox: OPEN, open_client: OPEN
) -> None:
    sandbox = open_sandbox(candles=candles_of([FLAT] * 3, volume=100.0))
    client = open_client(sandbox)
    book = sandbox.listings["linear", SYMBOL].book(sandbox.clock.now_ms(), levels=3)
    sizes = [Decimal(size) for _, size in book.asks]
    asked = MARKET_BUY | {"qty": "50", "slippageToleranceType": "Percent", "slippageTolerance": "0.1"}
    order = place(client, **asked)
    assert (order["orderStatus"], order["price"]) == ("Cancelled", "100.1")  # never PartiallyFilledCanceled: spot's
    assert Decimal(order["cumExecQty"]) == sizes[0] + sizes[1]
    assert (order["leavesQty"], order["rejectReason"]) == ("0", "EC_NoImmediateQtyToFill")
    assert place(client, **asked | {"slippageTolerance": "0.25"})["price"] == "100.2"  # 100 + 0.25, on the tick below


@pytest.mark.parametrize(("kind", "tolerance"), [("Percent", "0.001"), ("Percent", "11"), ("X", "1")])
def test_slippage_tolerance_beyond_its_range_is_refused(desk: Any, kind: str, tolerance: str) -> None:
    _, client = desk
    asked = {"slippageToleranceType": kind, "slippageTolerance": tolerance}
    assert "slippage" in refused(client.place_order, 10001, **MARKET_BUY, **asked)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"qty": "0.0005"}, 10001, "Qty invalid"),
        ({"qty": "1.0005"}, 10001, "Qty invalid"),
        ({"qty": "1e-05"}, 10001, "qty invalid"),
        ({"qty": "-1"}, 10001, "qty invalid"),
        ({"qty": "0"}, 10001, "Qty invalid"),
        ({"qty": "10000.001"}, 10001, "exceeds maximum limit"),
        ({"qty": "0.049"}, 110094, "minimum order value 5USDT"),
        ({"qty": "101"}, 110007, "not enough"),  # 10,100 of 10,000 at 1x
        ({"qty": "100"}, 110007, "not enough"),  # the fee comes on top
        ({"side": "buy"}, 10001, "Side invalid"),
        ({"orderType": "Stop"}, 10001, "OrderType invalid"),
        ({"timeInForce": "PostOnly"}, 10001, "timeInForce"),
        ({"symbol": "NOUSDT"}, 10001, "symbol invalid NOUSDT"),
        ({"category": "inverse"}, 10001, "linear"),
        ({"category": "spot"}, 10001, "linear"),
        ({"positionIdx": 1}, 10001, "position idx not match position mode"),
        ({"orderLinkId": "x" * 37}, 10001, "36 characters"),
        ({"orderLinkId": "a b"}, 10001, "36 characters"),
        ({"reduceOnly": True}, 110017, "current position is zero"),
        ({"reduceOnly": True, "stopLoss": "95"}, 10001, "can not set TP/SL"),
        ({"stopLoss": "100"}, 10001, "should lower than"),
        ({"side": "Sell", "stopLoss": "100"}, 10001, "should greater than"),
        ({"stopLoss": "95.05"}, 10001, "Price invalid"),
        ({"takeProfit": "110"}, 10001, "does not serve takeProfit"),
        ({"triggerPrice": "110"}, 10001, "does not serve triggerPrice"),
        ({"orderType": "Limit"}, 10001, "price invalid"),
        ({"orderType": "Limit", "price": "99.05"}, 10001, "Price invalid"),
    ],
)
def test_order_that_breaks_a_rule_is_refused_and_nothing_changes(
    desk: Any, changes: dict[str, Any], code: int, says: str
) -> None:
    sandbox, client = desk
    assert says in refused(client.place_order, code, **MARKET_BUY | changes)
    account = sandbox.account(SPEC.key)
    assert (account.wallet, account.orders, account.executions) == (10_000, {}, [])


def test_quantity_that_is_no_text_is_refused(desk: Any) -> None:
    _, client = desk
    assert "buyLeverage invalid" in refused(
        client.set_leverage, 10001, category="linear", symbol=SYMBOL, buyLeverage=3, sellLeverage=3
    )


def test_market_that_is_not_trading_takes_no_order(open_sandbox: OPEN, open_client: OPEN) -> None:
    client = open_client(open_sandbox(instrument=dataclasses.replace(INSTRUMENT, status="Closed")))
    refused(client.place_order, 110074, **MARKET_BUY)


def test_market_that_has_not_opened_takes_no_order(open_sandbox: OPEN, open_client: OPEN) -> None:
    client = open_client(open_sandbox(now_ms=START_MS - 1))
    refused(client.place_order, 110118, **MARKET_BUY)


def test_link_id_is_taken_once_whatever_has_become_of_the_order(desk: Any) -> None:
    sandbox, client = desk
    client.place_order(**LIMIT_BUY, orderLinkId="bar-1")
    refused(client.place_order, 110072, **MARKET_BUY, orderLinkId="bar-1")
    client.cancel_order(category="linear", symbol=SYMBOL, orderLinkId="bar-1")
    refused(client.place_order, 110072, **MARKET_BUY, orderLinkId="bar-1")
    assert len(sandbox.account(SPEC.key).orders) == 1


def test_refused_link_id_may_be_used_again(desk: Any) -> None:
    _, client = desk
    refused(client.place_order, 110094, **MARKET_BUY | {"qty": "0.001"}, orderLinkId="bar-1")
    client.place_order(**MARKET_BUY, orderLinkId="bar-1")


def test_reduce_only_order_closes_what_is_held_and_no_more(desk: Any) -> None:
    _, client = desk
    client.place_order(**MARKET_BUY)
    refused(client.place_order, 110017, **MARKET_BUY, reduceOnly=True)
    order = place(client, **MARKET_BUY | {"side": "Sell", "qty": "3"}, reduceOnly=True)
    assert (order["orderStatus"], order["qty"], order["cumExecQty"]) == ("Filled", "1", "1")
    assert only_position(client)["size"] == "0"


def test_reduce_only_order_below_the_minimum_notional_is_taken(desk: Any) -> None:
    _, client = desk
    client.place_order(**MARKET_BUY)
    asked = MARKET_BUY | {"side": "Sell", "qty": "0.001"}
    assert place(client, **asked, reduceOnly=True)["orderStatus"] == "Filled"


def test_second_of_two_closing_orders_finds_nothing_to_close(open_sandbox: OPEN, open_client: OPEN) -> None:
    sandbox = open_sandbox(ack_to_fill_ms=3_600_000)
    client = open_client(sandbox)
    Outside(sandbox.desk, SPEC.key).order(SYMBOL, "Buy", "1")
    for _ in range(2):
        client.place_order(**MARKET_BUY | {"side": "Sell"}, reduceOnly=True)
    sandbox.clock.advance(1)
    _, first, second = sandbox.account(SPEC.key).orders.values()
    assert (first.status, second.status, second.cancel_type) == ("Filled", "Cancelled", "CancelByReduceOnly")


@pytest.mark.parametrize(("left", "status", "filled"), [("0.4", "Filled", "0.4"), ("0", "Cancelled", "0")])
def test_resting_order_that_reduces_closes_what_is_left(desk: Any, left: str, status: str, filled: str) -> None:
    sandbox, client = desk
    client.place_order(**MARKET_BUY)
    order = client.place_order(**LIMIT_BUY | {"side": "Sell", "price": "104"}, reduceOnly=True)["result"]
    Outside(sandbox.desk, SPEC.key).order(SYMBOL, "Sell", str(1 - Decimal(left)), reduceOnly="true")
    sandbox.clock.advance(3 * STEP_MS)  # up to 105
    over = order_of(client, order["orderId"])
    assert (over["orderStatus"], over["cumExecQty"]) == (status, filled)
    assert only_position(client)["size"] == "0"


def test_sale_larger_than_the_position_turns_it(desk: Any) -> None:
    sandbox, client = desk
    client.place_order(**MARKET_BUY)
    client.place_order(**MARKET_BUY | {"side": "Sell", "qty": "3"})
    position = only_position(client)
    assert (position["side"], position["size"], position["avgPrice"]) == ("Sell", "2", "99.9")
    assert [(one.qty, one.closed) for one in sandbox.account(SPEC.key).executions] == [(1, 0), (3, 1)]


def test_limit_order_rests_until_a_trade_comes_strictly_through_its_price(
    open_sandbox: OPEN, open_client: OPEN
) -> None:
    path = [FLAT, FLAT, (100.0, 100.0, 99.0, 100.0), (100.0, 100.0, 98.9, 100.0)]
    sandbox = open_sandbox(candles=candles_of(path))
    client = open_client(sandbox)
    order = place(client, **LIMIT_BUY)
    assert (order["orderStatus"], order["leavesQty"]) == ("New", "1")
    sandbox.clock.advance(2 * STEP_MS)  # the lowest trade so far was at 99
    assert order_of(client, order["orderId"])["orderStatus"] == "New"
    sandbox.clock.advance(STEP_MS)
    filled = order_of(client, order["orderId"])
    assert (filled["orderStatus"], filled["avgPrice"]) == ("Filled", "99")
    (execution,) = client.get_executions(category="linear", orderId=order["orderId"])["result"]["list"]
    assert (execution["isMaker"], execution["execFee"]) == (True, "0.0198")  # 99 * 0.0002
    assert int(execution["execTime"]) == START_MS + 3 * STEP_MS + STEP_MS // 4  # the second trade of its bar


def test_limit_order_as_good_as_the_ask_takes_it(desk: Any) -> None:
    _, client = desk
    order = place(client, **LIMIT_BUY | {"price": "101"})
    assert (order["orderStatus"], order["avgPrice"]) == ("Filled", "100")


@pytest.mark.parametrize(
    ("force", "price", "status", "reason"),
    [
        ("GTC", "99.9", "New", "EC_NoError"),
        ("IOC", "99.9", "Cancelled", "EC_NoImmediateQtyToFill"),
        ("IOC", "100", "Filled", "EC_NoError"),
    ],
)
def test_limit_order_keeps_its_time_in_force(desk: Any, force: str, price: str, status: str, reason: str) -> None:
    _, client = desk
    order = place(client, **LIMIT_BUY | {"price": price, "timeInForce": force})
    assert (order["orderStatus"], order["rejectReason"]) == (status, reason)


def test_limit_price_beyond_the_band_is_moved_in_silence(desk: Any) -> None:
    _, client = desk
    assert place(client, **LIMIT_BUY | {"price": "120"})["price"] == "105"
    assert place(client, **LIMIT_BUY | {"side": "Sell", "price": "80"})["price"] == "95"


def test_open_orders_hold_margin_until_they_are_cancelled(desk: Any) -> None:
    _, client = desk
    order = client.place_order(**LIMIT_BUY | {"qty": "60"})["result"]
    assert "not enough" in refused(client.place_order, 110007, **LIMIT_BUY | {"qty": "60"})
    client.cancel_order(category="linear", symbol=SYMBOL, orderId=order["orderId"])
    client.place_order(**LIMIT_BUY | {"qty": "60"})


def test_order_is_cancelled_once(desk: Any) -> None:
    _, client = desk
    named = {"category": "linear", "symbol": SYMBOL, "orderLinkId": "bar-1"}
    order = place(client, **LIMIT_BUY, orderLinkId="bar-1")
    client.cancel_order(**named)
    over = order_of(client, order["orderId"])
    assert (over["orderStatus"], over["cancelType"], over["leavesQty"]) == ("Cancelled", "CancelByUser", "0")
    refused(client.cancel_order, 110001, **named)


def test_all_orders_are_cancelled_at_once_and_each_is_named(desk: Any) -> None:
    sandbox, client = desk
    placed = [client.place_order(**LIMIT_BUY, orderLinkId=f"bar-{n}")["result"] for n in range(3)]
    refused(client.cancel_all_orders, 10001, category="linear")
    answer = client.cancel_all_orders(category="linear", settleCoin="USDT")["result"]
    assert (answer["success"], answer["list"]) == ("1", placed)
    assert {order.status for order in sandbox.account(SPEC.key).orders.values()} == {"Cancelled"}
    assert client.cancel_all_orders(category="linear", symbol=SYMBOL)["result"]["list"] == []


def test_stop_is_an_order_of_its_own_that_names_its_parent(desk: Any) -> None:
    _, client = desk
    client.place_order(**MARKET_BUY, stopLoss="95", slTriggerBy="MarkPrice", orderLinkId="bar-1")
    (stop,) = client.get_open_orders(category="linear", symbol=SYMBOL)["result"]["list"]
    assert (stop["orderStatus"], stop["parentOrderLinkId"], stop["orderLinkId"]) == ("Untriggered", "bar-1", "")
    assert (stop["side"], stop["triggerPrice"], stop["stopOrderType"]) == ("Sell", "95", "StopLoss")
    assert (stop["reduceOnly"], stop["qty"], stop["createType"]) == (True, "1", "CreateByStopLoss")
    assert (stop["triggerDirection"], stop["triggerBy"]) == (2, "MarkPrice")
    assert only_position(client)["stopLoss"] == "95"


def test_stop_triggers_at_the_first_trade_at_its_price_and_closes_at_that_trades_book(desk: Any) -> None:
    sandbox, client = desk
    client.place_order(**MARKET_BUY, stopLoss="95")
    (stop,) = client.get_open_orders(category="linear", symbol=SYMBOL)["result"]["list"]
    sandbox.clock.move_to(START_MS + 2 * STEP_MS + STEP_MS // 4 - 1)
    assert order_of(client, stop["orderId"])["orderStatus"] == "Untriggered"
    sandbox.clock.advance(1)  # the bar goes 100, 100.5, 94, 99: its low is the third trade
    assert order_of(client, stop["orderId"])["orderStatus"] == "Untriggered"
    sandbox.clock.advance(STEP_MS // 4)
    over = order_of(client, stop["orderId"])
    assert (over["orderStatus"], over["avgPrice"], over["closedPnl"]) == ("Filled", "94", "-6")
    assert only_position(client)["size"] == "0"


def test_stop_goes_with_its_position(desk: Any) -> None:
    sandbox, client = desk
    client.place_order(**MARKET_BUY, stopLoss="95")
    client.place_order(**MARKET_BUY | {"side": "Sell"}, reduceOnly=True)
    _, stop, _ = sandbox.account(SPEC.key).orders.values()
    assert (stop.status, stop.cancel_type) == ("Deactivated", "CancelByTpSlTsClear")
    sandbox.clock.advance(2 * STEP_MS)
    assert len(sandbox.account(SPEC.key).executions) == 2


def test_stop_follows_the_size_and_a_second_order_moves_it(desk: Any) -> None:
    _, client = desk
    client.place_order(**MARKET_BUY, stopLoss="95")
    client.place_order(**MARKET_BUY)
    client.place_order(**MARKET_BUY, stopLoss="94.5")
    (stop,) = client.get_open_orders(category="linear", symbol=SYMBOL)["result"]["list"]
    assert (stop["qty"], stop["triggerPrice"]) == ("3", "94.5")


def test_trading_stop_sets_moves_and_takes_away_a_stop(desk: Any) -> None:
    _, client = desk
    asked = {"category": "linear", "symbol": SYMBOL, "positionIdx": 0}
    refused(client.set_trading_stop, 10001, **asked, stopLoss="95")  # nothing is held
    client.place_order(**MARKET_BUY)
    client.set_trading_stop(**asked, stopLoss="95")
    refused(client.set_trading_stop, 34040, **asked, stopLoss="95")
    refused(client.set_trading_stop, 10001, **asked, stopLoss="101")
    client.set_trading_stop(**asked, stopLoss="94.5")
    (stop,) = client.get_open_orders(category="linear", symbol=SYMBOL)["result"]["list"]
    assert (stop["triggerPrice"], stop["parentOrderLinkId"]) == ("94.5", "")
    client.set_trading_stop(**asked, stopLoss="0")
    assert client.get_open_orders(category="linear", symbol=SYMBOL)["result"]["list"] == []
    assert order_of(client, stop["orderId"])["orderStatus"] == "Deactivated"
    refused(client.set_trading_stop, 34040, **asked, stopLoss="0")


def test_order_waits_for_its_fill_and_meets_the_market_before_the_clock_moves(
    open_sandbox: OPEN, open_client: OPEN
) -> None:
    sandbox = open_sandbox(ack_to_fill_ms=3_600_000)
    client = open_client(sandbox)
    order = place(client, **MARKET_BUY)
    assert (order["orderStatus"], order["leavesQty"]) == ("New", "1")
    sandbox.clock.advance(2 * STEP_MS)  # the price is 99 by then
    assert order_of(client, order["orderId"])["avgPrice"] == "100"


def test_acknowledged_order_is_filled_a_little_later(open_sandbox: OPEN, open_client: OPEN, open_stream: OPEN) -> None:
    sandbox = open_sandbox(ack_to_fill_ms=1)
    client, stream = open_client(sandbox), open_stream(sandbox)
    order_id = client.place_order(**MARKET_BUY)["result"]["orderId"]
    stream.wait_for_end()
    assert order_of(client, order_id)["orderStatus"] == "Filled"
