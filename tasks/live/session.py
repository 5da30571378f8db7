"""A session: markets on one queue of events, until it is told to stop or has stepped its bars."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from storage.locks import exclusive
from storage.schema import Candles, ClockError, ConfigError, FloatArray, Market, Source, TemporaryError, Window
from tasks.champion.serving import ServedModel
from tasks.exchange.connection import Link
from tasks.exchange.gateway import Gateway
from tasks.exchange.pages import plausible
from tasks.exchange.stream import QUEUE_EVENTS, PublicStream, StreamTiming
from tasks.exchange.stream_events import Event, Key, Reconnected, Refused
from tasks.execution.paper import Ledger, Opened, Quote, open_bar
from tasks.live.journal import Decision, Journal
from tasks.live.market_session import MarketSession, Recent
from tasks.live.session_config import DataTime, SessionConfig, WallTime, session_rules
from tasks.strategy.recipe import Recipe

_LOOK_S = 1.0  # how long the queue is waited for before somebody looks whether to stop
_RETRY_S = 5.0  # between two questions for what REST did not give
_SPARE_BARS = 200  # beyond what makes a market ready
_CLOCK_MS = 500
_REPLAY_EVENTS = 32  # some two bars: a replay's clock waits, so that REST is never far ahead of the stream


@dataclass(frozen=True, kw_only=True)
class RestFeed:
    """What a session asks over REST, through the gateway's pacing and retries.

    Attributes:
        gateway: Open.
    """

    gateway: Gateway

    def closed_since(self, market: Market, first_ms: int) -> Recent:
        """Return what has closed from the bar `first_ms` on."""
        asked_ns = time.monotonic_ns()
        now_ms = self.gateway.server_time_ms()
        last_ms = market.floor(now_ms) - market.interval_ms
        if first_ms > last_ms:
            return Recent(Candles.empty(), now_ms, asked_ns)
        windows = Window.cover(market, first_ms, last_ms)
        fetched = sorted(self.gateway.fetch_windows(market, windows, now_ms), key=lambda part: part.window.first_ms)
        candles = Candles.join([part.candles for part in fetched])
        return Recent(candles[plausible(candles)], now_ms, asked_ns)

    def funding(self, market: Market, first_ms: int, last_ms: int) -> list[tuple[int, float]]:
        """Return funding stamps and rates of a range, both ends inclusive."""
        return self.gateway.funding(market.category, market.symbol, first_ms, last_ms)


def one_session(folder: Path, source: Source, markets: Sequence[Market], stack: ExitStack) -> None:
    """Hold each market's lock for as long as `stack` is open: two sessions would trade each other's decisions.

    Raises:
        StoreBusyError: Another process has a session of one of them; the text names it.
    """
    for market in markets:
        path = folder / "locks" / f"session-{source}-{market.slug}".replace(":", "-")
        stack.enter_context(exclusive(path, f"a session of {market} from {source}", 0.0))


class Session:
    """Markets that are stepped as their bars close.

    Args:
        markets: Each warmed up or resumed.
        events: What comes in, from one stream a category.
        journal: Where everything is written first.
        streams: How many streams put into `events`.
        bars: After how many stepped bars a market is done; None goes on until `stop`.
        stop: Set by whoever wants the session to end.
        on_note: Is told what a person would want to know, one line each.
    """

    def __init__(
        self,
        markets: Sequence[MarketSession],
        events: queue.Queue[Event],
        journal: Journal,
        *,
        streams: int = 1,
        bars: int | None = None,
        stop: threading.Event | None = None,
        on_note: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.markets: Mapping[Key, MarketSession] = {(one.market.category, one.market.symbol): one for one in markets}
        if len(self.markets) != len(markets):
            raise ConfigError("a session steps each symbol once; give every interval a session of its own")
        self._events, self.journal = events, journal
        self._bars, self._awaited = bars, streams
        self._stop = stop or threading.Event()
        self._on_note = on_note
        self._behind: set[Key] = set()  # markets of which REST must be asked again
        self._asked_s = 0.0

    def run(self, on_ready: Callable[[], object] = lambda: None) -> None:
        """Step bars until the session is over.

        Args:
            on_ready: Is called once, when every stream is connected and every market is up to date.
        """
        self._behind = set(self.markets)
        self._catch_up()
        while not self._over():
            try:
                event = self._events.get(timeout=_LOOK_S)
            except queue.Empty:
                self._catch_up()
                continue
            if isinstance(event, Reconnected):
                self._behind |= set(self.markets)
                self._asked_s = 0.0
                self._catch_up()
                self._awaited -= 1
                if self._awaited == 0:
                    on_ready()
            elif isinstance(event, Refused):
                self._refused(event)
            else:
                self._take(event)
            if self._behind:
                self._catch_up()

    def _over(self) -> bool:
        going = [one for one in self.markets.values() if not one.halted]
        done = all(self._bars is not None and one.counts.stepped >= self._bars for one in going)
        return self._stop.is_set() or done

    def _take(self, event: Any) -> None:
        market = self.markets.get(event.key)
        if market is None or market.halted or (self._bars is not None and market.counts.stepped >= self._bars):
            return
        try:
            market.on_event(event)
        except TemporaryError as err:
            self._say(market, "rest", str(err))
            self._behind.add(event.key)

    def _catch_up(self) -> None:
        """Ask REST for what was missed; what can't be had is asked for again a little later."""
        if not self._behind or time.monotonic() - self._asked_s < _RETRY_S:
            return
        self._asked_s = time.monotonic()
        for key in sorted(self._behind):
            market = self.markets[key]
            try:
                if not market.halted:
                    market.catch_up()
                self._behind.discard(key)
            except TemporaryError as err:
                self._say(market, "rest", str(err))

    def _refused(self, event: Refused) -> None:
        symbols = {topic.rpartition(".")[2] for topic in event.topics}
        for (_, symbol), market in self.markets.items():
            if symbol in symbols:
                market.halted = f"the exchange gives no stream of it ({event.message})"
                self._say(market, "halted", market.halted)

    def _say(self, market: MarketSession, kind: str, said: str) -> None:
        market.note(kind, said)
        self._on_note(f"{market.market}: {said}")


