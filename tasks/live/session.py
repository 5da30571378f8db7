"""A session: markets on one queue of events, until it is told to stop or has stepped its bars."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from storage.locks import exclusive
from storage.schema import Candles, ConfigError, Market, Source, TemporaryError
from tasks.exchange.gateway import Gateway
from tasks.exchange.pages import plausible
from tasks.exchange.stream import PublicStream
from tasks.exchange.stream_events import Event, Key, Reconnected, Refused
from tasks.live.journal import Journal
from tasks.live.market_session import MarketSession, Recent

_LOOK_S = 1.0  # how long the queue is waited for before somebody looks whether to stop
_RETRY_S = 5.0  # between two questions for what REST did not give


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
        windows = self.gateway.windows(market, first_ms, last_ms)
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
        streams: Open, one a category; all put into `events`.
        events: What comes in.
        feed: REST.
        journal: Where everything is written first.
        bars: After how many stepped bars a market is done; None goes on until `stop`.
        stop: Set by whoever wants the session to end.
        on_note: Is told what a person would want to know, one line each.
    """

    def __init__(
        self,
        markets: Sequence[MarketSession],
        streams: Sequence[PublicStream],
        events: queue.Queue[Event],
        feed: RestFeed,
        journal: Journal,
        *,
        bars: int | None = None,
        stop: threading.Event | None = None,
        on_note: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.markets: Mapping[Key, MarketSession] = {(one.market.category, one.market.symbol): one for one in markets}
        if len(self.markets) != len(markets):
            raise ConfigError("a session steps each symbol once; give every interval a session of its own")
        self._streams, self._events, self._feed, self._journal = streams, events, feed, journal
        self._bars = bars
        self._stop = stop or threading.Event()
        self._on_note = on_note
        self._behind: set[Key] = set()  # markets of which REST must be asked again
        self._asked_s = 0.0

    def run(self) -> None:
        """Step bars until the session is over."""
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


def latency(session: MarketSession, journal: Journal) -> dict[str, dict[str, float]]:
    """Return p50 and p99 of each stage of a market's decisions: queue, step and journal in us, feed in ms."""
    decisions = journal.reader().decisions(session.market.slug)
    stages = {
        "feed_ms": [one.feed_ms for one in decisions],
        "queue_us": [one.queue_us for one in decisions],
        "step_us": [one.step_us for one in decisions],
        "journal_us": list(session.counts.journal_us),
    }
    return {
        name: {"p50": float(np.percentile(known, 50)), "p99": float(np.percentile(known, 99))}
        for name, values in stages.items()
        if (known := [value for value in values if np.isfinite(value)])
    }


def rss_mb() -> float:
    """Return this process's resident memory, MB."""
    return float(psutil.Process().memory_info().rss / 1e6)
