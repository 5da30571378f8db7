"""What the sandbox shows of its candles: in any Bybit interval, at any time of its clock, as rows of strings.

Nothing here looks ahead: at any time of the clock a replay shows the candles that have closed by then, and a forming
one that is flat at the last close, because what happens inside a bar is not known before it closes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

import numpy as np

from storage.schema import (
    CANDLE_COLUMNS,
    INTERVAL_MS,
    MONDAY_MS,
    CandleError,
    Candles,
    IntArray,
    Market,
)

RangePolicy = Literal["newest", "oldest"]
"""Which rows come when a range holds more than `limit`: Bybit's documents do not say."""

MARK_PRICE_FIELDS = 5
"""Start, open, high, low, close: a mark price has no volume."""


def bar_open(ms: IntArray, interval: str) -> IntArray:
    """Return the open times of the bars that contain `ms` (n,), UTC milliseconds. Weeks open on Mondays."""
    if interval == "M":
        return ms.astype("datetime64[ms]").astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
    origin = MONDAY_MS if interval == "W" else 0
    step = INTERVAL_MS[interval]
    return (ms - origin) // step * step + origin


def bar_end(start_ms: IntArray, interval: str) -> IntArray:
    """Return when the bars that open at `start_ms` (n,) close: the next bar's open time."""
    if interval == "M":
        return (start_ms.astype("datetime64[ms]").astype("datetime64[M]") + 1).astype("datetime64[ms]").astype(np.int64)
    return start_ms + INTERVAL_MS[interval]


def aggregate(candles: Candles, interval: str) -> Candles:
    """Return the candles as bars of a longer Bybit interval; a bar whose candles are all missing is missing too.

    Args:
        candles: Oldest first, of an interval that divides the new one.
        interval: Bybit's code, W and M included.
    """
    if len(candles) == 0:
        return candles
    opens = bar_open(candles.start_ms, interval)
    first = np.flatnonzero(np.diff(opens, prepend=opens[0] - 1))
    last = np.append(first[1:], len(opens)) - 1
    return Candles(
        start_ms=opens[first],
        open=candles.open[first],
        high=np.maximum.reduceat(candles.high, first),
        low=np.minimum.reduceat(candles.low, first),
        close=candles.close[last],
        volume=np.add.reduceat(candles.volume, first),
        turnover=np.add.reduceat(candles.turnover, first),
    )


def encode_rows(candles: Candles, columns: int = 1 + len(CANDLE_COLUMNS)) -> list[list[str]]:
    """Return the candles as Bybit's rows: lists of strings, oldest first; a number that is NaN is the empty string.

    Every string reads back as exactly the number it was made from.
    """
    texts = [[str(ms) for ms in candles.start_ms.tolist()]]
    texts += [[decimal_text(x) for x in getattr(candles, name).tolist()] for name in CANDLE_COLUMNS[: columns - 1]]
    return [list(row) for row in zip(*texts, strict=True)]


@dataclass(kw_only=True, eq=False)
class Replay:
    """One market's candles, seen at a given time, in any interval.

    Attributes:
        candles: The base candles, oldest first.
        market: Symbol, category and the interval of the base candles.
    """

    candles: Candles
    market: Market
    _series: dict[str, Candles] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(self.candles) == 0:
            raise CandleError("a replay must hold candles, there are none")
        starts = self.candles.start_ms
        off_grid = np.flatnonzero(bar_open(starts, self.market.interval) != starts)
        if len(off_grid):
            raise CandleError(
                f"every candle must open on the grid of its interval, {self.market}: row {off_grid[0]} opens at "
                f"{starts[off_grid[0]]}; give the interval that the candles have"
            )

    @property
    def first_ms(self) -> int:
        """Open time of the first candle, UTC milliseconds."""
        return int(self.candles.start_ms[0])

    @property
    def end_ms(self) -> int:
        """When the last candle closes, UTC milliseconds."""
        return int(bar_end(self.candles.start_ms[-1:], self.market.interval)[0])

    def serves(self, interval: str) -> bool:
        """Return whether bars of `interval` can be made from the base candles."""
        if interval == "M":
            return self.market.interval_ms <= INTERVAL_MS["D"]  # months cut weeks in two
        return interval in INTERVAL_MS and INTERVAL_MS[interval] % self.market.interval_ms == 0

    def closed(self, interval: str, now_ms: int) -> Candles:
        """Return the bars of `interval` that have closed by `now_ms`."""
        if interval not in self._series:
            self._series[interval] = aggregate(self.candles, interval)
        series = self._series[interval]
        return series[: int(np.searchsorted(bar_end(series.start_ms, interval), now_ms, side="right"))]

    def forming(self, interval: str, now_ms: int) -> Candles:
        """Return the one bar of `interval` that is forming at `now_ms`, or none before the first candle opens."""
        if now_ms < self.first_ms:
            return Candles.empty()
        known = self.closed(self.market.interval, now_ms)
        price = known.close[-1:] if len(known) else self.candles.open[:1]
        now = np.array([now_ms])
        nothing = np.zeros(1)
        flat = Candles(
            start_ms=bar_open(now, self.market.interval),
            open=price,
            high=price,
            low=price,
            close=price,
            volume=nothing,
            turnover=nothing,
        )
        since = int(np.searchsorted(known.start_ms, bar_open(now, interval)[0]))
        return aggregate(Candles.join([known[since:], flat]), interval)

    def page(
        self, interval: str, now_ms: int, start_ms: int | None, end_ms: int | None, limit: int, policy: RangePolicy
    ) -> Candles:
        """Return what Bybit's kline endpoint would show at `now_ms`, oldest first.

        Args:
            interval: One that the replay serves.
            now_ms: The clock.
            start_ms: Floored to its bar; None for no lower bound.
            end_ms: Latest open time, inclusive; None for no upper bound.
            limit: Most rows.
            policy: Which rows, when both bounds are given and there are more.
        """
        since = 0 if start_ms is None else int(bar_open(np.array([start_ms]), interval)[0])
        until = now_ms if end_ms is None else end_ms
        closed = _between(self.closed(interval, now_ms), since, until)
        forming = _between(self.forming(interval, now_ms), since, until)
        if start_ms is not None and (end_ms is None or policy == "oldest"):
            return Candles.join([closed[:limit], forming])[:limit]
        return Candles.join([closed[-limit:], forming])[-limit:]


def decimal_text(value: float) -> str:
    """Return a number as Bybit writes it, the empty string for NaN; it reads back as exactly the same number."""
    text = repr(float(value))  # the shortest text that does; float, because NumPy's scalars name their type
    if "e" in text:
        text = format(Decimal(text), "f")  # Bybit writes 0.00001, never 1e-05
    return "" if text == "nan" else text.removesuffix(".0")


def _between(candles: Candles, first_ms: int, last_ms: int) -> Candles:
    low, high = np.searchsorted(candles.start_ms, [first_ms, last_ms + 1])
    return candles[int(low) : int(high)]
