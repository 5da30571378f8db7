"""A session: markets on one queue of events, until it is told to stop or has stepped its bars."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import numpy as np
import psutil

from storage.locks import exclusive
from storage.schema import (
    Candles,
    ClockError,
    ConfigError,
    Instrument,
    Market,
    PipelineError,
    Source,
    StoreError,
    TemporaryError,
    Window,
)
from tasks.champion.serving import ServedModel
from tasks.exchange.connection import Link
from tasks.exchange.gateway import Gateway
from tasks.exchange.pages import plausible
from tasks.exchange.private_events import AccountReconnected, ExecutionNews, OrderNews, PrivateEvent
from tasks.exchange.stream import QUEUE_EVENTS, PublicStream, StreamTiming
from tasks.exchange.stream_events import (
    BookTop,
    ConfirmedBar,
    Event,
    FormingBar,
    Key,
    Reconnected,
    Refused,
    Ticker,
    Trade,
)
from tasks.execution.paper import Ledger, open_bar
from tasks.journal.journal import Journal
from tasks.journal.journal_rows import Decision
from tasks.live.account import BROKERS, Account
from tasks.live.market_session import MarketSession, Recent
from tasks.live.order_account import OrderAccount
from tasks.live.orders import Orders
from tasks.live.session_config import DataTime, ExchangeTime, SessionConfig, WallTime
from tasks.market.features import WARM_UP
from tasks.strategy.recipe import Recipe

_LOOK_S = 1.0  # how long the queue is waited for before somebody looks whether to stop
_RETRY_S = 5.0  # between two questions for what REST did not give
_SPARE_BARS = 200  # beyond what makes a market ready
_USUAL_BARS = WARM_UP + Recipe().network_config.context - 2  # where nothing decides: who takes over is to be ready
_CLOCK_MS = 500  # a session does not begin with a clock that is further off
_CLOCK_FAILURES = 3  # to compare the clocks, in a row, after which nobody knows the exchange's time
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

    def status(self, market: Market) -> str:
        """Return what the exchange says of it: Trading, Closed ..."""
        return self.gateway.instrument(market).status


class Chosen(NamedTuple):
    """What decides in a market.

    Attributes:
        model: None holds no position.
        why_none: Why there is none.
        shadows: Versions that decide and fill on paper beside it.
    """

    model: ServedModel | None
    why_none: str = ""
    shadows: Sequence[ServedModel] = ()


Choose = Callable[[Market, ServedModel | None], Chosen]
"""Which version decides in a market now, given the one that did; loads nothing where that is the same."""


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
        events: What comes in, from one stream a category and from the account's.
        journal: Where everything is written first.
        time: The exchange's.
        config: The rules.
        choose: Says which version decides in each market now; None where that never changes.
        compare_clocks: Returns the exchange's clock minus this machine's, milliseconds; None in a replay.
        streams: How many streams put into `events`.
        bars: After how many stepped bars a market is done; None goes on until `stop`.
        stop: Set by whoever wants the session to end.
        on_note: Is told what a person would want to know, one line each.

    Attributes:
        retry_s: Seconds between two questions for what REST did not give.
        look_every_s: Seconds between two looks at overdue bars, versions and clocks.
    """

    def __init__(
        self,
        markets: Sequence[MarketSession],
        events: queue.Queue[Event | PrivateEvent],
        journal: Journal,
        *,
        time: ExchangeTime,
        config: SessionConfig,
        choose: Choose | None = None,
        compare_clocks: Callable[[], float] | None = None,
        streams: int = 1,
        bars: int | None = None,
        stop: threading.Event | None = None,
        on_note: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.markets: Mapping[Key, MarketSession] = {(one.market.category, one.market.symbol): one for one in markets}
        if len(self.markets) != len(markets):
            raise ConfigError("a session steps each symbol once; give every interval a session of its own")
        self._events, self.journal = events, journal
        self._time, self._config = time, config
        self._choose, self._compare_clocks = choose, compare_clocks
        self._bars, self._awaited = bars, streams
        self._stop = stop or threading.Event()
        self.on_note = on_note
        self.retry_s, self.look_every_s = _RETRY_S, _LOOK_S
        self._winding: set[Key] = set()  # markets that are halted and may still hold something
        self._behind: dict[Key, None] = {}  # markets of which REST must be asked again, the longest waiting first
        self._asked_s = self._looked_s = 0.0
        self._chose_s = self._compared_s = monotonic()
        self._failures = 0  # to compare the clocks, in a row

    def run(self, on_ready: Callable[[], object] = lambda: None) -> None:
        """Step bars until the session is over, and end it as its rules say.

        Args:
            on_ready: Is called once, when every stream is connected and every market is up to date.
        """
        self._behind = dict.fromkeys(self.markets)
        behind: Event | PrivateEvent | None = None
        self._catch_up()
        while not self._over():
            event, behind = behind or self._event(), None
            if isinstance(event, Reconnected):
                for market in self.markets.values():
                    market.reconnected()
                self._behind |= dict.fromkeys(self.markets)
                self._asked_s = 0.0
                self._catch_up()
                self._awaited -= 1
                if self._awaited == 0:
                    on_ready()
            elif isinstance(event, Refused):
                self._refused(event)
            elif isinstance(event, AccountReconnected):
                for market in self.markets.values():
                    market.own.compare_soon()
            elif isinstance(event, OrderNews | ExecutionNews):
                behind = self._take_account(event)
            elif event is not None and event.key in self.markets:
                self._take(self.markets[event.key], event)
            if self._behind:
                self._catch_up()
            if monotonic() - self._looked_s > self.look_every_s:
                self._look()
        if self._config.at_end == "flat":
            for market in self.markets.values():
                self._guard(market, market.close_out)

    def _event(self) -> Event | PrivateEvent | None:
        try:
            return self._events.get(timeout=self.look_every_s)
        except queue.Empty:
            return None

    def _take(self, market: MarketSession, event: ConfirmedBar | FormingBar | BookTop | Trade | Ticker) -> None:
        if self._goes_on(market):
            self._guard(market, partial(market.on_event, event))
        else:
            self._time.at(event.ts_ms, event.received_ns)  # a replay has no other clock

    def _take_account(self, event: OrderNews | ExecutionNews) -> Event | PrivateEvent | None:
        """Take in what the account's stream tells at once, and return what came behind it; None for nothing."""
        told: dict[Key, list[OrderNews | ExecutionNews]] = {}
        behind: Event | PrivateEvent | None = event
        for left in range(self._events.qsize(), -1, -1):
            if not isinstance(behind, OrderNews | ExecutionNews):
                break
            told.setdefault(("linear", behind.symbol), []).append(behind)
            behind = self._events.get_nowait() if left else None
        for key in told.keys() & self.markets.keys():
            self._guard(self.markets[key], partial(self.markets[key].on_account, told[key]))
        return behind

    def _goes_on(self, market: MarketSession) -> bool:
        return not market.halted and (self._bars is None or market.counts.stepped < self._bars)

    def _over(self) -> bool:
        return self._stop.is_set() or not (self._winding or any(map(self._goes_on, self.markets.values())))

    def _guard(self, market: MarketSession, do: Callable[[], object]) -> bool:
        """Do something for a market, and return whether it could be done; what befalls it befalls no other."""
        try:
            do()
            return True
        except (TemporaryError, ClockError) as err:
            key = (market.market.category, market.market.symbol)
            if key not in self._behind:  # else each event of an outage would say it again
                self._say(market, "rest", str(err))
            self._behind[key] = None
        except StoreError:
            raise
        except PipelineError as err:
            self._halt(market, str(err))
        return False

    def _catch_up(self) -> None:
        """Ask REST for what was missed; what can't be had is asked for again a little later."""
        if not self._behind or monotonic() - self._asked_s < self.retry_s:
            return
        for key in list(self._behind):
            market = self.markets[key]
            del self._behind[key]
            if self._goes_on(market):
                self._guard(market, market.catch_up)
            if key in self._behind:
                break  # the others would wait for an answer as long, and with them what the stream says meanwhile
        self._asked_s = monotonic()

    def _look(self) -> None:
        """Do what is due by the clock: overdue bars, other versions, this machine's clock."""
        now_s = self._looked_s = monotonic()
        for market in filter(self._goes_on, self.markets.values()):
            self._guard(market, partial(market.look, self._time.now_ms()))
        for key in sorted(self._winding):
            self._wind_down(key)
        if self._choose is not None and now_s - self._chose_s >= self._config.new_version_s:
            for market in filter(self._goes_on, self.markets.values()):
                self._guard(market, partial(self._take_over, self._choose, market))
            self._chose_s = monotonic()
        if self._compare_clocks is not None and now_s - self._compared_s >= self._config.clock_check_s:
            self._compare(self._compare_clocks)
            self._compared_s = monotonic()

    def _wind_down(self, key: Key) -> None:
        market = self.markets[key]
        try:
            goes_on = market.wind_down(self._time.now_ms(), self._bars)
        except (TemporaryError, ClockError) as err:
            self._say(market, "rest", str(err))
        except StoreError:
            raise
        except PipelineError as err:
            self._say(market, "halted", f"what it holds can't be closed here: {err}")
            self._winding.discard(key)
        else:
            if not goes_on:
                self._winding.discard(key)

    def _take_over(self, choose: Choose, market: MarketSession) -> None:
        own = market.own
        model, why_none, _ = choose(market.market, own.model)
        if (model.ref if model else None) != (own.model.ref if own.model else None):
            market.take_over(model, why_none)
            self._say(market, "version", f"{model.ref.version if model else why_none} decides from the next bar on")

    def _compare(self, compare: Callable[[], float]) -> None:
        before = self._time.trusted
        try:
            offset_ms = compare()
        except (TemporaryError, ClockError) as err:
            self._failures += 1
            self._time.trusted &= self._failures < _CLOCK_FAILURES and not isinstance(err, ClockError)
            said = str(err)
        else:
            self._failures = 0
            self._time.set_offset(offset_ms)
            self._time.trusted = abs(offset_ms) <= 1_000 * self._config.clock_limit_s
            said = f"this machine's clock is {abs(offset_ms):.0f} ms {'behind' if offset_ms > 0 else 'ahead'}"
        if self._time.trusted != before:
            then = "new positions are allowed again" if self._time.trusted else "nothing new is held"
            for market in self.markets.values():
                self._say(market, "clock on" if self._time.trusted else "clock off", f"{said}; {then}")

    def _refused(self, event: Refused) -> None:
        symbols = {topic.rpartition(".")[2] for topic in event.topics}
        for (_, symbol), market in self.markets.items():
            if symbol in symbols:
                self._halt(market, f"the exchange gives no stream of it ({event.message})")

    def _halt(self, market: MarketSession, why: str) -> None:
        market.halted = why
        market.own.halt(why)
        self._winding.add((market.market.category, market.market.symbol))
        self._say(market, "halted", f"is stepped no more: {why}")

    def _say(self, market: MarketSession, kind: str, said: str) -> None:
        market.note(kind, said)
        self.on_note(f"{market.market}: {said}")


@contextmanager
def open_session(
    link: Link,
    versions: Mapping[Market, Chosen],
    journal: Journal,
    *,
    mode: str,
    config: SessionConfig = SessionConfig(),
    orders: Orders | None = None,
    timing: StreamTiming = StreamTiming(),
    choose: Choose | None = None,
    bars: int | None = None,
    stop: threading.Event | None = None,
    on_decision: Callable[[MarketSession, Decision], object] = lambda market, decision: None,
    on_note: Callable[[str], object] = lambda line: None,
) -> Iterator[Session]:
    """Connect a session to an exchange: resumed from its journal, or warmed up from the exchange's past.

    Args:
        link: The exchange.
        versions: What decides in each market, and what watches there.
        journal: Empty, or of this very session.
        mode: signal only says what it would hold; paper fills on paper; any other sends orders.
        config: The rules.
        orders: Where orders go; None where none are sent.
        timing: Of the stream.
        choose: Says which version decides in each market now; None where that never changes.
        bars: After how many bars it ends; None goes on until `stop`.
        stop: Set by whoever wants it to end.
        on_decision: Is given each decision when it is safe.
        on_note: Is told what a person would want to know, one line each.

    Raises:
        ClockError: This machine's clock is more than 0.5 s away from the exchange's.
        Rejected: The exchange knows no such market.
        StoreError: The journal is of another session.
    """
    feed = RestFeed(gateway=link.gateway)
    exchange_time: ExchangeTime = DataTime() if link.is_replay else WallTime(_checked_offset(link.gateway))
    events: queue.Queue[Event | PrivateEvent] = queue.Queue(_REPLAY_EVENTS if link.is_replay else QUEUE_EVENTS)
    held: dict[str, float] = journal.reader().facts().get("capital", {})  # what a session that goes on began with
    markets = []
    for market, chosen in versions.items():
        instrument = link.gateway.instrument(market)

        def account(name: str, model: ServedModel | None, instrument: Instrument = instrument) -> Account:
            recipe = model.recipe if model else Recipe()
            own = held.get(name, recipe.backtest.initial_capital)
            capital = config.capital / len(versions) if config.capital else own
            return Account(name, instrument, BROKERS.get(mode, open_bar), Ledger(capital))

        own = account(market.slug, chosen.model)
        if orders is not None:
            own = orders.account(own, market, journal)
        own.decide_by(chosen.model, chosen.why_none)
        shadows = []
        for model in chosen.shadows:
            shadows.append(account(f"{market.slug}@{model.ref.version}", model))
            shadows[-1].decide_by(model)
        markets.append(
            MarketSession(
                market, own, shadows=shadows, instrument=instrument, journal=journal, feed=feed, time=exchange_time,
                config=config, on_decision=on_decision,
            )
        )  # fmt: skip
    journal.agree(
        {
            "mode": mode,
            "source": link.gateway.source,
            "capital": {one.name: one.ledger.cash for market in markets for one in market.accounts},
            "deadline_ms": {one.market.slug: config.deadline_share * one.market.interval_ms for one in markets},
            "instruments": {one.market.slug: asdict(one.instrument) for one in markets},
            **({"session": orders.session} if orders is not None else {}),
        }
    )
    for one in markets:
        if not one.resume():
            one.warm_up(*_past(feed, one, on_note))
        if orders is not None and isinstance(one.own, OrderAccount):
            orders.admit(one.own, one.market)
    with ExitStack() as stack:
        if orders is not None:
            orders.arm(on_note)
            stack.enter_context(orders.stream(events, timing, on_note))
        categories = sorted({market.category for market in versions})
        for category in categories:
            stream = PublicStream(
                [market for market in versions if market.category == category],
                exchange=link.exchange,
                url=link.stream_url,
                events=events,
                timing=timing,
                patient=link.is_replay,
                on_note=on_note,
            )
            stack.enter_context(stream)
        yield Session(
            markets, events, journal, time=exchange_time, config=config, choose=choose,
            compare_clocks=None if link.is_replay else partial(clock_offset_ms, link.gateway),
            streams=len(categories), bars=bars, stop=stop, on_note=on_note,
        )  # fmt: skip


def _past(feed: RestFeed, one: MarketSession, on_note: Callable[[str], object]) -> tuple[Candles, int]:
    """Return the candles that make the next bar ready, and from where on they were asked for.

    They are a few more than that: a halt among them has no features.
    """
    bars = (one.history_bars or _USUAL_BARS) + _SPARE_BARS
    now_ms = feed.gateway.server_time_ms()
    first_ms = max(one.market.floor(now_ms) - bars * one.market.interval_ms, one.instrument.launch_ms, 0)
    first_ms = one.market.ceil(first_ms)
    candles = feed.closed_since(one.market, first_ms).candles
    on_note(f"{one.market}: warmed up with {len(candles)} candles of {bars}")
    return candles, first_ms


def _checked_offset(gateway: Gateway) -> float:
    offset_ms = clock_offset_ms(gateway)
    if abs(offset_ms) > _CLOCK_MS:
        raise ClockError(
            f"this machine's clock must be within {_CLOCK_MS} ms of the exchange's, was {abs(offset_ms):.0f} ms "
            f"{'behind' if offset_ms > 0 else 'ahead'}; synchronise it (NTP)"
        )
    return offset_ms


def clock_offset_ms(gateway: Gateway) -> float:
    """Return the exchange's clock minus this machine's, milliseconds."""
    before_ns = time.time_ns()
    now_ms = gateway.server_time_ms()
    return now_ms - (before_ns + time.time_ns()) / 2e6


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
