"""One market of a session: what is done with each closed bar and each open, in which order, and why something is not.

    close of t   hole before it filled over REST -> open of t booked, if nothing has -> step -> decide -> journal
    open of t+1  first price, and a book that is no older -> funding -> fill -> journal

A bar that is not newer than the last is dropped. Bars that were missed are stepped, and only the newest may trade. A
decision that comes too late is recorded with its cause and changes no position; at an open that is seen too late
nothing is opened, and with orders what only closes waits neither for a first price nor for a book. Versions that only
watch, the shadows, decide and fill beside the session's own, each with a ledger of its own.
"""

from __future__ import annotations

import math
import struct
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from storage.schema import (
    Candles,
    Instrument,
    Market,
    Rejected,
    StoreError,
    TemporaryError,
    utc_text,
)
from tasks.champion.serving import ServedModel
from tasks.exchange.boot_clock import boottime_ns
from tasks.exchange.private_events import ExecutionNews, OrderNews
from tasks.exchange.stream_events import BookTop, ConfirmedBar, FormingBar, Ticker, Trade
from tasks.execution.paper import Quote
from tasks.journal.journal import Journal
from tasks.journal.journal_rows import BarOpen, Cause, Decision
from tasks.live.account import Account, BarStart, ClosedBar
from tasks.live.exchange_time import ExchangeTime
from tasks.live.funding_rates import FundingRates
from tasks.live.missed_bars import MissedBars
from tasks.live.rest_feed import RestFeed
from tasks.live.session_config import SessionConfig
from tasks.strategy.live_tick import day_vol, share_taken

_OPEN_STATUS = ("Trading", "PreLaunch")
_CANDLE = struct.Struct("6d")
_MARK_MS = 10_000  # after which a mark price that was told says nothing of now


@dataclass
class Counts:
    """What a market has seen.

    Attributes:
        stepped: Bars of the session that were stepped, those of before a restart included.
        missing: Bars that not even REST has.
        repeated: Bars that came again and were dropped.
        journal_us: Of each bar, how long its commit took.
    """

    stepped: int = 0
    missing: int = 0
    repeated: int = 0
    journal_us: array[float] = field(default_factory=lambda: array("d"))


