"""What happens inside a candle: its trades, in the order that makes that candle and no other.

A candle says where its price opened, how far it went and where it closed, not when. The sandbox lets it trade four
times: at the open when the bar opens, at the nearer and the farther extreme, at the close three quarters through. Every
answer and every message of the sandbox is made of these trades, so that stream and REST agree at any time of the clock,
and a bar's open is known as soon as the bar has opened while its other prices are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from storage.schema import Candles

Side = Literal["Buy", "Sell"]

TICKS = 4
"""Trades in a bar; the i-th comes i quarters of the bar after its open."""

_SHARES = (0.4, 0.25, 0.25, 0.1)  # of the bar's volume: most of it at the open, where a market order would trade


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """One trade.

    Attributes:
        ordinal: Which trade of the replay it is, from 0: TICKS a bar.
        time_ms: UTC milliseconds.
        price: Quote currency per coin.
        size: Base currency; 0 where the bar's volume does not reach this far.
        side: Of the taker.
        turnover: Quote currency; NaN where the bar's is unknown.
    """

    ordinal: int
    time_ms: int
    price: float
    size: float
    side: Side
    turnover: float


def bar_ticks(candles: Candles, row: int, step_ms: int, qty_step: float) -> list[Tick]:
    """Return the trades of one bar, oldest first; their sizes add up to its volume.

    Args:
        candles: The replay.
        row: Which bar.
        step_ms: Length of a bar.
        qty_step: Sizes are multiples of it, but for what rounding leaves to the last.
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
            Tick(
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
