"""An account whose decisions are carried out by orders: what paper does at once, over as long as the exchange takes.

The ledger is the session's own, as on paper: its start capital and what came of it. Its quantity is the exchange's
position, its cash moves by what the exchange booked. A bar's open is booked when nothing more can come of its orders;
what comes later, and funding, is booked amid the bar in a row of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from time import sleep

from storage.schema import DAY_MS, FloatArray
from tasks.exchange.boot_clock import boottime_s
from tasks.exchange.private_events import ExecutionNews, OrderNews
from tasks.exchange.stream_events import BookTop
from tasks.execution.limits import Breach, LimitBook
from tasks.execution.orders import ZERO
from tasks.execution.paper import Quote
from tasks.journal.journal_rows import BarOpen, Cause, Decision
from tasks.live.account import Account, BarStart, ClosedBar, held_back
from tasks.live.booking import book as book_executions
from tasks.live.booking import coins_of, lot_size
from tasks.live.exchange_time import ExchangeTime
from tasks.live.held_position import HeldPosition
from tasks.live.limits_state import forecast_risk
from tasks.live.order_desk import CLOSES_LATER_S, Intent, OrderDesk
from tasks.live.protective_stop import ProtectiveStop
from tasks.live.session_config import OrderConfig
from tasks.strategy.live_tick import forecast_vol

CLOSE_S = 15.0
"""How long the end of a session waits for its last position to be closed, and its start for what was under way."""

_BEAT_S = 0.05
_UNHEARD, _REFUSED = "nobody hears of the account", "openings are refused"  # of which somebody was told

_SURELY_KEPT_MS = 7 * DAY_MS  # in which every venue tells all that was booked

_PROVEN = frozenset({"", Cause.STALE, Cause.STOP, Cause.RESTART, Cause.REJECTED, Cause.PARTIAL, Cause.ABSENT})
"""Causes that the journal's rows prove; of any other one the reason is noted."""


_NOT_BEGUN = BarStart(-1, Quote(math.nan), 0.0, 0)


