"""Twenty markets through eight hours of minutes, exchange and session each in a process of its own."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from storage.schema import Market
from tasks.champion.version_selector import VersionChoice
from tasks.exchange.connection import Link
from tasks.exchange.gateway import Gateway
from tasks.journal.journal import Journal
from tasks.journal.journal_rows import Decision
from tasks.live.market_session import MarketSession
from tasks.live.session_start import open_session
from tasks.market.features import WARM_UP
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tests.live.conftest import NETWORK, SOURCE, WAIT_S, make_model

MARKETS = [Market(symbol=f"M{number:02}USDT", interval="1") for number in range(20)]
MINUTES, HOUR = 480, 60
PAST = WARM_UP + NETWORK.context + 300


def exchange(told: Connection) -> None:
    """Serve twenty markets and play the hours once asked to; tells its URL first."""
    law = SyntheticMarket(bars=PAST + MINUTES + 1, interval_ms=60_000)
    listings = [
        Listing(candles=generate(replace(law, seed=number)), market=market) for number, market in enumerate(MARKETS)
    ]
    now_ms = int(listings[0].candles.start_ms[PAST])
    with Sandbox(listings, source=SOURCE, now_ms=now_ms, ip_limit=10**9) as sandbox:
        told.send(sandbox.url)
        told.recv()
        sandbox.wait_for_subscribers(*(f"kline.1.{market.symbol}" for market in MARKETS), timeout_s=WAIT_S)
        told.send(sandbox.play(bars=MINUTES, bar_every_s=0).result())
        told.recv()


def session(told: Connection, url: str, path: Path) -> None:
    """Step the hours; tells bars, seconds, and memory in MB and threads after the first hour and at the end."""
    process, seen = psutil.Process(), []

    def note(market: MarketSession, decision: Decision) -> None:
        if market.market == MARKETS[-1] and market.counts.stepped in (HOUR, MINUTES):
            seen.append((process.memory_info().rss / 1e6, threading.active_count(), time.monotonic()))

    versions = {market: VersionChoice(make_model(market=market)) for market in MARKETS}
    with (
        Gateway("sandbox", source=SOURCE, url=url, requests_per_s=1e6) as gateway,
        Journal(path) as journal,
        open_session(
            Link(gateway=gateway, url=url), versions, journal,
            mode="paper", bars=MINUTES, on_decision=note,
        ) as held,
    ):  # fmt: skip
        held.run(lambda: told.send("ready"))
        stepped = sum(market.counts.stepped for market in held.markets.values())
        missing = sum(market.counts.missing for market in held.markets.values())
    told.send((stepped, missing, seen))
