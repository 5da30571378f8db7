"""Reads candle and funding files for a replay; a malformed file is refused with the row that is wrong."""

import gzip
import io
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from storage.foreign import MOST_DATA_BYTES, MOST_ROWS, ParquetTable, read_file, refusing
from storage.schema import (
    CANDLE_COLUMNS,
    INTERVAL_MS,
    CandleError,
    Candles,
    ConfigError,
    DamagedError,
    FloatArray,
    IntArray,
    Interval,
    Source,
    content_hash,
    one_line,
    sandbox_source,
    utc_text,
)
from tasks.sandbox.candle_layout import PRICES, Layout, layout_of_names, layout_of_text
from tasks.sandbox.replay import bar_open

Table = Mapping[str, pa.ChunkedArray]
"""Columns by the names that the file gives them."""

_GRID = {"D": "days must open at 00:00 UTC", "W": "weeks must open on Mondays at 00:00 UTC"}
_OTHER_GRID = "bars must open at whole multiples of their interval, UTC"
_PLAUSIBLE_S = (1_230_768_000, 4_102_444_800)  # 2009 to 2100: tells seconds from milliseconds and the others
_PER_SECOND = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
_MOST_TEXT = 1 << 29  # bytes, unpacked: more than MOST_ROWS lines
_FIRST_LINES = 100_000  # bytes
_MOST_STRANGE = 0.01  # of the rows: beyond it the columns are others, and not the rows bad


def read_candle_file(path: Path, on_note: Callable[[str], object] = lambda line: None) -> Candles:
    """Read candles from a file with the columns start_ms, open, high, low, close, volume and optionally turnover.

    Published dumps with other layouts (`candle_layout.py`) are read too, if their layout is unambiguous.

    Args:
        path: A .parquet, .csv or .csv.gz file, or a .zip with one CSV file in it. start_ms is the open time, UTC
            milliseconds; other columns are ignored.
        on_note: Called with one line that describes how a file of another layout was read.

    Returns:
        The candles, oldest first; turnover is NaN if the file has none.

    Raises:
        ConfigError: There is no such file, or its name has another ending.
        CandleError: It is unreadable, a column is missing or of the wrong type, a number is missing or not finite, or
            the rows are not strictly increasing in time.
    """
    table, layout = _read_table(path)
    opens = table[layout.columns["start_ms"]]
    if not len(opens):
        raise CandleError(f"a candle file must hold candles, {path.name} has no row")
    start_ms, notes = _start_column(opens, path)
    if (end_ms := int(start_ms.max())) > time.time() * 1e3:
        raise CandleError(f"candles must be of the past, {path.name} ends at {utc_text(end_ms)}; check its unit")
    named = {name: table[theirs] for name, theirs in layout.columns.items()}
    columns = {name: _number_column(named[name], name, path) for name in PRICES}
    if layout.volumes:
        columns |= _volumes(table, layout.volumes, columns, path)
        notes = (*notes, "of two volumes the one in coins is volume, the other turnover")
    else:
        unknown = pa.chunked_array([pa.nulls(len(start_ms))])
        columns["volume"] = _number_column(named["volume"], "volume", path)
        columns["turnover"] = _floats(named.get("turnover", unknown), "turnover", path)
    if layout.names:
        _check_order(columns, path)
    candles = Candles(start_ms=start_ms, **{name: columns[name] for name in CANDLE_COLUMNS})
    if start_ms[0] > start_ms[-1]:
        candles, notes = candles[np.arange(len(candles))[::-1]], (*notes, "the newest comes first")
    if notes := (*layout.notes, *notes):
        on_note(f"{path.name} was read so: {'; '.join(notes)}")
    return candles


def read_funding_file(path: Path) -> list[tuple[int, float]]:
    """Read funding stamps (UTC milliseconds) and rates from a file with the columns start_ms and funding_rate.

    Raises:
        ConfigError: There is no such file, or its name has another ending.
        CandleError: It is unreadable, or a column is missing, of the wrong type, not finite or out of order.
    """
    table, _ = _read_table(path, _funding_layout)
    stamps, _ = _start_column(table["start_ms"], path)
    rates = _number_column(table["funding_rate"], "funding_rate", path)
    return sorted(zip(stamps.tolist(), rates.tolist(), strict=True))


