"""What one market's orders have become and what is held, by what the exchange says: taken in once, written down first.

The position is the sum of the executions. Reports come from the private stream and from questions, in any order and
more than once. What contradicts itself, or is by no order of the session, is trouble: nothing more may be sent then.
"""

from collections.abc import Callable, Iterable
from time import time_ns

from storage.schema import DAY_MS, HOUR_MS, Market
from tasks.exchange.private_events import ExecutionNews, OrderNews
from tasks.execution.orders import HALT_ID, ZERO, Absence, Execution, Lost, News, Order, OrderError, Status
from tasks.journal.journal import Journal
from tasks.journal.journal_rows import BookedExecution, Cause

OUTSIDE_CHANGES = (Cause.STOP_OUT, Cause.HALTED, Cause.FOREIGN)
"""What moves a position beside the session's orders: its stop at the exchange, a halt of the home, anybody else."""


def move_text(kind: str, fill: Execution) -> str:
    """Return what a note of a mover says of an execution: with its time, which one it is."""
    return f"{kind} of {fill.quantity} at {fill.price}"


_OF_AN_ORDER = "Trade"
_KEPT_ORDERS = 100  # the newest: what is held was opened by one of them, and of older ones the journal alone tells
_OVERLAP_MS = HOUR_MS  # executions are asked for again from so long before they were all known: one may come late
_WRITTEN_MS = DAY_MS  # by which what a journal says of that may be older


