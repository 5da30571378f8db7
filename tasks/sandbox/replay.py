"""The replayed candles in any Bybit interval, at any time of the sandbox's clock, as rows of strings.

Nothing here looks ahead: at any time of the clock a replay shows the candles that have closed by then, and a forming
one made of the trades so far (`tape.py`). Where the file has no candle, the forming one is flat at the last close.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeVar

import numpy as np

from storage.schema import CANDLE_COLUMNS, INTERVAL_MS, MONDAY_MS, Candles, IntArray, Market
from tasks.sandbox.tape import TICKS, TapeTick, bar_ticks

RangePolicy = Literal["newest", "oldest"]
"""Which rows are returned if a range has more than `limit`; Bybit does not document it."""

Row = tuple[int, float, float, float, float, float, float]
"""Start (UTC milliseconds), open, high, low, close, volume, turnover."""

MARK_PRICE_FIELDS = 5
"""Start, open, high, low, close: a mark price has no volume."""

Moments = TypeVar("Moments", int, IntArray)

_BARS_KEPT = 16  # bars whose trades are cached


def bar_open(ms: Moments, interval: str) -> Moments:
    """Return the open times of the bars that contain `ms` (n,), or one, UTC milliseconds. Weeks open on Mondays."""
    origin = MONDAY_MS if interval == "W" else 0
    step = INTERVAL_MS[interval]
    return (ms - origin) // step * step + origin


def aggregate(candles: Candles, interval: str) -> Candles:
    """Return the candles as bars of a longer Bybit interval, which theirs divides.

    A bar whose candles are all missing is missing too.
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
    """Return the candles as Bybit's rows: lists of strings, oldest first; NaN becomes the empty string.

    Every string parses back to exactly the same number.
    """
    texts = [[str(ms) for ms in candles.start_ms.tolist()]]
    texts += [[decimal_text(x) for x in getattr(candles, name).tolist()] for name in CANDLE_COLUMNS[: columns - 1]]
    return [list(row) for row in zip(*texts, strict=True)]