@dataclass(frozen=True, kw_only=True)
class PaperBroker:
    """Fills on paper, by the version's own costs and size and the exchange's steps.

    Attributes:
        rules: (8,) from `session_config.session_rules`.
    """

    rules: FloatArray

    def open_bar(self, ledger: Ledger, wanted: int, quote: Quote, funding_rate: float) -> Opened:
        """Pay the funding that is due and trade to the wanted weight."""
        return open_bar(ledger, wanted, quote, funding_rate, self.rules)


@contextmanager
def open_session(
    link: Link,
    models: Mapping[Market, ServedModel | None],
    journal: Journal,
    *,
    mode: Literal["signal", "paper"],
    config: SessionConfig = SessionConfig(),
    timing: StreamTiming = StreamTiming(),
    bars: int | None = None,
    stop: threading.Event | None = None,
    on_decision: Callable[[MarketSession, Decision], object] = lambda market, decision: None,
    on_note: Callable[[str], object] = lambda line: None,
) -> Iterator[Session]:
    """Connect a session to an exchange: resumed from its journal, or warmed up from the exchange's past.

    Args:
        link: The exchange.
        models: What decides in each market; None holds no position there.
        journal: Empty, or of this very session.
        mode: signal only says what it would hold.
        config: The rules.
        timing: Of the stream.
        bars: After how many bars it ends; None goes on until `stop`.
        stop: Set by whoever wants it to end.
        on_decision: Is given each decision when it is safe.
        on_note: Is told what a person would want to know, one line each.

    Raises:
        ClockError: This machine's clock is more than 0.5 s away from the exchange's.
        StoreError: The journal is of another session.
    """
    feed = RestFeed(gateway=link.gateway)
    exchange_time = DataTime() if link.is_replay else WallTime(_checked_offset(link.gateway))
    events: queue.Queue[Event] = queue.Queue(_REPLAY_EVENTS if link.is_replay else QUEUE_EVENTS)
    markets = []
    for market, model in models.items():
        recipe = model.recipe if model else Recipe()
        instrument = link.gateway.instrument(market)
        capital = config.capital / len(models) if config.capital else recipe.backtest.initial_capital
        markets.append(
            MarketSession(
                market,
                model,
                why_none="" if model else "there is no version in force",
                broker=PaperBroker(rules=session_rules(recipe, instrument)) if mode == "paper" else None,
                instrument=instrument,
                capital=capital,
                journal=journal,
                feed=feed,
                time=exchange_time,
                config=config,
                on_decision=on_decision,
            )
        )
    journal.agree(
        {
            "mode": mode,
            "source": link.gateway.source,
            "capital": {one.market.slug: one.ledger.cash for one in markets},
            "deadline_ms": {one.market.slug: config.deadline_share * one.market.interval_ms for one in markets},
            "instruments": {one.market.slug: asdict(one.instrument) for one in markets},
        }
    )
    for one in markets:
        if not one.resume():
            one.warm_up(_past(feed, one, on_note))
    with ExitStack() as stack:
        categories = sorted({market.category for market in models})
        for category in categories:
            stream = PublicStream(
                [market for market in models if market.category == category],
                exchange=link.exchange,
                url=link.stream_url,
                events=events,
                timing=timing,
                patient=link.is_replay,
                on_note=on_note,
            )
            stack.enter_context(stream)
        yield Session(markets, events, journal, streams=len(categories), bars=bars, stop=stop, on_note=on_note)


