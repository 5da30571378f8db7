"""Content-addressed results: the key is a hash of a step's inputs, so that no process computes the same result twice.

    <place>/<key>.zip        the files of one result, not compressed; the archive's comment ends with the SHA-256 of all
                             bytes before it, and with DSC_ARTIFACT_KEY begins with the signature of key and files

A place is a folder, or an fsspec URL that every machine can reach. A result is one object that is created atomically,
so a killed run leaves all of it or nothing. The folder may be deleted while nothing runs; `prune` may be called at any
time, since every lookup marks the result as used.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, Self, TypeVar, runtime_checkable

from storage.authorship import Place, Where
from storage.foreign import MOST_DATA_BYTES, OTHERWISE, Archive, open_file, parse_json
from storage.objects import UNFINISHED, ObjectStore
from storage.schema import DamagedError, PipelineError, StoreError, content_hash, one_line
from storage.sealed import shape_of

Kind = TypeVar("Kind")
Content = bytes | Callable[[IO[bytes]], None]
"""Content of a file: its bytes, or a function that writes them, if they are too large to be in memory twice."""

_ENDING = ".zip"
_PLAIN = "result.json"
_DIGEST = 64  # hexadecimal digits of a SHA-256
_PART = 1 << 20  # bytes that are hashed at a time


@runtime_checkable
class Filed(Protocol):
    """A result with arrays or bytes, which defines its own files."""

    def files(self) -> Mapping[str, Content]:
        """Return it as files by name."""

    @classmethod
    def of(cls, files: Archive) -> Self:
        """Return the result stored in `files`; raises an error of `foreign.OTHERWISE` if they are of another class."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was removed to free space.

    Attributes:
        keys: Names of the results, including unfinished ones of killed runs.
    """

    keys: tuple[str, ...]
    freed_bytes: int


def canonical_json(value: Any) -> bytes:
    """Return `value` (JSON types and dataclasses) as canonical JSON: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        raise TypeError(f"a path must not enter a content key, was {value!r}")
    raise TypeError(f"a content key takes JSON types and dataclasses, was {type(value).__name__}")


