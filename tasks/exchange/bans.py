"""Until when Bybit refuses this machine's address, known to all processes of a home: who asks on is refused longer.

A ban is an empty file whose time of change is its end. So it is written at once or not at all, nothing in it can be
damaged, and reading it costs no more than a look. An end that is too far away to be one is moved to where a ban that
begins now would end; a file that can't be looked at says nothing: then the first request finds out, which costs one
refusal, where believing in a ban would leave a position that nobody may close.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from storage.schema import Banned
from tasks.exchange.transport import Exchange

BAN_S = 600.0
"""How long Bybit wants to be left alone after HTTP 403."""

_ADDRESSES = {"bybit": "bybit", "demo": "bybit", "testnet": "testnet"}  # demo is Bybit itself with other accounts


class Ban:
    """Until when an address is refused; who shares it asks nothing meanwhile.

    Args:
        path: What other processes learn it from; None for a ban that they need not know.
        clock: Seconds, never going back.
        wall_clock_s: UTC seconds.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._clock, self._wall_clock_s = path, clock, wall_clock_s
        self._until_s = self._known_ns = 0.0

    @classmethod
    def of(cls, folder: Path | None, exchange: Exchange, url: str | None) -> Ban:
        """Return the ban of an exchange.

        Args:
            folder: Where a home's bans lie; None: nobody else is told.
            exchange: Which of Bybit's hosts.
            url: Where a sandbox listens; None elsewhere.
        """
        name = _ADDRESSES.get(exchange, f"{exchange}-{(url or '').rpartition(':')[2]}")
        return cls(folder and folder / name)

    def begin(self, wait_s: float) -> None:
        """Note that the address is refused for so long from now on."""
        self._until_s = self._clock() + wait_s
        if self._path is None:
            return
        with suppress(OSError):  # this process knows it all the same
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            self._end(self._path, wait_s)

    def left_s(self) -> float:
        """Return for how long the address is still refused, seconds; 0 while it is not."""
        if self._path is not None:
            with suppress(OSError):
                self._look(self._path)
        return max(0.0, self._until_s - self._clock())

    def check(self, host: str) -> None:
        """Return unless the address is refused now.

        Raises:
            Banned: It is; nothing was asked.
        """
        if left_s := self.left_s():
            raise Banned(f"{host} refuses this address for {left_s:.0f} s more; nothing was asked")

    def _look(self, path: Path) -> None:
        end_ns = path.stat().st_mtime_ns
        if end_ns == self._known_ns:
            return
        self._known_ns, left_s = end_ns, end_ns / 1e9 - self._wall_clock_s()
        if left_s > BAN_S + 1.0:  # a clock was wrong
            self._end(path, left_s := BAN_S)
        self._until_s = max(self._until_s, self._clock() + left_s)

    def _end(self, path: Path, wait_s: float) -> None:
        end_ns = int(1e9 * (self._wall_clock_s() + wait_s))
        os.utime(path, ns=(end_ns, end_ns))
        self._known_ns = path.stat().st_mtime_ns
