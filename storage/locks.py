"""Locks between the processes of one machine that no kill can leave behind.

The kernel holds the lock for as long as the file is open, and closes the file of a process that dies. So nothing has to
be cleaned up, timed out or guessed about. Machines that share a store are kept apart by the store itself: it creates a
champion's entry once, whoever else tries.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from storage.schema import StoreBusyError, StoreError

_LOOK_EVERY_S = 0.25  # a wait in the kernel could not end at a time limit


@contextlib.contextmanager
def exclusive(
    path: Path, what: str, wait_s: float = 0.0, on_wait: Callable[[str], object] | None = None
) -> Iterator[None]:
    """Hold a lock for as long as the block lasts, or the process lives; threads of one process exclude each other too.

    Args:
        path: The lock's file; made with its folder, and left there.
        what: What is locked, for the error: "the retrain of BTCUSDT".
        wait_s: How long to wait for another holder.
        on_wait: Is told once, in one line, that there is somebody to wait for.

    Raises:
        StoreBusyError: Another process still held it after `wait_s`.
        StoreError: The file can't be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as err:
        raise StoreError(f"{path} must be writable, it is not ({err.strerror}); set DSC_HOME") from err
    with file:
        deadline = time.monotonic() + wait_s
        told = False
        while not _taken(file):
            holder = _holder(file)
            if time.monotonic() >= deadline:
                raise StoreBusyError(f"{what} is under way in {holder}, waited {wait_s:g} s; let it end, or cancel it")
            if on_wait is not None and not told:
                on_wait(f"{what} is under way in {holder}; waiting for at most {wait_s:g} s")
                told = True
            time.sleep(_LOOK_EVERY_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> str:
    """Return who wrote itself into the file; the holder does so just after it has taken the lock."""
    file.seek(0)
    pid = file.read()
    return f"process {pid}" if pid else "another process"
