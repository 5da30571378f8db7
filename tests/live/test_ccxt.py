"""Another client on a session's exchange, ccxt, sees the market that the session saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.clients.compared_bars import Bars, bars_of
from tests.live.conftest import MARKET, START_MS, STEP_MS, Rig

pytestmark = pytest.mark.oracle

BARS = 20
PAIR, TIMEFRAME = "SYNTH/USDT:USDT", "5m"


@dataclass(kw_only=True)
class Seen:
    """What a session stepped, oldest first, and the ccxt client that watched the same exchange meanwhile."""

    rig: Rig
    stepped: Bars
    watcher: Any


@pytest.fixture(scope="module")
def seen(module_rig: Any) -> Iterator[Seen]:
    pytest.importorskip("ccxt", reason="ccxt, another client of the exchange, is not installed")
    from tests.clients.ccxt_client import Watcher

    rig = module_rig()
    with Watcher(rig.sandbox, PAIR, TIMEFRAME) as watcher:
        rig.run(BARS)
        watcher.wait_for_bar(START_MS + BARS * STEP_MS)
    with rig.reader() as reader:
        candles, _ = reader.candles(MARKET.slug)
    return Seen(rig=rig, stepped=bars_of(candles[-BARS:]), watcher=watcher)


def test_ccxt_reads_the_candles_that_the_session_stepped(seen: Seen) -> None:
    from tests.clients.ccxt_client import read_bars

    assert len(seen.stepped) == BARS
    assert read_bars(seen.rig.sandbox, PAIR, TIMEFRAME, START_MS) == seen.stepped


def test_ccxt_watches_the_candles_that_the_session_stepped(seen: Seen) -> None:
    forming = START_MS + BARS * STEP_MS
    assert {start: bar for start, bar in seen.watcher.bars.items() if start < forming} == seen.stepped


def test_trades_that_ccxt_watches_make_the_candles_that_the_session_stepped(seen: Seen) -> None:
    made = seen.watcher.bars_of_trades()
    for start, bar in list(seen.stepped.items())[1:]:  # the first trade of the first bar came before anybody watched
        assert made[start][:4] == bar[:4]
        assert made[start][4] == pytest.approx(bar[4], abs=1e-8)  # added up from sizes of eight decimals


def test_books_that_ccxt_watches_are_those_of_the_exchange(seen: Seen) -> None:
    (listing,) = seen.rig.sandbox.listings.values()
    assert len({time_ms for time_ms, _, _ in seen.watcher.books}) > 1  # of several it may see the last alone
    for time_ms, bid, ask in seen.watcher.books:
        book = listing.book(time_ms)
        assert book is not None
        assert (bid, ask) == (float(book.bids[0][0]), float(book.asks[0][0]))
