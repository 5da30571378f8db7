"""The private stream: authenticated clients receive the events of their account in order.

Documented at https://bybit-exchange.github.io/docs/v5/ws/connect. Events while a client is not connected are lost to
it, as on Bybit; it must query them over REST.
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import WSMsgType, web

from storage.foreign import parse_json
from tasks.sandbox.audience import Audience
from tasks.sandbox.listing import Fields
from tasks.sandbox.matching import PrivateTopic
from tasks.sandbox.outbox import Outbox
from tasks.sandbox.signatures import Door
from tasks.sandbox.sockets import PushTiming

PRIVATE_PATH = "/v5/private"
PRIVATE_TOPICS = frozenset({"order", "execution", "position", "wallet"})


class PrivatePush:
    """All connections of the private stream; opened in an event loop, `tell` may be called from any thread."""

    def __init__(self, door: Door, timing: PushTiming, told_ms: Callable[[], int]) -> None:
        self.door, self.timing, self.told_ms = door, timing, told_ms
        self.audience: Audience[_Connection] = Audience()
        self._messages = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._down = False

    def open(self) -> None:
        """Attach to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def tell(self, key: str, topic: PrivateTopic, row: Fields) -> None:
        """Send a message to the clients that authenticated with a key and subscribed to a topic."""
        self._soon(lambda: self._publish(key, topic, row))

    def cut(self) -> None:
        """Abort every connection without a close frame, and refuse new ones with HTTP 503."""
        self._soon(self._cut)

    def restore(self) -> None:
        """Let clients connect again."""
        self._soon(self._restore)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection until either side ends it."""
        if self._down:
            return web.Response(status=503, text="not today")
        connection = _Connection(self, self.audience.next_number(), request.transport)
        return await self.audience.attend(connection, request)

    async def subscribed(self, names: Collection[str]) -> None:
        """Wait until each of these topics has a subscriber."""
        await self.audience.subscribed(names)

    def _soon(self, action: Callable[[], object]) -> None:
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)

    def _publish(self, key: str, topic: str, row: Fields) -> None:
        named = {"topic": topic, "id": f"sandbox-{next(self._messages)}", "creationTime": self.told_ms()}
        for connection in self.audience.connections:
            if connection.key == key and topic in connection.heard:
                connection.send(json.dumps(named | {"data": [row]}))

    def _restore(self) -> None:
        self._down = False

    def _cut(self) -> None:
        self._down = True
        for connection in self.audience.connections:
            connection.abort()


class _Connection:
    """One client of the private stream.

    Attributes:
        key: Its API key, once it has authenticated.
        number: Number of the connection within the stream.
    """

    def __init__(self, stream: PrivatePush, number: int, transport: asyncio.Transport | None) -> None:
        self.key: str | None = None
        self.number = number
        self.heard: set[str] = set()
        self.socket = web.WebSocketResponse(compress=False)  # it answers ping frames by itself
        self._stream, self._transport = stream, transport
        self._name = f"sandbox-private-{number}"
        self._outbox = Outbox(stream.timing.delay_s)

    def send(self, text: str) -> None:
        """Send a message, in order."""
        if not self.socket.closed:
            self._outbox.message([text])

    def abort(self) -> None:
        """Abort the connection without a close frame."""
        self.heard.clear()
        if self._transport:
            self._transport.abort()

    async def run(self) -> None:
        """Answer requests and send what is queued until the socket closes."""
        sender = asyncio.create_task(self._send_queued())
        try:
            async for received in self.socket:
                if received.type is WSMsgType.TEXT:
                    await asyncio.sleep(self._stream.timing.ack_s)
                    self._outbox.answer(json.dumps(self._reply(received.data)))
        finally:
            sender.cancel()
            self.heard.clear()

    async def _send_queued(self) -> None:
        with suppress(ConnectionError):  # the client is gone
            while True:
                taken = await self._outbox.take()
                for text in taken if isinstance(taken, list) else ():  # nothing but texts is ever put in
                    await self.socket.send_str(text)

    def _reply(self, text: str) -> Mapping[str, Any]:
        try:
            request = parse_json(text)
            op, args = request.get("op"), request.get("args", [])
        except (ValueError, AttributeError):
            return {"success": False, "ret_msg": "Failed to decode incoming data", "conn_id": self._name, "op": ""}
        named = {"req_id": request["req_id"]} if "req_id" in request else {}
        if op == "ping":
            return {**named, "op": "pong", "args": [str(self._stream.told_ms())], "conn_id": self._name}
        refusal = self._refusal(op, args)
        if not refusal and op == "auth":
            self.key = args[0]
        elif not refusal:
            self.heard |= set(args)
            self._stream.audience.tell_subscribed()
        return {"success": not refusal, "ret_msg": refusal, "op": op, "conn_id": self._name, **named}

    def _refusal(self, op: object, args: object) -> str:
        if op not in ("auth", "subscribe"):
            return "error:invalid op"
        if not isinstance(args, list):
            return "error:invalid args"
        if op == "auth":
            good = len(args) == 3 and self._stream.door.identify_stream(*args)
            return "" if good else "API key, expiry or signature is invalid"
        if self.key is None:
            return "Request not authorized"
        if wrong := [name for name in args if not isinstance(name, str) or name not in PRIVATE_TOPICS]:
            return f"error:handler not found,topic:{wrong[0]}"
        again = [name for name in args if name in self.heard]
        return f"error:already subscribed,topic:{again[0]}" if again else ""
