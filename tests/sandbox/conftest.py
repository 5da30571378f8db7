"""A sandbox with an account, over candles whose fills can be calculated by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from storage.schema import Candles, Instrument, Source
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tasks.sandbox.venue_account import AccountSpec
from tests.sandbox.trader import MARKET, SYMBOL, PrivateClient, RawPrivate, trading_client

START_MS = 1_735_689_600_000  # 2025-01-01T00:00Z, a funding stamp
STEP_MS = 300_000
SPEC = AccountSpec(key="key-of-a-test", secret="secret-of-a-test", leverage="1")  # noqa: S106  # it opens a sandbox alone

FLAT = (100.0, 100.0, 100.0, 100.0)
PATH = [FLAT, FLAT, (100.0, 100.5, 94.0, 99.0), (99.0, 105.0, 98.0, 104.0), (104.0, 104.0, 104.0, 104.0)]

INSTRUMENT = Instrument(
    symbol=SYMBOL,
    category="linear",
    status="Trading",
    launch_ms=START_MS,
    tick_size="0.1",
    qty_step="0.001",
    min_qty="0.001",
    min_notional="5",
    funding_interval_min=480,
    max_market_qty="10000",
)


def candles_of(path: Sequence[tuple[float, float, float, float]], volume: float = 20_000.0) -> Candles:
    """Return candles of 5 minutes; a level of the book holds a twentieth of the volume, more or less."""
    prices = np.array(path)
    volumes = np.full(len(path), volume)
    return Candles(
        start_ms=START_MS + STEP_MS * np.arange(len(path)),
        open=prices[:, 0],
        high=prices[:, 1],
        low=prices[:, 2],
        close=prices[:, 3],
        volume=volumes,
        turnover=volumes * prices[:, 3],
    )


@pytest.fixture
def open_sandbox() -> Iterator[Callable[..., Sandbox]]:
    """Return a starter of sandboxes with one account; the clock stands in the second bar, the best ask is 100."""
    with ExitStack() as stack:

        def start(**options: Any) -> Sandbox:
            listing = {"candles": candles_of(PATH), "market": MARKET, "instrument": INSTRUMENT}
            listing |= {name: options.pop(name) for name in ("candles", "instrument", "funding") if name in options}
            given = {
                "source": Source("sandbox:0123abcd"),
                "now_ms": START_MS + STEP_MS + 1_000,
                "accounts": [SPEC],
                "ack_to_fill_ms": 0,  # an order is over when it is acknowledged
            } | options
            return stack.enter_context(Sandbox([Listing(**listing), *given.pop("more", ())], **given))

        yield start


@pytest.fixture
def open_client() -> Iterator[Callable[..., Any]]:
    """Return a maker of pybit clients with a key, which close with the test."""
    clients = []

    def start(sandbox: Sandbox, spec: AccountSpec = SPEC, **options: Any) -> Any:
        clients.append(trading_client(sandbox, spec, **options))
        return clients[-1]

    yield start
    for client in clients:
        client.client.close()


@pytest.fixture
def open_stream() -> Iterator[Callable[..., PrivateClient]]:
    """Return an opener of pybit's private streams, which close with the test."""
    clients: list[PrivateClient] = []

    def start(sandbox: Sandbox, *topics: str, spec: AccountSpec = SPEC) -> PrivateClient:
        clients.append(PrivateClient(sandbox, spec, *(topics or ("order", "execution", "position", "wallet"))))
        return clients[-1]

    yield start
    for client in clients:
        client.exit()  # its reader, a daemon, notices within the ping time-out


@pytest.fixture
def open_raw() -> Iterator[Callable[..., RawPrivate]]:
    """Return an opener of plain private sockets, which close with the test."""
    clients: list[RawPrivate] = []

    def start(sandbox: Sandbox) -> RawPrivate:
        clients.append(RawPrivate(sandbox))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def desk(open_sandbox: Callable[..., Any], open_client: Callable[..., Any]) -> tuple[Any, Any]:
    """Return a sandbox and a client of its account."""
    sandbox = open_sandbox()
    return sandbox, open_client(sandbox)
