"""Bybit's public data over REST: pacing, retries and checks for everything that is read from it.

A request is repeated after a TemporaryError, within a budget; after that it fails with a message of one line. Several
windows are fetched at once, with one pybit client per thread and one token bucket for all threads.
"""

import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, Self

from storage.schema import (
    WINDOW_BARS,
    Candles,
    Category,
    ClockError,
    ConfigError,
    Instrument,
    Market,
    Source,
    Window,
    parse_source,
    utc_text,
)
from tasks.exchange.bans import Ban
from tasks.exchange.pages import FetchedWindow, newest_start, read_page
from tasks.exchange.reference import FUNDING_ROWS, Rates, collect_funding, find_instrument, read_funding, read_time
from tasks.exchange.rest_client import RestClient
from tasks.exchange.transport import HOST_NAMES, Exchange

CLOCK_TOLERANCE_MS = 60_000  # NTP keeps a clock within a second; a clock a minute off is not synchronised


class Gateway:
    """Client of Bybit's public data, open for as long as the `with` block lasts. Needs no keys, sends none.

    Args:
        source: Source label of all data from here: the sandbox's own, else the exchange's name.
        url: Address of the sandbox; for the sandbox only.
        requests_per_s: Most requests a second, all threads together.
        threads: Windows fetched at once.
        options: Retries, time-outs, clocks and callbacks, as in `RestClient`.

    Raises:
        ConfigError: The source is another place than the exchange.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        source: Source,
        url: str | None = None,
        requests_per_s: float = 60.0,
        threads: int = 16,
        **options: Any,
    ) -> None:
        if exchange != ("sandbox" if parse_source(source).startswith("sandbox:") else source):
            raise ConfigError(f"source must say where candles come from, was {source!r} for exchange {exchange!r}")
        self.exchange = exchange
        self.source = source
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gateway")
        self._batches: set[threading.Event] = set()  # each cancels the windows of one fetch_batches
        self._session = RestClient(exchange=exchange, url=url, requests_per_s=requests_per_s, burst=threads, **options)

    @property
    def ban(self) -> Ban:
        """The ban that this client shares."""
        return self._session.known_ban

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel pending requests and close every connection."""
        self._session.close()
        for stop in tuple(self._batches):
            stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._session.disconnect()

    def server_time_ms(self) -> int:
        """Return Bybit's clock, UTC milliseconds.

        Raises:
            ClockError: This machine's clock differs by more than a minute. Not checked for the sandbox, whose clock is
                that of the replay.
        """
        sent_ms = self._session.wall_clock_ms()
        now_ms = self._session.ask("the time", "get_server_time", {}, read_time)
        # The server read its clock about halfway between our two readings.
        offset_ms = self._session.offset_ms = now_ms - (sent_ms + self._session.wall_clock_ms()) // 2
        if self.exchange != "sandbox" and abs(offset_ms) > CLOCK_TOLERANCE_MS:
            seconds, way = abs(offset_ms) / 1000, "behind" if offset_ms > 0 else "ahead of"
            raise ClockError(
                f"this machine's clock must be within 60 s of {HOST_NAMES[self.exchange]}'s, "
                f"was {seconds:.0f} s {way} it; synchronise it (NTP)"
            )
        return now_ms

    def instrument(self, market: Market) -> Instrument:
        """Return the trading rules of a market.

        Raises:
            Rejected: Bybit has no such symbol in this category.
        """
        return find_instrument(self._session, market)

    def newest_candle_ms(self, market: Market, now_ms: int) -> int | None:
        """Return the open time of a market's newest closed candle, UTC milliseconds; None if there is none."""
        params = {"category": market.category, "symbol": market.symbol, "interval": market.interval}
        params |= {"end": now_ms, "limit": 2}  # type: ignore[dict-item]  # the newest may be open
        what = f"the newest candle of {market}"
        return self._session.ask(what, "get_kline", params, partial(newest_start, market=market, now_ms=now_ms))

    def funding(self, category: Category, symbol: str, start_ms: int, end_ms: int) -> list[tuple[int, float]]:
        """Return the funding stamps (UTC milliseconds) and rates of a range, both ends inclusive, oldest first.

        Spot has none.
        """
        if category == "spot":
            return []

        def rates(first_ms: int, last_ms: int) -> Rates:
            params = {"category": category, "symbol": symbol, "limit": FUNDING_ROWS}
            params |= {"startTime": first_ms, "endTime": last_ms}
            what = f"{symbol} {category} funding from {utc_text(first_ms)}"
            read = partial(read_funding, symbol=symbol, first_ms=first_ms, last_ms=last_ms)
            return self._session.ask(what, "get_funding_rate_history", params, read)

        return collect_funding(rates, start_ms, end_ms)

    def fetch_windows(self, market: Market, windows: Sequence[Window], now_ms: int) -> Iterator[FetchedWindow]:
        """Yield the windows as they arrive, several fetched at once. The first error cancels the rest."""
        with closing(self.fetch_batches(market, windows, now_ms)) as batches:
            for batch in batches:
                yield from batch

    def fetch_batches(
        self, market: Market, windows: Sequence[Window], now_ms: int
    ) -> Generator[tuple[FetchedWindow, ...]]:
        """Yield the windows in batches: each holds all that have arrived, at most twice as many as there are threads.

        So a consumer that is slower than the network can process many windows at once. The windows of a batch are in
        the order of `windows`. The first error cancels the rest; windows that arrived with it are yielded before it is
        raised. A doubtful window is fetched once more; the second result is used unless the first has more usable
        candles.

        Args:
            windows: Each at most `WINDOW_BARS` long.
            now_ms: Bybit's clock, UTC milliseconds; bars that close later are left out.

        Raises:
            Rejected: Bybit refused.
            TemporaryError: No usable answer came within the budget.
        """
        stop = threading.Event()
        self._batches.add(stop)
        todo = iter(windows)

        def submit(count: int) -> list[Future[FetchedWindow]]:
            chosen = islice(todo, count)
            return [self._pool.submit(self._fetch_window, market, window, now_ms, stop) for window in chosen]

        # Twice the threads: no thread waits while the consumer stores a window, and memory stays bounded.
        pending = submit(2 * self._threads)
        try:
            while pending:
                ended = wait(pending, return_when=FIRST_COMPLETED).done
                done = [future for future in pending if future in ended]  # the order of a set is not reproducible
                failed = [future for future in done if future.exception() is not None]
                pending = [future for future in pending if future not in ended]
                pending += submit(0 if failed else len(done))
                if came := tuple(future.result() for future in done if future not in failed):
                    yield came
                for future in failed:
                    future.result()
        finally:
            stop.set()
            self._batches.discard(stop)
            wait([future for future in pending if not future.cancel()])  # those already running

    def _fetch_window(self, market: Market, window: Window, now_ms: int, stop: threading.Event) -> FetchedWindow:
        if window.bars(market.interval_ms) > WINDOW_BARS:
            raise ConfigError(f"a window must hold at most {WINDOW_BARS} bars, was {window.bars(market.interval_ms)}")
        expected = window.closed(market, now_ms)
        if len(expected) == 0:
            return FetchedWindow(window=window, candles=Candles.empty(), rejected=(), missing=expected)
        first = self._ask_window(market, window, now_ms, stop)
        if not first.is_doubtful:
            return first
        second = self._ask_window(market, window, now_ms, stop)
        return first if first.usable > second.usable else second

    def _ask_window(self, market: Market, window: Window, now_ms: int, stop: threading.Event) -> FetchedWindow:
        params = {
            "category": market.category, "symbol": market.symbol, "interval": market.interval,
            "start": window.first_ms, "end": window.last_ms, "limit": WINDOW_BARS,
        }  # fmt: skip
        what = f"{market} candles from {utc_text(window.first_ms)}"
        read = partial(read_page, market=market, window=window, now_ms=now_ms)
        return self._session.ask(what, "get_kline", params, read, stop)
