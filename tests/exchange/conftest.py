"""A replayed market, a sandbox that serves it, and time that passes only when someone sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from pybit.unified_trading import HTTP, WebSocket

from storage.schema import Candles, Market, Source
from tasks.exchange.gateway import Gateway
from tasks.exchange.transport import new_client
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tests.exchange.raw_client import RawClient

SOURCE = Source("sandbox:0123abcd")
START_MS = 1_735_689_600_000  # 2025-01-01T00:00Z
STEP_MS = 300_000


class FakeTime:
    """Seconds that pass only when someone sleeps; shared by all threads."""

    def __init__(self) -> None:
        self._now = 1_000.0
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def clock(self) -> float:
        return self._now

    def wall_clock_ms(self) -> int:
        return START_MS + int(self._now * 1000)

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds
            self.slept.append(seconds)


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def make_candles() -> Callable[..., Candles]:
    """Return a maker of `bars` plausible 5-minute candles with prices of two decimals."""

    def make(bars: int, seed: int = 1) -> Candles:
        rng = np.random.default_rng(seed)
        close = np.round(100 + np.cumsum(rng.normal(0, 0.1, bars)), 2)
        open_ = np.concatenate([[100.0], close[:-1]])
        volume = np.round(rng.exponential(10, bars), 3)
        return Candles(
            start_ms=START_MS + STEP_MS * np.arange(bars),
            open=open_,
            high=np.round(np.maximum(open_, close) + 0.05, 2),
            low=np.round(np.minimum(open_, close) - 0.05, 2),
            close=close,
            volume=volume,
            turnover=np.round(volume * close, 4),
        )

    return make


@pytest.fixture
def open_sandbox(fake_time: FakeTime) -> Iterator[Callable[..., Sandbox]]:
    """Return a starter of sandboxes that stop with the test."""
    with ExitStack() as stack:

        def start(candles: Candles, **options: Any) -> Sandbox:
            given = {name: options.pop(name) for name in ("market", "instrument", "funding") if name in options}
            listings = [Listing(candles=candles, **{"market": Market()} | given), *options.pop("more", ())]
            options = {"source": SOURCE, "timer": fake_time.clock} | options
            return stack.enter_context(Sandbox(listings, **options))

        yield start


@pytest.fixture
def open_gateway(fake_time: FakeTime) -> Iterator[Callable[..., Gateway]]:
    """Return an opener of gateways to a sandbox; they wait in fake time and close with the test."""
    with ExitStack() as stack:

        def start(sandbox: Sandbox, **options: Any) -> Gateway:
            options = {
                "source": sandbox.source,
                "url": sandbox.url,
                "clock": fake_time.clock,
                "wall_clock_ms": fake_time.wall_clock_ms,
                "sleep": fake_time.sleep,
            } | options
            return stack.enter_context(Gateway("sandbox", **options))

        yield start


@pytest.fixture
def open_client() -> Iterator[Callable[..., HTTP]]:
    """Return a maker of plain pybit clients of a sandbox."""
    clients: list[HTTP] = []

    def start(sandbox: Sandbox, timeout_s: tuple[float, float] = (3.05, 10.0)) -> HTTP:
        clients.append(new_client("sandbox", sandbox.url, timeout_s))
        return clients[-1]

    yield start
    for client in clients:
        client.client.close()


class LocalStream(WebSocket):  # type: ignore[misc]  # pybit has no types
    """pybit's client of the public stream, as it is but for the address."""

    def __init__(self, url: str, category: str, **options: Any) -> None:
        self._local = f"{url}/v5/public/{category}"
        super().__init__(category, testnet=False, **{"retries": 2, "ping_interval": 2, "ping_timeout": 1} | options)

    def _connect(self, url: str) -> None:
        super()._connect(self._local)


@pytest.fixture
def open_stream() -> Iterator[Callable[..., LocalStream]]:
    """Return an opener of plain pybit clients of a sandbox's stream; they close with the test."""
    clients: list[LocalStream] = []

    def start(sandbox: Sandbox, category: str = "linear", **options: Any) -> LocalStream:
        clients.append(LocalStream(sandbox.stream_url, category, **options))
        return clients[-1]

    yield start
    for client in clients:
        client.exit()  # its reader, a daemon, notices within the ping time-out


@pytest.fixture
def open_raw() -> Iterator[Callable[..., RawClient]]:
    """Return an opener of plain WebSocket clients of a sandbox's stream; they close with the test."""
    clients: list[RawClient] = []

    def start(sandbox: Sandbox, category: str = "linear") -> RawClient:
        clients.append(RawClient(sandbox.stream_url, category))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
