"""Results, each named by what it was made from: the same work asked for again, by any process, is found and not done.

    <place>/<key>.zip        the files of one result, not compressed; the archive's comment ends with the SHA-256 of all
                             that is before it, and with DSC_ARTIFACT_KEY begins with the signature of key and files

A place is a folder or an fsspec URL that every machine reaches. A result is one object, made only where none was, so a
killed run leaves the whole of it or nothing. A folder may be deleted while nothing runs; `prune` may be called at any
time, since whoever finds a result marks it as used.
"""

from __future__ import annotations

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

from pydantic import TypeAdapter

from storage.authorship import Place, Where
from storage.foreign import MOST_DATA_BYTES, OTHERWISE, Archive, open_file, parse_json
from storage.objects import UNFINISHED, ObjectStore
from storage.schema import DamagedError, PipelineError, StoreError, content_hash, one_line

Kind = TypeVar("Kind")
Content = bytes | Callable[[IO[bytes]], None]
"""Of a file: its bytes, or what writes them, where they are too many to be in memory as well as what they say."""

_ENDING = ".zip"
_PLAIN = "result.json"
_DIGEST = 64  # hexadecimal digits of a SHA-256
_PART = 1 << 20  # bytes that are hashed at a time


@runtime_checkable
class Filed(Protocol):
    """A result with arrays or bytes in it, which says itself how it is kept."""

    def files(self) -> Mapping[str, Content]:
        """Return it as files by name."""

    @classmethod
    def of(cls, files: Archive) -> Self:
        """Return what `files` were made from; what it trips over says that they were not."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was removed to free space.

    Attributes:
        keys: Names of the results; unfinished ones that killed runs left behind are among them.
        freed_bytes: What they took.
    """

    keys: tuple[str, ...]
    freed_bytes: int


def canonical_json(value: Any) -> bytes:
    """Return `value` (JSON types and dataclasses) as text that is equal whenever the value is: sorted, no spaces."""
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
        place: Folder that holds them all, or its fsspec URL; with the key that they are signed with, if there is one.
        error: Class of every error; the texts below say StoreError for it.

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
        """Return where a result lies: a path on disk, a URL elsewhere."""
        return self._objects.location(f"{key}{_ENDING}")

    def finished(self, key: str) -> bool:
        """Return whether the result is there; asking marks it as used, so that `prune` leaves it to whoever asked.

        Raises:
            StoreError: The store refuses: that is not the same as "not there".
        """
        if self._objects.folder is not None:
            with suppress(OSError):  # not there; or somebody else's, which can be read, though not marked
                os.utime(self.location(key))
        return self._objects.exists(f"{key}{_ENDING}")

    def save(self, key: str, result: Mapping[str, bytes] | object) -> None:
        """Store a result, whole or not at all; one that is there already is left alone.

        Args:
            key: Its key.
            result: Files by name; or what has them (`Filed`); or a dataclass of plain values.

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
        """Return the result that was saved under a key.

        Args:
            key: Its key.
            kind: Its class: one with `of` (`Filed`), or a dataclass of plain values.

        Raises:
            StoreError: There is none, its bytes have changed, or it is of another kind.
        """
        with self._verified(key) as files:
            try:
                if issubclass(kind, Filed):
                    return kind.of(files)
                return TypeAdapter(kind).validate_python(parse_json(files[_PLAIN]))
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
        """Return one file of a result on a disk, without a look at the others and without proof.

        Raises:
            OSError, KeyError, DamagedError: There is no such result, or it is damaged.
        """
        with open_file(Path(self.location(key))) as packed:
            return Archive(packed)[name]

    def by_last_use(self) -> tuple[str, ...]:
        """Return the keys on a disk, the one that was used last first; at a URL nothing says when something was."""
        found = []
        for path in self._on_disk():
            with suppress(FileNotFoundError):  # pruned meanwhile
                if path.suffix == _ENDING:
                    found.append((path.stat().st_mtime_ns, path.stem))
        return tuple(key for _, key in sorted(found, reverse=True))

    def prune(self, before: datetime, keep: Callable[[str], bool] = lambda key: False) -> Pruned:
        """Remove the results that nobody has used since a time, and return what went.

        Nothing goes from a URL: a rule of the bucket itself expires what is there, for every machine at once.

        Args:
            before: Aware. Leave more room than the longest run takes: it still needs what it found at its beginning.
            keep: Says of a key that its result stays, whatever its age.

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
            except FileNotFoundError:  # another run, of another market, prunes at the same time
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
        """Open a result whose bytes are those that were saved, by whom they should be."""
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
        """Write files as the archive of a result."""
        is_signed = self._place.key is not None
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in files.items():
                with archive.open(zipfile.ZipInfo(name), "w") as file:  # no time of day: equal files are equal archives
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
    """Return `content_hash` of a result's key and of all of its archive but the two numbers at its end."""
    name, body = key.encode(), max(size - 2 * _DIGEST, 0)
    return _hash_of(packed, body, len(name).to_bytes(8, "little") + name + body.to_bytes(8, "little"))


def _hash_of(file: IO[bytes], size: int, before: bytes = b"") -> str:
    """Return the SHA-256 of what stands before the first `size` bytes of a file, and of those."""
    digest = hashlib.sha256(before)
    file.seek(0)
    while size > 0 and (part := file.read(min(size, _PART))):
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()
