"""Hostile answers over a socket of loopback: bombs, trickles, circles, and JSON of another shape."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from itertools import count
from typing import Any

from storage.schema import Market, Source, Window
from tasks.exchange.gateway import Gateway
from tasks.exchange.pacing import RetryPolicy
from tasks.exchange.stream import PublicStream
from tasks.exchange.stream_socket import StreamTiming
from tests.attack.classes import Attempt, each
from tests.attack.lab import NOW_MS, Lab
from tests.attack.mutations import Random, damaged, mutated

_SOURCE = Source("sandbox:0123abcd")
_ONCE = RetryPolicy(attempts=1, budget_s=0.0, bans=0)
_PATIENCE_S = (0.5, 0.2)  # for a connection, and for the next bytes
_MARKET = Market(symbol="BTCUSDT")
_CLOSE = 0x88  # first byte of the frame that says so
_TOO_LONG = 3
_START = NOW_MS // 300_000 * 300_000 - 3_000_000


class Host:
    """Answers every connection in one way, which may be exchanged.

    Attributes:
        answer: Is called with each connection, whose first request has been read.
    """

    def __init__(self) -> None:
        self.answer: Callable[[socket.socket], object] = lambda wire: None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Answer nobody any more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                wire, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(wire,), daemon=True).start()

    def _answer(self, wire: socket.socket) -> None:
        with closing(wire), suppress(OSError):
            wire.settimeout(5)
            wire.recv(65_536)
            self.answer(wire)


def http_answers(lab: Lab, rng: Random) -> Generator[Attempt]:
    """What an exchange, or whoever is taken for it, may answer."""
    host = Host()
    gateway = Gateway(
        "sandbox", source=_SOURCE, url=f"http://127.0.0.1:{host.port}", requests_per_s=10_000, threads=1, retry=_ONCE,
        timeout_s=_PATIENCE_S,
    )  # fmt: skip
    window = Window(first_ms=_START, last_ms=_START + 1_500_000)
    bars = [[str(_START + 300_000 * bar), "1", "2", "0.5", "1.5", "10", "12"] for bar in range(6)]
    rules = {
        "symbol": "BTCUSDT", "status": "Trading", "launchTime": "1584230400000", "fundingInterval": 480,
        "priceFilter": {"tickSize": "0.10"}, "lotSizeFilter": {"qtyStep": "0.001", "minOrderQty": "0.001"},
    }  # fmt: skip
    rate = {"symbol": "BTCUSDT", "fundingRate": "0.0001", "fundingRateTimestamp": str(_START)}
    page = {"category": "linear", "symbol": "BTCUSDT", "list": bars}
    asked: list[tuple[Any, Callable[[], object]]] = [
        ({"timeSecond": "1", "timeNano": str(NOW_MS * 1_000_000)}, gateway.server_time_ms),
        ({"category": "linear", "list": [rules]}, lambda: gateway.instrument(_MARKET)),
        ({"category": "linear", "list": [rate]}, lambda: gateway.funding("linear", "BTCUSDT", _START, _START + 1_000)),
        (page, lambda: list(gateway.fetch_windows(_MARKET, [window], NOW_MS))),
        (page, lambda: gateway.newest_candle_ms(_MARKET, NOW_MS)),
    ]
    try:
        for place in count():
            result, ask = asked[place % len(asked)]
            envelope = {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": NOW_MS}
            body = json.dumps(mutated(envelope, rng)).encode()
            if place % 4 == 3:
                body = damaged(body, rng)
            host_answer = _hostile(place, body) if place < 60 or place % 200 == 0 else _whole(body)

            def attempt(
                answer: Callable[[socket.socket], object] = host_answer, ask: Callable[[], object] = ask
            ) -> None:
                host.answer = answer
                each(ask)

            yield attempt
    finally:
        gateway.close()
        host.close()


def _whole(body: bytes, *head: str, status: str = "200 OK") -> Callable[[socket.socket], object]:
    lines = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *head,
        "Connection: close",
    ]
    return lambda wire: wire.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def _hostile(place: int, body: bytes) -> Callable[[socket.socket], object]:
    def trickle(wire: socket.socket) -> None:
        wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(40):
            wire.sendall(b" ")
            time.sleep(0.05)

    def trickled_head(wire: socket.socket) -> None:
        for letter in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40:
            wire.sendall(bytes([letter]))
            time.sleep(0.05)

    def endless(wire: socket.socket) -> None:
        wire.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(2_000):
            wire.sendall(b"[" * 65_536)

    def endless_head(wire: socket.socket) -> None:
        wire.sendall(b"HTTP/1.1 200 OK\r\n")
        for number in range(20_000):
            wire.sendall(b"X-%d: %s\r\n" % (number, b"y" * 100))

    bomb = gzip.compress(bytes(50_000_000))
    ways = (
        trickle, trickled_head, endless, endless_head,
        _whole(bomb, "Content-Encoding: gzip"),
        _whole(gzip.compress(bomb), "Content-Encoding: gzip, gzip"),
        _whole(body[: len(body) // 2], "Content-Encoding: gzip"),
        _whole(b"", "Location: http://127.0.0.1:1/", status="302 Found"),
        _whole(b"", "Location: file:///etc/passwd", status="301 Moved"),
        _whole(b"[" * 200_000), _whole(b'{"a":' * 100_000),
        _whole(body, status="500 Oops"), _whole(body, status="404 No"), _whole(body, status="999 X"),
        lambda wire: wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}"),
        lambda wire: wire.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        lambda wire: wire.sendall(b"\x16\x03\x01\x00\x00"),
        lambda wire: None,
    )  # fmt: skip
    return ways[place % len(ways)]


def stream_frames(lab: Lab, rng: Random) -> Generator[Attempt]:
    """Frames that say that they are endless, and messages in frames without end; each ends the connection."""

    def frame_of(head: bytes, says: int, sent: int) -> bytes:
        return head + b"\x7f" + struct.pack("!Q", says) + b"x" * sent

    texts = [  # _TOO_LONG of them, and then some that are no frames
        frame_of(b"\x81", 2**62, 100_000),
        frame_of(b"\x81", 5_000_000, 6_000_000),
        frame_of(b"\x01", 900_000, 900_000) + frame_of(b"\x00", 900_000, 900_000) * 20,
        b"\x8f\x05hello",
        b"\xff" * 500,
        b"\x81\x04\xff\xff\xff\xff",
        b"\x00\x05hello",
    ]
    for place in count():
        sent = texts[place] if place < len(texts) else b"\xff" + rng.randbytes(300)
        silence_s, why = (30.0, "bytes") if place < _TOO_LONG else (0.5, "")

        def attempt(sent: bytes = sent, silence_s: float = silence_s, why: str = why) -> None:
            if why not in (told := _given_up(sent, silence_s)):
                raise AssertionError(f"a stream must give up what is too long, it says {told!r}")

        yield attempt


def _given_up(sent: bytes, silence_s: float) -> str:
    """Let a stream connect to a host that shakes hands and sends these bytes; return why it gives that host up."""
    told: queue.Queue[str] = queue.Queue()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            with suppress(OSError):
                wire, _ = listener.accept()
                with closing(wire):
                    wire.settimeout(60)
                    asked = b""
                    while b"\r\n\r\n" not in asked:
                        asked += wire.recv(4_096)
                    wire.sendall(handshake(asked))
                    wire.sendall(sent)
                    while (heard := wire.recv(4_096)) and heard[0] != _CLOSE:  # the other side must end this
                        pass

        def note(line: str) -> None:
            if "lost" in line:
                told.put(line)

        threading.Thread(target=serve, daemon=True).start()
        timing = StreamTiming(silence_s=silence_s, first_wait_s=60.0, max_wait_s=60.0, connect_s=10.0)
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        with PublicStream([_MARKET], exchange="sandbox", url=url, timing=timing, on_note=note):
            return told.get(timeout=25)


def handshake(asked: bytes) -> bytes:
    """Return what a server answers to who asks for a WebSocket (RFC 6455)."""
    lines = dict(line.split(b": ", 1) for line in asked.split(b"\r\n") if b": " in line)
    key = lines[b"Sec-WebSocket-Key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key).digest())  # noqa: S324 - as the standard has it
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
