"""Order matching and the messages that follow. Clock, requests and sockets are handled by the desk.

A market order takes the levels of the book, best first, and the rest of it is cancelled; executions do not change the
book. A limit order takes levels at its price or better, and the rest of it stays in the book. Messages come in this
order:

    order (New), then for each execution: execution, order (PartiallyFilled or Filled); the stop; position; wallet
"""

import itertools
import uuid
from collections.abc import Iterator, Mapping
from decimal import ROUND_DOWN, Decimal
from typing import Any, Literal

from tasks.sandbox.faults import OrderTwist
from tasks.sandbox.listing import Fields, Listing
from tasks.sandbox.order_record import ZERO, ExecType, VenueExecution, VenueOrder, money
from tasks.sandbox.order_rules import VenueQuote, worst_price
from tasks.sandbox.replay import decimal_text
from tasks.sandbox.venue import Refusal
from tasks.sandbox.venue_account import VenueAccount, VenuePosition

PrivateTopic = Literal["order", "execution", "position", "wallet"]
Said = list[tuple[PrivateTopic, Fields]]
"""Messages of the private stream: topic, and the one row of its data."""

USUAL = OrderTwist()

_DEPTH = 200  # levels of the book that an order can take


class Matching:
    """Matching in the linear markets. After changing `now_ms`, time of the market, the marks must be updated.

    Attributes:
        marks: Mark prices by symbol, equal to the last prices.
    """

    def __init__(self, listings: Mapping[str, Listing], now_ms: int) -> None:
        self.listings = listings
        self.now_ms = now_ms
        self.marks: dict[str, Decimal] = {}
        self._counter = itertools.count(1)

    def mark(self, listing: Listing) -> None:
        """Update the mark price."""
        if (tick := listing.replay.last_tick(self.now_ms)) is not None:
            self.marks[listing.market.symbol] = Decimal(decimal_text(tick.price))

    def quote(self, listing: Listing) -> VenueQuote:
        """Return best bid and ask and the last price of a market.

        Raises:
            Refusal: It has not opened yet.
        """
        book = listing.book(self.now_ms)
        if book is None:
            raise Refusal(110118, "no market price")
        self.mark(listing)
        return VenueQuote(
            bid=Decimal(book.bids[0][0]), ask=Decimal(book.asks[0][0]), last=self.marks[listing.market.symbol]
        )

    def name(self, what: str) -> tuple[str, int]:
        """Return a unique id and its sequence number."""
        seq = next(self._counter)
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{what} {seq}")), seq

    def born(self) -> dict[str, Any]:
        """Return the fields that every new order has: id, sequence number, times."""
        order_id, seq = self.name("order")
        return {"order_id": order_id, "seq": seq, "created_ms": self.now_ms, "updated_ms": self.now_ms}

    def system_order(self, symbol: str, qty: Decimal, **more: Any) -> VenueOrder:
        """Return a market order by the exchange itself that closes coins of a position."""
        return VenueOrder(
            **self.born(),
            link_id="",
            symbol=symbol,
            order_type="Market",
            time_in_force="IOC",
            qty=qty,
            reduce_only=True,
            last_price=self.marks[symbol],
            **more,
        )

    def match(self, account: VenueAccount, order: VenueOrder, twist: OrderTwist = USUAL) -> Said:
        """Match an order with the book."""
        said: Said = [order_said(order)]
        if twist.rejected:
            return said + self.end(account, order, status="Rejected", reason="EC_Others")
        if order.reduce_only:
            closable = account.position(order.symbol).closable(order.side)
            if not closable:
                return said + self.end(account, order, cancel_type="CancelByReduceOnly")
            order.qty = min(order.qty, closable)
        takes = list(self._takes(order, twist))
        for price, qty in takes:
            said += self.trade(account, order, price, qty, Decimal(account.spec.taker_fee))
        if order.leaves and (not order.rests or twist.share < 1):
            said += self.end(account, order, reason="EC_NoImmediateQtyToFill")
        return said + (self.after(account, order) if takes else [])

    def trigger(self, account: VenueAccount, stop: VenueOrder) -> Said:
        """Turn a stop into a market order."""
        listing = self.listings[stop.symbol]
        account.position(stop.symbol).stop = None
        stop.status, stop.updated_ms = "Triggered", self.now_ms
        stop.price = worst_price(stop.side, listing, self.quote(listing))
        return self.match(account, stop)

    def trade(
        self,
        account: VenueAccount,
        order: VenueOrder,
        price: Decimal,
        qty: Decimal,
        fee_rate: Decimal,
        *,
        kind: ExecType = "Trade",
        is_maker: bool = False,
    ) -> Said:
        """Book one execution of an order."""
        position = account.position(order.symbol)
        closed, realised = position.move(order.side, qty, price)
        leaves = order.leaves - qty
        said = self._book(
            account,
            symbol=order.symbol,
            side=order.side,
            exec_type=kind,
            qty=qty,
            price=price,
            fee=money(qty * price * fee_rate),
            fee_rate=fee_rate,
            is_maker=is_maker,
            closed=closed,
            realised=realised,
            order=order,
            leaves=leaves,
        )
        execution = account.executions[-1]
        position.seq, position.updated_ms = execution.seq, self.now_ms
        position.created_ms = position.created_ms or self.now_ms
        order.filled, order.value = order.filled + qty, order.value + qty * price
        order.fee, order.closed_pnl = order.fee + execution.fee, order.closed_pnl + realised
        order.status, order.updated_ms = "PartiallyFilled" if leaves else "Filled", self.now_ms
        return [*said, order_said(order)]

    def fund(self, account: VenueAccount, position: VenuePosition, rate: Decimal) -> Said:
        """Book funding at the mark price: at a positive rate a long pays and a short receives."""
        mark = self.marks[position.symbol]
        said = self._book(
            account,
            symbol=position.symbol,
            side="Buy" if position.size > 0 else "Sell",
            exec_type="Funding",
            qty=abs(position.size),
            price=mark,
            fee=money(position.size * mark * rate),
            fee_rate=rate,
        )
        return [*said, ("wallet", account.wallet_row())]

    def after(self, account: VenueAccount, order: VenueOrder) -> Said:
        """Update stop, position and wallet after an order has traded."""
        position = account.position(order.symbol)
        said: Said = []
        if position.stop and not position.closable(position.stop.side):
            said += self.end(account, position.stop, status="Deactivated", cancel_type="CancelByTpSlTsClear")
        if position.stop:
            position.stop.qty = abs(position.size)
        if order.stop_loss is not None and position.size * order.sign > 0:
            said += self.place_stop(account, position, order.stop_loss, order.trigger_by, order.link_id)
        return [*said, self.position_said(account, position), ("wallet", account.wallet_row())]

    def place_stop(
        self,
        account: VenueAccount,
        position: VenuePosition,
        trigger: Decimal,
        trigger_by: str,
        parent_link_id: str = "",
    ) -> Said:
        """Set or move the stop-loss of a position."""
        stop = position.stop
        if stop is None:
            stop = position.stop = self.system_order(
                position.symbol,
                abs(position.size),
                side="Sell" if position.size > 0 else "Buy",
                price=ZERO,
                status="Untriggered",
                parent_link_id=parent_link_id,
                create_type="CreateByStopLoss",
            )
            account.add(stop)
        stop.trigger, stop.trigger_by, stop.updated_ms = trigger, trigger_by, self.now_ms
        return [order_said(stop)]

    def end(
        self,
        account: VenueAccount,
        order: VenueOrder,
        *,
        status: str = "Cancelled",
        reason: str = "EC_NoError",
        cancel_type: str = "UNKNOWN",
    ) -> Said:
        """End an order with what it has traded so far."""
        order.status, order.reject_reason, order.cancel_type = status, reason, cancel_type
        order.updated_ms = self.now_ms
        position = account.position(order.symbol)
        if position.stop is order:
            position.stop = None
        return [order_said(order)]

    def position_row(self, account: VenueAccount, position: VenuePosition) -> Fields:
        """Return the row of a position for REST."""
        return position.row(self.marks.get(position.symbol, ZERO), account.hedge)

    def position_said(self, account: VenueAccount, position: VenuePosition) -> tuple[PrivateTopic, Fields]:
        """Return the message of a position, in which one field has another name."""
        row = self.position_row(account, position)
        return "position", {"category": "linear", "entryPrice": row.pop("avgPrice"), **row}

    def _book(self, account: VenueAccount, *, symbol: str, **given: Any) -> Said:
        exec_id, seq = self.name("execution")
        execution = VenueExecution(
            exec_id=exec_id, seq=seq, time_ms=self.now_ms, symbol=symbol, mark=self.marks[symbol], **given
        )
        account.book(execution)
        return [("execution", {"category": "linear", **execution.row()})]

    def _takes(self, order: VenueOrder, twist: OrderTwist) -> Iterator[tuple[Decimal, Decimal]]:
        """Yield prices and quantities at which an order trades at once."""
        listing = self.listings[order.symbol]
        book, step = listing.book(self.now_ms, levels=_DEPTH), Decimal(listing.rules.qty_step)
        left = _floor(order.leaves * Decimal(repr(float(twist.share))), step)
        piece = max(_floor(left / twist.parts, step), step)
        for price_text, size_text in (book.asks if order.side == "Buy" else book.bids) if book else []:
            price, size = Decimal(price_text), Decimal(size_text)
            if order.sign * price > order.sign * order.price:
                return
            while (qty := min(left, size, piece)) > 0:
                yield price, qty
                left, size = left - qty, size - qty


def order_said(order: VenueOrder) -> tuple[PrivateTopic, Fields]:
    """Return the message of an order."""
    return "order", {"category": "linear", **order.row()}


def twisted(said: Said, twist: OrderTwist) -> Said:
    """Return the messages of an order as changed by a fault; the first of `said` is the order's own first message."""
    if twist.execution_first:
        first = next((place for place, (topic, _) in enumerate(said) if topic == "execution"), 0)
        said = [said[first], *said[:first], *said[first + 1 :]]
    if twist.executions_twice:
        said = [one for one in said for _ in range(2 if one[0] == "execution" else 1)]
    if twist.end_twice:
        order_id = next(row["orderId"] for topic, row in said if topic == "order")
        last = max(place for place, (_, row) in enumerate(said) if row.get("orderId") == order_id)
        again = said[last][1] | {"rejectReason": "EC_OrigClOrdIDDoesNotExist"}
        said = [*said[: last + 1], ("order", again), *said[last + 1 :]]
    return said


def _floor(qty: Decimal, step: Decimal) -> Decimal:
    return (qty / step).quantize(Decimal(1), ROUND_DOWN) * step