def file_source(candles: Path, funding: Path | None = None) -> Source:
    """Return the source of a replay: sandbox:<hash8 of candles and funding>, independent of the file format.

    Raises:
        ConfigError, CandleError: As in `read_candle_file` and `read_funding_file`.
    """
    parts = [_candles_hash(candles, content_hash([_content(candles)]))]
    if funding is not None:
        parts.append(_funding_hash(funding, content_hash([_content(funding)])))
    return sandbox_source("".join(parts).encode())


@lru_cache(maxsize=8)  # a run computes its source many times
def _candles_hash(path: Path, written: str) -> str:
    candles = read_candle_file(path)
    return _table_hash(candles.start_ms, *(getattr(candles, name) for name in CANDLE_COLUMNS))


@lru_cache(maxsize=8)
def _funding_hash(path: Path, written: str) -> str:
    rows = np.array(read_funding_file(path), np.float64).reshape(-1, 2)
    return _table_hash(rows[:, 0].astype(np.int64), rows[:, 1])


def _table_hash(stamps_ms: IntArray, *columns: FloatArray) -> str:
    numbers = (np.where(np.isnan(column), np.nan, column + 0.0) for column in columns)  # one bit pattern each of NaN, 0
    return content_hash([stamps_ms.astype("<i8").tobytes(), *(column.astype("<f8").tobytes() for column in numbers)])


def base_interval(candles: Candles) -> Interval:
    """Return Bybit's code of the interval of the candles, the most common step between them.

    Raises:
        CandleError: There are fewer than two candles, the step is not one of Bybit's intervals, or a candle does not
            open on the interval's grid.
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
    late_ms: IntArray = candles.start_ms - bar_open(candles.start_ms, code)
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


def _funding_layout(names: list[str], file: str) -> Layout:
    needed = ("start_ms", "funding_rate")
    for name in needed:
        if names.count(name) != 1:
            raise CandleError(f"a funding file must have the columns {', '.join(needed)}; {file} lacks {name}")
    return Layout(columns={name: name for name in needed})


def _content(path: Path) -> bytes:
    try:
        return read_file(path, MOST_DATA_BYTES)
    except FileNotFoundError as err:
        raise ConfigError(f"candles and funding must name a file, {one_line(path, 1_000)} is none") from err
    except OSError as err:
        raise ConfigError(
            f"candles and funding must name a file that may be read, {one_line(path, 1_000)} is none ({err.strerror})"
        ) from err
    except DamagedError as err:
        raise ConfigError(f"candles and funding must name a file: {err}") from err


def _read_table(path: Path, layout_of: Callable[[list[str], str], Layout] | None = None) -> tuple[Table, Layout]:
    """Return the needed columns of a file by the file's names, and the layout with our names."""
    content = _content(path)
    if not path.name.endswith((".parquet", ".csv", ".csv.gz", ".zip")):
        raise ConfigError(f"a candle file must end in .parquet, .csv, .csv.gz or .zip, was {path.name!r}")
    try:
        if path.name.endswith(".parquet"):
            file = ParquetTable(content)
            layout = (layout_of or layout_of_names)(list(file.types), path.name)
            return {name: file.column(name) for name in _wanted(layout)}, layout
        text = _unpacked(content, path.name)
        if layout_of is None:
            head = text[:_FIRST_LINES].decode("utf-8-sig", "replace").splitlines()
            layout = layout_of_text(head[:10], path.name)
        else:
            layout = layout_of(_parsed(text, Layout(columns={})).column_names, path.name)
        table = _parsed(text, layout)
        return {name: table[name] for name in _wanted(layout)}, layout
    except (DamagedError, UnicodeError) as err:  # column names may not be valid text
        raise CandleError(f"{path.name} can't be read as a candle file ({err}); download or export it again") from err


