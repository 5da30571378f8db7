"""One connection to Bybit's streams through pybit, without pybit's automatic reconnection.

pybit 5.17 alone is not sufficient (observed against a local server): its reader thread dies of bad JSON, of an unknown
topic and of a refused subscription; an acknowledgement that arrives before its callback is registered kills it too; it
makes ten attempts to connect within 0.07 s; and it does not notice a feed that is silent but answers pings. So only the
hosts, the authentication and both kinds of ping of its `WebSocket` are used.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import websocket
from pybit.unified_trading import WebSocket
from websocket._abnf import continuous_frame, frame_buffer

from storage.api_keys import ApiKey
from storage.bounds import PositiveFloat
from storage.schema import ConfigError, one_line
from tasks.exchange.pacing import BackOff
from tasks.exchange.transport import CLIENT_NAME, Exchange

MOST_MESSAGE = 4_000_000
"""Most bytes of a message; the largest that Bybit sends have some 200,000."""

_AUTH_S = 10  # validity of the signed authentication: pybit's 1 s is less than clocks may differ
_JOIN_S = 15.0  # longer than any time-out of a socket


@dataclass(frozen=True, kw_only=True)
class StreamTiming(BackOff):
    """When a connection counts as dead, and how soon the next one is made. Bybit allows 500 in 5 minutes.

    Attributes:
        silence_s: Longest time without a message of a topic, even if pongs come; `orderbook.1` repeats every 3 s.
        connect_s: Longest wait for a connection, for its handshake and for the rest of a message.
        ping_interval_s: Time between two pings; Bybit recommends 20.
        ping_timeout_s: Longest wait for a pong, < `ping_interval_s`.
    """

    silence_s: PositiveFloat = 10.0
    first_wait_s: PositiveFloat = 1.0
    max_wait_s: PositiveFloat = 60.0
    connect_s: PositiveFloat = 10.0
    ping_interval_s: PositiveFloat = 20.0
    ping_timeout_s: PositiveFloat = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ping_interval_s > self.ping_timeout_s:
            raise ConfigError(
                f"ping_interval_s must be > ping_timeout_s={self.ping_timeout_s!r}, was {self.ping_interval_s!r}"
            )


class _BoundedFrames(frame_buffer):
    """Frames of a bounded size; a header may announce 2**63 bytes, which would all be kept in memory."""

    def recv_length(self) -> None:
        """Read the length from a frame's header."""
        super().recv_length()
        if (self.length or 0) > MOST_MESSAGE:
            raise websocket.WebSocketPayloadException(
                f"a frame of {self.length} bytes, at most {MOST_MESSAGE} may come"
            )


class _BoundedMessage(continuous_frame):
    """A message of a bounded size over all its frames."""

    def add(self, frame: Any) -> None:
        """Append a frame."""
        super().add(frame)
        if self.cont_data and len(self.cont_data[1]) > MOST_MESSAGE:
            raise websocket.WebSocketPayloadException(f"a message of more than {MOST_MESSAGE} bytes")


