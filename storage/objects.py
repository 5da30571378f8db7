"""Files that are created atomically, and only if they do not exist yet; on a disk or an object store.

Exclusive creation is atomic on local disks (a hard link to a finished temporary file), in memory, and on stores with a
conditional write: S3 (`If-None-Match: *`, s3fs), Google Cloud (`ifGenerationMatch=0`, gcsfs), Azure (adlfs). On others
fsspec checks first and then writes, which is safe only for one writer at a time; a warning is logged.
"""

import errno
import io
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage.foreign import MOST_BYTES, MOST_DATA_BYTES, open_file, read_file
from storage.private import place_umask
from storage.schema import ArtifactError, DamagedError, PipelineError, one_line

log = logging.getLogger(__name__)

_COMPARES_AND_SWAPS = frozenset({"file", "local", "memory", "s3", "s3a", "gs", "gcs", "abfs", "az"})
UNFINISHED = ".tmp"
"""Suffix of temporary files on a disk; a killed writer leaves them behind."""
_MEMORY_LOCK = threading.Lock()  # fsspec's memory store checks first and then writes; the lock makes this atomic
_NO_LINKS = "a disk without hard links cannot hold the store"
_WAY_OUT = {
    errno.ENOSPC: "free some space and run it again",
    errno.EDQUOT: "free some space and run it again",
    errno.EFBIG: "raise the file size limit and run it again",
    errno.EACCES: "check the rights on DSC_ARTIFACT_URL",
    errno.EPERM: f"check the rights on DSC_ARTIFACT_URL; {_NO_LINKS}",
    errno.EOPNOTSUPP: f"set DSC_ARTIFACT_URL; {_NO_LINKS}",
    errno.ENOSYS: f"set DSC_ARTIFACT_URL; {_NO_LINKS}",
}


