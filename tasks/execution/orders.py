"""One order from its intent to its end: what is known of it, and what each piece of news changes. Pure.

    INTENT -> SUBMITTING -> ACKED | REJECTED | UNKNOWN -> PARTIAL -> FILLED | CANCELLED | ABSENT

Whoever sends one writes SUBMITTING down before a byte leaves; so an order that is found as INTENT was never sent, and
one that is found as SUBMITTING may have been. Only an answer that refuses is a rejection: an answer that is lost, late
or unreadable makes an order UNKNOWN, and the exchange is asked until it tells of it, or has not known it often enough
and for long enough (`Absence`). Only what is ABSENT may be sent again, under the same id, which the exchange takes but
once.

News comes by three ways, in any order, more than once: the answer to the request, the private stream, and questions.
What was filled never shrinks, an execution counts once, and what has ended does not begin again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Literal, NamedTuple

from storage.schema import PipelineError

Side = Literal["Buy", "Sell"]

ZERO = Decimal(0)
HALT_ID = "halt-"
"""Begins the ids of orders with which a halt closes."""
LINK_ID_LENGTH = 36
"""Characters of an order's own id that Bybit takes."""


class OrderError(PipelineError):
    """What is known of an order contradicts itself, or it would be sent a second time."""


class Status(StrEnum):
    """How far an order has come."""

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
"""From these an order comes back no more; a cancelled one may have been filled in part."""

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
    """What one order is to do.

    Attributes:
        side: Buy or Sell.
        quantity: Coins, > 0, a multiple of the step.
        reduces: Whether it may only make the position smaller.
    """

    side: Side
    quantity: Decimal
    reduces: bool


class Execution(NamedTuple):
    """A part of an order that was filled.

    Attributes:
        exec_id: The exchange's name of it.
        quantity: Coins, > 0.
        price: Quote currency.
        fee: Quote currency; negative where it was received.
    """

    exec_id: str
    quantity: Decimal
    price: Decimal
    fee: Decimal


class Acked(NamedTuple):
    """The answer says that the exchange took it in, and no more than that."""

    order_id: str


class Refused(NamedTuple):
    """The answer says that the exchange did not take it.

    Attributes:
        why: What it says.
        is_final: Whether it will take no other order either: key, permission or clock.
    """

    why: str
    is_final: bool = False


class Lost(NamedTuple):
    """Nobody can tell what the answer was."""

    why: str


class Reported(NamedTuple):
    """What the exchange says of it, over the stream or when asked.

    Attributes:
        order_id: The exchange's name of it.
        told: Bybit's orderStatus.
        executed: Coins filled so far.
        updated_ms: When that was, UTC milliseconds: what is older than what is known says nothing new.
        why: Bybit's rejectReason, where it has one.
    """

    order_id: str
    told: str
    executed: Decimal
    updated_ms: int
    why: str = ""


class NotFound(NamedTuple):
    """The exchange was asked at `at_ms`, in every list that it has, and does not know it."""

    at_ms: int


News = Acked | Refused | Lost | Reported | Execution | NotFound