class StreamSocket(WebSocket):  # type: ignore[misc]
    """One connection through pybit; the constructor connects.

    Args:
        channel: linear, spot or private.
        url: Address of the sandbox's stream, as ws://127.0.0.1:<port>; None for Bybit.
        key: API key of the account, for a private stream; None for a public one.
        on_text: Called with every message, in the reader thread.
        stop: When set, ends the wait for the connection.

    Attributes:
        ended: Set when the connection is dead.
        reason: The reason, as far as the socket gives one.

    Raises:
        WebSocketException: The connection could not be made; the text gives the reason.
    """

    def __init__(
        self,
        channel: str,
        url: str | None,
        *,
        exchange: Exchange,
        key: ApiKey | None,
        timing: StreamTiming,
        on_text: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self.ended = threading.Event()
        self.reason = "the connection ended"
        self._url, self._timing, self._on_text, self._stop = url, timing, on_text, stop
        self._held: Any = None  # the libraries drop their own reference as soon as the server closes
        super().__init__(
            channel_type=channel,
            testnet=exchange == "testnet",
            demo=exchange == "demo" and key is not None,
            api_key=key and key.key,
            api_secret=key and key.secret,
            private_auth_expire=_AUTH_S,
            restart_on_error=False,
            ping_interval=timing.ping_interval_s,
            ping_timeout=timing.ping_timeout_s,
        )

    def _connect(self, url: str) -> None:
        """Connect once, within `connect_s`; pybit's own method tries ten times in a row without a time-out."""
        subdomain = "stream-testnet" if self.testnet else "stream-demo" if self.demo else "stream"
        official = url.format(SUBDOMAIN=subdomain, DOMAIN="bybit", TLD="com")
        self.endpoint = official if self._url is None else f"{self._url}/v5/{official.partition('/v5/')[2]}"
        websocket.setdefaulttimeout(self._timing.connect_s)  # else a handshake may last for ever; for this library only
        self.ws = websocket.WebSocketApp(
            url=self.endpoint,
            header={} if self._url is None else {"User-Agent": CLIENT_NAME},
            on_open=self._hold,
            on_message=lambda ws, text: self._on_text(text),
            on_error=lambda ws, err: self._on_error(err),
            on_pong=lambda ws, *args: self._on_pong(),
        )
        self.wst = threading.Thread(target=self._read, name="stream reader", daemon=True)
        self.wst.start()
        give_up_s = time.monotonic() + self._timing.connect_s
        while self._held is None and not (self.ended.is_set() or self._stop.is_set()):
            if time.monotonic() > give_up_s:
                self.reason = f"no connection within {self._timing.connect_s:g} s"
                break
            time.sleep(0.01)
        if self._held is None or not self.is_connected():
            self.end()
            raise websocket.WebSocketException(self.reason)

    def show_key(self) -> None:
        """Authenticate with the API key."""
        self._auth()

    def fail(self, reason: str) -> None:
        """Mark the connection as dead, with the exchange's reason."""
        self.reason = reason
        self.ended.set()

    def start_pings(self) -> None:
        """Start the text pings that Bybit requires in addition to ping frames."""
        self._send_initial_ping()

    def end(self) -> None:
        """Close the socket and wait for its threads; pybit's own exit leaves the reader for up to `ping_timeout_s`."""
        self.exited = True
        timer = self.custom_ping_timer
        self._stop_custom_ping_timer()
        self.ws.keep_running = False
        held: Any = self._held or self.ws.sock
        if held is not None:
            with suppress(websocket.WebSocketException, OSError, AttributeError):
                held.send_close()
            with suppress(OSError, AttributeError):
                held.sock.shutdown(socket.SHUT_RDWR)  # wakes the reader, even during a handshake
        for thread in (self.wst, timer):
            if thread is not None and thread.is_alive() and thread is not threading.current_thread():
                thread.join(_JOIN_S)
        if held is not None:
            held.shutdown()  # its own close() does nothing after send_close()

    def _hold(self, ws: websocket.WebSocketApp) -> None:
        sock = cast(websocket.WebSocket, ws.sock)
        if self._is_elsewhere(sock.sock):
            self.fail("the exchange points elsewhere")
            return
        self._held = sock
        sock.frame_buffer = _BoundedFrames(sock._recv, False)  # the original buffer is still empty
        # Who decodes a text finds what is no UTF-8; websocket-client looks for it in Python first, letter by letter.
        sock.cont_frame = _BoundedMessage(False, skip_utf8_validation=True)

    def _is_elsewhere(self, wire: Any) -> bool:
        """Return whether websocket-client has followed a redirect, to a host that must not see the key."""
        asked = urlsplit(self.endpoint)
        if asked.scheme == "wss":
            return getattr(wire, "server_hostname", None) != asked.hostname
        return bool(wire.getpeername()[:2] != (asked.hostname, asked.port))

    def _read(self) -> None:
        try:
            self.ws.run_forever(ping_interval=self._timing.ping_interval_s, ping_timeout=self._timing.ping_timeout_s)
        finally:
            self.ended.set()

    def _on_error(self, error: BaseException) -> None:
        if not self.ended.is_set():
            self.reason = f"{type(error).__name__}: {one_line(error, 120)}"
        self.ended.set()