class MarketSession:
    """A market, from its journal on.

    Args:
        market: Which.
        own: The session's own account.
        shadows: Versions that decide and fill beside it.
        instrument: The exchange's rules.
        journal: Where everything is written first.
        feed: REST.
        time: Whose time deadlines are in; `now_ms` is always of this clock, the exchange's.
        config: The rules.
        bars: After how many stepped bars nothing is stepped any more; None for no end.
        on_decision: Is given each decision of the session's own account when it is safe.

    Attributes:
        halted: Why it is stepped no more; empty while it is.
        last_ms: The last bar that was stepped; -1 for none.
        close: Its close.
    """

    def __init__(
        self,
        market: Market,
        own: Account,
        *,
        shadows: Sequence[Account] = (),
        instrument: Instrument,
        journal: Journal,
        feed: RestFeed,
        time: ExchangeTime,
        config: SessionConfig,
        bars: int | None = None,
        on_decision: Callable[[MarketSession, Decision], object] = lambda session, decision: None,
    ) -> None:
        self.market, self.instrument = market, instrument
        self._slug = market.slug
        self.own, self.accounts = own, (own, *shadows)
        self.counts = Counts()
        self.halted = ""
        self.last_ms = -1
        self.close = math.nan
        self._journal, self._feed, self._time, self._config = journal, feed, time, config
        self._bars = bars
        self._on_decision = on_decision
        self._step_ms = market.interval_ms
        self._deadline_ms = config.deadline_share * market.interval_ms
        self._unbroken = 0
        self._first: BarStart | None = None
        self._marked_ms = -math.inf  # of when the mark price is
        self._book: BookTop | None = None
        self._rates = FundingRates(market, instrument.funding_interval_min, feed)
        self._last_row: tuple[float, ...] = ()
        self._candle = np.empty(6)  # of the bar that is stepped
        self._candle_bytes = self._candle.data
        self._missed = MissedBars(market, feed, config.confirm_grace_s)
        self._since_ms = 0

    @property
    def goes_on(self) -> bool:
        """Whether there are bars to step."""
        return not self.halted and (self._bars is None or self.counts.stepped < self._bars)

    # --- from where it starts -----------------------------------------------------------------------------------------

    @property
    def history_bars(self) -> int:
        """Bars of the past that make the next one ready, for every account."""
        return max(account.history_bars for account in self.accounts)

    def warm_up(self, candles: Candles, since_ms: int = 0) -> None:
        """Step the past, which is traded by nobody, and note it.

        Args:
            candles: Oldest first.
            since_ms: From where on they were asked for; where there are none, REST is asked from there again.
        """
        self._since_ms = since_ms
        first_ms = int(candles.start_ms[-1]) + self._step_ms if len(candles) else 0
        with self._journal.together():  # who is killed between the two could not go on
            self._journal.history(self.market.slug, candles)
            self._journal.takeover(self.market.slug, first_ms, self.own.version, self.own.rules)
        self._remember(candles)

    def resume(self) -> bool:
        """Go on from what the journal says; return whether it says anything.

        Raises:
            StoreError: It is damaged.
        """
        reader, slug = self._journal.reader(), self.market.slug
        candles, _ = reader.candles(slug)
        if not len(candles):
            return False
        self._remember(candles)
        if not (takeovers := reader.takeovers(slug)):
            raise StoreError(f"the journal is damaged: it lacks which version decides in {slug}; start another session")
        _, version, rules = takeovers[-1]
        if self.own.model is None:
            self.own.rules = rules
        for account in self.accounts:
            opens, decisions = reader.opens(account.name, last=1), reader.decisions(account.name, last=1)
            account.resume(opens[0] if opens else None, decisions[0] if decisions else None)
        self.counts.stepped = reader.decided(slug)
        self.note("resumed", f"with {self.own.ledger}")
        if version != self.own.version:
            self._journal.takeover(slug, self._next_ms, self.own.version, self.own.rules)
        return True

    def _remember(self, candles: Candles) -> None:
        for account in self.accounts:
            account.warm_up(candles)
        for start_ms in candles.start_ms.tolist():
            self._unbroken = self._unbroken + 1 if start_ms == self._next_ms else 1
            self.last_ms = start_ms
        if len(candles):
            self.close, self._last_row = float(candles.close[-1]), tuple(candles[-1:].matrix()[0].tolist())

    # --- what comes in ------------------------------------------------------------------------------------------------

    def on_event(self, event: ConfirmedBar | FormingBar | BookTop | Trade | Ticker) -> None:
        """Take in one event of this market's stream."""
        at_ms = self._time.at(event.ts_ms, event.received_ns)
        self._missed.heard(event.received_ns, event.start_ms if isinstance(event, FormingBar) else None)
        if isinstance(event, ConfirmedBar):
            if event.start_ms > at_ms:
                # Taken for true, it would make every bar until then an old one, whatever its message says of itself.
                self.note("future", f"bar {utc_text(event.start_ms)} has not begun, so it is dropped")
                return
            start_ms = event.start_ms
            self._missed.heard(event.received_ns, start_ms)
            feed_ms = self._time.feed_ms(event.ts_ms, event.received_ns)
            row = (start_ms, *event[3:9])
            self._closed(ClosedBar(start_ms, row, "stream", at_ms, event.received_ns, feed_ms, True))
            return
        if isinstance(event, Ticker):
            if event.next_funding_ms:
                self._rates.learn(event.next_funding_ms, event.funding_rate, event.ts_ms)
            self.own.mark, self._marked_ms = event.mark, event.ts_ms
            return
        if isinstance(event, BookTop):
            self._book = event
        elif isinstance(event, FormingBar):
            self._price(event.start_ms, event.open, at_ms, event.received_ns)
        else:
            self._price(self.market.floor(event.ts_ms), event.price, at_ms, event.received_ns)
        self.poll(at_ms)

    def on_account(self, events: Sequence[OrderNews | ExecutionNews]) -> None:
        """Take in events of the account's own stream, which are safe together before anything follows from them."""
        with self._journal.together():
            for event in events:
                self.own.on_account_event(event)
        if not self.halted:
            self._go_on(self._time.now_ms())

    def _go_on(self, now_ms: float) -> None:
        """Go on with orders, and book what came of them."""
        trouble = self.own.poll()
        if now_ms - self._marked_ms > _MARK_MS:
            self.own.mark = math.nan
        self._try_open(now_ms)
        if trouble and self.own.opened_ms < self._next_ms:
            self._book_opens([(self.own, self.own.open_unseen(self._next_ms, self._price_now, 0.0))])
        if self.own.opened_ms >= self._next_ms:
            self._book_late(now_ms)
        if trouble:
            raise Rejected(trouble, 0)

    def _book_late(self, now_ms: float) -> None:
        """Book what came since the open. The bar may be over by now: its last millisecond is its confirmation's."""
        late = self.own.late(min(int(now_ms), self._next_ms + self._step_ms - 2), self._price_now)
        self._book_opens([(self.own, late)] if late else [])

    @property
    def _next_ms(self) -> int:
        """Open time of the bar that forms."""
        return self.last_ms + self._step_ms

    @property
    def _price_now(self) -> float:
        """Its first price, or the last close where nobody has told of one, USDT."""
        return self._first.quote.first if self._first else self.close

    def poll(self, now_ms: float) -> None:
        """Go on with orders, and ask REST for a bar whose confirmation is overdue.

        What REST lacks too, or does not say, is asked for more and more seldom.

        Raises:
            Rejected: The exchange trades or knows this market no more, or its orders are in trouble.
        """
        self._go_on(now_ms)
        if not self._missed.is_overdue(self.last_ms, now_ms):
            return
        known_ms = self.last_ms
        try:
            self.catch_up()
        except TemporaryError as err:
            self._missed.ask_later(now_ms)
            self._give_up_if_lost(now_ms, str(err))
            raise
        if self.last_ms == known_ms:
            self._missed.ask_later(now_ms)
            self._give_up_if_lost(now_ms, "the exchange has none")
            if (status := self._feed.status(self.market)) not in _OPEN_STATUS:
                raise Rejected(f"the exchange says that it is {status}", 0)

    def _give_up_if_lost(self, now_ms: float, why: str) -> None:
        if self._is_lost(now_ms):
            raise Rejected(f"no bar since {utc_text(self.last_ms)} ({why}), while a position is held", 0)

    def _is_lost(self, now_ms: float) -> bool:
        """Return whether something is held of which nobody has heard for too long."""
        return self.own.is_open and now_ms >= self.last_ms + (1 + self.own.bars_unknown) * self._step_ms

    def wind_down(self, now_ms: float) -> bool:
        """Go on with what is held after the market was halted; return whether there is more to do in this session."""
        goes_on = self.own.wind_down(self._is_lost(now_ms))
        self._book_late(now_ms)
        left_ms = math.inf if self._bars is None else (self._bars - self.counts.stepped) * self._step_ms
        return goes_on and now_ms - self._next_ms < left_ms

    def reconnected(self) -> None:
        """Note that the stream begins anew and has told of no bar yet."""
        self._missed.reconnected()
        self.own.mark = math.nan

    def catch_up(self, before_ms: float = math.inf) -> None:
        """Ask REST for every bar that has closed, before that time, and was not stepped, and step it."""
        first_ms = self._next_ms if self.last_ms >= 0 else self._since_ms
        for bar in self._missed.since(first_ms, before_ms):
            self._closed(bar)

    def _price(self, start_ms: int, price: float, at_ms: float, received_ns: int) -> None:
        if self._first is None and start_ms == self._next_ms:
            self._first = BarStart(start_ms, Quote(price), at_ms, received_ns)

    # --- a bar closes -------------------------------------------------------------------------------------------------

    def _closed(self, bar: ClosedBar) -> None:
        if bar.start_ms <= self.last_ms:
            self.counts.repeated += 1
            if bar.start_ms == self.last_ms and bar.row[:6] != self._last_row[:6]:
                said = f"bar {utc_text(bar.start_ms)} came again as {bar.row[1:6]}, was {self._last_row[1:6]}"
                self.note("revised", said)
            return
        if bar.start_ms > self._next_ms and self.last_ms >= 0:
            if bar.origin == "stream":
                self.catch_up(before_ms=bar.start_ms)
            if (lost := (bar.start_ms - self.last_ms) // self._step_ms - 1) > 0 and self.goes_on:
                self.counts.missing += lost
                self.note("gap", f"{lost} bars before {utc_text(bar.start_ms)} are missing on REST too")
        if self.goes_on:  # of what is caught up with, too, so many and no more
            self._step(bar)

    def _step(self, bar: ClosedBar) -> None:
        if unseen := [one for one in self.accounts if one.opened_ms < bar.start_ms]:
            self._book_opens(
                [(one, one.open_unseen(bar.start_ms, bar.open, self._rate_due(one, bar.start_ms))) for one in unseen]
            )
        if late := self.own.late(bar.start_ms + self._step_ms - 1, bar.close, closes=True):
            self._book_opens([(self.own, late)])
        _CANDLE.pack_into(self._candle_bytes, 0, *bar.row[:6])
        candle, trusted = self._candle, self._time.trusted
        unbroken = self._unbroken + 1 if bar.start_ms == self._next_ms else 1
        decisions = [
            (one.name, one.decide(bar, candle, unbroken, self._step_ms, self._deadline_ms, trusted))
            for one in self.accounts
        ]
        began_ns = time.monotonic_ns()
        self._journal.decided(self._slug, bar.row, bar.origin, decisions)
        self.counts.journal_us.append((time.monotonic_ns() - began_ns) / 1e3)
        self.counts.stepped += 1
        self.last_ms, self._unbroken, self.close, self._last_row = bar.start_ms, unbroken, bar.close, bar.row
        self._first = None
        self._missed.stepped()
        self._rates.forget_until(bar.start_ms)
        self._on_decision(self, decisions[0][1])

    # --- a bar opens --------------------------------------------------------------------------------------------------

    def _try_open(self, now_ms: float) -> None:
        start_ms, opened = self._next_ms, []
        for one in self.accounts:
            if one.opened_ms < start_ms and (first := self._first or self._instead(one, now_ms - start_ms)):
                rate = self._rate_due(one, start_ms)
                bar = one.try_open(first, self._book, self._time, self._deadline_ms, rate)
                opened += [(one, bar)] if bar else []
        self._book_opens(opened)

    def _instead(self, account: Account, late_ms: float) -> BarStart | None:
        """Return the last price that is known, where nobody tells of a first one and that is enough; else None."""
        start_ms = self._next_ms
        waits = late_ms <= 1_000 * self._config.confirm_grace_s
        if waits or not account.only_closes(late_ms > self._deadline_ms):
            return None
        return BarStart(start_ms, Quote(self.close), start_ms + late_ms, boottime_ns())

    def _book_opens(self, opened: Sequence[tuple[Account, BarOpen]]) -> None:
        if opened:
            self._journal.opened([(one.name, bar) for one, bar in opened])
            for one, bar in opened:
                one.apply(bar)

    def _rate_due(self, account: Account, start_ms: int) -> float:
        """Return the sum of the rates that an account pays for the stamps since the open before."""
        if not account.ledger.side or not account.pays_by_rate:
            return 0.0
        since_ms = max(account.opened_ms, start_ms - self._step_ms)
        # Nobody asks for a shadow's where orders are sent, which would wait for the answer: it does not pay them.
        return self._rates.due(since_ms, start_ms, asks=self.own.pays_by_rate)

    @property
    def still_open(self) -> str:
        """What is held, or may come to be, though it should not at the end; empty for nothing."""
        ends_flat = "the session was to end flat" if self._config.at_end == "flat" else ""
        why = self.own.must_be_flat or ends_flat
        return (
            f"{self.market}: {self.own.ledger.quantity:g} by the ledger, and {why}" if self.own.is_open and why else ""
        )

    def close_out(self, until_s: float) -> Iterator[None]:
        """Close every position amid the bar, at what the market last offered, because the session ends.

        Yields while something is under way, so that other markets are closed meanwhile.

        Args:
            until_s: Of `boottime_s`: it is meant to be done by then.
        """
        start_ms, price = self._next_ms, self._price_now
        at_ms = min(int(self._time.now_ms()), start_ms + self._step_ms - 1)  # a later row would be another bar's
        held = [account for account in self.accounts if account.is_open]
        if held:
            self.note("stopped", "positions are closed because the session ends")
        unseen = [account for account in held if account.opened_ms < start_ms]
        for one in unseen:
            one.unfilled = Cause.STOP
        self._book_opens([(one, one.open_unseen(start_ms, price, self._rate_due(one, start_ms))) for one in unseen])
        book = self._book
        quote = Quote(price) if book is None else Quote((book.bid + book.ask) / 2, book.bid, book.ask)
        rows = [(one, max(at_ms, one.opened_ms + 1)) for one in held]
        for one, row_ms in rows:
            one.begin_close_out(row_ms, quote, until_s)
        while any(one.is_closing() for one in held):  # shadows never are
            yield
        self._book_opens([(one, one.close_out(row_ms, quote)) for one, row_ms in rows])

    def worth(self, account: Account) -> float:
        """Return what an account is worth at the last close, USDT; before the first one nothing is held."""
        return account.ledger.equity(self.close) if account.ledger.quantity else account.ledger.cash

    def daily_limit(self, decision: Decision) -> float:
        """Return what an account by orders may lose on a day of a decision's position, share of its equity."""
        model, worth = self.own.model, self.own.ledger.equity(self.close)
        usual = model.recipe.backtest.usual_share(worth, self.close) if model is not None and worth > 0.0 else math.nan
        risk = usual * share_taken(decision.values) * day_vol(decision.values, self._step_ms)
        return self._config.limits.of_day(risk)

    # --- versions and notes -------------------------------------------------------------------------------------------

    def take_over(self, model: ServedModel | None, why_none: str = "") -> None:
        """Let another version decide from the next bar on; position and bars held are taken over too."""
        candles, _ = self._journal.reader().candles(self.market.slug)
        self.own.decide_by(model, why_none)
        self.own.warm_up(candles)
        self._journal.takeover(self.market.slug, self._next_ms, self.own.version, self.own.rules)

    def note(self, kind: str, said: str) -> None:
        """Note something in the journal."""
        self._journal.note(self.last_ms, self.market.slug, kind, said)