class ObjectStore:
    """Create, read, list and remove files below a URL; paths are relative to it, with '/' between folders.

    Args:
        url: A path or any fsspec URL, such as /var/lib/dsc/models, s3://bucket/models or memory://models. The back end
            reads credentials and endpoints from the environment.
        error: Class of the errors that are raised; the docstrings below call it ArtifactError.
        refusal: Class of the errors that leave unknown what is stored: no answer, no permission, a broken disk. None:
            `error`.

    Raises:
        ArtifactError: The URL's protocol is unknown, or the package that serves it is not installed.
    """

    def __init__(
        self, url: str, *, error: type[PipelineError] = ArtifactError, refusal: type[PipelineError] | None = None
    ) -> None:
        self._error, self._refusal = error, refusal or error
        try:
            # Another process may write at any time, so listings must not be cached.
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as err:
            raise error(f"artifact URL must be a path or a known fsspec URL ({one_line(err)})") from err
        self._root = root.rstrip("/")
        protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
        if not protocols & _COMPARES_AND_SWAPS:
            log.warning("%s stores offer no atomic exclusive creation: run one writer at a time", min(protocols))

    @property
    def folder(self) -> Path | None:
        """The folder that holds the files, absolute; None if the store is not a disk."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def create(self, path: str, content: bytes | Callable[[IO[bytes]], None]) -> None:
        """Create a file, completely or not at all.

        `content` is its bytes; or, for files too large for memory, a function that writes them to a given file. On a
        store that is not a disk they are collected in memory nevertheless.

        Raises:
            FileExistsError: The file exists with other content or, on a disk, `content` is a function. A file of equal
                content is no error: a client that repeats a request whose answer was lost finds its own file.
            ArtifactError: The store refuses.
        """
        if callable(content) and not isinstance(self._fs, LocalFileSystem):
            file = io.BytesIO()
            content(file)
            content = file.getvalue()
        full = f"{self._root}/{path}"
        with self._clear_errors("write", full, passing=(FileExistsError,)):
            try:
                if isinstance(self._fs, LocalFileSystem):
                    self._create_on_disk(full, content)
                else:
                    with _MEMORY_LOCK:
                        self._fs.pipe_file(full, content, mode="create")
            except FileExistsError:
                if callable(content) or self.read(path, MOST_DATA_BYTES) != content:
                    raise

    def read(self, path: str, most: int = MOST_BYTES) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: It does not exist.
            ArtifactError: The store refuses, it is not a regular file, or has more than `most` bytes.
        """
        full = f"{self._root}/{path}"
        with self._clear_errors("read", full, passing=(FileNotFoundError,)):
            if isinstance(self._fs, LocalFileSystem):
                return read_file(Path(full), most)
            content = bytes(self._fs.cat_file(full, start=0, end=most + 1))
            if len(content) > most:
                raise DamagedError(f"{full} must have at most {most:,} bytes")
            return content

    def open(self, path: str, most: int) -> IO[bytes]:
        """Open a file as a seekable stream; if the store is not a disk, the file is read into memory.

        Raises:
            FileNotFoundError, ArtifactError: As `read`.
        """
        full = f"{self._root}/{path}"
        if not isinstance(self._fs, LocalFileSystem):
            return io.BytesIO(self.read(path, most))
        with self._clear_errors("read", full, passing=(FileNotFoundError,)):
            return open_file(Path(full), most)

    def exists(self, path: str) -> bool:
        """Return whether a file exists.

        Raises:
            ArtifactError: The store refuses, so it is unknown.
        """
        full = f"{self._root}/{path}"
        with self._clear_errors("look for", full):
            try:
                self._fs.info(full)
            except FileNotFoundError:
                return False
        return True

    def location(self, path: str) -> str:
        """Return the location of a file: a path on disk, else a URL."""
        full = f"{self._root}/{path}"
        return full if isinstance(self._fs, LocalFileSystem) else str(self._fs.unstrip_protocol(full))

    def names(self, folder: str) -> tuple[str, ...]:
        """Return the files below a folder, relative to it, sorted, without unfinished ones."""
        return tuple(name for name in self._everything(folder) if not name.endswith(UNFINISHED))

    def folders(self, folder: str = "") -> tuple[str, ...]:
        """Return the names of the folders in a folder, sorted; by default in the root."""
        full = f"{self._root}/{folder}".rstrip("/")
        with self._clear_errors("list", full):
            try:
                found = self._fs.ls(full, detail=True)
            except FileNotFoundError:
                return ()
        return tuple(sorted(one["name"].rstrip("/").rsplit("/", 1)[1] for one in found if one["type"] == "directory"))

    def remove(self, path: str) -> None:
        """Remove a file."""
        full = f"{self._root}/{path}"
        with self._clear_errors("remove", full):
            self._fs.rm_file(full)

    def prune_unfinished(self, folder: str, before: datetime) -> tuple[str, ...]:
        """Remove the temporary files that killed writers left below a folder before a time, and return their names."""
        names = [name for name in self._everything(folder) if name.endswith(UNFINISHED)]
        with self._clear_errors("prune", f"{self._root}/{folder}"):
            stale = [name for name in names if self._fs.modified(f"{self._root}/{folder}/{name}") < before]
        for name in stale:
            self.remove(f"{folder}/{name}")
        return tuple(stale)

    def _everything(self, folder: str) -> list[str]:
        full = f"{self._root}/{folder}"
        with self._clear_errors("list", full):
            try:
                self._fs.ls(full, detail=False)  # `find` ignores permission errors silently
            except FileNotFoundError:
                return []
            found = _files_on_disk(full) if isinstance(self._fs, LocalFileSystem) else self._fs.find(full)
            return sorted(path.removeprefix(f"{full}/") for path in found)

    def _create_on_disk(self, full: str, content: bytes | Callable[[IO[bytes]], None]) -> None:
        # The temporary file is in the same folder as its target, since a hard link can't cross file systems.
        folder, temporary = full.rsplit("/", 1)[0], f"{full}.{secrets.token_hex(8)}{UNFINISHED}"
        try:
            with place_umask(Path(folder)):
                self._fs.makedirs(folder, exist_ok=True)
                descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with os.fdopen(descriptor, "w+b") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())  # a power cut must not leave a name without its content
            self._fs.link(temporary, full)
        finally:
            with suppress(FileNotFoundError):
                self._fs.rm_file(temporary)
        of_folder = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(of_folder)
        finally:
            os.close(of_folder)

    @contextmanager
    def _clear_errors(self, doing: str, full: str, passing: tuple[type[OSError], ...] = ()) -> Iterator[None]:
        try:
            yield
        except (*passing, self._error, self._refusal):
            raise
        except DamagedError as err:
            raise self._error(f"{one_line(err, 1_200)}; move it away") from err
        except Exception as err:  # each back end raises its own classes; those of botocore are not even OSErrors
            code = err.errno if isinstance(err, OSError) else None
            if code is None and isinstance(err, PermissionError):
                code = errno.EACCES  # as s3fs raises it, without a number
            reason = one_line(os.strerror(code) if code else err) or type(err).__name__
            elsewhere = "check DSC_ARTIFACT_URL and the network"
            way_out = _WAY_OUT.get(code or 0, elsewhere if self.folder is None else "set DSC_HOME or DSC_ARTIFACT_URL")
            raise self._refusal(f"can't {doing} {one_line(full, 1_000)} ({reason}); {way_out}") from err


def _files_on_disk(folder: str) -> Iterator[str]:
    """Yield the files below a folder; links to folders are not followed, since they may form a cycle."""

    def refuse(err: OSError) -> None:
        if not isinstance(err, FileNotFoundError):  # removed meanwhile
            raise err

    for place, _, files in os.walk(folder, onerror=refuse):
        yield from (f"{place}/{name}" for name in files)
