"""The public stream over real sockets: connections, subscriptions, and what is sent to whom, in the exchange's order.

Sockets, pings and the repeats of a quiet order book run in real time; what messages say is of the exchange's clock.
Each connection has a queue, so a slow client gets everything, in order, and late. Whoever moves the clock may wait
until every client has taken what it was sent (`Hub.settle`): then the clock runs ahead of none, however slow it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import WSMsgType, web

from tasks.sandbox.clock import VirtualClock
from tasks.sandbox.listing import Listing
from tasks.sandbox.push import Message, Topic, find_topic, first_messages, messages_at

STREAM_PATH = "/v5/public/"
STREAM_CATEGORIES = ("linear", "spot", "inverse")

_SPOT_ARGS = 10  # topics in one request, as Bybit documents it
_ARGS_LENGTH = 21_000  # characters of all topics of one connection, likewise


@dataclass(frozen=True, kw_only=True)
class StreamTiming:
    """How long things take on the stream, real seconds.

    Attributes:
        delay_s: How long every message is under way.
        ack_s: How long a request takes to be answered; pybit loses answers that come at once.
        repeat_s: After how long an order book that has not changed is sent again.
        stall_s: After how long a client that does not take what it was sent is cut off while bars are played.
    """

    delay_s: float = 0.0
    ack_s: float = 0.01
    repeat_s: float = 3.0
    stall_s: float = 30.0


class Hub:
    """All connections of the public stream.

    It belongs to the event loop that it was made in; every method must be called there.

    Args:
        listings: The markets.
        clock: The exchange's time.
        timing: How long things take.
    """

    def __init__(self, listings: Mapping[tuple[str, str], Listing], clock: VirtualClock, timing: StreamTiming) -> None:
        self.listings = listings
        self.clock = clock
        self.timing = timing
        self._connections: list[Connection] = []
        self._names = itertools.count(1)
        self._told_ms = clock.now_ms()
        self._news = asyncio.Event()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Hold one connection until either side ends it."""
        category = request.path.removeprefix(STREAM_PATH)
        connection = Connection(self, category, f"sandbox-{next(self._names)}", request.transport)
        await connection.socket.prepare(request)
        self._connections.append(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
        return connection.socket

    def publish(self) -> None:
        """Tell every subscriber what has happened since the last call, up to the clock's time."""
        now_ms = self.clock.now_ms()
        markets: dict[tuple[str, str], dict[str, Topic]] = {}
        for connection in self._connections:
            for name, topic in connection.topics.items():
                markets.setdefault(topic.listing.key, {})[name] = topic
        while markets:
            time_ms = min(self.listings[key].replay.next_event_ms(self._told_ms) for key in markets)
            if time_ms > now_ms:
                break
            for topics in markets.values():
                for topic, message in messages_at(topics.values(), time_ms):
                    self._broadcast(topic, message)
            self._told_ms = time_ms
        self._told_ms = now_ms

    async def settle(self) -> None:
        """Return when every client has taken everything that it was sent, or has been cut off for not taking it."""
        await asyncio.gather(*(connection.settle() for connection in self._connections))

    async def subscribed(self, names: Collection[str]) -> None:
        """Return when each of these topics has a subscriber."""
        while not set(names) <= {name for connection in self._connections for name in connection.topics}:
            await self._news.wait()

    def tell_subscribed(self) -> None:
        """Note that there are new subscriptions."""
        self._news.set()
        self._news = asyncio.Event()

    def _broadcast(self, topic: Topic, message: Message) -> None:
        text = json.dumps(message, separators=(",", ":"))
        for connection in self._connections:
            if topic.text in connection.topics and connection.category == topic.listing.market.category:
                connection.push(topic, text)


class Connection:
    """One client of the stream.

    Attributes:
        topics: What it has subscribed to.
        socket: Its socket.
    """

    def __init__(self, hub: Hub, category: str, name: str, transport: asyncio.Transport | None) -> None:
        self.category = category
        self.topics: dict[str, Topic] = {}
        self.socket = web.WebSocketResponse(autoping=False, compress=False)
        self._hub = hub
        self._name = name
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[float, str | bytes]] = asyncio.Queue()
        self._pings = itertools.count(1)
        self._awaited: dict[bytes, asyncio.Future[None]] = {}
        self._owes = False
        self._pushed_at: dict[str, float] = {}

    async def run(self) -> None:
        """Answer requests and send what is queued until the socket closes."""
        sender = asyncio.create_task(self._send())
        try:
            while not self.socket.closed:
                received = await self.socket.receive()
                if received.type is WSMsgType.TEXT:
                    await self._answer(received.data)
                elif received.type is WSMsgType.PING:
                    await self.socket.pong(received.data)
                elif received.type is WSMsgType.PONG:
                    self._taken(bytes(received.data))
        except ConnectionError:
            pass  # the client is gone
        finally:
            sender.cancel()
            self.topics.clear()
            for name in list(self._awaited):
                self._taken(name)

    def push(self, topic: Topic, text: str) -> None:
        """Send a message of a topic, after everything before it."""
        self._pushed_at[topic.text] = self._loop.time()
        self._owes = True
        self._queue.put_nowait((self._loop.time() + self._hub.timing.delay_s, text))

    async def settle(self) -> None:
        """Return when the client has taken everything, or cut it off.

        A ping frame goes after the last message: a client answers it when it has handled what came before.
        """
        if not self._owes:
            return
        self._owes = False
        name = f"{next(self._pings)}".encode()
        taken = self._awaited[name] = self._loop.create_future()
        self._queue.put_nowait((self._loop.time() + self._hub.timing.delay_s, name))
        try:
            await asyncio.wait_for(taken, self._hub.timing.stall_s)
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """End the connection without a word."""
        if self._transport:
            self._transport.abort()

    def _taken(self, name: bytes) -> None:
        future = self._awaited.pop(name, None)
        if future and not future.done():
            future.set_result(None)

    async def _send(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                due, item = await self._queue.get()
                if due > self._loop.time():
                    await asyncio.sleep(due - self._loop.time())
                if isinstance(item, bytes):
                    await self.socket.ping(item)
                else:
                    await self.socket.send_str(item)

    async def _answer(self, text: str) -> None:
        await asyncio.sleep(self._hub.timing.ack_s)
        try:
            request = json.loads(text)
            op, args = request.get("op"), request.get("args", [])
        except (ValueError, AttributeError) as err:
            self._reply("", success=False, message=f"Failed to decode incoming data:{err}", request={})
            return
        if op == "ping":
            self._reply("ping", success=True, message="pong", request=request)
        elif op == "subscribe":
            self._subscribe(request, args)
        elif op == "unsubscribe":
            for name in args:
                self.topics.pop(name, None)
            self._reply(op, success=True, message=self._good(op), request=request)
        else:
            self._reply(str(op), success=False, message="error:invalid op", request=request)

    def _subscribe(self, request: Mapping[str, Any], args: list[str]) -> None:
        topics = {name: find_topic(self._hub.listings, self.category, name) for name in args}
        refusal = self._refusal(args, topics)
        if refusal:  # one topic that can't be had, and none of the request is
            self._reply("subscribe", success=False, message=refusal, request=request)
            return
        self._hub.publish()  # what has happened before is not for this subscription
        self._reply("subscribe", success=True, message=self._good("subscribe"), request=request)
        for name, topic in topics.items():
            if topic:
                self.topics[name] = topic
                for message in first_messages(topic, self._hub.clock.now_ms()):
                    self.push(topic, json.dumps(message, separators=(",", ":")))
                if topic.kind == "orderbook":
                    self._loop.call_later(self._hub.timing.repeat_s, self._repeat, topic)
        self._hub.tell_subscribed()

    def _refusal(self, args: list[str], topics: Mapping[str, Topic | None]) -> str:
        if self.category == "spot" and len(args) > _SPOT_ARGS:
            return f"args size >{_SPOT_ARGS}"
        if sum(map(len, [*self.topics, *args])) > _ARGS_LENGTH:
            return f"args length >{_ARGS_LENGTH}"
        for name in args:
            if name in self.topics or args.count(name) > 1:
                return f"error:already subscribed,topic:{name}"
            if topics[name] is None:
                return f"error:handler not found,topic:{name}"
        return ""

    def _good(self, op: str) -> str:
        return op if self.category == "spot" else ""

    def _reply(self, op: str, *, success: bool, message: str, request: Mapping[str, Any]) -> None:
        reply = {
            "success": success,
            "ret_msg": message,
            "conn_id": self._name,
            "req_id": request.get("req_id", ""),
            "op": op,
        }
        self._queue.put_nowait((self._loop.time(), json.dumps(reply)))

    def _repeat(self, topic: Topic) -> None:
        """Send a book again that has not changed for a while."""
        if self.topics.get(topic.text) is not topic or self.socket.closed:
            return
        quiet_s = self._loop.time() - self._pushed_at.get(topic.text, 0.0)
        if quiet_s >= self._hub.timing.repeat_s:
            for message in first_messages(topic, self._hub.clock.now_ms()):
                self.push(topic, json.dumps(message, separators=(",", ":")))
            quiet_s = 0.0
        self._loop.call_later(self._hub.timing.repeat_s - quiet_s, self._repeat, topic)
