"""Who may read what a process makes: the home is its owner's alone, a shared place keeps the umask the user has."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.schema import StoreError
from storage.settings import Settings

PRIVATE = 0o077
"""The umask of the home."""

_STARTED_WITH = "DSC_UMASK"  # children start with ours, and must know the user's
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # neither through a link nor, waiting for a writer, into a pipe
_SHARING = threading.Lock()  # the umask is the whole process's


def keep_home_private() -> Path:
    """Make the home, and from now on let this process and its children make files that nobody else can read.

    Temporary files lie in the home too, those of each process in a folder of their own, and whatever a killed one left
    there goes. Whoever starts a program calls this first.

    Returns:
        The home.

    Raises:
        StoreError: It can't be written.
    """
    before = os.umask(PRIVATE)
    os.environ.setdefault(_STARTED_WITH, f"{before:03o}")
    home = Settings.from_environment().prepare_home()
    os.environ["TMPDIR"] = str(_own_folder(home / "tmp"))
    tempfile.tempdir = None  # looked up again
    return home


def _own_folder(place: Path) -> Path:
    """Return a folder for this process's temporary files, and remove what processes that are gone have left."""
    folder = place / f"process-{os.getpid()}"
    if os.environ.get("TMPDIR") == str(folder) and folder.is_dir():
        return folder
    try:
        place.mkdir(exist_ok=True)
        with _locked(place, fcntl.LOCK_EX):  # between the making of a folder and its lock nobody looks
            for left in place.iterdir():
                with suppress(OSError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            folder.mkdir(exist_ok=True)
            # Open, and so locked, for as long as this process lives, or a child that is a copy of it.
            fcntl.flock(os.open(folder, _LOOK), fcntl.LOCK_SH)
    except OSError as err:
        raise StoreError(f"{place} must be a writable folder, it is not ({err.strerror}); set DSC_HOME") from err
    return folder


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    descriptor = os.open(path, _LOOK)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def place_umask(place: Path) -> Iterator[None]:
    """Make files at a place with the umask that belongs there: outside the home, the one that the user started with.

    Args:
        place: Absolute folder below which files are made while the block lasts.
    """
    started = os.environ.get(_STARTED_WITH)
    if started is None or place.is_relative_to(Settings.from_environment().home):
        yield
        return
    with _SHARING:
        os.umask(int(started, 8))
        try:
            yield
        finally:
            os.umask(PRIVATE)
