"""A lock across processes, which the operating system frees when its holder exits or is killed."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from storage.schema import StoreBusyError, StoreError

_POLL_S = 0.5


@contextlib.contextmanager
def exclusive(
    path: Path, what: str, timeout_s: float, on_wait: Callable[[str], None] | None = None, note: str = ""
) -> Iterator[None]:
    """Hold the lock of `path` while the block runs; wait while another process holds it.

    The lock works between processes of one machine only, so it does not replace atomic writes.

    Args:
        path: The lock file; it is not removed when the lock is freed.
        what: What is locked, for messages.
        timeout_s: Longest wait, seconds.
        on_wait: Called once, with one line that names the holder, if the lock is not free.
        note: Text that identifies the holder, shown with its process id.

    Raises:
        StoreBusyError: It was still held after `timeout_s`.
        StoreError: The file can't be created, or its disk does not support locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as err:
        raise StoreError(f"locks must be writable, {path} is not ({err.strerror}); set DSC_HOME") from err
    with file:
        deadline, told = time.monotonic() + timeout_s, False
        while not _taken(file, path):
            file.seek(0)
            holder = file.read().strip() or "another process"
            if time.monotonic() > deadline:
                raise StoreBusyError(f"{what} must be one at a time, {holder} holds it; stop it or try later")
            if on_wait is not None and not told:
                on_wait(f"waiting: {what} is held by {holder}")
            told = True
            time.sleep(_POLL_S)
        with contextlib.suppress(OSError):  # on a full disk the lock is held without a note
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()}{f' ({note})' if note else ''}".encode())
        yield  # closing the file frees the lock


def held(path: Path, note: str) -> bool:
    """Return whether a process that gave this note holds the lock of `path`."""
    with contextlib.suppress(OSError), path.open() as file:
        if f"({note})" not in file.read():
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _taken(file: IO[str], path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as err:
        raise StoreError(f"{path} can't be locked ({err.strerror}); set DSC_HOME to a disk that knows locks") from err
    return True
