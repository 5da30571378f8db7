"""Intermediate results, each in a folder named by the hash of what it was made from.

A result that is there is complete: it was written beside its place and renamed into it. So a killed run leaves the
whole result or none, and the same work asked for again, by any process, is found instead of done. The folder may be
deleted while nothing runs; `prune` may be called at any time, since whoever finds a result marks it as used.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from storage.private import place_umask
from storage.schema import StoreError, content_hash

_DIGESTS = "sha256.json"
_UNFINISHED = ".unfinished-"


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


class WorkFolder:
    """Results by content key.

    Args:
        root: Folder that holds them all.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @staticmethod
    def key(step: str, made_from: Any) -> str:
        """Return the key of the result of `step` on inputs `made_from` (JSON types and dataclasses)."""
        return f"{step}-{content_hash([canonical_json(made_from)])[:16]}"

    def __contains__(self, key: str) -> bool:
        """Return whether the result is there; asking marks it as used, so that `prune` leaves it to whoever asked."""
        try:
            os.utime(self._root / key)
        except FileNotFoundError:
            return False
        except OSError:  # somebody else's folder can be read, though not marked
            pass
        return (self._root / key).is_dir()

    def by_last_use(self) -> tuple[str, ...]:
        """Return the names of the results, the one that was used last first."""
        found = []
        for path in self._root.glob("*"):
            with suppress(FileNotFoundError):  # pruned meanwhile
                if path.is_dir() and not path.name.startswith("."):
                    found.append((path.stat().st_mtime_ns, path.name))
        return tuple(name for _, name in sorted(found, reverse=True))

    def prune(self, before: datetime, keep: Callable[[str], bool] = lambda key: False) -> Pruned:
        """Remove the results that nobody has used since a time, and return what went.

        Args:
            before: Aware. Leave more room than the longest run takes: it still needs what it found at its beginning.
            keep: Says of a result's name that it stays, whatever its age.

        Raises:
            StoreError: The folder can't be changed.
        """
        gone, freed = [], 0
        for path in sorted(self._root.glob("*")):
            leftover = path.name.startswith(_UNFINISHED)
            if (path.name.startswith(".") and not leftover) or (not leftover and keep(path.name)):
                continue
            try:
                if not path.is_dir() or path.stat().st_mtime >= before.timestamp():
                    continue
                size = sum(file.stat().st_size for file in path.glob("*"))
                condemned = path if leftover else path.with_name(f"{_UNFINISHED}{path.name}")
                path.rename(condemned)  # at once, as it came: a kill leaves no result without its files
                shutil.rmtree(condemned)
            except FileNotFoundError:  # another run, of another market, prunes at the same time
                continue
            except OSError as err:
                raise StoreError(f"{self._root} can't be pruned ({err.strerror}); check its rights") from err
            gone.append(path.name)
            freed += size
        return Pruned(keys=tuple(gone), freed_bytes=freed)

    def save(self, key: str, files: Mapping[str, bytes]) -> None:
        """Write the files of a result at once; a result that is there already is left alone.

        Raises:
            StoreError: The folder can't be written.
        """
        target = self._root / key
        if key in self:
            return
        try:
            with place_umask(self._root):
                self._write(target, files)
        except OSError as err:
            raise StoreError(
                f"results must be writable, {target} is not ({err.strerror}); free space or set DSC_HOME"
            ) from err

    def _write(self, target: Path, files: Mapping[str, bytes]) -> None:
        beside = self._root / f"{_UNFINISHED}{secrets.token_hex(8)}"
        try:
            beside.mkdir(parents=True)
            digests = {}
            for name, content in files.items():
                _write(beside / name, content)
                digests[name] = hashlib.sha256(content).hexdigest()
            _write(beside / _DIGESTS, json.dumps(digests).encode())
            beside.replace(target)
        except OSError:
            if not target.is_dir():  # else another process finished the same work first
                raise
        finally:  # a cancelled run leaves nothing either; after the renaming there is nothing to remove
            shutil.rmtree(beside, ignore_errors=True)

    def read(self, key: str, name: str) -> bytes:
        """Return one file of a result, as it was saved.

        Raises:
            StoreError: There is no such result or file, or its bytes have changed.
        """
        folder = self._root / key
        try:
            content = (folder / name).read_bytes()
            digests = json.loads((folder / _DIGESTS).read_text())
        except (OSError, ValueError) as err:
            raise StoreError(f"result {key} has no readable {name} ({err}); delete {folder} and run it again") from err
        if hashlib.sha256(content).hexdigest() != digests.get(name):
            raise StoreError(f"{name} of result {key} is damaged; delete {folder} and run it again")
        return content


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # a power cut must not leave a result's name without its content
