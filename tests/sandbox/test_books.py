"""Whatever is ordered, an account's books balance exactly, in Decimals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.schema import Candles
from tasks.sandbox.clock import VirtualClock
from tasks.sandbox.desk import Desk
from tasks.sandbox.faults import OrderTwist
from tasks.sandbox.listing import Listing
from tasks.sandbox.venue import Refusal
from tasks.sandbox.venue_account import VenueAccount
from tests.sandbox.conftest import INSTRUMENT, SPEC, START_MS, STEP_MS, candles_of
from tests.sandbox.outside import Outside
from tests.sandbox.trader import MARKET, SYMBOL

BARS = 200
MAKE = {"category": "linear", "symbol": SYMBOL}


def rough_candles() -> Candles:
    """Return candles that move by some per cent a bar, in which the book is thin."""
    rng = np.random.default_rng(3)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.01, BARS))), 1)
    open_ = np.concatenate([[100.0], close[:-1]])
    high, low = np.round(np.maximum(open_, close) + 0.6, 1), np.round(np.minimum(open_, close) - 0.6, 1)
    return candles_of(list(zip(open_, high, low, close, strict=True)), volume=200.0)


LISTING = Listing(
    candles=rough_candles(),
    market=MARKET,
    instrument=INSTRUMENT,
    funding=[(START_MS + 5 * STEP_MS * n, (-1) ** n * 0.000123) for n in range(1, 40)],
)


class Heard:
    """Keeps what the private stream is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def tell(self, key: str, topic: str, row: dict[str, Any]) -> None:
        self.said.append((topic, row))

    def cut(self) -> None:
        pass

    def restore(self) -> None:
        pass


QUANTITIES = st.integers(60, 40_000).map(lambda steps: format(Decimal(steps) / 1000, "f"))
TICKS_AWAY = st.integers(1, 30)
ORDERS = st.fixed_dictionaries(
    {
        "side": st.sampled_from(["Buy", "Sell"]),
        "qty": QUANTITIES,
        "orderType": st.sampled_from(["Market", "Limit"]),
        "timeInForce": st.sampled_from(["GTC", "GTC", "GTC", "IOC"]),
        "price": st.integers(-20, 20),  # ticks from the last price
    },
    optional={"reduceOnly": st.sampled_from(["true", "false", "false"]), "stopLoss": TICKS_AWAY},
)
TWISTS = st.builds(OrderTwist, share=st.sampled_from([1, 1, 0.5, 0]), parts=st.integers(1, 3))
STEPS = st.one_of(
    st.tuples(st.just("order"), ORDERS, TWISTS),
    st.tuples(st.just("order"), ORDERS, st.just(OrderTwist())),
    st.tuples(st.just("wait"), st.integers(1, 3 * STEP_MS)),
    st.tuples(st.just("wait"), st.just(2 * STEP_MS)),
    st.tuples(st.just("cancel"), st.integers(0, 40)),
    st.tuples(st.just("leverage"), st.sampled_from(["1", "3"])),
    st.tuples(st.just("transfer"), st.sampled_from(["-10.5", "25.25"])),
    st.tuples(st.just("deleverage"), st.sampled_from(["0.001", "0.7"])),
)


def do(desk: Desk, clock: VirtualClock, step: tuple[Any, ...]) -> None:
    account, outside = desk.accounts[SPEC.key], Outside(desk, SPEC.key)
    match step:
        case ("order", params, twist):
            last, away = account.marks[SYMBOL], -1 if params["side"] == "Buy" else 1
            prices = {"price": last + params["price"] / Decimal(10)}
            if "stopLoss" in params and params.get("reduceOnly") != "true":
                prices["stopLoss"] = last + away * params["stopLoss"] / Decimal(10)
            texts = {name: format(price, "f") for name, price in prices.items()}
            with suppress(Refusal):
                desk.create(account, MAKE | {**params, "stopLoss": "", **texts}, twist)
        case ("wait", ms):
            clock.advance(ms)
        case ("cancel", number):
            ids = list(account.orders)
            with suppress(Refusal):
                desk.cancel(account, MAKE | {"orderId": ids[number % len(ids)] if ids else "none"})
        case ("leverage", leverage):
            outside.set_leverage(SYMBOL, leverage)
        case ("transfer", amount):
            outside.transfer(amount)
        case ("deleverage", qty):
            if abs(outside.size(SYMBOL)) >= Decimal(qty):
                outside.deleverage(SYMBOL, qty)


def check(account: VenueAccount, heard: Heard) -> None:
    done, position = account.executions, account.position(SYMBOL)
    start, fees = Decimal(SPEC.capital) + account.transfers, sum(one.fee for one in done)
    assert account.wallet == start + sum(one.realised for one in done) - fees
    assert position.size == sum(one.moved for one in done)
    # What is held and what was paid for it, without any notion of a cost price.
    paid = sum(one.moved * one.price for one in done)
    assert account.wallet + account.unrealised == start - paid + position.size * account.marks[SYMBOL] - fees
    if not position.size:
        assert position.value == 0
        assert position.stop is None
    for order in account.orders.values():
        mine = [one for one in done if one.order_id == order.order_id]
        assert (order.filled, order.fee) == (sum(one.qty for one in mine), sum(one.fee for one in mine))
        assert order.value == sum(one.qty * one.price for one in mine)
        assert order.filled <= order.qty
        assert (order.status == "Filled") == (order.filled == order.qty)
        assert order.filled % Decimal(INSTRUMENT.qty_step) == 0
        if order.reduce_only:
            assert sum(one.closed for one in mine) == order.filled
        assert all(order.sign * one.price <= order.sign * order.price for one in mine)
    assert [row["execId"] for topic, row in heard.said if topic == "execution"] == [one.exec_id for one in done]
    told = {row["orderId"]: row["orderStatus"] for topic, row in heard.said if topic == "order"}
    assert told.items() <= {order.order_id: order.status for order in account.orders.values()}.items()
    assert all(order.order_id in told for order in account.orders.values() if not order.is_open)


@settings(max_examples=150)
@given(st.lists(STEPS, min_size=10, max_size=40), st.sampled_from([0.0, 5.0]))
def test_books_balance_after_every_step(steps: list[tuple[Any, ...]], ack_to_fill_ms: float) -> None:
    clock, heard = VirtualClock(START_MS + 1_000), Heard()

    def never(delay_s: float, action: Callable[[], object]) -> None:
        """Leave what waits to the next move of the clock."""

    desk = Desk({LISTING.key: LISTING}, clock, [SPEC], ack_to_fill_ms, heard, never)
    with clock.heard_by(desk.hear):
        for step in steps:
            do(desk, clock, step)
            check(desk.accounts[SPEC.key], heard)
