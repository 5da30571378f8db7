"""The database of a Prefect server that has just started for the first time, kept by the installation.

To make it, Prefect goes through the hundred changes of its whole past: five seconds that whoever starts a server in a
fresh home waits for. A copy takes none; the server looks at it as at any database that is there, and brings it up to
date where it is not.
"""

import os
import shutil
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from uuid import uuid4

import prefect

KEPT = Path(sys.prefix) / "share" / "dsc-trading" / f"prefect-{prefect.__version__}.db"

_NAME = "prefect.db"
_ELSEWHERE = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")


def keep_database(folder: Path) -> None:
    """Keep a copy of the database of a PREFECT_HOME whose server has been stopped.

    Raises:
        OSError: It can't be written.
        sqlite3.Error: There is none.
    """
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    draft = KEPT.with_name(f".{KEPT.name}-{uuid4().hex}")
    with closing(sqlite3.connect(f"{(folder / _NAME).absolute().as_uri()}?mode=ro", uri=True)) as database:
        database.execute("vacuum into ?", (str(draft),))  # with what still stands in its log
    draft.replace(KEPT)


def give_database(environment: Mapping[str, str]) -> None:
    """Put a copy into the PREFECT_HOME of a server that would begin with none; where that fails it makes its own."""
    folder = Path(environment["PREFECT_HOME"])
    # A log that was left of another database would be taken for this one's.
    if any(environment.get(name) for name in _ELSEWHERE) or any(folder.glob(f"{_NAME}*")):
        return
    draft = folder / f".{_NAME}-{uuid4().hex}"
    with suppress(OSError):
        shutil.copyfile(KEPT, draft)
        os.link(draft, folder / _NAME)  # and not over one that another server has begun meanwhile
    draft.unlink(missing_ok=True)
