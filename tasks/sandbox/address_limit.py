"""Bybit's rate limits per IP address and per key.

All clients of a sandbox have the address 127.0.0.1, so a client's User-Agent is used instead of its address; otherwise
one client that sends too many requests would get all others banned.
"""

from collections import deque
from collections.abc import Callable, Mapping

from tasks.sandbox.faults import RESET_HEADER

IP_LIMIT = 600  # requests in a window of 5 s, as documented by Bybit
SOCKET_LIMIT = 500  # connections in a window of 5 min, as documented by Bybit
SOCKET_WINDOW_S = 300.0
BAN_S = 600.0
_MOST_CLIENTS = 1000  # most clients remembered, since a client can invent any number of names


class AddressLimit:
    """A limit per time window; exceeding it leads to a ban (HTTP 403). A key's limit has no ban.

    It limits the real load, so it uses real time, in seconds, instead of the exchange's virtual clock.
    """

    def __init__(self, limit: int, timer: Callable[[], float], window_s: float = 5.0, ban_s: float = BAN_S) -> None:
        self.limit = limit
        self._timer = timer
        self._window_s = window_s
        self._ban_s = ban_s
        self._recent: deque[float] = deque()
        self._banned_until = -1.0

    def admit(self) -> bool:
        """Count one request or connection, and return whether it is served."""
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
        """Return Bybit's rate-limit headers, with times of the exchange's clock."""
        return {
            "X-Bapi-Limit": str(self.limit),
            "X-Bapi-Limit-Status": str(max(self.limit - len(self._recent), 0)),
            RESET_HEADER: str(now_ms + int(self._window_s * 1000)),
        }


class ClientLimits:
    """An `AddressLimit` for each client."""

    def __init__(self, make: Callable[[], AddressLimit]) -> None:
        self._make = make
        self._of: dict[str, AddressLimit] = {}

    def of(self, headers: Mapping[str, str]) -> AddressLimit:
        """Return the limit of the client that sent these headers."""
        name = headers.get("User-Agent", "")
        known = self._of.pop(name, None)
        limit = self._of[name] = known or self._make()  # moved to the end: the first one is the least recent
        if len(self._of) > _MOST_CLIENTS:
            del self._of[next(iter(self._of))]
        return limit
