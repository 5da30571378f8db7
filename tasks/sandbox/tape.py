"""Simulated trades inside a candle, which together give exactly that candle.

The sandbox simulates four trades per bar: at the open price when the bar opens, at the nearer and then the farther
extreme, and at the close price after three quarters of the bar. Every answer and message of the sandbox is derived from
these trades, so stream and REST agree at any time of the clock, and at a bar's open only its open price is known.
"""

import math
from dataclasses import dataclass
from typing import Literal

from storage.schema import Candles

Side = Literal["Buy", "Sell"]

TICKS = 4
"""Trades per bar; the i-th is i quarters of the bar after its open."""

_SHARES = (0.4, 0.25, 0.25, 0.1)  # of the bar's volume: most of it at the open, where a market order would trade


@dataclass(frozen=True, kw_only=True, slots=True)
class TapeTick:
    """One trade.

    Attributes:
        ordinal: Number of the trade within the replay, from 0; TICKS per bar.
        time_ms: UTC milliseconds.
        price: Quote currency per coin.
        size: Base currency; 0 if the bar's volume is too small for four trades.
        side: Of the taker.
        turnover: Quote currency; NaN if the bar's turnover is unknown.
    """

    ordinal: int
    time_ms: int
    price: float
    size: float
    side: Side
    turnover: float


def bar_ticks(candles: Candles, row: int, step_ms: int, qty_step: float) -> list[TapeTick]:
    """Return the trades of one bar, oldest first; their sizes add up to its volume.

    Sizes are multiples of `qty_step`, except that of the last trade, which gets the remainder.
    """
    first, high, low, last = (float(getattr(candles, name)[row]) for name in ("open", "high", "low", "close"))
    volume, turnover = float(candles.volume[row]), float(candles.turnover[row])
    prices = (first, low, high, last) if last >= first else (first, high, low, last)
    sizes = [round(math.floor(volume * share / qty_step) * qty_step, 8) for share in _SHARES[:-1]]
    sizes.append(max(round(volume - sum(sizes), 8), 0.0))
    start_ms, before = int(candles.start_ms[row]), float(candles.close[row - 1]) if row else first
    ticks = []
    for i, (price, size) in enumerate(zip(prices, sizes, strict=True)):
        share = size / volume if volume > 0 else 0.0
        ticks.append(
            TapeTick(
                ordinal=row * TICKS + i,
                time_ms=start_ms + step_ms * i // TICKS,
                price=price,
                size=size,
                side="Buy" if price >= before else "Sell",
                turnover=turnover * share,
            )
        )
        before = price
    return ticks
