"""One at a time, across processes: a lock that the operating system frees when its holder dies, however it dies."""

from __future__ import annotations

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
    """Hold the lock of `path` for as long as the block lasts; wait for whoever holds it.

    It orders the processes of one machine, and is no substitute for an atomic write: a second machine does not see it.

    Args:
        path: The lock's file; it stays when the lock is free.
        what: What is locked, for messages.
        timeout_s: How long to wait.
        on_wait: Is told once, in one line, who is waited for.
        note: What the holder says of itself, beside the number of its process.

    Raises:
        StoreBusyError: It was still held after `timeout_s`.
        StoreError: The file can't be made, or its disk knows no locks.
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
        with contextlib.suppress(OSError):  # on a full disk the holder has no name, but the lock
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()}{f' ({note})' if note else ''}".encode())
        yield  # closing the file frees the lock


def held(path: Path, note: str) -> bool:
    """Return whether a process that says this of itself holds the lock of `path`."""
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
