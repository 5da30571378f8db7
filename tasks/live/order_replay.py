"""The books of a session with orders, kept again from its journal: every row of its ledger out of executions alone.

On paper each fill equals the backtest's. With orders the ledger follows what the exchange booked, so three things are
proven instead: each row is the one before it and its executions, to the last digit; each order is the leg that the
decision asked for; and what was not carried out has a cause that holds. What then differs from the core's fill is
named:

    slippage   filled at another price          fee       charged otherwise
    partial, rejected, absent                   as the orders' own ends say
    stale, restart, stop                        as on paper
    unknown    nobody could tell in time, or an execution came after its bar's open had been booked
    halted, and the codes of `limits.py`        as noted when it was so; a code that refuses one side closes the other
    stop-out, halted, foreign
               moved by the stop at the exchange, by a halt of the home, or by anybody else, as noted when it was so
    stream     nothing new while the account's own stream was down
    funding    booked by the exchange
"""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import numpy as np

from tasks.execution.accounting import COMMISSION
from tasks.execution.orders import ENDED, ZERO, Order, Status, link_id, next_leg
from tasks.execution.paper import Ledger, Quote, open_bar
from tasks.journal.journal_rows import BarOpen, BookedExecution, Cause, Decision
from tasks.live.account_record import AccountRecord, Batch
from tasks.live.booking import book, coins_of, lot_size
from tasks.live.order_desk import LEGS

Found = tuple[int, str, str, str]
"""Bar, what differs, its cause or nothing, and a line about it."""

_MUST_BE_EMPTY = frozenset({Status.REJECTED, Status.ABSENT})


