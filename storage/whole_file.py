"""Atomic replacement of small files: a reader sees either the old or the new content, even with several writers."""

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4


def replace_file(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Create or replace a file atomically, with these permissions at most; its folder is created if needed.

    Raises:
        OSError: It can't be written; the previous content is unchanged.
    """
    draft = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave a name without its content
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink()