class PositionKeeper:
    """Orders and position of one account in one market.

    Args:
        name: The account's, in the journal.
        market: USDT perpetual.
        journal: Where everything is written first.
        begin_ms: The exchange's clock when the session began, not this process of it, UTC milliseconds: what was booked
            before is not this session's.
        absence: When an order that nobody finds counts as never received.
        halted: Returns why nothing may be opened; empty while it may.
        now_ms: Returns this machine's UTC milliseconds.

    Attributes:
        held: Signed coins, the sum of all executions.
        untaken: What was booked and is in no ledger yet.
        trouble: Why nothing more may be sent; empty while nothing is wrong.
        begin_ms: As given.
    """

    def __init__(
        self,
        name: str,
        market: Market,
        *,
        journal: Journal,
        begin_ms: int,
        absence: Absence,
        halted: Callable[[], str] = lambda: "",
        now_ms: Callable[[], int] = lambda: time_ns() // 1_000_000,
    ) -> None:
        self.name, self.market = name, market
        self.held, self.trouble = ZERO, ""
        self.untaken: list[BookedExecution] = []
        self._journal, self._absence, self._halted, self._now_ms = journal, absence, halted, now_ms
        self._orders: dict[str, Order] = {}
        self._open: dict[str, Order] = {}  # of which more may come
        self._bars: dict[str, int] = {}
        self._opened = False  # whether any order of this session was to open a position
        self.begin_ms = self._since_ms = begin_ms
        self._written_ms = begin_ms
        self._resume()

    def _resume(self) -> None:
        """Go on from the journal; an order that was being sent when a process died may have been taken."""
        reader = self._journal.reader()
        for start_ms, order in reader.orders(self.name):
            self._bars[order.link_id] = start_ms
            self._keep(order)
            if order.status is Status.SUBMITTING:
                self._learn(order, Lost("the process ended while it was sent"))
        for one in reader.executions(self.name):
            self.held += one.change
            if one.booked_ms is None:
                self.untaken.append(one)
        if (told_ms := reader.told_ms(self.name)) is not None:  # else not even that all before a booking were told
            self._know_until(told_ms)

    def _know_until(self, time_ms: int) -> None:
        """Ask for no execution again of long before a time; one that is yet to come would hide all until then."""
        if time_ms > self._now_ms() + _OVERLAP_MS:
            return
        self._since_ms = max(self._since_ms, time_ms - _OVERLAP_MS)
        if time_ms - self._written_ms >= _WRITTEN_MS:
            self._written_ms = time_ms
            self._journal.told(self.name, time_ms)

    def _keep(self, order: Order) -> Order:
        self._orders[order.link_id] = order
        self._opened |= not order.leg.reduces
        if order.is_unsettled:
            self._open[order.link_id] = order
        else:
            self._open.pop(order.link_id, None)
        if len(self._orders) > _KEPT_ORDERS and (oldest := next(iter(self._orders))) not in self._open:
            del self._orders[oldest], self._bars[oldest]
        return order

    @property
    def unsettled(self) -> list[Order]:
        """Orders of which more may come."""
        return list(self._open.values())

    def sent(self, start_ms: int) -> list[Order]:
        """Return the orders of a bar, in the order in which they were sent."""
        return [self._orders[name] for name, bar in self._bars.items() if bar == start_ms]

    def mark_booked(self) -> None:
        """Note that a ledger in the journal holds what was booked."""
        self.untaken = []

    def _is_ours(self, one: OrderNews) -> bool:
        """Return whether an order is of this session, or the stop that came with one that is."""
        is_halt = one.link_id.startswith(HALT_ID) and bool(self._halted())
        return one.link_id in self._orders or one.parent in self._orders or (one.is_stop and self._opened) or is_halt

    def on_account_event(self, event: OrderNews | ExecutionNews) -> None:
        """Take in what the exchange says of this market, once however often it is said.

        What contradicts itself is trouble: nobody knows then what the order has become.
        """
        try:
            if isinstance(event, ExecutionNews):
                self._book(event)
            elif event.link_id in self._orders:
                self._learn(self._orders[event.link_id], event.news)
            elif not self._is_ours(event):
                self._stop(f"an order of somebody else: {event.link_id or event.order_id}")
        except OrderError as err:
            self._stop(str(err))

    def _apply_all(self, events: Iterable[OrderNews | ExecutionNews]) -> None:
        with self._journal.together():
            for event in events:
                self.on_account_event(event)

    def _learn(self, order: Order, news: News) -> Order:
        after = order.after(news, self._absence)
        if after != order:
            self._keep(after)
            self._journal.order(self.name, self._bars[order.link_id], after)
        return after

    def _book(self, event: ExecutionNews) -> None:
        fill = event.fill
        if self._journal.reader().has_execution(self.name, fill.exec_id):
            return
        if event.moves and not event.side:
            said = f"{event.kind} of {fill.quantity} at {fill.price} has no side, so nobody knows which way it went"
            self._stop(f"{said}; look into it, and go on under another --session")
            return
        if is_odd := fill.fee and event.fee_coin != "USDT":  # what that is worth, nobody says
            self.note(event.time_ms, "fee", f"{fill.fee} {event.fee_coin} for {fill.exec_id} are in no ledger")
            fill = fill._replace(fee=ZERO)
        order = self._orders.get(event.link_id) if event.kind == _OF_AN_ORDER else None
        if order is not None:
            order = self._keep(order.after(fill))
        outside_change = self._outside_change(event) if order is None and event.moves else ""
        if outside_change:
            self.note(event.time_ms, outside_change, move_text(event.kind, fill))
        self._journal.execution(self.name, self._bars.get(event.link_id, -1), order, event._replace(fill=fill))
        self.untaken.append(BookedExecution(event.kind, event.link_id, event.side, event.time_ms, fill, None))
        self.held += self.untaken[-1].change
        if outside_change == Cause.STOP_OUT:
            self._stop(f"the stop at the exchange closed {fill.quantity} at {fill.price}")
        elif outside_change == Cause.FOREIGN:
            self._stop(f"{event.kind} of {fill.quantity} at {fill.price} by no order of this session")
        elif is_odd:
            self._stop(
                f"a fee was paid in {event.fee_coin}, and the ledger counts USDT alone; let fees be paid in USDT"
            )

    def _outside_change(self, event: ExecutionNews) -> str:
        """Return what has moved the position that was no order of this session, of `OUTSIDE_CHANGES`."""
        if event.is_stop and self._opened:
            return Cause.STOP_OUT
        return Cause.HALTED if event.link_id.startswith(HALT_ID) and self._halted() else Cause.FOREIGN

    def note(self, at_ms: int, kind: str, said: str) -> None:
        """Note in the journal why something is not done."""
        self._journal.note(at_ms, self.market.slug, kind, said)

    def _stop(self, why: str) -> None:
        self.trouble = self.trouble or why
