"""Candle and funding files that the sandbox replays: read as they stand, or refused with the row that is wrong."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from storage.schema import (
    CANDLE_COLUMNS,
    INTERVAL_MS,
    CandleError,
    Candles,
    ConfigError,
    FloatArray,
    IntArray,
    Interval,
    Market,
    Source,
    content_hash,
    sandbox_source,
    utc_text,
)

_KNOWN_COLUMNS = ("start_ms", *CANDLE_COLUMNS[:-1])  # turnover may be missing or null
_GRID = {"D": "days must open at 00:00 UTC", "W": "weeks must open on Mondays at 00:00 UTC"}
_OTHER_GRID = "bars must open at whole multiples of their interval, UTC"
_PLAUSIBLE_MS = (1_230_768_000_000, 4_102_444_800_000)  # 2009 to 2100: tells milliseconds from seconds and microseconds


def read_candle_file(path: Path) -> Candles:
    """Read candles from a file with the columns start_ms, open, high, low, close, volume and perhaps turnover.

    Args:
        path: A .parquet, .csv or .csv.gz file. start_ms is the open time, UTC milliseconds; other columns are ignored.

    Returns:
        The candles as they stand, turnover NaN where the file has none.

    Raises:
        ConfigError: There is no such file, or its name ends otherwise.
        CandleError: It is unreadable, a column is missing or of the wrong type, a number is missing or not finite, or
            the rows are not strictly increasing in time.
    """
    table = _read_table(path)
    missing = [name for name in _KNOWN_COLUMNS if name not in table.column_names]
    if missing:
        raise CandleError(
            f"a candle file must have the columns {', '.join(_KNOWN_COLUMNS)} and may have turnover, "
            f"{path.name} lacks {', '.join(missing)}; it has {', '.join(table.column_names)}"
        )
    twice = [name for name in _KNOWN_COLUMNS if table.column_names.count(name) > 1]
    if twice:
        raise CandleError(f"a candle file must have each column once, {path.name} has {' and '.join(twice)} twice")
    if table.num_rows == 0:
        raise CandleError(f"a candle file must hold candles, {path.name} has no row")
    start_ms = _start_column(table, path)
    if int(start_ms[-1]) > time.time() * 1e3:
        raise CandleError(
            f"candles must be of the past, {path.name} ends at {utc_text(int(start_ms[-1]))}; check its unit"
        )
    columns = {name: _number_column(table, name, path) for name in _KNOWN_COLUMNS[1:]}
    unknown = np.full(len(start_ms), np.nan)
    turnover = _floats(table, "turnover", path) if "turnover" in table.column_names else unknown
    return Candles(start_ms=start_ms, turnover=turnover, **columns)


def read_funding_file(path: Path) -> list[tuple[int, float]]:
    """Read funding stamps (UTC milliseconds) and rates from a file with the columns start_ms and funding_rate.

    Raises:
        ConfigError: There is no such file, or its name ends otherwise.
        CandleError: It is unreadable, or a column is missing, of the wrong type, not finite or out of order.
    """
    table = _read_table(path)
    for name in ("start_ms", "funding_rate"):
        if name not in table.column_names:
            raise CandleError(f"a funding file must have the columns start_ms, funding_rate; {path.name} lacks {name}")
    stamps, rates = _start_column(table, path), _number_column(table, "funding_rate", path)
    return list(zip(stamps.tolist(), rates.tolist(), strict=True))


def file_source(*paths: Path) -> Source:
    """Return the source of a replay: sandbox:<hash8 of the bytes of the candle file, and of any file beside it>."""
    contents = [_require_file(path).read_bytes() for path in paths]
    return sandbox_source(contents[0] if len(contents) == 1 else content_hash(contents).encode())


def base_interval(candles: Candles) -> Interval:
    """Return Bybit's code of the commonest step between candles, on whose grid every one of them opens.

    Raises:
        CandleError: Fewer than two candles, a step that is none of Bybit's intervals, or rows off the grid.
    """
    if len(candles) < 2:
        raise CandleError(f"a market needs at least two candles, to show its interval; it has {len(candles)}")
    codes = {interval_ms: code for code, interval_ms in INTERVAL_MS.items()}
    steps, counts = np.unique(np.diff(candles.start_ms), return_counts=True)
    _, _, least = max((int(count), step in codes, -int(step)) for step, count in zip(steps, counts, strict=True))
    if (code := codes.get(-least)) is None:
        raise CandleError(
            f"candles must follow each other at one of Bybit's intervals ({' '.join(INTERVAL_MS)}), most of these are "
            f"{timedelta(milliseconds=-least)} apart; make one of them by resampling"
        )
    grid = Market(interval=cast(Interval, code))
    late_ms: IntArray = candles.start_ms - grid.floor(candles.start_ms)  # type: ignore[arg-type]  # all at once
    off = np.flatnonzero(late_ms)
    if len(off) == len(candles) and (late_ms == late_ms[0]).all():
        raise CandleError(f"{_GRID.get(code, _OTHER_GRID)}, these open {timedelta(milliseconds=int(late_ms[0]))} later")
    if len(off):
        first = int(off[0])
        raise CandleError(
            f"bars of interval {code} must open on its grid, {len(off)} of {len(candles)} rows do not, the first is "
            f"row {first}, at {candles.start_ms[first]}; drop them, a gap is recorded as one"
        )
    return cast(Interval, code)


def _require_file(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"candles must name a file, {path} is none")
    return path


def _read_table(path: Path) -> pa.Table:
    _require_file(path)
    try:
        if path.name.endswith(".parquet"):
            return pyarrow.parquet.read_table(path)
        if path.name.endswith((".csv", ".csv.gz")):
            return pyarrow.csv.read_csv(path)
    except (pa.ArrowException, OSError) as err:
        raise CandleError(f"{path.name} can't be read as a candle file ({str(err).splitlines()[0]})") from err
    raise ConfigError(f"a candle file must end in .parquet, .csv or .csv.gz, was {path.name!r}")


def _start_column(table: pa.Table, path: Path) -> IntArray:
    column = table["start_ms"]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise CandleError(
            f"start_ms must hold whole UTC milliseconds in every row, in {path.name} it is {column.type} "
            f"with {column.null_count} nulls"
        )
    start_ms: IntArray = column.to_numpy().astype(np.int64)
    strange = np.flatnonzero((start_ms < _PLAUSIBLE_MS[0]) | (start_ms > _PLAUSIBLE_MS[1]))
    if len(strange):
        raise CandleError(
            f"start_ms must be UTC milliseconds of 2009 to 2100, in {path.name} row {strange[0]} has "
            f"{start_ms[strange[0]]}; convert seconds, microseconds or dates first"
        )
    unsorted = np.flatnonzero(np.diff(start_ms) <= 0)
    if len(unsorted):
        row = int(unsorted[0]) + 1
        repeats = start_ms[row] == start_ms[row - 1]
        found = "repeats the one before; keep one row a bar" if repeats else "is older than the one before; sort it"
        raise CandleError(f"start_ms must be strictly increasing, in {path.name} row {row} {found}")
    return start_ms


def _floats(table: pa.Table, name: str, path: Path) -> FloatArray:
    """Return a column of numbers, whatever they are written as: decimals, whole numbers of any size, text."""
    column = table[name]
    if pa.types.is_null(column.type):  # a CSV column without any value
        return np.full(table.num_rows, np.nan)
    try:
        values: FloatArray = pc.cast(column, pa.float64(), safe=False).to_numpy()
    except (pa.ArrowException, ValueError) as err:
        row, found = next(
            ((row, text) for row, text in enumerate(column.to_pylist()) if not _is_number(text)), (0, str(err)[:80])
        )
        raise CandleError(f"{name} must hold numbers, in {path.name} row {row} has {str(found)[:40]!r}") from err
    return values


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _number_column(table: pa.Table, name: str, path: Path) -> FloatArray:
    values = _floats(table, name, path)
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        raise CandleError(
            f"{name} must hold finite numbers, in {path.name} {len(broken)} are not, the first in row {broken[0]}; "
            "drop such rows, a gap is recorded as one"
        )
    return values
