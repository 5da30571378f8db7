"""Intermediate results, each in a folder named by the hash of what it was made from.

A result that is there is complete: it was written beside its place and renamed into it. So a killed run leaves the
whole result or none, and the same work asked for again, by any process, is found instead of done. The folder may be
deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from storage.schema import StoreError, content_hash

_DIGESTS = "sha256.json"
_UNFINISHED = ".unfinished-"
_ABANDONED_S = 86_400  # nobody writes one result for a day: whoever began it was killed


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
        return (self._root / key).is_dir()

    def save(self, key: str, files: Mapping[str, bytes]) -> None:
        """Write the files of a result at once; a result that is there already is left alone.

        Raises:
            StoreError: The folder can't be written.
        """
        target = self._root / key
        if target.is_dir():
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            beside = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._root))
            try:
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
        except OSError as err:
            raise StoreError(
                f"results must be writable, {target} is not ({err.strerror}); free space or set DSC_HOME"
            ) from err

    def _remove_abandoned(self) -> None:
        """Remove what killed processes began and nobody will finish."""
        for beside in self._root.glob(f"{_UNFINISHED}*"):
            with contextlib.suppress(FileNotFoundError):  # its owner has just renamed it
                if time.time() - beside.stat().st_mtime > _ABANDONED_S:
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
