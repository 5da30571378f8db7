"""Immutable datasets: what one training run saw, as Parquet, named by the hash of its content and of its code.

    <folder>/<id>/bars.parquet       start_ms, candles, features, vol, segment: one row a bar
                  funding.parquet    stamp_ms, rate
                  dataset.json       id, content_hash, source, market, code_hash, bars, SHA-256 of both files

The folder is on a disk, or at an fsspec URL, where the manifest is written last and a dataset exists once it does.

The id is of the values, not of the files, so it does not change with the Parquet writer. The files' own hashes are
checked before Arrow parses a byte of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.objects import ObjectStore
from storage.schema import (
    CANDLE_COLUMNS,
    FEATURES,
    Candles,
    ConfigError,
    DatasetError,
    DatasetRef,
    FloatArray,
    IntArray,
    Market,
    Source,
    StoreError,
    content_hash,
    parse_source,
)
from storage.workfolder import Pruned, WorkFolder

_BARS, _FUNDING, _MANIFEST = "bars.parquet", "funding.parquet", "dataset.json"
_ID = re.compile(r"[0-9a-f]{16}")
_Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A dataset that was read and verified.

    Attributes:
        candles: (T,) columns.
        features: (T, 10) in the order of `FEATURES`, NaN where not ready.
        vol: (T,) per-bar volatility, NaN where not ready.
        segment: (T,) number of the gapless stretch that the bar is in.
        funding_ms: (n,) funding stamps, UTC milliseconds.
        funding_rate: (n,) rate paid at each stamp.
        code_hash: Hash of the code that made the features.
    """

    ref: DatasetRef
    candles: Candles
    features: FloatArray
    vol: FloatArray
    segment: IntArray
    funding_ms: IntArray
    funding_rate: FloatArray
    code_hash: str


def write_dataset(
    folder: Path | str,
    *,
    source: Source,
    market: Market,
    candles: Candles,
    features: FloatArray,
    vol: FloatArray,
    segment: IntArray,
    funding: tuple[IntArray, FloatArray],
    code_hash: str,
) -> DatasetRef:
    """Store a dataset and return its reference; the same content again returns the same reference and writes nothing.

    The files are written aside and renamed together, so a dataset exists whole or not at all.

    Args:
        folder: Folder of all datasets, made if need be; or its fsspec URL.
        source: Where the candles came from.
        market: Whose candles they are.
        candles: (T,) columns, T >= 1.
        features: (T, 10) in the order of `FEATURES`, NaN where not ready.
        vol: (T,) per-bar volatility, NaN where not ready.
        segment: (T,) number of the gapless stretch that the bar is in.
        funding: (n,) stamps in UTC milliseconds and (n,) rates.
        code_hash: Hash of the code that made the features.

    Raises:
        DatasetError: The columns do not fit each other, or a dataset of this id is there and is damaged.
        StoreError: The folder can't be written, or the disk is full.
    """
    if not len(candles) or features.shape != (len(candles), len(FEATURES)):
        raise DatasetError(
            f"{market}: a dataset must have at least one bar and ({len(candles)}, {len(FEATURES)}) features, "
            f"they were {features.shape}"
        )
    bars = {"start_ms": candles.start_ms, **{name: getattr(candles, name) for name in CANDLE_COLUMNS}}
    bars |= dict(zip(FEATURES, features.T, strict=True)) | {"vol": vol, "segment": segment}
    tables = {_BARS: _canonical(bars), _FUNDING: _canonical({"stamp_ms": funding[0], "rate": funding[1]})}
    for name, columns in tables.items():
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise DatasetError(f"{market}: the columns of {name} must have one length, were {sorted(lengths)}")
    content = _content(parse_source(source), market, code_hash, tables)
    ref = DatasetRef(id=content[:16], source=source, market=market)
    if _has(folder, ref.id):
        return load_dataset(folder, ref).ref
    files = {name: _parquet(columns) for name, columns in tables.items()}
    manifest = _manifest(ref, content, code_hash, len(candles), files)
    files[_MANIFEST] = json.dumps(manifest, indent=2).encode()
    if isinstance(folder, Path):
        WorkFolder(folder).save(ref.id, files)
    else:
        _upload(folder, ref.id, files)
    return ref


def load_dataset(folder: Path | str, ref: DatasetRef | str) -> Dataset:
    """Read a dataset and prove that it is the one that was written.

    Args:
        folder: Folder of all datasets, or its fsspec URL.
        ref: The reference, or the id alone.

    Raises:
        DatasetError: It is missing, damaged, changed, half written, or not of the reference's source and market.
    """
    dataset_id = ref if isinstance(ref, str) else ref.id
    if not _ID.fullmatch(dataset_id):
        raise DatasetError(f"a dataset's id must be 16 hex digits, was {dataset_id!r}")
    place = f"{folder}/{dataset_id}"
    if not _has(folder, dataset_id):
        raise DatasetError(
            f"dataset {dataset_id} is not in {folder}; build it again from the stored candles, or let DSC_ARTIFACT_URL "
            "name the place where it was built"
        )
    try:
        dataset = _load(_reader(folder, dataset_id), dataset_id)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as err:
        cause = f"{type(err).__name__}: {err}"
        raise DatasetError(f"dataset {dataset_id} is damaged; delete {place} and build it again ({cause})") from err
    if not isinstance(ref, str) and dataset.ref != ref:
        found = dataset.ref
        raise DatasetError(
            f"dataset {dataset_id} must be of {ref.source} {ref.market}, was of {found.source} {found.market}"
        )
    return dataset


