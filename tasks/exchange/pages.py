"""Parse kline pages into candles; every row that is rejected gets a reason."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from storage.schema import (
    CANDLE_COLUMNS,
    BoolArray,
    Candles,
    FloatArray,
    IntArray,
    Market,
    RejectedRow,
    Window,
    utc_text,
)
from tasks.exchange.transport import Answer
from tasks.exchange.wire_values import LEAST_PRICE, MOST_AMOUNT, MOST_PRICE, BadMessage

_FIELDS = 1 + len(CANDLE_COLUMNS)
_RAW_LIMIT = 500
_REASON_LIMIT = 200
_NO_NUMBER = re.compile(r"[\s_]|[^\x00-\x7f]")  # Python also reads "1_000", " 1" and "\u0661"; Bybit writes none


@dataclass(frozen=True, kw_only=True)
class FetchedWindow:
    """Result of fetching a window.

    Attributes:
        candles: Closed, inside the window, oldest first, unique. Their values are unchecked; `storage.contracts` checks
            them later.
        rejected: Rows that can't be candles of this window, with reasons.
        missing: (n,) open times of closed bars that `candles` lacks, UTC milliseconds.
    """

    window: Window
    candles: Candles
    rejected: tuple[RejectedRow, ...]
    missing: IntArray

    @property
    def is_doubtful(self) -> bool:
        """Whether a second request may help: bars are missing, rows are rejected, or values are implausible."""
        return bool(self.rejected) or len(self.missing) > 0 or not bool(plausible(self.candles).all())

    @property
    def usable(self) -> int:
        """Number of candles with plausible values."""
        return int(plausible(self.candles).sum())


def plausible(candles: Candles) -> BoolArray:
    """Return (T,) whether a candle's numbers are of a plausible size, with open and close between low and high."""
    o, h, lo, c = candles.open, candles.high, candles.low, candles.close
    ordered = (h >= np.maximum(o, c)) & (lo <= np.minimum(o, c))  # false where a number is NaN
    priced = (lo >= LEAST_PRICE) & (h <= MOST_PRICE)
    traded = (candles.volume >= 0) & (candles.volume <= MOST_AMOUNT)
    sound: BoolArray = ordered & priced & traded & ~((candles.turnover < 0) | (candles.turnover > MOST_AMOUNT))
    return sound


def read_page(answer: Answer, market: Market, window: Window, now_ms: int) -> FetchedWindow:
    """Turn a kline answer into candles.

    Rows may come in any order; identical rows count once. A bar counts as closed if it is closed both at `now_ms` and
    at the answer's own time. Nothing is repaired by guessing: two rows that contradict each other are both rejected.

    Args:
        now_ms: Bybit's clock before the request, UTC milliseconds.

    Raises:
        BadMessage: The answer holds no list, or is about another market.
    """
    rows = _require_rows(answer.result, market)
    starts, numbers, rejected = _parse(rows)
    closed = starts + market.interval_ms <= min(now_ms, answer.time_ms if answer.time_ms is not None else now_ms)
    on_grid = (starts - market.floor(0)) % market.interval_ms == 0
    inside = (starts >= window.first_ms) & (starts <= window.last_ms)
    kept = closed & on_grid & inside
    for row in np.flatnonzero(~on_grid):
        rejected.append(_reject(int(starts[row]), numbers[row], f"opens off the {market.interval} grid"))
    for row in np.flatnonzero(on_grid & ~inside & closed):
        span = f"{utc_text(window.first_ms)}..{utc_text(window.last_ms)}"
        rejected.append(_reject(int(starts[row]), numbers[row], f"outside the window that was asked for, {span}"))
    starts, numbers, contradicting = _unique(starts[kept], numbers[kept])
    rejected += contradicting
    candles = Candles(start_ms=starts, **{name: numbers[:, i].copy() for i, name in enumerate(CANDLE_COLUMNS)})
    missing = np.setdiff1d(window.closed(market, now_ms), starts, assume_unique=True)
    return FetchedWindow(window=window, candles=candles, rejected=tuple(rejected), missing=missing)


def newest_start(answer: Answer, market: Market, now_ms: int) -> int | None:
    """Return the open time of the newest closed candle of a kline answer, UTC milliseconds; None if it has none.

    Raises:
        BadMessage: The answer holds no list, or is about another market.
    """
    starts, _, _ = _parse(_require_rows(answer.result, market))
    closed = starts[starts + market.interval_ms <= now_ms]
    return int(closed.max()) if len(closed) else None