@dataclass(kw_only=True, eq=False)
class Replay:
    """One market's candles, seen at a given time, in any interval.

    Attributes:
        candles: The base candles, oldest first, at least one, on the grid of their interval.
        market: Symbol, category and the interval of the base candles.
        qty_step: Trades are of multiples of it.
    """

    candles: Candles
    market: Market
    qty_step: float = 0.001
    _series: dict[str, Candles] = field(default_factory=dict, repr=False)
    _traded: dict[int, list[TapeTick]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._starts: list[int] = self.candles.start_ms.tolist()  # searched by bisection at every trade

    @property
    def first_ms(self) -> int:
        """Open time of the first candle, UTC milliseconds."""
        return int(self.candles.start_ms[0])

    @property
    def end_ms(self) -> int:
        """Close time of the last candle, UTC milliseconds."""
        return int(self.candles.start_ms[-1]) + self.market.interval_ms

    def serves(self, interval: str) -> bool:
        """Return whether bars of `interval` can be made from the base candles."""
        return interval in INTERVAL_MS and INTERVAL_MS[interval] % self.market.interval_ms == 0

    def closed(self, interval: str, now_ms: int) -> Candles:
        """Return the bars of `interval` that have closed by `now_ms`."""
        series = self._bars(interval)
        return series[: int(np.searchsorted(series.start_ms, now_ms - INTERVAL_MS[interval], side="right"))]

    def closing(self, interval: str, now_ms: int) -> Row | None:
        """Return the bar of `interval` that closes at `now_ms`, if one does."""
        series, start_ms = self._bars(interval), now_ms - INTERVAL_MS[interval]
        row = int(np.searchsorted(series.start_ms, start_ms))
        return _row(series, row) if row < len(series) and series.start_ms[row] == start_ms else None

    def ticks(self, since_ms: int, until_ms: int) -> list[TapeTick]:
        """Return the trades after `since_ms` up to and including `until_ms`, oldest first."""
        step_ms = self.market.interval_ms
        first = bisect_right(self._starts, since_ms - step_ms * (TICKS - 1) // TICKS)
        last = bisect_right(self._starts, until_ms)
        return [
            tick for row in range(first, last) for tick in self._bar_ticks(row) if since_ms < tick.time_ms <= until_ms
        ]

    def last_tick(self, now_ms: int) -> TapeTick | None:
        """Return the last trade up to and including `now_ms`, or None before the first candle opens."""
        row = bisect_right(self._starts, now_ms) - 1
        if row < 0:
            return None
        quarter = (now_ms - self._starts[row]) * TICKS // self.market.interval_ms
        return self._bar_ticks(row)[min(quarter, TICKS - 1)]

    def next_event_ms(self, now_ms: int) -> int:
        """Return the time of the next event after `now_ms`: a trade, or the end of a bar."""
        start_ms, step_ms = self.market.floor(now_ms), self.market.interval_ms
        return start_ms + ((now_ms - start_ms) * TICKS // step_ms + 1) * step_ms // TICKS

    def forming_row(self, interval: str, now_ms: int) -> Row | None:
        """Return the bar of `interval` that is forming at `now_ms`; none before the first candle opens."""
        if now_ms < self.first_ms:
            return None
        start_ms = self.market.floor(now_ms)
        traded = self.ticks(start_ms - 1, now_ms)
        closed = bisect_left(self._starts, start_ms)
        prices = [tick.price for tick in traded] or [float(self.candles.close[closed - 1])]
        volume, turnover = sum(tick.size for tick in traded), sum(tick.turnover for tick in traded)
        open_ms = bar_open(now_ms, interval)
        first = bisect_left(self._starts, open_ms)
        if first == closed:
            return (open_ms, prices[0], max(prices), min(prices), prices[-1], volume, turnover)
        before = self.candles[first:closed]
        return (
            open_ms,
            float(before.open[0]),
            max(float(before.high.max()), *prices),
            min(float(before.low.min()), *prices),
            prices[-1],
            float(before.volume.sum()) + volume,
            float(before.turnover.sum()) + turnover,
        )

    def forming(self, interval: str, now_ms: int) -> Candles:
        """Return the bar of `interval` that is forming at `now_ms` as one candle, or none."""
        row = self.forming_row(interval, now_ms)
        if row is None:
            return Candles.empty()
        values = {name: np.array([value]) for name, value in zip(CANDLE_COLUMNS, row[1:], strict=True)}
        return Candles(start_ms=np.array([row[0]]), **values)

    def _bars(self, interval: str) -> Candles:
        if interval not in self._series:
            self._series[interval] = aggregate(self.candles, interval)
        return self._series[interval]

    def _bar_ticks(self, row: int) -> list[TapeTick]:
        if row not in self._traded:
            if len(self._traded) >= _BARS_KEPT:
                self._traded.clear()
            self._traded[row] = bar_ticks(self.candles, row, self.market.interval_ms, self.qty_step)
        return self._traded[row]

    def page(
        self, interval: str, now_ms: int, start_ms: int | None, end_ms: int | None, limit: int, policy: RangePolicy
    ) -> Candles:
        """Return the rows of Bybit's kline endpoint at `now_ms`, oldest first.

        `start_ms` is floored to its bar, `end_ms` is inclusive. The policy says which rows are returned if both bounds
        are given and there are more than `limit`.
        """
        since = 0 if start_ms is None else bar_open(start_ms, interval)
        until = now_ms if end_ms is None else end_ms
        closed = _between(self.closed(interval, now_ms), since, until)
        forming = _between(self.forming(interval, now_ms), since, until)
        if start_ms is not None and (end_ms is None or policy == "oldest"):
            return Candles.join([closed[:limit], forming])[:limit]
        return Candles.join([closed[-limit:], forming])[-limit:]


def _row(candles: Candles, row: int) -> Row:
    first, high, low, last, volume, turnover = (float(getattr(candles, name)[row]) for name in CANDLE_COLUMNS)
    return int(candles.start_ms[row]), first, high, low, last, volume, turnover


def decimal_text(value: float) -> str:
    """Return a number as Bybit writes it, the empty string for NaN; it parses back to exactly the same number."""
    text = repr(float(value))  # the shortest exact text; float, because the repr of NumPy scalars names their type
    if "e" in text:
        text = format(Decimal(text), "f")  # Bybit writes 0.00001, never 1e-05
    return "" if text == "nan" else text.removesuffix(".0")


def _between(candles: Candles, first_ms: int, last_ms: int) -> Candles:
    low, high = np.searchsorted(candles.start_ms, [first_ms, last_ms + 1])
    return candles[int(low) : int(high)]