@dataclass(eq=False)
class OrderAccount(Account):
    """A version that decides, and a ledger that follows what the exchange books.

    Attributes:
        desk: Its orders.
        limit_book: Its limits, and what they are judged by.
        halted: Returns why nothing may be held, whoever said so; empty while it may.
        latch: Writes down what only a person undoes.
        alert: Tells somebody, one line each.
        stream_down_s: Returns for how long the account's stream has been down.
        config: How orders are sent, and what becomes of a position when something is unknown.
        remember: Writes the limits' book down, as `LimitsState.keep`.
    """

    desk: OrderDesk = field(kw_only=True)
    limit_book: LimitBook = field(kw_only=True)
    halted: Callable[[], str] = field(kw_only=True)
    latch: Callable[[str], object] = field(kw_only=True)
    alert: Callable[[str], object] = field(kw_only=True)
    stream_down_s: Callable[[], float] = field(kw_only=True)
    config: OrderConfig = field(kw_only=True)
    remember: Callable[[LimitBook, int, int], object] = field(kw_only=True)
    pays_by_rate: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lot, self.bars_unknown = lot_size(self.instrument), self.config.bars_unknown
        self._begun, self._closed_ms = _NOT_BEGUN, -1
        self._give_up_s = 0.0  # of `boottime_s`, when the session ends
        self._said = self._why = ""  # why nothing is sent for the present bar: the cause, and a line about it
        self._told: set[str] = set()  # why the market is halted, or nothing is opened, as somebody was told
        self._stop = ProtectiveStop(self.config, self.instrument.tick_size)
        self._held = HeldPosition(self.desk, self._stop, self._lot.least, lambda line: self.alert(line))

    def resume(self, last: BarOpen | None, pending: Decision | None) -> None:
        """Go on from what the journal says."""
        super().resume(last, pending)
        self._closed_ms = pending.start_ms if pending else -1
        if pending is not None and not self._has_stale_decision:
            self._stop.follow(pending, self.model)

    # --- what the exchange says ---------------------------------------------------------------------------------------

    def on_account_event(self, event: OrderNews | ExecutionNews) -> None:
        """Take in what the exchange says of the account."""
        self.desk.on_account_event(event)

    def too_dear(self, commission: float) -> str:
        """Return why a version that was judged at that commission may not decide here; empty where it may.

        Raises:
            TemporaryError: Nobody can tell now.
        """
        fee = self.desk.trading.taker_fee(self.desk.market)
        if fee is None:  # demo tells none, and costs none
            return "nobody says what this account pays a fill" if self.desk.trading.exchange == "bybit" else ""
        if float(fee) <= commission:
            return ""
        return f"this account pays {fee} a fill, the version was judged at {commission:g}"

    def poll(self) -> str:
        """Go on with what is unsettled, compare if that is due, and return why nothing more may be traded."""
        self.desk.work()
        self.desk.reconcile()
        if self.desk.trouble:
            self.halt(self.desk.trouble)
        without_stop = self._held.keep_stop(self._closed_ms)
        self._tell_of(_UNHEARD, self._unheard(), "nothing new is opened until that is over")
        self._tell_of(_REFUSED, self.desk.refuses_to_open, "nothing is opened until that is over")
        return self.desk.stopped or without_stop

    def _tell_of(self, what: str, why: str, then: str) -> None:
        """Tell somebody of what does not halt the market: once, and anew when it was over; `why` is empty then."""
        if not why:
            self._told.discard(what)
        elif what not in self._told:
            self._told.add(what)
            self.alert(f"{why}; {then}")

    @property
    def is_open(self) -> bool:
        """Whether anything is held at the exchange, or may come to be."""
        return self._held.is_open

    @property
    def must_be_flat(self) -> str:
        """Why nothing should be held; empty where it may."""
        return self.desk.trouble or self.halted()

    def halt(self, why: str) -> None:
        """Latch the market and tell somebody, once; also where it can't be latched, for a full disk."""
        if why not in self._told:
            try:
                self.latch(why)
            finally:
                self._tell(why)

    def _tell(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            self.alert(f"is halted: {why}")

    # --- something is unknown -----------------------------------------------------------------------------------------

    def wind_down(self, is_due: bool) -> bool:
        """Go on with what a halted market still holds, as `HeldPosition.wind_down`."""
        return self._held.wind_down(is_due, self._closed_ms)

    def compare_soon(self) -> None:
        """Compare with the exchange at the next look: something may have been missed."""
        self.desk.compare_soon()

    def settle(self, now_ms: int) -> None:
        """Follow what a former process left under way to its end, as long as that takes at most.

        `now_ms` is of the exchange's clock.
        """
        self._work_until(boottime_s() + CLOSE_S)
        for left in range(self.desk.timing.rounds)[::-1]:
            self.desk.compare_soon()
            self.desk.reconcile()
            if self.desk.is_compared or not left:
                break
            sleep(self.desk.timing.differ_s)  # a list of the exchange's may lag behind its fills
        away_ms = now_ms - self._closed_ms - self.desk.market.interval_ms
        if self._closed_ms >= 0 and away_ms > _SURELY_KEPT_MS:
            days = f"{away_ms / DAY_MS:.0f} days"
            said = (
                f"nobody ran this session for {days}: what it holds is compared with the exchange, "
                "and what was booked meanwhile, funding too, is known as far as it is still told (demo: of the last 7 "
                "days); the rest is in no ledger and in no limit"
            )
            self.desk.note(self._closed_ms, "away", said)
            self.alert(said)

    def _work_until(self, give_up_s: float) -> None:
        while (self.desk.is_busy or self.desk.unsettled) and boottime_s() < give_up_s:
            self.desk.work()
            sleep(_BEAT_S)

    # --- a bar closes ------------------------------------------------------------------------------------------------

    def decide(
        self, bar: ClosedBar, candle: FloatArray, unbroken: int, step_ms: int, deadline_ms: float, trusted: bool
    ) -> Decision:
        """Step a closed bar and decide; what a limit or a person has halted wants nothing."""
        decision = super().decide(bar, candle, unbroken, step_ms, deadline_ms, trusted)
        self._stop.follow(decision, self.model)
        breach = self.limit_book.close(bar.start_ms + step_ms, self.ledger.equity(bar.close))
        self._closed_ms = bar.start_ms
        self._remember(breach)
        if decision.wanted and (why := self._halted()):
            self._hold_back(decision, Cause.HALTED, why)
        elif decision.wanted not in (0, decision.position) and (why := self._unheard()):
            self._hold_back(decision, Cause.STREAM, why)
        elif decision.wanted != decision.position and (unsettled := self.desk.unsettled):
            self._hold_back(decision, Cause.UNKNOWN, f"order {unsettled[0].link_id} is {unsettled[0].status}")
        return self.pending or decision

    def _hold_back(self, decision: Decision, cause: str, why: str) -> None:
        self.count(cause)
        self.desk.note(decision.start_ms, f"{cause} at close", why)
        wanted = held_back(cause, decision.position, decision.wanted)
        self.pending = decision._replace(wanted=wanted, cause=cause)

    def _halted(self) -> str:
        """Return why nothing may be held; empty where it may. What a person has re-armed is judged anew."""
        if why := self.halted():
            self._tell(why)
            return why
        self._told &= {_UNHEARD, _REFUSED}
        if self.limit_book.latched is not None:
            self.limit_book.rearm()
        return ""

    def _unheard(self) -> str:
        """Return why nothing is heard of the account; empty where it is, or has been until just now."""
        down_s = self.stream_down_s()
        if down_s > self.config.stream_down_s:
            return f"its stream of orders has been down for {down_s:.0f} s"
        return self.desk.unknown

    def _remember(self, breach: Breach | None = None) -> None:
        if breach is not None:
            self.halt(str(breach))
        self.remember(self.limit_book, self._closed_ms, self.opened_ms)

    # --- a bar opens --------------------------------------------------------------------------------------------------

    def only_closes(self, is_late: bool) -> bool:
        """Return whether the last decision only closes what is held, or can do no more any longer."""
        if self.pending is None:
            return False
        held, wanted = self.ledger.side, self.pending.wanted
        return bool(held) and (wanted == 0 or (is_late and wanted == -held))

    def try_open(
        self, first: BarStart, book: BookTop | None, time: ExchangeTime, deadline_ms: float, rate: float
    ) -> BarOpen | None:
        """Carry out the last decision; None while book or mark price are not known, or orders are under way."""
        if self.pending is None or self.opened_ms >= first.start_ms:
            return None
        if self._begun.start_ms != first.start_ms:
            trades, begun = self.pending.wanted != self.ledger.side, first
            if trades:
                beside = first.beside(book, time)
                waits = (beside is None or math.isnan(self.mark)) and not self.only_closes(first.late_ms > deadline_ms)
                if self._has_stale_decision or waits:
                    return None  # what only closes waits for neither
                begun = beside or first
            self._begun, self._said, self._why = begun, "", ""
            if trades:
                self._begin(self.pending.wanted, deadline_ms)
        self.desk.work()
        if self.desk.is_busy:
            return None
        return self._opened("", self._begun.quote, self._begun.late_ms)

    def _begin(self, wanted: int, deadline_ms: float) -> None:
        """Want what was decided; or say why not, and close what is held on the other side. What closes may be late."""
        start_ms, quote, late_ms = self._begun.start_ms, self._begun.quote, self._begun.late_ms
        left_s = (deadline_ms - late_ms) / 1e3
        coins = coins_of(wanted, self.ledger, quote.first, self._pending_rules, self._lot)
        if not coins:
            wanted = 0  # less than the exchange takes is no position, and no order that counts
        price = Decimal(str(quote.first))
        stop = self._stop.of_new(price, wanted) if wanted else None
        if wanted:
            if left_s < 0.0:
                self._said = Cause.STALE
            elif why := self.desk.trouble or self._halted():
                self._said, self._why = Cause.HALTED, why
            elif why := self._unheard():
                self._said, self._why = Cause.STREAM, why
            elif stop is None:
                self._said, self._why = Cause.NO_STOP, self._stop.impossible(price)
            elif breach := self.limit_book.may_open(
                float(coins), quote.first, self.mark, start_ms + late_ms, self._forecast_vol
            ):
                self._said, self._why = breach.code, str(breach)
            else:
                self._remember()  # it counts, whatever becomes of the process
        if self._said:
            if self.desk.held * wanted >= 0:
                return
            wanted, coins, stop = 0, ZERO, None
        give_up_s = boottime_s() + max(left_s, 0.0)
        self.desk.submit_intent(Intent(start_ms, coins, price, give_up_s, stop, self._stop.share))

    @property
    def _forecast_vol(self) -> float:
        """Volatility per bar that was forecast at the last decision; NaN where unknown."""
        return math.nan if self.pending is None else forecast_vol(self.pending.values)

    def open_unseen(self, start_ms: int, price: float, rate: float) -> BarOpen:
        """Book an open whose bar is over: what was filled until now, and nothing more is sent for it."""
        self.desk.give_up()
        begun = self._begun.start_ms == start_ms
        if not begun:
            self._begun, self._said, self._why = BarStart(start_ms, Quote(price), 0.0, 0), "", ""
        unless = self.unfilled
        if self.desk.trouble:
            unless, self._why = Cause.HALTED, self.desk.trouble
        elif begun or self.desk.sent(start_ms):
            unless, self._why = Cause.UNKNOWN, self._why or "the bar was over before its orders were"
        return self._opened(unless, self._begun.quote, float("nan"))

    def late(self, at_ms: int, price: float, *, closes: bool = False) -> BarOpen | None:
        """Book amid a bar what the exchange has booked since its open; None where that is nothing.

        While an order is under way that waits, until the bar closes: what is decided then goes by what is held.
        """
        if self.desk.trouble:
            self.desk.give_up()
            closes = True
        at_ms = max(at_ms, self.opened_ms + 1)
        if self.desk.market.floor(at_ms) == at_ms:
            return None  # a row there would be the next bar's open, which will hold it
        if not self.desk.untaken or self.desk.is_busy or (self.desk.unsettled and not closes):
            return None
        return self._booked(at_ms, self.ledger.side, "", Quote(price), float("nan"))

    def begin_close_out(self, at_ms: int, quote: Quote, until_s: float) -> None:
        """Send what closes the position."""
        self.desk.submit_intent(Intent(at_ms, ZERO, Decimal(str(quote.first)), until_s, None))
        self.desk.work()
        self._give_up_s = min(boottime_s() + CLOSE_S, until_s + CLOSES_LATER_S)  # others may have been sent before it

    def is_closing(self) -> bool:
        """Go on with it, and return whether there is more to do and time left for it."""
        self.desk.work()
        return bool(self.desk.is_busy or self.desk.unsettled) and boottime_s() < self._give_up_s

    def close_out(self, at_ms: int, quote: Quote) -> BarOpen:
        """Book what was closed; what could not be in time stays, behind its stop."""
        self.desk.give_up()
        if self.desk.trouble:  # what is held there may be no order's of the session
            self.desk.compare_soon()
            self.desk.reconcile()
        if self.is_open:
            self.halt(f"{self.desk.held} could not be closed at the end of the session; it is still held")
        return self._booked(at_ms, 0, Cause.STOP, quote, float("nan"))

    def _opened(self, unless: str, quote: Quote, late_ms: float) -> BarOpen:
        """Return the row of a bar's open.

        Args:
            unless: The cause where the decision was not carried out, and nothing else says why.
            quote: What orders met.
            late_ms: From the bar's open to now.
        """
        start_ms, before = self._begun.start_ms, self.ledger.side
        wanted = before if self.pending is None else self.pending.wanted
        row = self._booked(start_ms, wanted, "", quote, late_ms)
        outcome = self.desk.outcome(start_ms)
        if wanted == before or (row.opened.ledger.side == wanted and not outcome):
            return row
        cause = outcome or self._said or unless
        if cause not in _PROVEN:
            self.desk.note(start_ms, f"{cause} at open", self._why or self.desk.trouble or cause)
        self.count(cause)
        return row._replace(cause=cause)

    def _booked(self, at_ms: int, wanted: int, cause: str, quote: Quote, late_ms: float) -> BarOpen:
        """Return the row that holds everything that the exchange has booked and no row holds yet."""
        opens = at_ms == self._begun.start_ms
        taken = self.desk.untaken
        opened = book_executions(self.ledger, self.desk.held, taken, quote.first, self._lot.least, opens=opens)
        self.count(cause)
        return BarOpen(at_ms, wanted, cause, quote, 0.0, late_ms, opened)

    def apply(self, bar: BarOpen) -> None:
        """Go on with an open that is in the journal."""
        before = self.ledger.side
        super().apply(bar)
        self.desk.mark_booked()
        risk = forecast_risk(bar, self.pending, self.desk.market)
        worth, entry_costs = self.ledger.equity(bar.quote.first), bar.opened.entry_costs
        self._remember(self.limit_book.trip(before, self.ledger.side, worth, risk, entry_costs))
