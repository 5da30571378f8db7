"""A small file that is replaced whole: a reader sees the one before or the one after, whoever else writes it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in place of the one that is there, if any; its folder is made.

    Raises:
        OSError: It can't be written; what was there is still there.
    """
    draft = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave a name without its content
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink()