def _require_rows(result: Mapping[str, Any], market: Market) -> list[Any]:
    for name, wanted in (("symbol", market.symbol), ("category", market.category)):
        if result.get(name, wanted) != wanted:
            raise BadMessage(f"the answer is about {name} {str(result[name])[:40]!r}")
    rows = result.get("list")
    if not isinstance(rows, list):
        raise BadMessage("the answer holds no list of rows")
    return rows


def _parse(rows: list[Any]) -> tuple[IntArray, FloatArray, list[RejectedRow]]:
    """Return the open times (n,) and values (n, 6) of the readable rows, and the other rows with reasons."""
    whole = _parse_whole(rows)
    if whole is not None:
        return *whole, []
    starts: list[int] = []
    numbers: list[list[float]] = []
    rejected: list[RejectedRow] = []
    for row in rows:
        start: int | None = None
        try:
            start = _start(row)
            numbers.append(_numbers(row))
            starts.append(start)
        except ValueError as err:
            raw = json.dumps(row, ensure_ascii=False)[:_RAW_LIMIT]
            rejected.append(RejectedRow(start_ms=start, raw=raw, reason=str(err)[:_REASON_LIMIT]))
    table = np.array(numbers, dtype=np.float64).reshape(len(numbers), len(CANDLE_COLUMNS))
    return np.array(starts, dtype=np.int64), table, rejected


def _parse_whole(rows: list[Any]) -> tuple[IntArray, FloatArray] | None:
    """Parse all rows at once, ten times as fast as one by one; None if any of them is malformed."""
    if not all(isinstance(row, list) and len(row) == _FIELDS for row in rows):
        return None
    fields = list(chain.from_iterable(rows))
    opens = fields[::_FIELDS]
    try:
        if _NO_NUMBER.search("".join(fields)) or not all(map(_is_start, opens)):
            return None
        table = np.array(list(map(float, fields))).reshape(len(rows), _FIELDS)
    except (TypeError, ValueError):
        return None
    return np.array(list(map(int, opens)), dtype=np.int64), table[:, 1:]


def _is_start(field: object) -> bool:
    # At most 15 digits: milliseconds until the year 33,658, and no overflow.
    return isinstance(field, str) and field.isascii() and field.isdecimal() and len(field) <= 15


def _start(row: object) -> int:
    if not isinstance(row, list) or len(row) != _FIELDS:
        raise ValueError(f"must be a list of {_FIELDS} fields")
    if not _is_start(row[0]):
        raise ValueError(f"start must be whole milliseconds, was {row[0]!r}")
    return int(row[0])


def _numbers(row: list[Any]) -> list[float]:
    try:
        if _NO_NUMBER.search("".join(row)):
            raise ValueError("a number must be ASCII without a blank or underscore")
    except TypeError as err:
        raise ValueError("every field must be text") from err
    numbers = [float(field) for field in row[1:-1]]
    numbers.append(float(row[-1]) if row[-1] else np.nan)  # Bybit sends an empty text for an unknown turnover
    return numbers


def _unique(starts: IntArray, numbers: FloatArray) -> tuple[IntArray, FloatArray, list[RejectedRow]]:
    order = np.argsort(starts, kind="stable")
    starts, numbers = starts[order], numbers[order]
    again = np.flatnonzero(np.diff(starts) == 0) + 1  # rows of the same bar as the row before
    if len(again) == 0:
        return starts, numbers, []
    differs = [row for row in again if not np.array_equal(numbers[row], numbers[row - 1], equal_nan=True)]
    contradicted = np.isin(starts, starts[differs])
    rejected = [
        _reject(int(starts[row]), numbers[row], "contradicts another row of the same bar")
        for row in np.flatnonzero(contradicted)
    ]
    keep = ~contradicted
    keep[again] = False
    return starts[keep], numbers[keep], rejected


def _reject(start_ms: int, numbers: FloatArray, reason: str) -> RejectedRow:
    return RejectedRow(start_ms=start_ms, raw=json.dumps([start_ms, *numbers.tolist()])[:_RAW_LIMIT], reason=reason)
