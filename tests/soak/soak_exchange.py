"""The exchange of the soak: a sandbox on which time goes on, with holes in its history and faults in its answers."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import numpy as np

from storage.schema import CANDLE_COLUMNS, Candles, Market, content_hash
from tasks.exchange.connection import ExchangeConfig
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.sandbox.faults import Fault, FaultPlan, Match
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tests.sandbox.actions import delivery, http_status, rate_limit, truncated

# Four-hour bars and a signal that fades within a day: many independent bets, so that champions are made and beaten.
MARKET = Market(interval="240")
LAW = SyntheticMarket(bars=12_000, interval_ms=MARKET.interval_ms, volatility=8e-3, k=0.3, psi=0.9)
SOURCE = ExchangeConfig(synthetic=LAW).source
FIRST_BARS = 6_500  # known at the start
LAST_HOLE = 300  # bars from the start: a later one would leave the features cold for as long as the soak lasts
BAR_EVERY_S = 10.0  # real seconds until the next bar closes


class SoakExchange:
    """Serves the synthetic market up to a time that moves by one bar every `BAR_EVERY_S`.

    Args:
        seed: Of the holes and of the faults.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        candles = generate(LAW)
        holes = np.unique(rng.integers(1, LAST_HOLE, size=8))
        self.candles = candles[np.setdiff1d(np.arange(len(candles)), holes)]
        self.holes_ms = candles.start_ms[holes]
        self.sandbox = Sandbox(
            [Listing(candles=self.candles, market=MARKET)],
            source=SOURCE,
            now_ms=int(candles.start_ms[FIRST_BARS]) + 1_000,
        )
        self.sandbox.follow(_faults(rng))
        self._over = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="soak clock", daemon=True)

    def __enter__(self) -> Self:
        self.sandbox.__enter__()
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_clock()
        self.sandbox.__exit__(kind, error, trace)

    def stop_clock(self) -> None:
        """Let no further bar close."""
        self._over.set()
        self._clock.join()

    def served(self) -> Candles:
        """Return every candle that has closed by now."""
        return self.candles[self.candles.start_ms + MARKET.interval_ms <= self.sandbox.clock.now_ms()]

    def served_hash(self) -> str:
        """Return the hash that the table of candles must have."""
        served = self.served()
        return content_hash(getattr(served, name).tobytes() for name in ("start_ms", *CANDLE_COLUMNS))

    def served_holes(self) -> int:
        """Return how many bars of the time so far do not exist."""
        return int((self.holes_ms + MARKET.interval_ms <= self.sandbox.clock.now_ms()).sum())

    def _tick(self) -> None:
        while not self._over.wait(BAR_EVERY_S):
            self.sandbox.clock.advance(MARKET.interval_ms)


def _faults(rng: np.random.Generator) -> FaultPlan:
    """Return a fault for about every tenth request, each of a kind that a client has to get over."""
    kinds = (rate_limit(), http_status(502), truncated(), delivery("reset"), delivery("short"))
    turns = np.cumsum(rng.integers(5, 16, size=400))
    return [Fault(Match(path=None, nth=int(nth)), kinds[rng.integers(len(kinds))]) for nth in turns]
