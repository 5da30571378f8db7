"""Intermediate results in an object store, where every machine finds what another one has finished.

    <url>/<step>-<16 hex digits>.zip        the files of one result, not compressed

On a disk a result is a folder that is renamed into place; an object store knows no renaming, so there a result is one
object, made only where none was: whole or not at all.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from storage.objects import ObjectStore
from storage.schema import StoreError
from storage.workfolder import Pruned, WorkFolder

# What the reader of an archive may stumble over when a byte of it has changed.
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError, struct.error)


def results_at(place: Path | str) -> WorkFolder:
    """Return the intermediate results in a folder, or at an fsspec URL."""
    return WorkFolder(place) if isinstance(place, Path) else SharedResults(place)


class SharedResults(WorkFolder):
    """Results by content key at a URL.

    Args:
        url: Any fsspec URL.

    Raises:
        StoreError: The URL's protocol is unknown, or the package that serves it is not installed.
    """

    def __init__(self, url: str) -> None:
        self._objects = ObjectStore(url, error=StoreError)

    def __contains__(self, key: str) -> bool:
        """Return whether the result is there."""
        return self._objects.exists(_archive(key))

    def by_last_use(self) -> tuple[str, ...]:
        """Return nothing: an object store does not say when something was used."""
        return ()

    def prune(self, before: datetime, keep: Callable[[str], bool] = lambda key: False) -> Pruned:
        """Remove nothing: a rule of the bucket itself expires what is below `work/`, for every machine at once."""
        return Pruned(keys=(), freed_bytes=0)

    def save(self, key: str, files: Mapping[str, bytes]) -> None:
        """Write the files of a result at once; a result that is there already is left alone.

        Raises:
            StoreError: The store refuses.
        """
        if key in self:
            return
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(name), content)  # no time of day: equal files are equal archives
        with suppress(FileExistsError):  # another process finished the same work first
            self._objects.create(_archive(key), packed.getvalue())

    def read(self, key: str, name: str) -> bytes:
        """Return one file of a result, as it was saved.

        Raises:
            StoreError: There is no such result or file, its bytes have changed, or the store refuses.
        """
        place = self._objects.location(_archive(key))
        try:
            with zipfile.ZipFile(io.BytesIO(self._objects.read(_archive(key)))) as archive:
                return archive.read(name)
        except (FileNotFoundError, KeyError) as err:
            raise StoreError(f"result {key} has no {name}; delete {place}, if it is there, and run it again") from err
        except _DAMAGE as err:
            raise StoreError(f"{name} of result {key} is damaged ({err}); delete {place} and run it again") from err


def _archive(key: str) -> str:
    return f"{key}.zip"
