"""What one market holds, compared with the exchange: a difference that stays is trouble, which ends its trading."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from math import inf
from time import monotonic

from storage.schema import ClockError, Market, PipelineError, StoreError, TemporaryError
from tasks.exchange.account_answers import Position
from tasks.exchange.boot_clock import boottime_s
from tasks.exchange.private_events import ExecutionNews, OrderNews
from tasks.exchange.trading_account import TradingAccount
from tasks.execution.orders import ZERO, Absence
from tasks.journal.journal import Journal
from tasks.live.position_keeper import PositionKeeper


@dataclass(frozen=True, kw_only=True)
class DeskTiming:
    """When the desk asks, seconds.

    Attributes:
        first_s: After how long an order of which the stream says nothing is asked for.
        most_s: Longest wait between two such questions; it doubles from one to the next.
        reconcile_s: Between two comparisons with the exchange.
        differ_s: Between two comparisons while they differ.
        rounds: Comparisons in a row that differ before that is trouble.
        unknown_s: How long nobody may know what has become of an order before that is trouble.
    """

    first_s: float = 0.5
    most_s: float = 5.0
    reconcile_s: float = 60.0
    differ_s: float = 2.0
    rounds: int = 3
    unknown_s: float = 60.0


class ComparedPosition(PositionKeeper):
    """Orders and position of one account in one market, beside what the exchange says is held.

    Args:
        name: The account's, in the journal.
        market: USDT perpetual.
        trading: The exchange.
        journal: Where everything is written first.
        least: Coins of an order, at least: less needs no stop.
        begin_ms: As of `PositionKeeper`.
        timing: When it asks.
        halted: As of `PositionKeeper`.

    Attributes:
        there: Signed coins that the exchange told of last; None where it has told none since there was trouble.
        without_stop: What it told of last, where that had no stop and no order was under way; None otherwise.
        refuses_to_tell: Why it does not say what is held, which no repetition changes; empty since it has said so.
        trading: The exchange.
        timing: When it asks.
    """

    def __init__(
        self,
        name: str,
        market: Market,
        *,
        trading: TradingAccount,
        journal: Journal,
        least: Decimal,
        begin_ms: int,
        timing: DeskTiming,
        halted: Callable[[], str],
    ) -> None:
        self.trading, self.timing, self._least = trading, timing, least
        self.there: Decimal | None = ZERO
        self.without_stop: Position | None = None
        self.refuses_to_tell = ""
        self._bare_since_s: float | None = None
        self._compare_s, self._differed, self._is_over = 0.0, 0, False
        self._compared_s, self._incomparable = -inf, "nobody has asked yet"
        absence = Absence(after_ms=trading.recv_window_ms + 1_000)
        super().__init__(name, market, journal=journal, begin_ms=begin_ms, absence=absence, halted=halted)

    @property
    def stopped(self) -> str:
        """The trouble, once what it led to is booked too, or that can't be told; empty before."""
        return self.trouble if self._is_over else ""

    @property
    def is_compared(self) -> bool:
        """Whether the last comparison was whole, and both sides agree or what is wrong is known to its end."""
        return self._is_over or not (self._differed or self._incomparable or self.trouble)

    @property
    def unknown(self) -> str:
        """Why nobody knows what the account holds now; empty where the exchange has told it, or did until just now."""
        old_s = boottime_s() - self._compared_s
        if old_s <= self.timing.reconcile_s + self.timing.unknown_s:
            return ""
        return self._incomparable or f"nobody has asked for {old_s:.0f} s what the account holds"

    @property
    def bare_s(self) -> float:
        """For how long each comparison has found what is held without a stop, seconds; 0 where the last one has not."""
        return 0.0 if self._bare_since_s is None else monotonic() - self._bare_since_s

    def on_account_event(self, event: OrderNews | ExecutionNews) -> None:
        """Take in what the exchange says of this market; a stop of which it says something may be gone."""
        super().on_account_event(event)
        if isinstance(event, OrderNews) and event.is_stop:
            self._compare_within(self.timing.differ_s)

    def reconcile(self) -> None:
        """Compare with the exchange if that is due: the position by itself, then executions and open orders.

        A booking that can't be read hides no coins: what is held is compared whatever becomes of the rest.
        """
        if boottime_s() < self._compare_s:
            return
        self._compare_s = boottime_s() + self.timing.reconcile_s
        is_open, waiting, unread = bool(self.unsettled), None, ""
        try:
            position = self.trading.position(self.market)
            self.refuses_to_tell = ""
        except PipelineError as err:
            self._compare_again(err)
            self.refuses_to_tell = self.refuses_to_tell if passes(err) else str(err)
            self._differed += bool(self.trouble)
            self._is_over |= self._differed >= self.timing.rounds and bool(self.trouble)
            return
        try:
            if position.leverage > 1:  # somebody has set it since
                self.trading.set_leverage(self.market)
            booked, known_ms = self.trading.executions(self.market, self._since_ms)
            self._apply_all(booked)
            waiting = self.trading.open_orders(self.market)
            self._apply_all(waiting)
            self._compared_s, self._incomparable = boottime_s(), ""
        except StoreError:
            raise
        except PipelineError as err:
            self._compare_again(err)
            unread = f"; what moved it, its stop or anybody else, can't be read: {err}"
        is_open |= bool(self.unsettled)
        size = self.there = position.size
        self.without_stop = position if abs(size) >= self._least and not position.stop and not is_open else None
        self._bare_since_s = None if self.without_stop is None else self._bare_since_s or monotonic()
        if self.without_stop is not None:
            self._compare_within(self.timing.differ_s)
        if self.trouble:  # nothing is sent any more; what somebody else's order leads to is booked
            agrees = size == self.held and not self.unsettled
            self._is_over |= agrees and waiting is not None and all(map(self._is_ours, waiting))
        elif size == self.held or is_open:
            self._differed = 0
            if size == self.held and waiting is not None:
                self._know_until(known_ms)
            return
        self._differed += 1
        self._compare_s = boottime_s() + self.timing.differ_s
        if self._differed >= self.timing.rounds:
            self._stop(f"the exchange holds {size}, the journal says {self.held}{unread}")
            self._is_over, self.there = True, size

    def _compare_again(self, err: PipelineError) -> None:
        """Compare again soon, for the exchange has not told everything; what no repetition changes is trouble."""
        if passes(err):
            self._incomparable = f"the exchange does not tell what the account holds ({err})"
            self._compare_within(self.timing.differ_s)
        else:
            self._stop(str(err))
            self._is_over = True

    def compare_soon(self) -> None:
        """Let the next `reconcile` compare, because something may have been missed."""
        self._compare_s = 0.0

    def _compare_within(self, seconds: float) -> None:
        self._compare_s = min(self._compare_s, boottime_s() + seconds)

    def _stop(self, why: str) -> None:
        if not self.trouble:
            self._compare_s, self._differed, self.there = 0.0, 0, None
        super()._stop(why)


def passes(err: PipelineError) -> bool:
    """Return whether an error may be over soon by itself, as an outage or a clock that is being set."""
    return isinstance(err, TemporaryError | ClockError)