def prune_datasets(
    folder: Path | str, before: datetime, keep_newest: int, referred: Callable[[Source, Market], Set[str]]
) -> Pruned:
    """Remove datasets that nobody has used since a time and that no version needs, and return what went.

    A dataset that can't be read stays: it says of no market that it may go.

    Args:
        folder: Folder of all datasets; nothing goes from a URL.
        before: Aware; see `WorkFolder.prune`.
        keep_newest: Datasets of each source and market that stay, those used last, whatever their age.
        referred: Returns the ids of the datasets that the versions of a source and market were made from.

    Raises:
        StoreError: The folder can't be changed.
    """
    if not isinstance(folder, Path):  # nothing there says when it was used
        return Pruned(keys=(), freed_bytes=0)
    datasets = WorkFolder(folder)
    markets: dict[tuple[Source, Market], list[str]] = {}
    for key in datasets.by_last_use():
        with suppress(OSError, ValueError, KeyError, TypeError, ConfigError):
            manifest = json.loads((folder / key / _MANIFEST).read_bytes())
            place = parse_source(manifest["source"]), Market(**manifest["market"])
            markets.setdefault(place, []).append(key)
    old = {place: keys[keep_newest:] for place, keys in markets.items() if len(keys) > keep_newest}
    spare = {key for place, keys in old.items() for key in set(keys) - referred(*place)}
    return datasets.prune(before, lambda key: key not in spare)


def _has(folder: Path | str, dataset_id: str) -> bool:
    if isinstance(folder, Path):
        return dataset_id in WorkFolder(folder)
    return ObjectStore(folder, error=StoreError).exists(f"{dataset_id}/{_MANIFEST}")


def _reader(folder: Path | str, dataset_id: str) -> Callable[[str], bytes]:
    if isinstance(folder, Path):
        return lambda name: (folder / dataset_id / name).read_bytes()
    objects = ObjectStore(folder, error=StoreError)
    return lambda name: objects.read(f"{dataset_id}/{name}")


def _upload(url: str, dataset_id: str, files: Mapping[str, bytes]) -> None:
    objects = ObjectStore(url, error=StoreError)
    try:
        for name, content in files.items():  # the manifest is the last
            objects.create(f"{dataset_id}/{name}", content)
    except FileExistsError as err:
        raise DatasetError(
            f"dataset {dataset_id} is half written, by another version of Arrow; delete {url}/{dataset_id} and build "
            "it again"
        ) from err


def _load(read: Callable[[str], bytes], dataset_id: str) -> Dataset:
    """Read a dataset; whatever is wrong with it ends in an error of the kinds that `load_dataset` explains."""
    manifest = json.loads(read(_MANIFEST))
    files = {name: read(name) for name in (_BARS, _FUNDING)}
    if manifest["sha256"] != _hashes(files):
        raise ValueError("its files are not those that were written")
    tables = {name: _columns(content) for name, content in files.items()}
    bars, funding = tables[_BARS], tables[_FUNDING]
    source, market = parse_source(manifest["source"]), Market(**manifest["market"])
    code_hash = str(manifest["code_hash"])
    content = _content(source, market, code_hash, tables)
    ref = DatasetRef(id=content[:16], source=source, market=market)
    if ref.id != dataset_id or manifest != _manifest(ref, content, code_hash, len(bars["vol"]), files):
        raise ValueError(f"its content has the id {ref.id}")
    return Dataset(
        ref=ref,
        candles=Candles(start_ms=bars["start_ms"], **{name: bars[name] for name in CANDLE_COLUMNS}),
        features=np.column_stack([bars[name] for name in FEATURES]),
        vol=bars["vol"],
        segment=bars["segment"],
        funding_ms=funding["stamp_ms"],
        funding_rate=funding["rate"],
        code_hash=code_hash,
    )


def _canonical(columns: _Columns) -> _Columns:
    """Return the columns with one bit pattern for NaN and one for zero, so that equal values have equal hashes."""
    return {
        name: np.where(np.isnan(column), np.nan, column + 0.0) if column.dtype.kind == "f" else column
        for name, column in columns.items()
    }


def _content(source: Source, market: Market, code_hash: str, tables: Mapping[str, _Columns]) -> str:
    """Return the SHA-256 of everything that a dataset says, names included."""

    def parts() -> Iterator[bytes]:
        yield from (source.encode(), market.slug.encode(), code_hash.encode())
        for table, columns in tables.items():
            for name, column in columns.items():
                yield f"{table} {name} {column.dtype.str}".encode()
                yield column.tobytes()

    return content_hash(parts())


def _manifest(ref: DatasetRef, content: str, code_hash: str, bars: int, files: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "id": ref.id,
        "content_hash": content,
        "source": ref.source,
        "market": asdict(ref.market),
        "code_hash": code_hash,
        "bars": bars,
        "sha256": _hashes(files),
    }


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _parquet(columns: _Columns) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer, compression="zstd")
    return buffer.getvalue()


def _columns(content: bytes) -> dict[str, NDArray[Any]]:
    with pq.ParquetFile(io.BytesIO(content)) as file:
        table = file.read()
    # A copy, since Arrow's own memory is read-only, for which Numba would compile everything a second time.
    return {name: np.array(table.column(name).to_numpy()) for name in table.column_names}
