"""The newest candles of each market as Parquet, for frequent readers that must not lock the database.

    <folder>/<source, with '-' for ':'>/<market>.parquet      start_ms and candles, oldest first

An ingest replaces the file atomically after its last commit, so readers and writers never wait for each other. A kill
between commit and replacement leaves the older file until the next ingest.
"""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.foreign import ParquetTable, parse_json, read_file
from storage.schema import (
    CANDLE_COLUMNS,
    Candles,
    DamagedError,
    Market,
    Source,
    StoreError,
    one_line,
    parse_source,
    source_slug,
)
from storage.whole_file import replace_file

RECENT_BARS = 10_000
"""Candles in a file: several times the warm-up of features and networks, and still written in milliseconds."""

_OWNER = b"dsc"


def write_recent(folder: Path, source: Source, market: Market, candles: Candles) -> Path:
    """Replace the file of a market by its newest `RECENT_BARS` candles, and return its path.

    Raises:
        StoreError: It can't be written; the previous file is unchanged.
    """
    path, newest = _place(folder, source, market), candles[-RECENT_BARS:]
    columns = {name: getattr(newest, name) for name in ("start_ms", *CANDLE_COLUMNS)}
    table = pa.table(columns).replace_schema_metadata({_OWNER: json.dumps([source, market.slug]).encode()})
    written = io.BytesIO()
    pq.write_table(table, written, compression="zstd")
    try:
        replace_file(path, written.getvalue())
    except OSError as err:
        raise StoreError(f"{path} can't be written ({err.strerror}); free space or set DSC_HOME") from err
    return path


def read_recent(folder: Path, source: Source, market: Market) -> Candles:
    """Return the newest candles of a market as of the last ingest; empty before the first ingest.

    Raises:
        StoreError: The file is damaged, or of another source or market.
    """
    path = _place(folder, source, market)
    try:
        table = ParquetTable(read_file(path), RECENT_BARS)
        owner = parse_json(table.metadata.get(_OWNER, b""))
        columns = {name: table.numbers(name, "double") for name in CANDLE_COLUMNS}
        candles = Candles(start_ms=table.moments("start_ms"), **columns)
    except FileNotFoundError:
        return Candles.empty()
    except OSError as err:
        raise StoreError(f"{path} can't be read ({err.strerror})") from err
    except DamagedError as err:
        raise StoreError(f"{path} is damaged ({err}); run ingest again") from err
    if owner != [source, market.slug]:
        found = " ".join(map(one_line, owner)) if isinstance(owner, list) else one_line(owner)
        raise StoreError(f"{path} must be of {source} {market.slug}, was of {found}; run ingest again")
    return candles


def _place(folder: Path, source: Source, market: Market) -> Path:
    return folder / source_slug(parse_source(source)) / f"{market.slug}.parquet"
