"""The time until which Bybit bans this machine's IP address, shared by all processes of one home folder.

Requests during a ban prolong it. A ban is an empty file whose modification time is the end of the ban, so a write is
atomic and a read is one `stat`. An end further away than a ban can last is moved to the end of a ban that begins now. A
file that can't be read counts as no ban: the next request then finds out, at the cost of one refusal, while a wrongly
assumed ban would prevent a position from being closed.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from storage.schema import Banned
from tasks.exchange.boot_clock import boottime_s
from tasks.exchange.transport import Exchange

BAN_S = 600.0
"""Length of a ban after HTTP 403, seconds, as Bybit documents it."""

_ADDRESSES = {"bybit": "bybit", "demo": "bybit", "testnet": "testnet"}  # demo is Bybit itself with other accounts


class Ban:
    """The ban of one address; no object that shares it sends requests until it ends.

    Args:
        path: File that shares the ban with other processes; None to share it within this process only.
        clock: Seconds, never going back nor standing still.
        wall_clock_s: UTC seconds.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        clock: Callable[[], float] = boottime_s,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._clock, self._wall_clock_s = path, clock, wall_clock_s
        self._until_s = self._known_ns = 0.0

    @classmethod
    def of(cls, folder: Path | None, exchange: Exchange, url: str | None) -> Self:
        """Return the ban of an exchange.

        Args:
            folder: The home's folder of bans; None to share the ban within this process only.
            url: Address of the sandbox; None for Bybit.
        """
        name = _ADDRESSES.get(exchange, f"{exchange}-{(url or '').rpartition(':')[2]}")
        return cls(folder and folder / name)

    def begin(self, wait_s: float) -> None:
        """Record that the address is banned for `wait_s` seconds from now."""
        self._until_s = self._clock() + wait_s
        if self._path is None:
            return
        with suppress(OSError):  # without the file, the ban still holds in this process
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            self._end(self._path, wait_s)

    def left_s(self) -> float:
        """Return the seconds until the ban ends; 0 if there is none."""
        if self._path is not None:
            with suppress(OSError):
                self._look(self._path)
        return max(0.0, self._until_s - self._clock())

    def check(self, host: str) -> None:
        """Raise if the address is banned now; called before a request is sent to `host`.

        Raises:
            Banned: The address is banned; no request was sent.
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
