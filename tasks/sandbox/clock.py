"""The exchange's virtual clock: it stands still until it is moved, and then calls its listeners."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class VirtualClock:
    """A clock of UTC milliseconds that only advances when it is moved, so that a replay never runs past its file.

    Any thread may move it; listeners are called in that thread, must return quickly, and must not move the clock.
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
        """Return the time that the exchange reports: the same, unless a jump has been set."""
        return self._now_ms + sum(by_ms for ms, by_ms in self._jumps if ms <= self._now_ms)

    def jump(self, jumps: Sequence[tuple[int, int]]) -> None:
        """Set the jumps of the reported time (times and milliseconds); replaces earlier ones."""
        self._jumps = jumps

    def advance(self, ms: int) -> None:
        """Advance the clock by `ms`."""
        with self._lock:
            self._now_ms += ms
            self._tell()

    def move_to(self, now_ms: int) -> None:
        """Advance the clock to `now_ms`; never back."""
        with self._lock:
            self._now_ms = max(self._now_ms, now_ms)
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    @contextmanager
    def heard_by(self, listener: Callable[[], object]) -> Iterator[None]:
        """Call `listener` whenever the clock has been moved, while the block runs."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)
