"""What a session asks of a market over REST: bars that have closed, funding rates, and whether it is traded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from storage.schema import Candles, Market, Window
from tasks.exchange.boot_clock import boottime_ns
from tasks.exchange.gateway import Gateway
from tasks.exchange.pages import plausible


class Recent(NamedTuple):
    """Closed candles that were asked for, and when.

    Attributes:
        candles: Oldest first, plausible, perhaps with holes.
        now_ms: The exchange's clock before the question.
        asked_ns: `boottime_ns` then.
    """

    candles: Candles
    now_ms: int
    asked_ns: int


@dataclass(frozen=True, kw_only=True)
class RestFeed:
    """REST through the gateway's pacing and retries; each question raises a TemporaryError where it has no answer now.

    Attributes:
        gateway: Open.
        on_note: Is told of candles that can't be read, one line each time.
    """

    gateway: Gateway
    on_note: Callable[[str], object] = lambda line: None

    def closed_since(self, market: Market, first_ms: int) -> Recent:
        """Return what has closed from the bar that opened at `first_ms`, UTC milliseconds, on."""
        asked_ns = boottime_ns()
        now_ms = self.gateway.server_time_ms()
        last_ms = market.floor(now_ms) - market.interval_ms
        if first_ms > last_ms:
            return Recent(Candles.empty(), now_ms, asked_ns)
        windows = Window.cover(market, first_ms, last_ms)
        fetched = sorted(self.gateway.fetch_windows(market, windows, now_ms), key=lambda part: part.window.first_ms)
        candles = Candles.join([part.candles for part in fetched])
        good = plausible(candles)
        if left_out := sum(len(part.rejected) for part in fetched) + int((~good).sum()):
            self.on_note(f"{market}: {left_out} candles of REST can't be read and are left out")
        return Recent(candles[good], now_ms, asked_ns)

    def funding(self, market: Market, first_ms: int, last_ms: int) -> list[tuple[int, float]]:
        """Return funding stamps, UTC milliseconds, oldest first, and rates of a range, both ends inclusive."""
        return self.gateway.funding(market.category, market.symbol, first_ms, last_ms)

    def status(self, market: Market) -> str:
        """Return what the exchange says of it: Trading, Closed ..."""
        return self.gateway.instrument(market).status