def _wanted(layout: Layout) -> list[str]:
    return list(dict.fromkeys([*layout.columns.values(), *layout.volumes]))


def _unpacked(content: bytes, name: str) -> bytes:
    """Return the text of a CSV file, unpacked if it is compressed, up to a limit of size."""

    def bounded(file: IO[bytes] | gzip.GzipFile) -> bytes:
        text = file.read(_MOST_TEXT + 1)
        if len(text) > _MOST_TEXT:
            raise DamagedError(f"unpacked it has more than {_MOST_TEXT:,} bytes")
        return text

    with refusing("it can't be unpacked", OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, ValueError):
        if name.endswith(".gz"):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                return bounded(packed)
        if name.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if len(members := archive.namelist()) != 1:
                    raise DamagedError(f"it must hold one CSV file, it holds {len(members)}")
                with archive.open(members[0]) as file:
                    return bounded(file)
    return content


def _parsed(text: bytes, layout: Layout) -> pa.Table:
    if text.count(b"\n") > MOST_ROWS + layout.skip:
        raise DamagedError(f"it has more than {MOST_ROWS:,} rows")
    reading = pyarrow.csv.ReadOptions(skip_rows=layout.skip, column_names=layout.names or None)
    wanted = pyarrow.csv.ConvertOptions(include_columns=_wanted(layout))
    with refusing("no table", pa.ArrowException, OSError, ValueError):
        return pyarrow.csv.read_csv(io.BytesIO(text), read_options=reading, convert_options=wanted)


def _start_column(column: pa.ChunkedArray, path: Path) -> tuple[IntArray, tuple[str, ...]]:
    """Return open times, UTC milliseconds, in the order of the file, and notes on how they were converted."""
    start_ms, notes = _moments(column, path)
    if len(start_ms) > 1 and start_ms[0] > start_ms[-1]:
        unsorted, wrong = np.flatnonzero(np.diff(start_ms) >= 0), "is newer than the one before, unlike the others"
    else:
        unsorted, wrong = np.flatnonzero(np.diff(start_ms) <= 0), "is older than the one before"
    if len(unsorted):
        row = int(unsorted[0]) + 1
        repeats = start_ms[row] == start_ms[row - 1]
        found = "repeats the one before; keep one row a bar" if repeats else f"{wrong}; sort it"
        raise CandleError(f"start_ms must be strictly increasing, in {path.name} row {row} {found}")
    return start_ms, notes


