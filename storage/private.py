"""Who may read what a process makes: the home is its owner's alone, a shared place keeps the umask the user has."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.settings import Settings

PRIVATE = 0o077
"""The umask of the home."""

_STARTED_WITH = "DSC_UMASK"  # children start with ours, and must know the user's
_SHARING = threading.Lock()  # the umask is the whole process's


def keep_home_private() -> Path:
    """Make the home, and from now on let this process and its children make files that nobody else can read.

    Temporary files lie in the home too. Whoever starts a program calls this first.

    Returns:
        The home.

    Raises:
        StoreError: It can't be written.
    """
    before = os.umask(PRIVATE)
    os.environ.setdefault(_STARTED_WITH, f"{before:03o}")
    home = Settings.from_environment().prepare_home()
    folder = home / "tmp"
    folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None  # looked up again
    return home


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
