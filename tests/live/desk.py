"""A session whose events a test makes itself, bar by bar, with REST in memory."""

from __future__ import annotations

import queue
import time
from typing import Any

from storage.schema import Candles, Instrument, Market, TemporaryError
from tasks.exchange.stream_events import BookTop, ConfirmedBar, FormingBar
from tasks.execution.paper import Ledger
from tasks.journal.journal import Journal
from tasks.live.account import Account
from tasks.live.exchange_time import DataTime
from tasks.live.market_session import MarketSession
from tasks.live.rest_feed import Recent
from tasks.live.session_config import SessionConfig
from tasks.live.session_replay import Replayed, replay
from tests.live.conftest import CANDLES, FIRST, MARKET, START_MS, STEP_MS, make_model, predict

INSTRUMENT = Instrument(
    symbol=MARKET.symbol, category="linear", status="Trading", launch_ms=0, tick_size="0.01", qty_step="0.001",
    min_qty="0.001", min_notional="5", funding_interval_min=480,
)  # fmt: skip
KEY = (MARKET.category, MARKET.symbol)
PAST = CANDLES[:FIRST]


class Rest:
    """REST in memory: what it has, and what it was asked.

    Attributes:
        candles: Closed candles.
        asked: How often candles were asked for.
        down: Whether every question fails.
        state: The market's status.
    """

    def __init__(self, candles: Candles = PAST) -> None:
        self.candles, self.asked, self.down, self.state = candles, 0, False, "Trading"

    def closed_since(self, market: Market, first_ms: int) -> Recent:
        self.asked += 1
        if self.down:
            raise TemporaryError("REST is down")
        last_ms = int(self.candles.start_ms[-1]) + STEP_MS
        return Recent(self.candles[self.candles.start_ms >= first_ms], last_ms, time.monotonic_ns())

    def funding(self, market: Market, first_ms: int, last_ms: int) -> list[tuple[int, float]]:
        return []

    def status(self, market: Market) -> str:
        return self.state


class Desk:
    """A market's session whose events a test makes itself, bar by bar."""

    def __init__(self, journal: Journal, rest: Rest, **options: Any) -> None:
        self.rest, self.time = rest, options.pop("time", DataTime())
        self.own = Account(MARKET.slug, INSTRUMENT, Ledger(10_000.0))
        self.own.decide_by(options.pop("model", make_model()))
        self.market = MarketSession(
            MARKET, self.own, instrument=INSTRUMENT, journal=journal, feed=rest, time=self.time,
            config=options.pop("config", SessionConfig()), **options,
        )  # fmt: skip
        self.events: queue.Queue[Any] = queue.Queue()
        capital = {one.name: 10_000.0 for one in self.market.accounts}
        journal.agree({"capital": capital, "deadline_ms": {MARKET.slug: 0.1 * STEP_MS}, "mode": "paper"})
        self.market.warm_up(PAST)

    def close(self, bar: int, late_ms: float = 0.0) -> None:
        """Confirm a bar of the session, counted from 0."""
        row = CANDLES.matrix()[FIRST + bar]
        ts_ms = int(row[0]) + STEP_MS + int(late_ms)
        self.market.on_event(ConfirmedBar(KEY, "5", int(row[0]), *row[1:6].tolist(), 0.0, ts_ms, time.monotonic_ns()))

    def open(self, bar: int, late_ms: float = 0.0) -> None:
        """Let a bar begin: its first price and the book around it."""
        price, start_ms = float(CANDLES.open[FIRST + bar]), START_MS + bar * STEP_MS
        ts_ms = start_ms + int(late_ms)
        self.market.on_event(
            FormingBar(KEY, "5", start_ms, price, price, price, price, 0.0, 0.0, ts_ms, time.monotonic_ns())
        )
        self.book(price, ts_ms)

    def book(self, price: float, ts_ms: int) -> None:
        self.market.on_event(BookTop(KEY, price - 0.005, 9e9, price + 0.005, 9e9, ts_ms, time.monotonic_ns()))

    def step(self, bars: int, first: int = 0) -> None:
        """Open and close so many bars."""
        for bar in range(first, first + bars):
            self.open(bar)
            self.close(bar)


def decisions_of(desk: Desk) -> Any:
    return desk.market._journal.reader().decisions(MARKET.slug)


def again(desk: Desk) -> Replayed:
    """Replay what a desk journalled."""
    model = desk.own.model or make_model()
    reader = desk.market._journal.reader()
    return replay(reader, MARKET, {model.ref.version: model}, INSTRUMENT, predict, funding=[])