class ResultStore:
    """Results by key.

    Args:
        place: Folder of all results, or its fsspec URL; with the key that signs them, if there is one.
        error: Class of the errors that are raised; the docstrings below call it StoreError.

    Raises:
        StoreError: The URL's protocol is unknown, or the package that serves it is not installed.
    """

    def __init__(self, place: Where, *, error: type[PipelineError] = StoreError) -> None:
        self._error, self._place = error, Place.of(place)
        self._objects = ObjectStore(self._place.url, error=error)

    @staticmethod
    def key(step: str, made_from: Any) -> str:
        """Return the key of the result of `step` on inputs `made_from` (JSON types and dataclasses)."""
        return f"{step}-{content_hash([canonical_json(made_from)])[:16]}"

    def location(self, key: str) -> str:
        """Return the location of a result: a path on disk, else a URL."""
        return self._objects.location(f"{key}{_ENDING}")

    def finished(self, key: str) -> bool:
        """Return whether the result exists, and mark it as used now, so that `prune` does not remove it.

        Raises:
            StoreError: The store refuses, so it is unknown.
        """
        if self._objects.folder is not None:
            with suppress(OSError):  # it does not exist, or belongs to another user and can't be marked
                os.utime(self.location(key))
        return self._objects.exists(f"{key}{_ENDING}")

    def save(self, key: str, result: Mapping[str, bytes] | object) -> None:
        """Store a result, completely or not at all; an existing one is left unchanged.

        A result is files by name, or a `Filed` object, or a dataclass of plain values.

        Raises:
            StoreError: The store refuses, or the disk is full.
        """
        if self.finished(key):
            return
        files: Mapping[str, Content]
        if isinstance(result, Filed):
            files = result.files()
        else:
            files = result if isinstance(result, Mapping) else {_PLAIN: canonical_json(result)}
        with suppress(FileExistsError):  # another process finished the same work first
            self._objects.create(f"{key}{_ENDING}", partial(self._pack, key, files))

    def load(self, key: str, kind: type[Kind]) -> Kind:
        """Return the result that was saved under a key; `kind` is a `Filed` class, or a dataclass of plain values.

        Raises:
            StoreError: It does not exist, its bytes have changed, or it is of another class.
        """
        with self._verified(key) as files:
            try:
                if issubclass(kind, Filed):
                    return kind.of(files)
                return shape_of(kind).validate_python(parse_json(files[_PLAIN]))
            except OTHERWISE as err:
                raise self._damaged(key, f"is no {kind.__name__} ({type(err).__name__}: {one_line(err)})") from err

    def read(self, key: str) -> dict[str, bytes]:
        """Return the files of a result, as they were saved.

        Raises:
            StoreError: There is no such result, or its bytes have changed.
        """
        with self._verified(key) as files:
            try:
                return dict(files)
            except DamagedError as err:
                raise self._damaged(key, f"is damaged ({err})") from err

    def peek(self, key: str, name: str) -> bytes:
        """Return one file of a result on a disk, without verifying the result's hash.

        Raises:
            OSError, KeyError, DamagedError: There is no such result, or it is damaged.
        """
        with open_file(Path(self.location(key))) as packed:
            return Archive(packed)[name]

    def by_last_use(self) -> tuple[str, ...]:
        """Return the keys on a disk, most recently used first; empty at a URL, where the last use is not known."""
        found = []
        for path in self._on_disk():
            with suppress(FileNotFoundError):  # pruned meanwhile
                if path.suffix == _ENDING:
                    found.append((path.stat().st_mtime_ns, path.stem))
        return tuple(key for _, key in sorted(found, reverse=True))

    def prune(self, before: datetime, keep: Callable[[str], bool] = lambda key: False) -> Pruned:
        """Remove the results that have not been used since `before`, and return them.

        Nothing is removed from a URL: use the bucket's own expiry rule there.

        Args:
            before: With a time zone. Must be earlier than the start of the oldest run that still needs its results.
            keep: Returns whether the result of a key is kept whatever its age.

        Raises:
            StoreError: The folder can't be changed.
        """
        gone, freed = [], 0
        for path in self._on_disk():
            if path.suffix != UNFINISHED and (path.suffix != _ENDING or keep(path.stem)):
                continue
            try:
                found = path.stat()
                if found.st_mtime >= before.timestamp():
                    continue
                path.unlink()
            except FileNotFoundError:  # another run prunes at the same time
                continue
            except OSError as err:
                raise self._error(f"{path.parent} can't be pruned ({err.strerror}); check its rights") from err
            gone.append(path.name.removesuffix(_ENDING))
            freed += found.st_size
        return Pruned(keys=tuple(gone), freed_bytes=freed)

    def _on_disk(self) -> list[Path]:
        """Return the files of the folder; none at a URL."""
        folder = self._objects.folder
        return [] if folder is None else sorted(path for path in folder.glob("*") if path.is_file())

    @contextmanager
    def _verified(self, key: str) -> Iterator[Archive]:
        """Open a result after verifying its hash and, with a key, its signature."""
        try:
            packed = self._objects.open(f"{key}{_ENDING}", MOST_DATA_BYTES)
        except FileNotFoundError as err:
            raise self._error(f"result {key} is not at {self.location(key)}; run again what makes it") from err
        with packed:
            size = packed.seek(0, io.SEEK_END)
            packed.seek(max(size - 2 * _DIGEST, 0))
            claims = packed.read()
            if _hash_of(packed, size - _DIGEST) != claims[-_DIGEST:].decode("latin-1"):
                raise self._damaged(key, "is damaged")
            claim = claims[:-_DIGEST].decode("latin-1")
            if self._place.key is not None and not self._place.is_ours(claim, _signed_hash(key, packed, size)):
                raise self._error(
                    f"result {key} was not written with this DSC_ARTIFACT_KEY; delete {self.location(key)} and run it "
                    "again"
                )
            try:
                files = Archive(packed)
            except DamagedError as err:
                raise self._damaged(key, f"is damaged ({err})") from err
            yield files

    def _pack(self, key: str, files: Mapping[str, Content], packed: IO[bytes]) -> None:
        """Write files to `packed` as the archive of a result."""
        is_signed = self._place.key is not None
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in files.items():
                with archive.open(zipfile.ZipInfo(name), "w") as file:  # without a time: equal files, equal archives
                    if callable(content):
                        content(file)
                    else:
                        file.write(content)
            archive.comment = bytes(2 * _DIGEST if is_signed else _DIGEST)
        size = packed.seek(0, io.SEEK_END)
        if is_signed:
            signed = str(self._place.signature(_signed_hash(key, packed, size)))
            packed.seek(size - 2 * _DIGEST)
            packed.write(signed.encode())
        digest = _hash_of(packed, size - _DIGEST)
        packed.seek(size - _DIGEST)
        packed.write(digest.encode())

    def _damaged(self, key: str, how: str) -> PipelineError:
        return self._error(f"result {key} {how}; delete {self.location(key)} and run it again")


def _signed_hash(key: str, packed: IO[bytes], size: int) -> str:
    """Return `content_hash` of a result's key and its archive without the signature and the hash at its end."""
    name, body = key.encode(), max(size - 2 * _DIGEST, 0)
    return _hash_of(packed, body, len(name).to_bytes(8, "little") + name + body.to_bytes(8, "little"))


def _hash_of(file: IO[bytes], size: int, before: bytes = b"") -> str:
    """Return the SHA-256 of `before` followed by the first `size` bytes of a file."""
    digest = hashlib.sha256(before)
    file.seek(0)
    while size > 0 and (part := file.read(min(size, _PART))):
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()
