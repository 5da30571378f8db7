"""The exchange's time: it stands still until someone moves it, and tells who listens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class VirtualClock:
    """UTC milliseconds that pass only when someone moves them on, so that a replay never runs past its file.

    Any thread may move it; whoever listens is called in that thread, must be quick, and must not move it itself.

    Args:
        now_ms: Where it stands.
    """

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._jumps: Sequence[tuple[int, int]] = ()
        self._listeners: list[Callable[[], object]] = []

    def now_ms(self) -> int:
        """Return UTC milliseconds."""
        return self._now_ms

    def told_ms(self) -> int:
        """Return the time that the exchange tells: the same, unless its clock has jumped."""
        return self._now_ms + sum(by_ms for ms, by_ms in self._jumps if ms <= self._now_ms)

    def jump(self, jumps: Sequence[tuple[int, int]]) -> None:
        """Let the time that is told jump, at some times by some milliseconds, instead of any jumps before."""
        self._jumps = jumps

    def advance(self, ms: int) -> None:
        """Move the clock on by `ms`."""
        with self._lock:
            self._now_ms += ms
            self._tell()

    def move_to(self, now_ms: int) -> None:
        """Move the clock on to `now_ms`; never back."""
        with self._lock:
            self._now_ms = max(self._now_ms, now_ms)
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    @contextmanager
    def heard_by(self, listener: Callable[[], object]) -> Iterator[None]:
        """Call `listener` whenever the clock has been moved, for as long as the block lasts."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)
