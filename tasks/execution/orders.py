"""The state machine of one order: its status, its fills, and how each event changes them. Pure.

    INTENT -> SUBMITTING -> ACKED | REJECTED | UNKNOWN -> PARTIAL -> FILLED | CANCELLED | ABSENT

The sender stores SUBMITTING before it sends the request. So after a restart an order stored as INTENT was never sent,
and one stored as SUBMITTING may have been. Only an answer that refuses the order makes it REJECTED. An answer that is
lost, late or unreadable makes it UNKNOWN; the exchange is then queried until it reports the order, or until it has not
found the order often enough and for long enough (`Absence`). Only an ABSENT order may be sent again, under the same id,
which the exchange accepts only once.

Events come from three sources: the answer to the request, the private stream, and queries. They may come in any order
and more than once. The filled quantity never falls, an execution counts once, and an ended order does not become open
again.
"""

import hashlib
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Literal, NamedTuple, Self

from storage.schema import PipelineError

Side = Literal["Buy", "Sell"]

ZERO = Decimal(0)
HALT_ID = "halt-"
"""Prefix of the ids of orders with which a halt closes positions."""
LINK_ID_LENGTH = 36
"""Most characters that Bybit accepts in a client's order id (orderLinkId)."""


class OrderError(PipelineError):
    """Events about an order contradict each other, or an order would be sent twice."""


class Status(StrEnum):
    """Status of an order."""

    INTENT = "intent"
    SUBMITTING = "submitting"
    ACKED = "acked"
    UNKNOWN = "unknown"
    PARTIAL = "partial"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    ABSENT = "absent"


ENDED = frozenset({Status.FILLED, Status.CANCELLED, Status.REJECTED})
"""Statuses that are final; a cancelled order may have been filled in part."""

_TOLD = {
    "New": Status.ACKED,
    "Created": Status.ACKED,
    "Untriggered": Status.ACKED,
    "Triggered": Status.ACKED,
    "PartiallyFilled": Status.PARTIAL,
    "Filled": Status.FILLED,
    "Cancelled": Status.CANCELLED,
    "PartiallyFilledCanceled": Status.CANCELLED,
    "Deactivated": Status.CANCELLED,
    "Rejected": Status.REJECTED,
}


class Leg(NamedTuple):
    """Side and quantity of one order.

    Attributes:
        quantity: Coins, > 0, a multiple of the step.
        reduces: Whether it is reduce-only: it may only make the position smaller.
    """

    side: Side
    quantity: Decimal
    reduces: bool


class Execution(NamedTuple):
    """One execution: a full or partial fill of an order.

    Attributes:
        exec_id: The exchange's id of it.
        quantity: Coins, > 0.
        price: Quote currency.
        fee: Quote currency; negative for a rebate.
    """

    exec_id: str
    quantity: Decimal
    price: Decimal
    fee: Decimal


class Acked(NamedTuple):
    """The exchange's answer: it received the order. This does not say that the order is filled or open."""

    order_id: str


class Refused(NamedTuple):
    """The exchange's answer: it refused the order.

    Attributes:
        is_final: Whether it will refuse every other order too, because of the key or a permission.
    """

    why: str
    is_final: bool = False


class Lost(NamedTuple):
    """The answer was lost or unreadable, so the exchange may or may not have the order."""

    why: str


class Reported(NamedTuple):
    """The exchange's report on the order, from the stream or a query.

    Attributes:
        order_id: The exchange's id of it.
        told: Bybit's orderStatus.
        executed: Coins filled so far.
        updated_ms: Time of the report, UTC milliseconds; a report older than the last one does not change the status.
        why: Bybit's rejectReason, where it has one.
    """

    order_id: str
    told: str
    executed: Decimal
    updated_ms: int
    why: str = ""


class NotFound(NamedTuple):
    """A query at `at_ms`, UTC milliseconds, found the order in none of the exchange's lists."""

    at_ms: int


News = Acked | Refused | Lost | Reported | Execution | NotFound