def _past(feed: RestFeed, one: MarketSession, on_note: Callable[[str], object]) -> Candles:
    """Return the candles that make the next bar ready, and a few more: a halt among them has no features."""
    bars = one.history_bars + _SPARE_BARS
    now_ms = feed.gateway.server_time_ms()
    first_ms = max(one.market.floor(now_ms) - bars * one.market.interval_ms, one.instrument.launch_ms, 0)
    candles = feed.closed_since(one.market, one.market.ceil(first_ms)).candles
    on_note(f"{one.market}: warmed up with {len(candles)} candles of {bars}")
    return candles


def _checked_offset(gateway: Gateway) -> float:
    before_ns = time.time_ns()
    now_ms = gateway.server_time_ms()
    offset_ms = now_ms - (before_ns + time.time_ns()) / 2e6
    if abs(offset_ms) > _CLOCK_MS:
        raise ClockError(
            f"this machine's clock must be within {_CLOCK_MS} ms of the exchange's, was {abs(offset_ms):.0f} ms "
            f"{'behind' if offset_ms > 0 else 'ahead'}; synchronise it (NTP)"
        )
    return offset_ms


def latency(one: MarketSession, journal: Journal) -> dict[str, dict[str, float]]:
    """Return p50 and p99 of each stage of a market's decisions: queue, step and journal in us, feed in ms."""
    decisions = journal.reader().decisions(one.market.slug)
    stages = {
        "feed_ms": [decision.feed_ms for decision in decisions],
        "queue_us": [decision.queue_us for decision in decisions],
        "step_us": [decision.step_us for decision in decisions],
        "journal_us": list(one.counts.journal_us),
    }
    return {
        name: {"p50": float(np.percentile(known, 50)), "p99": float(np.percentile(known, 99))}
        for name, values in stages.items()
        if (known := [value for value in values if np.isfinite(value)])
    }


def rss_mb() -> float:
    """Return this process's resident memory, MB."""
    return float(psutil.Process().memory_info().rss / 1e6)
