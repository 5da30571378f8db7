"""A session: markets on one queue of events, until it is told to stop or has stepped its bars."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import sleep

from storage.schema import ClockError, ConfigError, PipelineError, StoreError, TemporaryError
from tasks.champion.version_selector import ChooseVersion
from tasks.exchange.boot_clock import boottime_s
from tasks.exchange.private_events import AccountReconnected, ExecutionNews, OrderNews, PrivateEvent
from tasks.exchange.stream_events import (
    BookTop,
    ConfirmedBar,
    Event,
    FormingBar,
    Key,
    Reconnected,
    SubscriptionRefused,
    Ticker,
    Trade,
)
from tasks.journal.journal import Journal
from tasks.journal.journal_rows import KNOWN_CHAMPION, UNKNOWN_CHAMPION
from tasks.live.exchange_time import ExchangeTime
from tasks.live.market_session import MarketSession
from tasks.live.order_account import CLOSE_S
from tasks.live.session_config import SessionConfig

_LOOK_S = 1.0  # how long the queue is waited for before somebody looks whether to stop
_BEAT_S = 0.05  # between two looks at what is closed at the end
_RETRY_S = 5.0  # between two questions for what REST did not give
_CLOCK_FAILURES = 3  # to compare the clocks, in a row, after which nobody knows the exchange's time


class Session:
    """Markets that are stepped as their bars close.

    Args:
        markets: Each warmed up or resumed.
        events: What comes in, from one stream a category and from the account's.
        choose: Says which version decides in each market now; None where that never changes.
        compare_clocks: Returns the exchange's clock minus this machine's, milliseconds; None in a replay.
        streams: How many streams put into `events`.
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
        choose: ChooseVersion | None = None,
        compare_clocks: Callable[[], float] | None = None,
        streams: int = 1,
        stop: threading.Event | None = None,
        on_note: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.markets: Mapping[Key, MarketSession] = {(one.market.category, one.market.symbol): one for one in markets}
        if len(self.markets) != len(markets):
            raise ConfigError("a session steps each symbol once; give every interval a session of its own")
        self._events, self.journal = events, journal
        self._time, self._config = time, config
        self._choose, self._compare_clocks = choose, compare_clocks
        self._streams = streams
        self._stop = stop or threading.Event()
        self.on_note = on_note
        self.retry_s, self.look_every_s = _RETRY_S, _LOOK_S
        self._closing: set[Key] = set()  # markets that are halted and may still hold something
        self._behind: dict[Key, None] = {}  # markets of which REST must be asked again, the longest waiting first
        self._asked_s = self._looked_s = 0.0
        self._chose_s = self._compared_s = boottime_s()
        self._failures = 0  # to compare the clocks, in a row

    def run(self, on_ready: Callable[[], object] = lambda: None) -> None:
        """Step bars until the session is over, and end it as its rules say.

        `on_ready` is called once, when every stream is connected and every market is up to date.
        """
        self._behind = dict.fromkeys(self.markets)
        behind: Event | PrivateEvent | None = None
        connected: set[str] = set()  # streams that have been at least once
        self._catch_up()
        while not self._over():
            event, behind = behind or self._event(), None
            if isinstance(event, Reconnected):
                for market in self.markets.values():
                    market.reconnected()
                self._behind |= dict.fromkeys(self.markets)
                self._asked_s = 0.0
                self._catch_up()
                if event.stream not in connected:
                    connected.add(event.stream)
                    if len(connected) == self._streams:
                        on_ready()
            elif isinstance(event, SubscriptionRefused):
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
            if boottime_s() - self._looked_s > self.look_every_s:
                self._look()
        if self._config.at_end == "flat":
            self._close_out()

    def _close_out(self) -> None:
        """Close what is held, in all markets side by side: none of them waits until another is flat."""
        until_s = boottime_s() + CLOSE_S
        closing = {market: market.close_out(until_s) for market in self.markets.values()}
        while closing:
            for market, steps in list(closing.items()):
                with suppress(StopIteration):
                    if self._guard(market, partial(next, steps)):
                        continue
                del closing[market]
            sleep(_BEAT_S if closing else 0.0)

    def _event(self) -> Event | PrivateEvent | None:
        try:
            return self._events.get(timeout=self.look_every_s)
        except queue.Empty:
            return None

    def _take(self, market: MarketSession, event: ConfirmedBar | FormingBar | BookTop | Trade | Ticker) -> None:
        if market.goes_on:
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

    @property
    def _going_on(self) -> list[MarketSession]:
        return [market for market in self.markets.values() if market.goes_on]

    def _over(self) -> bool:
        return self._stop.is_set() or not (self._closing or self._going_on)

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
        if not self._behind or boottime_s() - self._asked_s < self.retry_s:
            return
        for key in list(self._behind):
            market = self.markets[key]
            del self._behind[key]
            if market.goes_on:
                self._guard(market, market.catch_up)
            if key in self._behind:
                break  # the others would wait for an answer as long, and with them what the stream says meanwhile
        self._asked_s = boottime_s()

    def _look(self) -> None:
        """Do what is due by the clock: overdue bars, other versions, this machine's clock."""
        now_s = self._looked_s = boottime_s()
        for market in self._going_on:
            self._guard(market, partial(market.poll, self._time.now_ms()))
        for key in sorted(self._closing):
            self._wind_down(key)
        if self._choose is not None and now_s - self._chose_s >= self._config.new_version_s:
            for market in self._going_on:
                self._guard(market, partial(self._take_over, self._choose, market))
            self._chose_s = boottime_s()
        if self._compare_clocks is not None and now_s - self._compared_s >= self._config.clock_check_s:
            self._compare(self._compare_clocks)
            self._compared_s = boottime_s()

    def _wind_down(self, key: Key) -> None:
        market = self.markets[key]
        try:
            goes_on = market.wind_down(self._time.now_ms())
        except StoreError:
            raise
        except PipelineError as err:
            goes_on = isinstance(err, TemporaryError | ClockError)
            why = str(err) if goes_on else f"what it holds can't be closed here: {err}"
            self._say(market, "rest" if goes_on else "halted", why)
        if not goes_on:
            self._closing.discard(key)

    def _take_over(self, choose: ChooseVersion, market: MarketSession) -> None:
        """Let the version decide that is chosen now; one that the account may not trade is none, as at a start."""
        own = market.own
        model, why_none, _, unknown = choose(market.market, own.model)
        is_new, dear = (model.ref if model else None) != (own.model.ref if own.model else None), ""
        if is_new and model is not None:
            try:
                dear = own.too_dear(model.recipe.costs.commission)
            except TemporaryError as err:
                is_new, unknown = False, f"whether {model.ref.version} may decide here: {err}"
        if bool(unknown) != own.is_in_doubt:
            own.is_in_doubt = bool(unknown)
            kind, said = KNOWN_CHAMPION, "its champion is known again"
            if unknown:
                kind, said = UNKNOWN_CHAMPION, f"nobody knows its champion, nothing new is held: {unknown}"
            self._say(market, kind, said)
            own.alert(said)
        if not is_new:
            return
        if model is not None and dear:
            unfit = f"champion {model.ref.version} holds no position here: {dear}"
            if own.model is None and own.why_none == unfit:
                return  # as was said
            model, why_none = None, unfit
            own.alert(unfit)
        market.take_over(model, why_none)
        self._say(market, "version", f"{model.ref.version} decides from the next bar on" if model else why_none)

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
            self._time.offset_ms = offset_ms
            self._time.trusted = abs(offset_ms) <= 1_000 * self._config.clock_limit_s
            said = f"this machine's clock is {abs(offset_ms):.0f} ms {'behind' if offset_ms > 0 else 'ahead'}"
        if self._time.trusted != before:
            then = "new positions are allowed again" if self._time.trusted else "nothing new is held"
            for market in self.markets.values():
                self._say(market, "clock on" if self._time.trusted else "clock off", f"{said}; {then}")

    def _refused(self, event: SubscriptionRefused) -> None:
        symbols = {topic.rpartition(".")[2] for topic in event.topics}
        for (_, symbol), market in self.markets.items():
            if symbol in symbols:
                self._halt(market, f"the exchange gives no stream of it ({event.message})")

    def _halt(self, market: MarketSession, why: str) -> None:
        market.halted = why
        market.own.halt(why)
        self._closing.add((market.market.category, market.market.symbol))
        self._say(market, "halted", f"is stepped no more: {why}")

    def _say(self, market: MarketSession, kind: str, said: str) -> None:
        market.note(kind, said)
        self.on_note(f"{market.market}: {said}")
