"""The bars that an account trades: prices, and the funding due at each open. Pure."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from storage.schema import MINUTE_MS, BoolArray, Candles, FloatArray, IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Bars:
    """The columns of a market's candles that the accounting uses.

    Attributes:
        start_ms: (T,) open time of each bar, UTC milliseconds, strictly increasing, at least one interval apart.
        open: (T,) first price, USDT, > 0; orders are filled at it.
        close: (T,) last price, USDT, > 0; equity is marked at it.
        funding_rate: (T,) funding rate due at the bar's open, on the position held until then; if positive, longs pay.
            None: no funding.
    """

    start_ms: IntArray
    open: FloatArray
    close: FloatArray
    interval_ms: int
    funding_rate: FloatArray | None = None

    def __post_init__(self) -> None:
        columns = {"start_ms": self.start_ms, "open": self.open, "close": self.close, "funding_rate": self.funding_rate}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        if len(set(lengths.values())) != 1 or not len(self):
            raise ValueError(f"bars must have columns of one length >= 1, were {lengths}")
        for name in ("open", "close"):
            price = getattr(self, name)
            good = (price > 0.0) & (price < np.inf)
            if not good.all():
                bar = int(np.argmin(good))
                raise ValueError(f"{name} must be finite and > 0, was {float(price[bar])!r} in bar {bar}")
        steps = np.diff(self.start_ms)
        if len(steps) and steps.min() < self.interval_ms:
            bar = int(np.argmin(steps >= self.interval_ms)) + 1
            raise ValueError(
                f"start_ms must rise by interval_ms={self.interval_ms} or more,"
                f" rose by {int(steps[bar - 1])} in bar {bar}"
            )
        if self.funding_rate is not None and not np.isfinite(self.funding_rate).all():
            bar = int(np.argmin(np.isfinite(self.funding_rate)))
            raise ValueError(f"funding_rate must be finite, was {float(self.funding_rate[bar])!r} in bar {bar}")

    def __len__(self) -> int:
        return len(self.start_ms)

    @cached_property
    def contiguous(self) -> BoolArray:
        """(T,) whether the bar directly follows the one before; False for the first."""
        follows = np.zeros(len(self), np.bool_)
        np.equal(np.diff(self.start_ms), self.interval_ms, out=follows[1:])
        return follows

    @classmethod
    def of(cls, candles: Candles, interval_ms: int, funding: tuple[IntArray, FloatArray] | None = None) -> Self:
        """Return the bars of T closed candles; funding is (n,) stamps, UTC milliseconds, and (n,) rates."""
        return cls(
            start_ms=candles.start_ms,
            open=candles.open,
            close=candles.close,
            interval_ms=interval_ms,
            funding_rate=None if funding is None else funding_by_bar(*funding, candles.start_ms, interval_ms),
        )


def funding_by_bar(stamp_ms: IntArray, rate: FloatArray, start_ms: IntArray, interval_ms: int) -> FloatArray:
    """Return the funding rate due at each bar's open.

    A stamp is rounded down to its minute, since many are a few milliseconds late, and belongs to the first bar that
    opens at or after that minute. An account that trades at that open pays the funding before the trade. A stamp inside
    a bar or a gap applies to the position that was held through it. The rates of several stamps of one bar are added
    up. Stamps that were due before the first bar are left out.

    Args:
        stamp_ms: (n,) UTC milliseconds.
        rate: (n,) share of the position's value.
        start_ms: (T,) open time of each bar, UTC milliseconds, increasing.

    Returns:
        (T,) rate, 0 where none is due.
    """
    minute = stamp_ms // MINUTE_MS * MINUTE_MS
    bar = np.searchsorted(start_ms, minute, side="left")
    met = (minute > start_ms[0] - interval_ms) & (bar < len(start_ms))
    return np.bincount(bar[met], weights=rate[met], minlength=len(start_ms)).astype(np.float64)
