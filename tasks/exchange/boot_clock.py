"""A clock that goes on while the machine is suspended, which `time.monotonic` does not on Linux.

Whatever says that something is old, or over, goes by it: a stamp of receipt, the silence of a stream, a ban.
"""

import time

# CLOCK_BOOTTIME goes on while a Linux machine is suspended; elsewhere (macOS) CLOCK_MONOTONIC does that.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

AWAKE_S = 1.0
"""Longest single wait of what must notice that the machine has slept: a wait itself stands still meanwhile."""


def boottime_s() -> float:
    """Return seconds."""
    return time.clock_gettime(_CLOCK)


def boottime_ns() -> int:
    """Return nanoseconds."""
    return time.clock_gettime_ns(_CLOCK)
