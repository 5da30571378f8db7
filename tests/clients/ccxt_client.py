"""ccxt, which is not ours, as a client of a sandbox: its REST, and its stream in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any, Self

import ccxt
import ccxt.pro

from tasks.sandbox.hub import STREAM_CATEGORIES, STREAM_PATH
from tasks.sandbox.sandbox import Sandbox
from tests.clients.compared_bars import Bars

WAIT_S = 60.0  # for what comes in milliseconds; only a failure waits so long


def ccxt_options(sandbox: Sandbox) -> dict[str, Any]:
    """Return the options that point all of ccxt, or of whatever is built on it, at a sandbox: it asks nobody else."""
    hosts = dict.fromkeys(("spot", "futures", "v2", "public", "private"), sandbox.url)
    categories = (*STREAM_CATEGORIES, "inverse", "option")
    public = {category: f"{sandbox.stream_url}{STREAM_PATH}{category}" for category in categories}
    private = f"{sandbox.stream_url}/v5/private"
    accounts = dict.fromkeys(("contract", "usdc", "trade"), private)
    accounts |= {"spot": dict.fromkeys(("unified", "nonUnified"), private)}
    return {
        "enableRateLimit": False,  # the sandbox's limits are Bybit's, a few questions are far below
        "urls": {"api": {**hosts, "ws": {"public": public, "private": accounts}}},
    }


def read_bars(sandbox: Sandbox, pair: str, timeframe: str, since_ms: int) -> Bars:
    """Return every closed bar from `since_ms` on, page by page over REST.

    Args:
        sandbox: The exchange.
        pair: As ccxt names it.
        timeframe: Likewise.
        since_ms: Open time of the first, UTC milliseconds.
    """
    client, bars = ccxt.bybit(ccxt_options(sandbox)), {}
    step_ms = client.parse_timeframe(timeframe) * 1000
    while since_ms + step_ms <= (now_ms := client.fetch_time()):
        page = client.fetch_ohlcv(pair, timeframe, since=since_ms, limit=1000)
        bars |= {start: tuple(numbers) for start, *numbers in page if start + step_ms <= now_ms}
        since_ms += 1000 * step_ms
    return bars


class Watcher:
    """Watches one market's bars, trades and order book for as long as the `with` block lasts.

    Args:
        sandbox: The exchange.
        pair: As ccxt names it.
        timeframe: Likewise.

    Attributes:
        bars: As ccxt keeps them; the newest is forming.
        books: Time (UTC milliseconds), best bid and best ask of each book that was seen, in the order of arrival.
    """

    def __init__(self, sandbox: Sandbox, pair: str, timeframe: str) -> None:
        self._client = ccxt.pro.bybit(ccxt_options(sandbox))
        self._pair, self._timeframe = pair, timeframe
        self.bars: Bars = {}
        self.books: list[tuple[int, float, float]] = []
        self._news = threading.Condition()
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="ccxt", daemon=True)

    def bars_of_trades(self) -> Bars:
        """Return the bars that ccxt makes of the trades that it saw, once the block is over."""
        made = self._client.build_ohlcvc(self._client.trades[self._pair], self._timeframe)
        return {start: tuple(numbers) for start, *numbers, _ in made}

    def wait_for_bar(self, start_ms: int) -> None:
        """Return when the bar that opens at `start_ms` has come, or a later one.

        Raises:
            TimeoutError: It has not, in real time.
        """
        with self._news:
            if not self._news.wait_for(lambda: self._failure or max(self.bars, default=0) >= start_ms, WAIT_S):
                raise TimeoutError(f"ccxt has not seen the bar that opens at {start_ms}, but {sorted(self.bars)}")
        if self._failure:
            raise self._failure

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for_bar(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._watching.cancel)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._watch())

    async def _watch(self) -> None:
        try:
            await self._client.load_markets()
            self._watching = asyncio.gather(self._watch_trades(), self._watch_books(), self._watch_bars())
            await self._watching
        except asyncio.CancelledError:
            pass  # the block is over
        except Exception as err:  # whatever it is, it is for the thread that waits
            with self._news:
                self._failure = err
                self._news.notify_all()
        finally:
            await self._client.close()

    async def _watch_trades(self) -> None:
        while True:
            await self._client.watch_trades(self._pair)

    async def _watch_books(self) -> None:
        while True:
            book = await self._client.watch_order_book(self._pair)
            self.books.append((book["timestamp"], book["bids"][0][0], book["asks"][0][0]))

    async def _watch_bars(self) -> None:
        while True:
            await self._client.watch_ohlcv(self._pair, self._timeframe)
            kept = self._client.ohlcvs[self._pair][self._timeframe]
            with self._news:
                self.bars = {start: tuple(numbers) for start, *numbers in kept}
                self._news.notify_all()