@dataclass(frozen=True, kw_only=True)
class Absence:
    """When an order of unknown status counts as never received by the exchange.

    Attributes:
        rounds: Queries in a row that must have found nothing.
        after_ms: Milliseconds that must have passed since it was sent; before, the request may still arrive.
    """

    rounds: int = 3
    after_ms: int = 6_000


@dataclass(frozen=True, kw_only=True)
class Order:
    """One order as far as its events are known.

    Attributes:
        link_id: Our id of it (Bybit's orderLinkId).
        sent_ms: When it was last sent, UTC milliseconds; 0 if not yet.
        order_id: The exchange's id; empty until it is known.
        executed: Coins filled: the largest number that a report or the sum of executions gives.
        fills: Its executions, each once, in the order of arrival.
        updated_ms: Time of the newest report, UTC milliseconds.
        misses: Queries in a row that did not find it.
        why: Why it was refused, cancelled or lost.
    """

    link_id: str
    leg: Leg
    status: Status = Status.INTENT
    sent_ms: int = 0
    order_id: str = ""
    executed: Decimal = ZERO
    fills: tuple[Execution, ...] = ()
    updated_ms: int = 0
    misses: int = 0
    why: str = ""

    @property
    def known(self) -> Decimal:
        """Coins filled by the executions received so far; may lag behind `executed`."""
        return sum((one.quantity for one in self.fills), ZERO)

    @property
    def is_settled(self) -> bool:
        """Whether it has ended and every execution has been received."""
        return self.status in ENDED and self.known == self.executed

    @property
    def is_unsettled(self) -> bool:
        """Whether more may come of it; the exchange has never had one that is absent."""
        return not self.is_settled and self.status is not Status.ABSENT

    @property
    def change(self) -> Decimal:
        """Signed coins that the executions received so far add to the position."""
        return self.known if self.leg.side == "Buy" else -self.known

    def submitting(self, now_ms: int) -> Self:
        """Return the order as SUBMITTING, to be stored just before it is sent at `now_ms`.

        Raises:
            OrderError: It has been sent already and is not known to be absent from the exchange.
        """
        if self.status not in (Status.INTENT, Status.ABSENT):
            raise OrderError(f"order {self.link_id} is {self.status} and must not be sent again")
        return replace(self, status=Status.SUBMITTING, sent_ms=now_ms, misses=0, why="")

    def after(self, news: News, absence: Absence = Absence()) -> Self:
        """Return the order after an event.

        Raises:
            OrderError: More was filled than was ordered, or two executions of one id differ.
        """
        match news:
            case Acked(order_id):
                status = Status.ACKED if self._is_open_question else self.status
                return replace(self, status=status, order_id=self.order_id or order_id)
            case Refused(why, _) if self.status is Status.SUBMITTING:
                return replace(self, status=Status.REJECTED, why=why)
            case Lost(why) if self.status is Status.SUBMITTING:
                return replace(self, status=Status.UNKNOWN, why=why)
            case Reported():
                return self._reported(news)
            case Execution():
                return self._filled(news)
            case NotFound(at_ms) if self.status is Status.UNKNOWN:
                misses = self.misses + 1
                gone = misses >= absence.rounds and at_ms - self.sent_ms > absence.after_ms
                return replace(self, misses=misses, status=Status.ABSENT if gone else Status.UNKNOWN)
            case _:  # a refused or lost answer changes nothing if the stream or a query has reported the order already
                return self

    @property
    def _is_open_question(self) -> bool:
        return self.status in (Status.INTENT, Status.SUBMITTING, Status.UNKNOWN, Status.ABSENT)

    def _reported(self, news: Reported) -> Self:
        executed = max(self.executed, news.executed)
        if executed > self.leg.quantity:
            raise OrderError(f"order {self.link_id} of {self.leg.quantity} is said to have filled {executed}")
        known = replace(self, order_id=self.order_id or news.order_id, executed=executed)
        told = _TOLD.get(news.told)
        # What only reduces is cut to the position. Anything else that says so contradicts itself, and as an end it
        # would let the next order of this leg trade the same coins again.
        is_cut = self.leg.reduces and executed > 0
        if told is Status.FILLED and executed < self.leg.quantity and not is_cut:
            told = None
        if told is None or news.updated_ms < self.updated_ms:
            return replace(known, status=known._moved_by(executed))
        if told is Status.REJECTED and executed:
            told = Status.CANCELLED
        if self.status in ENDED and not (self.status is Status.REJECTED and executed):
            told = self.status
        elif told is Status.ACKED and executed:
            told = Status.PARTIAL
        return replace(known, status=told, updated_ms=news.updated_ms, why=known.why or _said(news.why))

    def _filled(self, fill: Execution) -> Self:
        before = next((one for one in self.fills if one.exec_id == fill.exec_id), None)
        if before is not None:
            if before != fill:
                raise OrderError(f"execution {fill.exec_id} of order {self.link_id} has two contents")
            return self
        known = self.known + fill.quantity
        if known > self.leg.quantity:
            raise OrderError(f"order {self.link_id} of {self.leg.quantity} has executions of {known}")
        executed = max(self.executed, known)
        return replace(self, fills=(*self.fills, fill), executed=executed, status=self._moved_by(executed))

    def _moved_by(self, executed: Decimal) -> Status:
        """Return the status that follows from the filled quantity alone."""
        if executed == self.leg.quantity:
            return Status.FILLED
        if executed and self.status is Status.REJECTED:
            return Status.CANCELLED
        return Status.PARTIAL if executed and self.status not in ENDED else self.status


