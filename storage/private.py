"""Permissions of created files: only the owner can read the home; files at a shared place get the user's umask."""

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

_STARTED_WITH = "DSC_UMASK"  # child processes inherit our umask and need the user's
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # follow no link, and do not wait for the writer of a pipe
_SHARING = threading.Lock()  # the umask is shared by all threads of the process


def keep_home_private() -> Path:
    """Create the home, and set the umask so that only the owner can read files of this process and its children.

    Temporary files are stored in the home too, in one folder for each process; those of killed processes are removed.
    Every program calls this first.

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
    """Return a folder for this process's temporary files, and remove those of processes that have ended."""
    folder = place / f"process-{os.getpid()}"
    if os.environ.get("TMPDIR") == str(folder) and folder.is_dir():
        return folder
    try:
        place.mkdir(exist_ok=True)
        with _locked(place, fcntl.LOCK_EX):  # no other process may look between creating a folder and locking it
            for left in place.iterdir():
                with suppress(OSError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            folder.mkdir(exist_ok=True)
            # Stays open, and so locked, until this process and its forked children have ended.
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
    """Use the right umask for files below a folder: outside the home, the umask with which the user started."""
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
