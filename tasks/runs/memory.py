"""What a long run does with the memory that it has done with."""

import ctypes
from contextlib import suppress

import pyarrow

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE = 1 << 20  # bytes


def give_back_large_blocks() -> None:
    """Let malloc give every freed block of a megabyte or more back to the system at once, and now all that is free.

    glibc would do so from the size of whatever was freed last, up to 32 MB: tables of features are below that, and the
    holes that they leave between what stays were a seventh of all that a retrain held. Arrow's own allocator gives back
    what it keeps of files that were read; other allocators are left alone.
    """
    pyarrow.default_memory_pool().release_unused()
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGE)
        libc.malloc_trim(0)