def _said(why: str) -> str:
    return "" if why == "EC_NoError" else why


def link_id(session: str, market: str, bar_ms: int, leg: str, ordinal: int) -> str:
    """Return our id of an order. It depends on the decision only, so a restarted process derives the same id.

    Args:
        market: Slug.
        bar_ms: Open time of the bar at whose open the order trades, UTC milliseconds.
        leg: close or open.
        ordinal: Number of the order within this leg.
    """
    named = f"{session}\n{market}\n{bar_ms}\n{leg}\n{ordinal}"
    return f"dsc-{hashlib.sha256(named.encode()).hexdigest()[: LINK_ID_LENGTH - 4]}"


@dataclass(frozen=True, kw_only=True)
class LotSize:
    """A market's step size and order limits, as decimals.

    Attributes:
        step: Coins; a quantity is a multiple of it.
        least: Smallest order, coins.
        most: Largest market order, coins.
        least_notional: Smallest notional of an order that opens, quote currency.
    """

    step: Decimal
    least: Decimal
    most: Decimal
    least_notional: Decimal = ZERO

    def floor(self, coins: Decimal) -> Decimal:
        """Return `coins` rounded down to whole steps."""
        return (coins / self.step).to_integral_value(ROUND_FLOOR) * self.step


def next_leg(held: Decimal, wanted: Decimal, lot: LotSize, price: Decimal) -> Leg | None:
    """Return the next order on the way from one position to another; None if no order is needed or possible.

    A position on the wrong side or of too many coins is first closed or reduced by a reduce-only order, so a flip takes
    two orders. A remainder below the market's smallest order (dust) is left.

    Args:
        held: Signed coins, as the exchange has them.
        wanted: Signed coins.
        price: Quote currency per coin, to check the smallest notional of an order that opens.
    """
    stays = min(abs(held), abs(wanted)) if held * wanted > 0 else ZERO
    surplus = lot.floor(min(abs(held) - stays, lot.most))
    if surplus >= lot.least and surplus:
        return Leg("Sell" if held > 0 else "Buy", surplus, True)
    if abs(held) > stays and wanted and held * wanted < 0:
        held = ZERO  # dust on the other side: the opening order closes it too
    lacking = lot.floor(min(abs(wanted) - abs(held), lot.most))
    if lacking >= lot.least and lacking and lacking * price >= lot.least_notional:
        return Leg("Buy" if wanted > 0 else "Sell", lacking, False)
    return None
