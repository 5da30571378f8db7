"""Bars as other programs hold them, beside the candles that the exchange has."""

from __future__ import annotations

from dataclasses import dataclass

from storage.schema import Candles

Bars = dict[int, tuple[float, ...]]
"""Open, high, low, close and volume of each bar, by its open time in UTC milliseconds."""


def bars_of(candles: Candles) -> Bars:
    """Return candles as bars."""
    columns = (candles.open, candles.high, candles.low, candles.close, candles.volume)
    return dict(zip(candles.start_ms.tolist(), zip(*(c.tolist() for c in columns), strict=True), strict=True))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How bars compare with those of the exchange.

    Attributes:
        equal: How many are the same in every number.
        differ: Open times (UTC milliseconds) of those that are missing, that do not exist, or that have other numbers.
    """

    equal: int
    differ: tuple[int, ...]

    @classmethod
    def of(cls, bars: Bars, truth: Bars, needed: range) -> Comparison:
        """Compare.

        Args:
            bars: What another program holds; a shorter tuple is compared as far as it goes.
            truth: What the exchange has.
            needed: Open times between which no bar of the exchange may be missing, UTC milliseconds.
        """
        wrong = {start for start, bar in bars.items() if truth.get(start, ())[: len(bar)] != bar}
        missing = {start for start in truth if start in needed} - bars.keys()
        return cls(equal=len(bars) - len(wrong), differ=tuple(sorted(wrong | missing)))
