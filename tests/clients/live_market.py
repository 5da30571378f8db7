"""A sandbox on which time is this machine's, for clients that go by their own clock, and what it knows of the truth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from storage.schema import Market
from tasks.exchange.connection import ExchangeConfig
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tests.clients.compared_bars import Bars, bars_of

MARKET = Market(interval="1")
PAIR = "SYNTH/USDT:USDT"  # as ccxt names it
HISTORY = 2_000  # bars that are closed at the start: two pages of REST
FUTURE = 60  # bars, so minutes, that the market goes on for
_FUNDING_MS, _FUNDING_RATE = 8 * 3_600_000, 0.0001


@contextmanager
def live_market() -> Iterator[Sandbox]:
    """Give a sandbox of one-minute bars whose clock is this machine's."""
    now_ms = time.time_ns() // 1_000_000
    start_ms = MARKET.floor(now_ms) - HISTORY * MARKET.interval_ms
    law = SyntheticMarket(bars=HISTORY + FUTURE, interval_ms=MARKET.interval_ms, start_ms=start_ms)
    stamps = range(start_ms // _FUNDING_MS * _FUNDING_MS, now_ms, _FUNDING_MS)
    with Sandbox(
        [Listing(candles=generate(law), market=MARKET, funding=[(stamp, _FUNDING_RATE) for stamp in stamps])],
        source=ExchangeConfig(synthetic=law).source,
        now_ms=now_ms,
    ) as sandbox:
        sandbox.keep_time()
        yield sandbox


def listing_of(sandbox: Sandbox) -> Listing:
    """Return the one market."""
    (listing,) = sandbox.listings.values()
    return listing


def closed_bars(sandbox: Sandbox, interval: str = MARKET.interval) -> Bars:
    """Return the bars of a Bybit interval that have closed by now."""
    return bars_of(listing_of(sandbox).replay.closed(interval, sandbox.clock.now_ms()))


def had_price(listing: Listing, side: str, price: float, since_ms: int, until_ms: int) -> bool:
    """Return whether a market order could have been filled at a price: at the best one of a book that then stood.

    Args:
        listing: The market.
        side: buy or sell.
        price: Of the fill.
        since_ms: The earliest that the book may have been looked at, UTC milliseconds.
        until_ms: The latest.
    """
    times = [since_ms, *(tick.time_ms for tick in listing.replay.ticks(since_ms, until_ms))]
    books = [book for book in map(listing.book, times) if book]
    return price in {float((book.asks if side == "buy" else book.bids)[0][0]) for book in books}