@dataclass(frozen=True, kw_only=True)
class Absence:
    """When an order that nobody knows was never taken.

    Attributes:
        rounds: Questions in a row that found nothing.
        after_ms: Not before so long after it was sent: until then a request that is still under way may be taken.
    """

    rounds: int = 3
    after_ms: int = 6_000


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is known of one order.

    Attributes:
        link_id: Our id of it.
        leg: What it is to do.
        status: How far it has come.
        sent_ms: When it was last sent, UTC milliseconds; 0 for not yet.
        order_id: The exchange's id; empty until it is known.
        executed: Coins filled, by whoever says most.
        fills: Its executions, each once, in the order in which they came to be known.
        updated_ms: How new what is known is.
        misses: How often in a row the exchange did not know it.
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
        """Coins whose executions are known."""
        return sum((one.quantity for one in self.fills), ZERO)

    @property
    def is_settled(self) -> bool:
        """Whether nothing more can come of it: it has ended, and every execution is known."""
        return self.status in ENDED and self.known == self.executed

    @property
    def change(self) -> Decimal:
        """Signed coins that its known executions moved."""
        return self.known if self.leg.side == "Buy" else -self.known

    def submitting(self, now_ms: int) -> Order:
        """Return it as it is from just before it is sent.

        Raises:
            OrderError: It has been sent already, and nobody knows that the exchange did not take it.
        """
        if self.status not in (Status.INTENT, Status.ABSENT):
            raise OrderError(f"order {self.link_id} is {self.status} and must not be sent again")
        return replace(self, status=Status.SUBMITTING, sent_ms=now_ms, misses=0, why="")

    def after(self, news: News, absence: Absence = Absence()) -> Order:
        """Return what is known after a piece of news.

        Raises:
            OrderError: More was filled than was ordered, or one execution has two contents.
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
            case _:  # a refusal or a loss of what the stream has told of already says nothing more
                return self

    @property
    def _is_open_question(self) -> bool:
        return self.status in (Status.INTENT, Status.SUBMITTING, Status.UNKNOWN, Status.ABSENT)

    def _reported(self, news: Reported) -> Order:
        executed = max(self.executed, news.executed)
        if executed > self.leg.quantity:
            raise OrderError(f"order {self.link_id} of {self.leg.quantity} is said to have filled {executed}")
        known = replace(self, order_id=self.order_id or news.order_id, executed=executed)
        told = _TOLD.get(news.told)
        if told is None or news.updated_ms < self.updated_ms:
            return replace(known, status=known._moved_by(executed))
        if told is Status.REJECTED and executed:
            told = Status.CANCELLED
        if self.status in ENDED and not (self.status is Status.REJECTED and executed):
            told = self.status
        elif told is Status.ACKED and executed:
            told = Status.PARTIAL
        return replace(known, status=told, updated_ms=news.updated_ms, why=known.why or _said(news.why))

    def _filled(self, fill: Execution) -> Order:
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
        """Return the status that follows from what was filled, where nothing else is said."""
        if executed == self.leg.quantity:
            return Status.FILLED
        if executed and self.status is Status.REJECTED:
            return Status.CANCELLED
        return Status.PARTIAL if executed and self.status not in ENDED else self.status


def _said(why: str) -> str:
    return "" if why == "EC_NoError" else why


def link_id(session: str, market: str, bar_ms: int, leg: str, ordinal: int) -> str:
    """Return the id of an order: the same for the same decision, however often a process starts again.

    Args:
        session: Name of the session.
        market: Slug.
        bar_ms: Open time of the bar that is traded at, UTC milliseconds.
        leg: close or open.
        ordinal: Counts the orders of this leg.
    """
    named = f"{session}\n{market}\n{bar_ms}\n{leg}\n{ordinal}"
    return f"dsc-{hashlib.sha256(named.encode()).hexdigest()[: LINK_ID_LENGTH - 4]}"


@dataclass(frozen=True, kw_only=True)
class LotSize:
    """What a market trades in, as decimals.

    Attributes:
        step: Coins; a quantity is a multiple of it.
        least: Coins of an order, at least.
        most: Coins of a market order, at most.
        least_notional: Quote currency that an order which opens must be worth.
    """

    step: Decimal
    least: Decimal
    most: Decimal
    least_notional: Decimal = ZERO

    def floor(self, coins: Decimal) -> Decimal:
        """Return the whole steps in a number of coins."""
        return (coins / self.step).to_integral_value(ROUND_FLOOR) * self.step


def next_leg(held: Decimal, wanted: Decimal, lot: LotSize, price: Decimal) -> Leg | None:
    """Return the next order on the way from one position to another; None where there is nothing to do.

    What is held on the wrong side, or too much of, is closed first, by an order that can only reduce; so a flip is
    two. What is less than the market trades in is dust, and stays.

    Args:
        held: Signed coins, as the exchange has them.
        wanted: Signed coins.
        lot: What the market trades in.
        price: Quote currency a coin, for the least notional of an order that opens.
    """
    stays = min(abs(held), abs(wanted)) if held * wanted > 0 else ZERO
    surplus = lot.floor(min(abs(held) - stays, lot.most))
    if surplus >= lot.least and surplus:
        return Leg("Sell" if held > 0 else "Buy", surplus, True)
    if abs(held) > stays and wanted and held * wanted < 0:
        held = ZERO  # dust on the other side: what opens ends it
    lacking = lot.floor(min(abs(wanted) - abs(held), lot.most))
    if lacking >= lot.least and lacking and lacking * price >= lot.least_notional:
        return Leg("Buy" if wanted > 0 else "Sell", lacking, False)
    return None
