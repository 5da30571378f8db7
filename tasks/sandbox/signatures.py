"""Authentication of requests: keys, signatures, the time window, permissions, and limits per key and endpoint.

The time window uses this machine's clock instead of the exchange's, since clients sign with real time.
Documented at https://bybit-exchange.github.io/docs/v5/guide and .../docs/v5/rate-limit.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tasks.sandbox.address_limit import AddressLimit
from tasks.sandbox.venue import BAD_PARAMETER, Refusal
from tasks.sandbox.venue_account import AccountSpec

KEY_HEADER = "X-BAPI-API-KEY"

_AHEAD_MS = 1_000  # how far a client's clock may be ahead
_MOST_WINDOW_MS = 60_000


@dataclass(frozen=True, kw_only=True)
class Signed:
    """The signed parts of a request.

    Attributes:
        headers: Its headers, names in any case.
        payload: The query string or the body, as received.
    """

    headers: Mapping[str, str] = field(repr=False)
    payload: bytes = b""


class Door:
    """Checks requests before they are answered."""

    def __init__(
        self, specs: Iterable[AccountSpec], wall_clock_ms: Callable[[], int], timer: Callable[[], float]
    ) -> None:
        self._specs = {spec.key: spec for spec in specs}
        self._wall_clock_ms = wall_clock_ms
        self._timer = timer
        self._limits: dict[tuple[str, str], AddressLimit] = {}

    def identify(self, request: Signed) -> str:
        """Return the key of a request after checking its signature.

        Raises:
            Refusal: The key, the signature or the timestamp is not valid.
        """
        headers = request.headers
        key, stamp, signature = (headers.get(name, "") for name in (KEY_HEADER, "X-BAPI-TIMESTAMP", "X-BAPI-SIGN"))
        window = headers.get("X-BAPI-RECV-WINDOW", "5000")
        if not (key and signature and stamp.isdecimal() and window.isdecimal()):
            raise Refusal(BAD_PARAMETER, "empty value: apiTimestamp[] apiKey[] apiSignature[]")
        if key not in self._specs:
            raise Refusal(10003, "API key is invalid.")
        now_ms = self._wall_clock_ms()
        if not now_ms - min(int(window), _MOST_WINDOW_MS) <= int(stamp) < now_ms + _AHEAD_MS:
            raise Refusal(
                10002,
                "invalid request, please check your server timestamp or recv_window param. "
                f"req_timestamp[{stamp}],server_timestamp[{now_ms}],recv_window[{window}]",
            )
        if not self._is_signed(key, f"{stamp}{key}{window}".encode() + request.payload, signature):
            raise Refusal(10004, "error sign! please check your signature generation algorithm.")
        return key

    def identify_stream(self, key: object, expires_ms: object, signature: object) -> bool:
        """Return whether an authentication request on the private stream is valid."""
        if not (isinstance(key, str) and key in self._specs and isinstance(expires_ms, int)):
            return False
        return expires_ms > self._wall_clock_ms() and self._is_signed(
            key, f"GET/realtime{expires_ms}".encode(), str(signature)
        )

    def check_permission(self, key: str) -> None:
        """Refuse a key that may only read."""
        if not self._specs[key].may_trade:
            raise Refusal(10005, "Permission denied, please check your API key permissions.")

    def count(self, key: str, path: str, limit: int, now_ms: int) -> tuple[bool, dict[str, str]]:
        """Count a request of a key; return whether it is served and Bybit's rate-limit headers."""
        counted = self._limits.setdefault((key, path), AddressLimit(limit, self._timer, 1.0, ban_s=0.0))
        return counted.admit(), counted.headers(now_ms)

    def _is_signed(self, key: str, text: bytes, signature: str) -> bool:
        expected = hmac.new(self._specs[key].secret.encode(), text, hashlib.sha256).hexdigest()
        return hmac.compare_digest(expected.encode(), signature.encode())
