"""Bybit's limits per address, and per key.

Whoever asks a sandbox has the address 127.0.0.1, so there the name that a client gives itself stands for its address:
else one that asks too much would have everybody banned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from tasks.sandbox.faults import RESET_HEADER

IP_LIMIT = 600  # requests in a window of 5 s, as Bybit documents it
SOCKET_LIMIT = 500  # connections in a window of 5 min, likewise
SOCKET_WINDOW_S = 300.0
BAN_S = 600.0
_MOST_CLIENTS = 1000  # remembered at once: names cost whoever makes them up nothing


class AddressLimit:
    """So many in a window, then none for 10 minutes: HTTP 403. A key's limit has no ban.

    It counts real load, so it goes by a timer of its own and not by the exchange's virtual clock.

    Args:
        limit: Requests or connections in a window.
        timer: Seconds, never going back.
        window_s: Length of the window.
        ban_s: How long none is served that comes after one too many.
    """

    def __init__(self, limit: int, timer: Callable[[], float], window_s: float = 5.0, ban_s: float = BAN_S) -> None:
        self.limit = limit
        self._timer = timer
        self._window_s = window_s
        self._ban_s = ban_s
        self._recent: deque[float] = deque()
        self._banned_until = -1.0

    def admit(self) -> bool:
        """Count one and return whether it is served."""
        now = self._timer()
        while self._recent and self._recent[0] <= now - self._window_s:
            self._recent.popleft()
        if now < self._banned_until:
            return False
        if len(self._recent) >= self.limit:
            self._banned_until = now + self._ban_s
            return False
        self._recent.append(now)
        return True

    def headers(self, now_ms: int) -> dict[str, str]:
        """Return Bybit's rate-limit headers, in the time of the exchange's clock."""
        return {
            "X-Bapi-Limit": str(self.limit),
            "X-Bapi-Limit-Status": str(max(self.limit - len(self._recent), 0)),
            RESET_HEADER: str(now_ms + int(self._window_s * 1000)),
        }


class ClientLimits:
    """An `AddressLimit` for each client.

    Args:
        make: Returns a new one.
    """

    def __init__(self, make: Callable[[], AddressLimit]) -> None:
        self._make = make
        self._of: dict[str, AddressLimit] = {}

    def of(self, headers: Mapping[str, str]) -> AddressLimit:
        """Return the limit of whoever sent these headers."""
        name = headers.get("User-Agent", "")
        known = self._of.pop(name, None)
        limit = self._of[name] = known or self._make()  # the one that asked last stands last
        if len(self._of) > _MOST_CLIENTS:
            del self._of[next(iter(self._of))]
        return limit
