"""One version's decisions in a market, filled on paper at once, by the backtest's accounting.

An account that sends orders decides alike and does the rest otherwise: `order_account.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from storage.schema import Candles, FloatArray, Instrument
from tasks.champion.serving import ServedModel
from tasks.exchange.boot_clock import boottime_ns
from tasks.exchange.private_events import ExecutionNews, OrderNews
from tasks.exchange.stream_events import BookTop
from tasks.execution.accounting import RULES, sized
from tasks.execution.decision import expected_return
from tasks.execution.paper import Broker, Ledger, Quote, open_bar
from tasks.journal.journal_rows import BarOpen, Cause, Decision
from tasks.live.exchange_time import ExchangeTime, elapsed_ms
from tasks.live.session_config import session_rules
from tasks.strategy.live_tick import LiveTick, Tick, share_taken

_NOTHING = np.empty(0)


class ClosedBar(NamedTuple):
    """A bar that has closed, and how it came.

    Attributes:
        start_ms: Open time.
        row: start_ms, open, high, low, close, volume, turnover.
        origin: stream or rest.
        at_ms: The exchange's clock when it came in.
        received_ns: `boottime_ns` then.
        feed_ms: How long it was under way; NaN where nobody can tell.
        is_newest: Whether no later bar has closed, as far as anybody knows.
    """

    start_ms: int
    row: tuple[float, ...]
    origin: str
    at_ms: float
    received_ns: int
    feed_ms: float
    is_newest: bool

    @property
    def open(self) -> float:
        """First price, USDT."""
        return self.row[1]

    @property
    def close(self) -> float:
        """Last price, USDT."""
        return self.row[4]


class BarStart(NamedTuple):
    """What an order at a bar's open meets.

    Attributes:
        start_ms: Open time of the bar.
        quote: Its first price, and the best prices where they are known.
        at_ms: The exchange's clock when the latest of them came in.
        received_ns: `boottime_ns` then.
    """

    start_ms: int
    quote: Quote
    at_ms: float
    received_ns: int

    @property
    def late_ms(self) -> float:
        """From the bar's open until now, on the exchange's clock."""
        return self.at_ms - self.start_ms + elapsed_ms(self.received_ns)

    def beside(self, book: BookTop | None, time: ExchangeTime) -> BarStart | None:
        """Return it with a book's best prices; None for a book of before the open, which says nothing about it."""
        if book is None or book.ts_ms < self.start_ms:
            return None
        quote, at_ms = Quote(self.quote.first, book.bid, book.ask), time.at(book.ts_ms, book.received_ns)
        return BarStart(self.start_ms, quote, at_ms, book.received_ns)


