"""Immutable datasets: the input of a training run as Parquet, named by a hash of its content and of the feature code.

    <place>/<id>.zip        a result (`storage/results.py`) of three files:
        bars.parquet            start_ms, candles, features, vol, segment: one row a bar
        funding.parquet         stamp_ms, rate
        dataset.json            source, market, code_hash

The id is a hash of the values, not of the files, so it does not depend on the Parquet writer. The archive's own hash is
checked before Arrow parses any of it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.authorship import Where
from storage.foreign import Archive, ParquetTable, parse_json
from storage.results import Content, Pruned, ResultStore, canonical_json
from storage.schema import (
    CANDLE_COLUMNS,
    FEATURES,
    Candles,
    DatasetError,
    DatasetRef,
    FloatArray,
    IntArray,
    Market,
    Source,
    content_hash,
    parse_source,
)

_BARS, _FUNDING, _ORIGIN = "bars.parquet", "funding.parquet", "dataset.json"
_ID = re.compile(r"[0-9a-f]{16}")
_ROWS = 1 << 15  # rows written at a time: a few megabytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The input of a training run.

    Attributes:
        candles: (T,) columns, T >= 1.
        features: (T, F) in the order of `FEATURES`, NaN where not ready.
        vol: (T,) per-bar volatility, NaN where not ready.
        segment: (T,) number of the gap-free segment that contains the bar.
        funding_ms: (n,) funding stamps, UTC milliseconds.
        funding_rate: (n,) rate paid at each stamp.
        code_hash: Hash of the code that computed the features.
    """

    source: Source
    market: Market
    candles: Candles
    features: FloatArray
    vol: FloatArray
    segment: IntArray
    funding_ms: IntArray
    funding_rate: FloatArray
    code_hash: str

    @cached_property
    def ref(self) -> DatasetRef:
        """Its reference: the id is the SHA-256 of its whole content, names of columns included."""

        def parts() -> Iterator[bytes]:
            yield from (self.source.encode(), self.market.slug.encode(), self.code_hash.encode())
            for table, columns in self.tables().items():
                for name, column in columns.items():
                    yield f"{table} {name} {column.dtype.str}".encode()
                    yield _canonical(column).tobytes()

        return DatasetRef(id=content_hash(parts())[:16], source=self.source, market=self.market)

    def tables(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return every column by file and name, without copying."""
        bars = {name: getattr(self.candles, name) for name in ("start_ms", *CANDLE_COLUMNS)}
        bars |= dict(zip(FEATURES, self.features.T, strict=True)) | {"vol": self.vol, "segment": self.segment}
        return {_BARS: bars, _FUNDING: {"stamp_ms": self.funding_ms, "rate": self.funding_rate}}

    def files(self) -> dict[str, Content]:
        """Return it as files by name."""
        origin = {"source": self.source, "market": self.market, "code_hash": self.code_hash}
        files: dict[str, Content] = {name: partial(_write_parquet, columns) for name, columns in self.tables().items()}
        return files | {_ORIGIN: canonical_json(origin)}

    @classmethod
    def of(cls, files: Archive) -> Self:
        """Return the dataset stored in `files`."""
        origin = parse_json(files[_ORIGIN])
        source, market = _origin(origin)
        bars, funding = ParquetTable(files.open(_BARS)), ParquetTable(files[_FUNDING])
        columns = {name: bars.numbers(name, "double") for name in CANDLE_COLUMNS}
        features = np.empty((bars.rows, len(FEATURES)))
        for place, name in enumerate(FEATURES):
            features[:, place] = bars.numbers(name, "double")
        return cls(
            source=source,
            market=market,
            candles=Candles(start_ms=bars.moments("start_ms"), **columns),
            features=features,
            vol=bars.numbers("vol", "double"),
            segment=bars.numbers("segment", "int64"),
            funding_ms=funding.moments("stamp_ms"),
            funding_rate=funding.numbers("rate", "double"),
            code_hash=str(origin["code_hash"]),
        )


def write_dataset(place: Where, dataset: Dataset) -> DatasetRef:
    """Store a dataset and return its reference; an equal dataset is stored once.

    Raises:
        DatasetError: The columns do not fit each other, the dataset of this id exists but is damaged, or the place
            can't be written.
    """
    market, bars, shape = dataset.market, len(dataset.candles), dataset.features.shape
    parse_source(dataset.source)
    if not bars or shape != (bars, len(FEATURES)):
        raise DatasetError(
            f"{market}: a dataset must have at least one bar and ({bars}, {len(FEATURES)}) features, they were {shape}"
        )
    for name, columns in dataset.tables().items():
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise DatasetError(f"{market}: the columns of {name} must have one length, were {sorted(lengths)}")
    ref, store = dataset.ref, _store(place)
    if store.finished(ref.id):
        return load_dataset(place, ref).ref
    store.save(ref.id, dataset)
    return ref


def load_dataset(place: Where, ref: DatasetRef | str) -> Dataset:
    """Read a dataset and verify that its content has its id.

    Raises:
        DatasetError: It is missing, damaged, changed, or of another source or market than the reference.
    """
    dataset_id = ref if isinstance(ref, str) else ref.id
    if not _ID.fullmatch(dataset_id):
        raise DatasetError(f"a dataset's id must be 16 hex digits, was {dataset_id[:60]!r}")
    store = _store(place)
    if not store.finished(dataset_id):
        raise DatasetError(
            f"dataset {dataset_id} is not in {place}; build it again from the stored candles, or let DSC_ARTIFACT_URL "
            "name the place where it was built"
        )
    dataset = store.load(dataset_id, Dataset)
    found = dataset.ref
    if found.id != dataset_id:
        raise DatasetError(
            f"the content of dataset {dataset_id} has the id {found.id}; delete {store.location(dataset_id)} and build "
            "it again"
        )
    if not isinstance(ref, str) and found != ref:
        raise DatasetError(
            f"dataset {dataset_id} must be of {ref.source} {ref.market}, was of {found.source} {found.market}"
        )
    return dataset


def prune_datasets(place: Where, before: datetime, keep_newest: int, needed: Callable[[], Set[str]]) -> Pruned:
    """Remove datasets that have not been used since `before` and that no version needs, and return them.

    A dataset that can't be read is kept, since its market is unknown.

    Args:
        place: Folder of all datasets; nothing is removed from a URL.
        before: With a time zone; see `ResultStore.prune`.
        keep_newest: Number of the most recently used datasets of each source and market that are always kept.
        needed: Returns the ids of the datasets that stored versions need; called only if one could be removed.

    Raises:
        DatasetError: The folder can't be changed.
    """
    store = _store(place)
    markets: dict[tuple[Source, Market], list[str]] = {}
    for key in store.by_last_use():
        with suppress(OSError, ValueError, KeyError, TypeError):
            markets.setdefault(_origin(parse_json(store.peek(key, _ORIGIN))), []).append(key)
    old = {key for keys in markets.values() for key in keys[keep_newest:]}
    spare = old - needed() if old else old
    return store.prune(before, lambda key: key not in spare)


def _store(place: Where) -> ResultStore:
    return ResultStore(place, error=DatasetError)


def _origin(document: Mapping[str, Any]) -> tuple[Source, Market]:
    return parse_source(document["source"]), Market(**document["market"])


def _canonical(column: NDArray[Any]) -> NDArray[Any]:
    """Return a column with a single bit pattern for NaN and for zero, so that equal values have equal hashes."""
    return np.where(np.isnan(column), np.nan, column + 0.0) if column.dtype.kind == "f" else column


def _write_parquet(columns: Mapping[str, NDArray[Any]], file: IO[bytes]) -> None:
    """Write columns of one length, `_ROWS` rows at a time, so that they are not in memory twice."""

    def table(first: int, last: int) -> pa.Table:
        return pa.table({name: _canonical(column[first:last]) for name, column in columns.items()})

    rows = len(next(iter(columns.values())))
    # Prices and features rarely repeat, but the leading bytes of neighbouring values are alike: byte stream split makes
    # the file 30 % smaller than Arrow's default, and writing four times as fast.
    floats = [name for name, column in columns.items() if column.dtype.kind == "f"]
    packing = {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": floats}
    with pq.ParquetWriter(file, table(0, 0).schema, **packing) as writer:
        for first in range(0, rows, _ROWS):
            writer.write_table(table(first, first + _ROWS))
