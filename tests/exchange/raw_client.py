"""A plain WebSocket client of the public stream, for what pybit hides: answers, frames, close codes, refusals."""

from __future__ import annotations

import json
from concurrent.futures import Future
from typing import Any

import websocket

WAIT_S = 30.0  # for what comes in milliseconds; only a failure waits so long
GLANCE_S = 0.01

Message = dict[str, Any]


class RawClient:
    """Connects, subscribes and reads in the caller's thread; whoever reads answers the sandbox's pings.

    Attributes:
        messages: Every message of a topic, in the order of arrival.
        replies: Every other text that is JSON.
        broken: Every text that is not.
        ends: How connections ended: a close code, or 1006 without one.
        pongs: Pong frames so far.
        refused: HTTP status of each attempt to connect that was refused.
    """

    def __init__(self, url: str, category: str = "linear") -> None:
        self.messages: list[Message] = []
        self.replies: list[Any] = []
        self.broken: list[str] = []
        self.ends: list[int] = []
        self.refused: list[int] = []
        self.pongs = 0
        self._url = f"{url}/v5/public/{category}"
        self._args: list[str] = []
        self._socket: Any = None
        self.connect()

    def connect(self) -> None:
        """Connect, as often as it takes, and subscribe to what was subscribed before."""
        self.close()
        while True:
            try:
                self._socket = websocket.create_connection(self._url, timeout=WAIT_S)
                break
            except websocket.WebSocketBadStatusException as refusal:
                self.refused.append(refusal.status_code)
        if self._args:
            self.send({"op": "subscribe", "args": self._args})

    def close(self) -> None:
        if self._socket is not None:
            self._socket.shutdown()

    def send(self, request: Any) -> None:
        self._socket.send(request if isinstance(request, str) else json.dumps(request))

    def ask(self, request: Any) -> Any:
        """Send a request and return its answer."""
        known = len(self.replies)
        self.send(request)
        while len(self.replies) == known:
            self.read()
        return self.replies[-1]

    def subscribe(self, *topics: str) -> Any:
        self._args += topics
        return self.ask({"op": "subscribe", "req_id": "s", "args": list(topics)})

    def read(self) -> None:
        """Read one frame; a ping frame is answered, a connection that has ended is replaced."""
        try:
            opcode, data = self._socket.recv_data(control_frame=True)
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            self.ends.append(1006)
            self.connect()
            return
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            self.ends.append(int.from_bytes(data[:2], "big"))
            self.connect()
        elif opcode == websocket.ABNF.OPCODE_PONG:
            self.pongs += 1
        elif opcode == websocket.ABNF.OPCODE_TEXT:
            self._take(data.decode())

    def ping_frame(self) -> bool:
        """Send a ping frame and return whether it is answered: before the reply to a later request, or never."""
        known = self.pongs
        self._socket.ping(b"raw")
        self.ask({"op": "nothing"})
        return self.pongs > known

    def follow(self, playing: Future[int]) -> int:
        """Read until the clock has played what it was to play; return how many bars that were."""
        while not playing.done():
            try:
                self._socket.settimeout(GLANCE_S)
                self.read()
            except websocket.WebSocketTimeoutException:
                pass
        self._socket.settimeout(WAIT_S)
        return playing.result()

    def confirmed(self, topic: str = "kline.5.SYNTHUSDT") -> list[Message]:
        """Return the bars that were confirmed, in the order of arrival."""
        bars = [message["data"][0] for message in self.messages if message["topic"] == topic]
        return [bar for bar in bars if bar["confirm"]]

    def _take(self, text: str) -> None:
        try:
            parsed = json.loads(text)
        except ValueError:
            self.broken.append(text)
            return
        known = isinstance(parsed, dict) and "topic" in parsed
        (self.messages if known else self.replies).append(parsed)