def _moments(column: pa.ChunkedArray, path: Path) -> tuple[IntArray, tuple[str, ...]]:
    if _is_text(column):
        column = _dates(column, path)
    if (
        pa.types.is_floating(column.type)
        and not column.null_count
        and pc.all(pc.equal(column, pc.round(column))).as_py()
    ):
        column = pc.cast(column, pa.int64(), safe=False)
    is_date = pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
    if column.null_count or not (is_date or pa.types.is_integer(column.type)):
        raise CandleError(
            f"start_ms must hold whole UTC milliseconds in every row, in {path.name} it is {column.type} "
            f"with {column.null_count} nulls"
        )
    if is_date:
        zone = getattr(column.type, "tz", None)
        with refusing(f"start_ms of {path.name} can't be read", pa.ArrowException):
            moments = pc.cast(column, pa.timestamp("ms", zone)).cast(pa.int64()).to_numpy()
        factor = np.full(len(moments), 1_000)
        notes: tuple[str, ...] = (f"times are dates, {'UTC' if zone is None else 'with their zone'}",)
    else:
        moments = column.to_numpy().astype(np.int64)
        low, high = _PLAUSIBLE_S
        factor = np.select(
            [(moments >= low * n) & (moments <= high * n) for n in _PER_SECOND.values()], list(_PER_SECOND.values())
        )
        units = [unit for unit, n in _PER_SECOND.items() if (factor == n).any()]
        notes = () if units == ["milliseconds"] else (f"times are {' and '.join(units)}",)
    strange = np.flatnonzero(
        (factor == 0) | (moments < _PLAUSIBLE_S[0] * factor) | (moments > _PLAUSIBLE_S[1] * factor)
    )
    if len(strange):
        raise CandleError(
            f"start_ms must be UTC milliseconds of 2009 to 2100, in {path.name} row {strange[0]} has "
            f"{moments[strange[0]]}; give the open time, as a number or as 2025-01-31T23:55:00Z"
        )
    part = np.flatnonzero(moments % np.maximum(factor // 1_000, 1))
    if len(part):
        raise CandleError(f"start_ms must be whole milliseconds, in {path.name} row {part[0]} has {moments[part[0]]}")
    return np.where(factor == 1, moments * 1_000, moments // np.maximum(factor // 1_000, 1)), notes


def _dates(column: pa.ChunkedArray, path: Path) -> pa.ChunkedArray:
    """Convert a text column to numbers or dates."""
    for kind in (pa.int64(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        with suppress(pa.ArrowException, ValueError):
            return pc.cast(column, kind)
    raise CandleError(
        f"start_ms must be a number or a date such as 2025-01-31T23:55:00Z, in {path.name} {_first_text(column)}"
    )


def _floats(column: pa.ChunkedArray, name: str, path: Path) -> FloatArray:
    """Convert a column of any numeric type, or of text, to floats."""
    if pa.types.is_null(column.type):  # a CSV column without any value
        return np.full(len(column), np.nan)
    try:
        values: FloatArray = pc.cast(column, pa.float64(), safe=False).to_numpy()
    except (pa.ArrowException, ValueError) as err:
        found = _first_text(column) if _is_text(column) else f"it is {one_line(column.type, 40)}"
        raise CandleError(f"{name} must hold numbers, in {path.name} {found}") from err
    return values


def _is_text(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _first_text(column: pa.ChunkedArray) -> str:
    """Return the first row of a column that is no number, in words."""
    for row, text in enumerate(column.to_pylist()):
        try:
            float(str(text))
        except ValueError:
            return f"row {row} has {one_line(text, 40)!r}"
    return f"row 0 has {one_line(column[0], 40)!r}"


def _number_column(column: pa.ChunkedArray, name: str, path: Path) -> FloatArray:
    values = _floats(column, name, path)
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        raise CandleError(
            f"{name} must hold finite numbers, in {path.name} {len(broken)} are not, the first in row {broken[0]}; "
            "drop such rows, a gap is recorded as one"
        )
    return values


def _volumes(table: Table, names: Sequence[str], prices: Mapping[str, FloatArray], path: Path) -> dict[str, FloatArray]:
    """Return which of two columns is volume and which is turnover: one over the other is a price of the bar."""
    first, second = (_number_column(table[name], name, path) for name in names)

    def fit(volume: FloatArray, turnover: FloatArray) -> bool:
        traded = volume > 0
        price = turnover[traded] / volume[traded]
        inside = (price >= prices["low"][traded] * 0.999) & (price <= prices["high"][traded] * 1.001)
        return bool(inside.size and inside.mean() >= 1 - _MOST_STRANGE)

    readings = [(one, other) for one, other in ((first, second), (second, first)) if fit(one, other)]
    if len(readings) != 1:
        raise CandleError(f"{path.name} has two volumes, {' and '.join(names)}; call the one in coins volume")
    return dict(zip(("volume", "turnover"), readings[0], strict=True))


def _check_order(columns: Mapping[str, FloatArray], path: Path) -> None:
    """Refuse columns that were taken for open, high, low and close, and can't be."""
    opened, closed = columns["open"], columns["close"]
    strange = (columns["high"] < np.maximum(opened, closed)) | (columns["low"] > np.minimum(opened, closed))
    if strange.mean() > _MOST_STRANGE:
        raise CandleError(
            f"{path.name} has no header, and its columns are not time, open, high, low, close, volume: in "
            f"{strange.mean():.0%} of the rows the high is not the highest; give it a first line that names them"
        )
