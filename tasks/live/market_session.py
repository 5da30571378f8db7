"""One market of a session: what is done with each closed bar and each open, in which order, and why something is not.

    close of t   hole before it filled over REST -> open of t booked, if nothing has -> step -> decide -> journal
    open of t+1  first price, and a book that is no older -> funding -> fill -> journal

A bar that is not newer than the last is dropped. Bars that were missed are stepped, and only the newest may trade. What
comes too late is recorded with its cause and changes no position.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from storage.schema import CANDLE_COLUMNS, MINUTE_MS, Candles, FloatArray, Instrument, Market, utc_text
from tasks.champion.serving import ServedModel
from tasks.exchange.stream_events import BookTop, ConfirmedBar, FormingBar, Ticker, Trade
from tasks.execution.decision import expected_return
from tasks.execution.paper import Ledger, Opened, Quote
from tasks.live.journal import BarOpen, Decision, Journal
from tasks.live.session_config import ExchangeTime, SessionConfig, elapsed_ms
from tasks.strategy.live_tick import LiveTick, Tick

Row = tuple[float, ...]
"""start_ms, open, high, low, close, volume, turnover."""


class Recent(NamedTuple):
    """Closed candles that were asked for, and when.

    Attributes:
        candles: Oldest first, plausible, perhaps with holes.
        now_ms: The exchange's clock before the question.
        asked_ns: This machine's monotonic clock then.
    """

    candles: Candles
    now_ms: int
    asked_ns: int


class Feed(Protocol):
    """What a market asks over REST."""

    def closed_since(self, market: Market, first_ms: int) -> Recent:
        """Return what has closed from the bar `first_ms` on."""

    def funding(self, market: Market, first_ms: int, last_ms: int) -> list[tuple[int, float]]:
        """Return funding stamps and rates of a range, both ends inclusive."""


class Broker(Protocol):
    """Who trades. Paper is the one there is; orders on an exchange will be another."""

    def open_bar(self, ledger: Ledger, wanted: int, quote: Quote, funding_rate: float) -> Opened:
        """Pay the funding that is due and trade to the wanted weight, as `paper.open_bar` does."""


@dataclass
class Counts:
    """What a market has seen.

    Attributes:
        stepped: Bars of the session that were stepped.
        missing: Bars that not even REST has.
        repeated: Bars that came again and were dropped.
        traded: Fills.
        causes: How often something was not traded, by cause.
        journal_us: Of each decision, how long its commit took.
    """

    stepped: int = 0
    missing: int = 0
    repeated: int = 0
    traded: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    journal_us: array[float] = field(default_factory=lambda: array("d"))


class MarketSession:
    """A market, from its journal on.

    Args:
        market: Which.
        model: What decides; None holds no position.
        why_none: Why there is no model.
        broker: Who trades; None only says what it would hold.
        instrument: The exchange's rules.
        capital: USDT at the very start.
        journal: Where everything is written first.
        feed: REST.
        time: Whose time deadlines are in.
        config: The rules.
        on_decision: Is given each decision when it is safe.
    """

    def __init__(
        self,
        market: Market,
        model: ServedModel | None,
        *,
        why_none: str = "",
        broker: Broker | None,
        instrument: Instrument,
        capital: float,
        journal: Journal,
        feed: Feed,
        time: ExchangeTime,
        config: SessionConfig,
        on_decision: Callable[[MarketSession, Decision], object] = lambda session, decision: None,
    ) -> None:
        self.market, self.model, self.why_none = market, model, why_none
        self.counts = Counts()
        self.ledger = Ledger(capital)
        self.last_ms = -1
        self.halted = ""
        self.close = math.nan
        self._broker, self.instrument = broker, instrument
        self._journal, self._feed, self._time, self._config = journal, feed, time, config
        self._on_decision = on_decision
        self._step_ms = market.interval_ms
        self._deadline_ms = config.deadline_share * market.interval_ms
        self._tick: LiveTick | None = model.tick() if model else None
        self._params: FloatArray | None = model.params if model else None
        self._unbroken = 0
        self._pending: Decision | None = None
        self._opened_ms = -1
        self._unfilled = "stale"  # the cause where a decision finds no open
        self._first: tuple[float, float, int] | None = None  # price, exchange's time, receipt
        self._book: BookTop | None = None
        self._rates: dict[int, float] = {}
        self._last_row: Row = ()

    # --- from where it starts -----------------------------------------------------------------------------------------

    @property
    def history_bars(self) -> int:
        """Bars of the past that make the next one ready."""
        return self._tick.history_bars if self._tick else 0

    def warm_up(self, candles: Candles) -> None:
        """Step the past, which is traded by nobody, and note it."""
        self._journal.history(self.market.slug, candles)
        if self.model is not None:
            first_ms = int(candles.start_ms[-1]) + self._step_ms if len(candles) else 0
            self._journal.takeover(self.market.slug, first_ms, self.model.ref.version)
        self._remember(candles)

    def resume(self) -> bool:
        """Go on from what the journal says; return whether it says anything."""
        reader, slug = self._journal.reader(), self.market.slug
        candles, _ = reader.candles(slug)
        if not len(candles):
            return False
        self._remember(candles)
        opens, decisions = reader.opens(slug, last=1), reader.decisions(slug, last=1)
        if opens:
            self.ledger, self._opened_ms = opens[0].opened.ledger, opens[0].start_ms
        if decisions:
            self._pending = decisions[0]
        self._unfilled = "restart"
        return True

    def _remember(self, candles: Candles) -> None:
        for row in candles.matrix():
            self._see(row)
        if len(candles):
            self.last_ms, self.close = int(candles.start_ms[-1]), float(candles.close[-1])
            self._last_row = _rows(candles[-1:])[0]

    def _see(self, row: FloatArray) -> Tick | None:
        start_ms = int(row[0])
        self._unbroken = self._unbroken + 1 if start_ms == self.last_ms + self._step_ms else 1
        self.last_ms = start_ms
        return self._tick.step(row, self.ledger.weight, self.ledger.bars_held) if self._tick else None

    # --- what comes in ------------------------------------------------------------------------------------------------

    def on_event(self, event: ConfirmedBar | FormingBar | BookTop | Trade | Ticker) -> None:
        """Take in one event of this market's stream."""
        at_ms = self._time.at(event.ts_ms, event.received_ns)
        if isinstance(event, ConfirmedBar):
            row = (float(event.start_ms), *event[3:9])
            feed_ms = self._time.feed_ms(event.ts_ms, event.received_ns)
            self._closed(row, "stream", at_ms, event.received_ns, feed_ms)
            return
        if isinstance(event, Ticker):
            if event.next_funding_ms:
                self._rates[event.next_funding_ms] = event.funding_rate
            return
        if isinstance(event, BookTop):
            self._book = event
        elif isinstance(event, FormingBar):
            self._price(event.start_ms, event.open, at_ms, event.received_ns)
        else:
            self._price(self.market.floor(event.ts_ms), event.price, at_ms, event.received_ns)
        self._try_open()
        if at_ms > self.last_ms + 2 * self._step_ms + 1000 * self._config.confirm_grace_s:
            self.catch_up()

    def catch_up(self) -> None:
        """Ask REST for every bar that has closed and was not stepped, and step it."""
        recent = self._feed.closed_since(self.market, self.last_ms + self._step_ms)
        rows = _rows(recent.candles)
        for i, row in enumerate(rows):
            self._closed(row, "rest", recent.now_ms, recent.asked_ns, math.nan, newest=i == len(rows) - 1)

    def _price(self, start_ms: int, price: float, at_ms: float, received_ns: int) -> None:
        if self._first is None and start_ms == self.last_ms + self._step_ms and self._opened_ms < start_ms:
            self._first = (price, at_ms, received_ns)

    # --- a bar closes -------------------------------------------------------------------------------------------------

    def _closed(
        self, row: Row, origin: str, at_ms: float, received_ns: int, feed_ms: float, newest: bool = True
    ) -> None:
        start_ms = int(row[0])
        if start_ms <= self.last_ms:
            self.counts.repeated += 1
            if start_ms == self.last_ms and row[:6] != self._last_row[:6]:
                self.note("revised", f"bar {utc_text(start_ms)} came again as {row[1:6]}, was {self._last_row[1:6]}")
            return
        expected = self.last_ms + self._step_ms
        if start_ms > expected and self.last_ms >= 0:
            if origin == "stream":
                self._fill_hole(start_ms)
            if (lost := (start_ms - self.last_ms) // self._step_ms - 1) > 0:
                self.counts.missing += lost
                self.note("gap", f"{lost} bars before {utc_text(start_ms)} are missing on REST too")
        self._step(row, origin, at_ms, received_ns, feed_ms, "" if newest else "missed bars")

    def _fill_hole(self, before_ms: int) -> None:
        recent = self._feed.closed_since(self.market, self.last_ms + self._step_ms)
        for row in _rows(recent.candles[recent.candles.start_ms < before_ms]):
            self._closed(row, "rest", recent.now_ms, recent.asked_ns, math.nan, newest=False)

    def _step(self, row: Row, origin: str, at_ms: float, received_ns: int, feed_ms: float, cause: str) -> None:
        start_ms = int(row[0])
        if self._opened_ms < start_ms:
            self._open_unseen(start_ms, row[1])
        began_ns = time.monotonic_ns()
        tick = self._see(np.array(row[:6]))
        position, bars_held = self.ledger.weight, self.ledger.bars_held
        target = tick.target if tick else 0
        late_ms = at_ms - (start_ms + self._step_ms) + elapsed_ms(received_ns)
        if not cause and late_ms > self._deadline_ms:
            cause = "deadline"
        if target == position:
            cause = ""
        decision = Decision(
            start_ms=start_ms,
            version=self.model.ref.version if self.model else "",
            values=tick.values if tick else np.empty(0),
            position=position,
            bars_held=bars_held,
            target=target,
            wanted=position if cause else target,
            cause=cause,
            reason=self._reason(tick, position, target),
            late_ms=late_ms,
            feed_ms=feed_ms,
            queue_us=(began_ns - received_ns) / 1e3,
            step_us=(time.monotonic_ns() - began_ns) / 1e3,
        )
        decided_ns = time.monotonic_ns()
        self._journal.decided(self.market.slug, row, origin, decision)
        self.counts.journal_us.append((time.monotonic_ns() - decided_ns) / 1e3)
        self.counts.stepped += 1
        self._count(cause)
        self.close, self._last_row, self._pending, self._first = row[4], row, decision, None
        self._unfilled = "stale"
        self._on_decision(self, decision)

    def _reason(self, tick: Tick | None, position: int, target: int) -> str:
        if tick is None or self._params is None:
            return self.why_none or "there is no version"
        if not np.isfinite(tick.probabilities).all():
            lacks = self.history_bars + 1 - self._unbroken
            return f"warming up: lacks {lacks} bars" if lacks > 0 else "warming up: too few bars with trades"
        p_sell, p_hold, p_buy = tick.probabilities.tolist()
        mu = expected_return(p_sell, p_hold, p_buy, tick.vol, self._params)
        verbs = {(0, 0): "stay flat", (1, 1): "stay long", (-1, -1): "stay short"}
        verb = verbs.get((position, target)) or ("close" if target == 0 else "go long" if target > 0 else "go short")
        return f"{verb}: mu {1e4 * mu:+.1f} bp, round trip {2e4 * self._params[1]:.1f} bp"

    # --- a bar opens --------------------------------------------------------------------------------------------------

    def _try_open(self) -> None:
        pending, first = self._pending, self._first
        if pending is None or first is None:
            return
        start_ms, (price, at_ms, received_ns) = self.last_ms + self._step_ms, first
        trades = pending.wanted != self.ledger.weight
        quote = Quote(price)
        if trades and self._broker is not None:
            if self._book is None or self._book.ts_ms < start_ms:
                return  # the book of before the open says nothing about the open
            quote = Quote(price, self._book.bid, self._book.ask)
            at_ms, received_ns = self._time.at(self._book.ts_ms, self._book.received_ns), self._book.received_ns
        late_ms = at_ms - start_ms + elapsed_ms(received_ns)
        cause = "stale" if trades and late_ms > self._deadline_ms else ""
        self._open(start_ms, self.ledger.weight if cause else pending.wanted, cause, quote, late_ms)

    def _open_unseen(self, start_ms: int, price: float) -> None:
        """Book an open that nobody saw: funding is due, and nothing is traded."""
        pending = self._pending
        undone = pending is not None and pending.wanted != self.ledger.weight
        self._open(start_ms, self.ledger.weight, self._unfilled if undone else "", Quote(price), math.nan)

    def _open(self, start_ms: int, wanted: int, cause: str, quote: Quote, late_ms: float) -> None:
        rate = self._rate_due(start_ms)
        if self._broker is None:
            held = self.ledger.bars_held + 1 if wanted == self.ledger.weight else 1
            opened = Opened(self.ledger._replace(weight=wanted, bars_held=held), None, 0.0)
        else:
            opened = self._broker.open_bar(self.ledger, wanted, quote, rate)
        self._journal.opened(self.market.slug, BarOpen(start_ms, wanted, cause, quote, rate, late_ms, opened))
        self.ledger, self._opened_ms, self._first = opened.ledger, start_ms, None
        self.counts.traded += opened.fill is not None
        self._count(cause)

    def _rate_due(self, start_ms: int) -> float:
        """Return the sum of the rates whose stamps came since the open before, as the stream told them."""
        interval_ms = self.instrument.funding_interval_min * MINUTE_MS
        since_ms = max(self._opened_ms, start_ms - self._step_ms)
        due = range((since_ms // interval_ms + 1) * interval_ms, start_ms + 1, interval_ms) if interval_ms else ()
        total = 0.0
        if self.ledger.weight and due:
            lacking = [stamp for stamp in due if stamp not in self._rates]
            if lacking:
                told = self._feed.funding(self.market, lacking[0], lacking[-1] + MINUTE_MS)
                self._rates |= {stamp // MINUTE_MS * MINUTE_MS: rate for stamp, rate in told}
            total = sum(self._rates.get(stamp, 0.0) for stamp in due)
        self._rates = {stamp: rate for stamp, rate in self._rates.items() if stamp > start_ms}
        return total

    # --- versions and notes -------------------------------------------------------------------------------------------

    def take_over(self, model: ServedModel | None, why_none: str = "") -> None:
        """Let another version decide from the next bar on; position and bars held are taken over too."""
        candles, _ = self._journal.reader().candles(self.market.slug)
        self.model, self.why_none = model, why_none
        self._tick, self._params = (model.tick(), model.params) if model else (None, None)
        if self._tick is not None:
            self._tick.warm_up(candles.matrix())
        self._journal.takeover(self.market.slug, self.last_ms + self._step_ms, model.ref.version if model else "")

    def note(self, kind: str, said: str) -> None:
        """Note something in the journal."""
        self._journal.note(self.last_ms, self.market.slug, kind, said)

    def _count(self, cause: str) -> None:
        if cause:
            self.counts.causes[cause] = self.counts.causes.get(cause, 0) + 1


def _rows(candles: Candles) -> list[Row]:
    columns = [getattr(candles, name).tolist() for name in CANDLE_COLUMNS]
    return [(float(ms), *row) for ms, *row in zip(candles.start_ms.tolist(), *columns, strict=True)]