class OrderBooks:
    """Keeps an account's books again, row by row, oldest first."""

    def __init__(self, record: AccountRecord, batch: Batch) -> None:
        self._record, self._batch = record, batch
        self._lot = lot_size(record.instrument)
        self._held = ZERO
        self._notes = set(record.notes)
        self._sides = {order.link_id: order.leg.side for _, order in record.orders}
        self._due: dict[int, list[Order]] = {}
        for start_ms, order in record.orders:
            self._due.setdefault(start_ms, []).append(order)
        self._rows = dict(record.booked)
        self._causes: dict[int, str] = {}  # of each row that was kept again

    def row(self, bar: BarOpen, ledger: Ledger, before: Decision | None) -> Iterator[Found]:
        """Keep a row again, after its ledger and decision, and yield what differs."""
        start_ms, earlier = bar.start_ms, self._held
        booked = self._rows.pop(start_ms, [])
        orders = self._due.pop(start_ms, [])
        self._held += sum((one.change for one in booked), ZERO)
        opens = self._record.begins_bar(bar)
        met = book(ledger, self._held, booked, bar.quote.first, self._lot.least, opens=opens)
        if met != bar.opened:
            yield start_ms, "fill", "", f"booked {bar.opened}, its executions make {met}"
        for one in booked:
            yield from self._execution(start_ms, one)
        self._causes[start_ms] = bar.cause
        if opens:
            late = sum((one.change for one in booked if self._record.bar_of(one) not in (None, start_ms)), ZERO)
            yield from self._open(bar, ledger, before, orders, earlier + late)
        elif bar.cause == Cause.STOP:
            holds = not bar.wanted and any(kind == "stopped" for _, kind in self._notes)
            yield start_ms, "fill", Cause.STOP if holds else "", "closed because the session ended"
        elif orders or bar.cause or bar.wanted != ledger.side or not booked:
            yield start_ms, "fill", "", f"booked {bar.opened} amid the bar"

    def rest(self) -> Iterator[Found]:
        """Yield what no row holds, and orders that contradict themselves."""
        last_ms = self._record.decisions[-1].start_ms if self._record.decisions else -1
        for booked_ms, executions in self._rows.items():
            for one in executions:
                bar_ms = self._record.bar_of(one)
                if bar_ms is None:
                    cause = self._record.outside_change(one)
                else:
                    is_late = bar_ms > last_ms or self._causes.get(bar_ms) in (Cause.UNKNOWN, Cause.STOP)
                    cause = Cause.UNKNOWN if is_late else ""
                holds = booked_ms is None and cause
                yield one.time_ms, "fill", cause if holds else "", f"no row of the ledger holds {one}"
        for start_ms, orders in self._due.items():
            if start_ms <= last_ms:
                yield start_ms, "order", "", f"no row of the ledger follows {[one.link_id for one in orders]}"
        yield from (
            (last_ms, "fill", "", f"execution {name} is not what was written") for name in self._record.unsealed
        )
        counted = Counter[tuple[int, bool]]()
        for start_ms, order in self._record.orders:
            leg, ordinal = "close" if order.leg.reduces else "open", counted[start_ms, order.leg.reduces]
            counted[start_ms, order.leg.reduces] += 1
            known = (self._record.session, self._record.market.slug, start_ms, leg, ordinal)
            if self._record.session and order.link_id != link_id(*known):
                yield start_ms, "order", "", f"{order.link_id} is not the id of its decision"
            whole = order.executed == order.leg.quantity
            is_cut = order.leg.reduces and order.executed > 0  # to the position that was left, and called filled then
            true = (order.status is Status.FILLED) == whole or is_cut
            true &= not (order.status in _MUST_BE_EMPTY and order.executed)
            if not true or order.known > order.executed:
                yield start_ms, "order", "", f"{order.link_id} is {order.status} with {order.executed} filled"
            elif order.known < order.executed or order.status not in ENDED | {Status.ABSENT}:
                followed = self._causes.get(start_ms)  # "" where nothing more could come of it
                cause = "" if followed == "" or (followed is None and start_ms <= last_ms) else Cause.UNKNOWN
                yield start_ms, "order", cause, f"nobody knows what became of {order.link_id}"

    def _execution(self, start_ms: int, one: BookedExecution) -> Iterator[Found]:
        if not one.moves:
            yield start_ms, "funding", Cause.FUNDING, f"the exchange booked {one.fill.fee} USDT"
        elif (bar_ms := self._record.bar_of(one)) is None:
            yield start_ms, "fill", self._record.outside_change(one), f"{one} is of no order of the session"
        elif self._sides[one.link_id] != one.side:
            yield start_ms, "fill", "", f"{one} is on the other side of its order"
        elif bar_ms != start_ms:
            yield start_ms, "fill", Cause.UNKNOWN if self._causes.get(bar_ms) else "", f"{one} came late"

    def _open(
        self, bar: BarOpen, ledger: Ledger, before: Decision | None, orders: list[Order], held: Decimal
    ) -> Iterator[Found]:
        """Compare a bar's open with what was decided, and with the core's fill.

        Args:
            before: The decision that it follows.
            held: Signed coins when the first of them was sent.
        """
        start_ms, decided = bar.start_ms, before.wanted if before is not None else 0
        if bar.wanted != decided:
            yield start_ms, "fill", "", f"wanted {bar.wanted}, decided was {decided}"
        if decided == ledger.side:
            if orders or bar.cause:
                yield start_ms, "order", "", f"{bar.cause or 'orders'}, though nothing was to be traded"
            return
        if bar.cause:
            holds = self._holds(bar, orders)
            yield start_ms, "fill", bar.cause if holds else "", f"{bar.opened.ledger.side} is held, not {decided}"
        rules = self._batch.rules_after(before)
        coins = coins_of(decided, ledger, bar.quote.first, rules, self._lot)
        yield from self._legs(bar, ZERO if _refuses(bar.cause) else coins, orders, held)
        first = self._batch.first_price(bar)
        core, fill = open_bar(ledger, decided, Quote(first), 0.0, rules).fill, bar.opened.fill
        if fill is None or core is None:
            return
        if first != bar.quote.first:
            yield start_ms, "fill", Cause.PRICE, f"met {bar.quote}, the candle opened at {first}"
        if self._record.instrument.price_text(fill.price) != self._record.instrument.price_text(core.price):
            yield start_ms, "fill", Cause.SLIPPAGE, f"filled at {fill.price:.8g}, the core at {core.price:.8g}"
        if not np.isclose(fill.fee, rules[COMMISSION] * self._traded(start_ms), rtol=1e-4, atol=1e-9):
            yield start_ms, "fill", Cause.FEE, f"paid {fill.fee:.8g} USDT, the core {core.fee:.8g}"

    def _legs(self, bar: BarOpen, coins: Decimal, orders: list[Order], held: Decimal) -> Iterator[Found]:
        """Prove that each order is the one that was due when it was sent, and that the last one leaves nothing due."""
        price = Decimal(str(bar.quote.first))
        again = Cause.RESTART if (bar.start_ms - self._record.market.interval_ms, "resumed") in self._notes else ""
        for order in orders:
            leg = next_leg(held, coins, self._lot, price)
            if leg != order.leg:  # a process that starts amid a bar does not know its first price
                yield bar.start_ms, "order", again, f"{order.link_id} was {order.leg}, due was {leg}"
            held += order.change
        is_whole = not bar.cause or (_refuses(bar.cause) and held * bar.wanted < 0)
        if is_whole and (leg := next_leg(held, coins, self._lot, price)) is not None:
            yield bar.start_ms, "order", again, f"{leg} was due and not sent"

    def _holds(self, bar: BarOpen, orders: list[Order]) -> bool:
        statuses = {order.status for order in orders}
        most = max(Counter(order.leg.reduces for order in orders).values(), default=0)
        true = self._record.proofs(bar) | {
            Cause.REJECTED: Status.REJECTED in statuses,
            Cause.PARTIAL: Status.CANCELLED in statuses or most >= LEGS,
            Cause.ABSENT: Status.ABSENT in statuses,
        }
        return true.get(bar.cause, (bar.start_ms, f"{bar.cause} at open") in self._notes)

    def _traded(self, start_ms: int) -> float:
        """Return what the executions of a row were worth, USDT."""
        return float(sum((one.worth for one in self._record.booked.get(start_ms, ())), ZERO))


def _refuses(cause: str) -> bool:
    """Return whether a cause says that nothing was opened, and what was held on the other side closed."""
    return cause == Cause.STREAM or cause.isupper()  # a code of `limits.py`, or `NO_STOP`