@dataclass(eq=False)
class Account:
    """A version that decides, a ledger that follows it, and all that a session asks of the two.

    Attributes:
        name: In the journal: the market's slug, for a shadow with the version behind it.
        instrument: The exchange's rules.
        ledger: What it owns.
        model: What decides; None holds no position.
        why_none: Why there is no model.
        version: Name of the model; empty for none.
        rules: (RULES,) what it trades by: those of the last model that there was; nothing is held before there was one.
        opened_ms: The last bar whose open is booked; -1 for none.
        pending: The last decision, which the next open follows.
        unfilled: The cause where a decision finds no open.
        traded: Fills.
        pays_by_rate: Whether funding is paid by the rate that the stream tells, at a bar's open.
        mark: Mark price as the stream has told it just now; NaN where it has not.
        causes: How often something was not traded, by cause.
        is_in_doubt: Whether nobody knows if another version should decide: nothing new is held then.
        broker: Who fills on paper.
        alert: Tells somebody at once; on paper nobody needs to know.
        bars_unknown: After how many bars of which nothing is heard what is held is closed; on paper it stays.
    """

    name: str
    instrument: Instrument
    ledger: Ledger
    model: ServedModel | None = None
    why_none: str = ""
    version: str = ""
    rules: FloatArray = field(default_factory=lambda: np.zeros(RULES))
    opened_ms: int = -1
    pending: Decision | None = None
    unfilled: str = Cause.STALE
    traded: int = 0
    pays_by_rate: bool = field(init=False, default=True)
    mark: float = field(init=False, default=math.nan)
    causes: dict[str, int] = field(default_factory=dict)
    is_in_doubt: bool = field(init=False, default=False)
    broker: Broker = field(kw_only=True, default=open_bar)
    alert: Callable[[str], object] = field(kw_only=True, default=lambda line: None)
    bars_unknown: float = field(init=False, default=math.inf)

    def __post_init__(self) -> None:
        self._tick: LiveTick | None = None
        self._params: FloatArray | None = None
        self._pending_rules = self.rules  # of who took the last decision, by the share that it takes
        self._has_stale_decision = False
        self._round_trip = math.nan

    @property
    def history_bars(self) -> int:
        """Bars of the past that make the next one ready."""
        return self._tick.history_bars if self._tick else 0

    def decide_by(self, model: ServedModel | None, why_none: str = "") -> None:
        """Let a version decide that has seen no candle yet.

        Args:
            model: None holds no position from the next decision on; what is held is closed by the rules there were.
            why_none: Why there is none, which each decision then gives as its reason.
        """
        self.model, self.why_none = model, why_none
        self.version = model.ref.version if model else ""
        self._tick, self._params = (model.tick(), model.params) if model else (None, None)
        if self._params is not None and model is not None:
            self._round_trip = model.recipe.costs.round_trip
            self.rules = session_rules(model.recipe, self.instrument)

    def resume(self, last: BarOpen | None, pending: Decision | None) -> None:
        """Go on from what the journal says; another version's decision that found no open is not traded any more."""
        if last is not None:
            self.ledger, self.opened_ms = last.opened.ledger, last.start_ms
        self.pending, self.unfilled = pending, Cause.RESTART
        self._pending_rules = self.rules if pending is None else sized(self.rules, share_taken(pending.values))
        self._has_stale_decision = pending is not None and pending.version != self.version

    def warm_up(self, candles: Candles) -> None:
        """Let the version see the past."""
        if self._tick is not None:
            self._tick.warm_up(candles.matrix())

    # --- a bar closes -------------------------------------------------------------------------------------------------

    def decide(
        self, bar: ClosedBar, candle: FloatArray, unbroken: int, step_ms: int, deadline_ms: float, trusted: bool
    ) -> Decision:
        """Step a closed bar and decide.

        Args:
            bar: What has closed.
            candle: (6,) the first six numbers of its row.
            unbroken: Bars without a hole up to this one.
            step_ms: Length of a bar.
            deadline_ms: Later than that after the close is too late to trade.
            trusted: Whether the exchange's time is known.
        """
        began_ns = boottime_ns()
        position, bars_held = self.ledger.side, self.ledger.bars_held
        tick = self._tick.step(candle, position, bars_held) if self._tick is not None else None
        target = tick.target if tick is not None else 0
        waited_us = (began_ns - bar.received_ns) / 1e3
        late_ms = bar.at_ms - bar.start_ms - step_ms + waited_us / 1e3
        cause = ""
        if not bar.is_newest:
            cause = Cause.MISSED_BARS
        elif late_ms > deadline_ms:
            cause = Cause.DEADLINE
        elif not trusted:
            cause = Cause.CLOCK
        elif self.is_in_doubt:
            cause = Cause.CHAMPION
        wanted = held_back(cause, position, target) if cause else target
        cause = "" if wanted == target else cause
        self.count(cause)
        self.unfilled, self._has_stale_decision = Cause.STALE, False
        self._pending_rules = self.rules if tick is None else sized(self.rules, tick.share)
        lacks, mu, cost = self._forecast_return(tick, unbroken)
        step_us = (boottime_ns() - began_ns) / 1e3
        self.pending = Decision(
            bar.start_ms, self.version, _NOTHING if tick is None else tick.values, position, bars_held, target, wanted,
            cause, lacks, mu, cost, late_ms, bar.feed_ms, waited_us, step_us,
        )  # fmt: skip
        return self.pending

    def _forecast_return(self, tick: Tick | None, unbroken: int) -> tuple[str, float, float]:
        """Return why nothing is forecast, or the expected return and what a round trip costs."""
        if tick is None or self._params is None:
            return self.why_none or "there is no version", math.nan, math.nan
        vol, (p_sell, p_hold, p_buy) = tick.vol, tick.probabilities.tolist()
        if p_buy == p_buy:  # not NaN
            return "", expected_return(p_sell, p_hold, p_buy, vol, self._params), self._round_trip
        lacks = self.history_bars + 1 - unbroken
        said = f"warming up: lacks {lacks} bars" if lacks > 0 else "warming up: too few bars with trades"
        return said, math.nan, math.nan

    # --- a bar opens --------------------------------------------------------------------------------------------------

    def try_open(
        self, first: BarStart, book: BookTop | None, time: ExchangeTime, deadline_ms: float, rate: float
    ) -> BarOpen | None:
        """Follow the last decision at a bar's open; None while what that needs is not known yet.

        Args:
            first: The bar, and its first price.
            book: Best prices.
            time: Whose time the deadline is in.
            deadline_ms: Later than that after the open is too late to open anything; what only closes may be late.
            rate: Sum of the funding rates due.
        """
        if self.pending is None or self.opened_ms >= first.start_ms:
            return None
        wanted, met = self.pending.wanted, first
        if wanted != self.ledger.side:
            beside = None if self._has_stale_decision else first.beside(book, time)
            if beside is None:
                return None
            met = beside
        late_ms = met.late_ms
        if late_ms > deadline_ms:
            wanted = nothing_new(self.ledger.side, wanted)
        cause = "" if wanted == self.pending.wanted else Cause.STALE
        return self._open(first.start_ms, wanted, cause, met.quote, rate, late_ms)

    def open_unseen(self, start_ms: int, price: float, rate: float) -> BarOpen:
        """Book an open whose bar is over and that nobody followed: funding is due, and nothing is traded.

        Args:
            start_ms: Open time of the bar.
            price: Its first price, USDT, as far as anybody knows.
            rate: Sum of the funding rates due.
        """
        undone = self.pending is not None and self.pending.wanted != self.ledger.side
        return self._open(start_ms, self.ledger.side, self.unfilled if undone else "", Quote(price), rate, math.nan)

    def begin_close_out(self, at_ms: int, quote: Quote, until_s: float) -> None:
        """Begin to close what is held, because the session ends, amid a bar.

        Args:
            at_ms: UTC milliseconds, within the bar.
            quote: What the market offers.
            until_s: Of `boottime_s`: it is meant to be done by then.
        """

    def is_closing(self) -> bool:
        """Go on with that, and return whether there is more to do; on paper there is not."""
        return False

    def close_out(self, at_ms: int, quote: Quote) -> BarOpen:
        """Book what came of it; arguments as it began."""
        return self._open(at_ms, 0, Cause.STOP, quote, 0.0, math.nan)

    def _open(self, start_ms: int, wanted: int, cause: str, quote: Quote, rate: float, late_ms: float) -> BarOpen:
        opened = self.broker(self.ledger, wanted, quote, rate, self._pending_rules)
        self.count(cause)
        return BarOpen(start_ms, wanted, cause, quote, rate, late_ms, opened)

    # --- what orders lead to; on paper nothing ------------------------------------------------------------------------

    def only_closes(self, is_late: bool) -> bool:
        """Return whether any price will do, for nothing is opened at it; on paper none that nobody has seen."""
        return False

    def on_account_event(self, event: OrderNews | ExecutionNews) -> None:
        """Take in what the exchange says of the account; on paper nothing."""

    def too_dear(self, commission: float) -> str:
        """Return why a version that was judged at that commission may not decide here; on paper any may."""
        return ""

    def poll(self) -> str:
        """Do what is due by the clock, and return why nothing more may be traded; empty where it may."""
        return ""

    def compare_soon(self) -> None:
        """Compare with the exchange soon."""

    @property
    def is_open(self) -> bool:
        """Whether anything is held, or may come to be."""
        return self.ledger.side != 0

    @property
    def must_be_flat(self) -> str:
        """Why nothing should be held; empty where it may. On paper nobody halts."""
        return ""

    def wind_down(self, is_due: bool) -> bool:
        """Go on with what a halted market still holds; return whether there is more to do. On paper there is not.

        It is closed when that `is_due`: it has waited long enough behind its stop.
        """
        return False

    def halt(self, why: str) -> None:
        """Let nobody trade this account's market before a person has looked; on paper nothing."""

    def late(self, at_ms: int, price: float, *, closes: bool = False) -> BarOpen | None:
        """Book amid a bar what the exchange has booked since its open; on paper nothing.

        Args:
            at_ms: Time of the row, UTC milliseconds, within the bar.
            price: The market's, USDT, against which slippage is counted.
            closes: Whether the bar is over, so that what is under way is waited for no more.

        Returns:
            None where nothing has been booked.
        """
        return None

    def apply(self, bar: BarOpen) -> None:
        """Go on with an open that is in the journal."""
        self.ledger, self.opened_ms = bar.opened.ledger, bar.start_ms
        self.traded += bar.opened.fill is not None

    def count(self, cause: str) -> None:
        """Count a cause; empty is none."""
        if cause:
            self.causes[cause] = self.causes.get(cause, 0) + 1


def nothing_new(position: int, target: int) -> int:
    """Return the side that may be wanted where nothing new may be held: the one that is held, or flat."""
    return position if position == target else 0


def held_back(cause: str, position: int, target: int) -> int:
    """Return the side that is wanted where a cause forbids the target: flat, nothing new, or what is held."""
    if cause == Cause.HALTED:
        return 0
    return nothing_new(position, target) if cause in (Cause.CLOCK, Cause.CHAMPION, Cause.STREAM) else position
