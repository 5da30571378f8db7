"""The public stream over real sockets: connections, subscriptions, and the messages to each client in order.

Sockets, pings and the repeats of an unchanged order book run in real time; the contents of messages are of the
exchange's clock. Each connection has a queue, so a slow client receives everything in order, but late. `settle` waits
until a client has received everything, so that the clock does not run ahead of slow clients.
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import WSMsgType, web

from storage.foreign import parse_json
from tasks.sandbox.audience import LostClients
from tasks.sandbox.clock import VirtualClock
from tasks.sandbox.listing import Listing
from tasks.sandbox.outbox import PING, Outbox, frame, frames
from tasks.sandbox.push import Topic, find_topic, first_messages
from tasks.sandbox.stream_faults import Abort, Close, FollowedPlan, Frames, Item, Message, Pieces, is_confirmed

_SPOT_ARGS = 10  # topics in one request, as Bybit documents it
_ARGS_LENGTH = 21_000  # characters of all topics of one connection, likewise


@dataclass(frozen=True, kw_only=True)
class PushTiming:
    """Delays of the stream, real seconds.

    Attributes:
        delay_s: Delay of every message.
        ack_s: Delay of the answer to a request; pybit loses answers that come immediately.
        repeat_s: Time after which an unchanged order book is sent again.
        stall_s: Longest time for which a played clock waits for a client that does not receive its messages, which is
            then cut off, or that has lost its connection by a fault.
    """

    delay_s: float = 0.0
    ack_s: float = 0.01
    repeat_s: float = 3.0
    stall_s: float = 30.0


@dataclass(kw_only=True)
class Feed:
    """What every connection of the stream is served from.

    Attributes:
        plan: The fault plan; another one may take its place.
        catch_up: Sends what has happened up to the clock's time.
        lost: Is told of connections that a fault ends.
    """

    listings: Mapping[tuple[str, str], Listing]
    clock: VirtualClock
    timing: PushTiming
    plan: FollowedPlan
    catch_up: Callable[[], None]
    on_subscribed: Callable[[], None]
    lost: LostClients


class Connection:
    """One client of the stream.

    Attributes:
        number: Number of the connection within the sandbox.
    """

    def __init__(self, feed: Feed, category: str, number: int, transport: asyncio.Transport | None) -> None:
        self.category = category
        self.number = number
        self.topics: dict[str, Topic] = {}
        self.socket = web.WebSocketResponse(autoping=False, compress=False)
        self._feed = feed
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(feed.timing.delay_s)
        self._writing = asyncio.Lock()
        self._ping_names = itertools.count(1)
        self._awaited: dict[bytes, asyncio.Future[None]] = {}
        self._owes = False
        self._mute = False
        self._deaf = False
        self._ended = False
        self._later: dict[str, list[str]] = {}
        self._pushed_at: dict[str, float] = {}

    @property
    def heard(self) -> Collection[str]:
        """The topics whose messages arrive."""
        return () if self._mute else self.topics.keys()

    async def run(self) -> None:
        """Answer requests and send what is queued until the socket closes."""
        sender = asyncio.create_task(self._send_queued())
        try:
            while not self.socket.closed:
                received = await self.socket.receive()
                if received.type is WSMsgType.TEXT:
                    await self._answer(received.data)
                elif received.type is WSMsgType.PING and not self._deaf:
                    async with self._writing:
                        await self.socket.pong(received.data)
                elif received.type is WSMsgType.PONG:
                    self._taken(bytes(received.data))
        except ConnectionError:
            pass  # the client is gone
        finally:
            self._ended = True
            sender.cancel()
            if self._deaf:
                self._feed.lost.miss(self.topics, self.number, self._feed.clock.now_ms())
            self.topics.clear()
            for name in list(self._awaited):
                self._taken(name)

    def push(self, topic: Topic, message: Message, text: str, time_ms: int) -> None:
        """Send a message of a topic in order, or what the fault plan replaces it by.

        `text` is the message as JSON, `time_ms` the event's time by the exchange's clock.
        """
        if self._mute:
            return
        spoilt = self._feed.plan.take(message, text, time_ms)
        if spoilt is None and not self._later:
            self._queue_up([text], topic)
            return
        items = spoilt.items if spoilt else [text]
        if is_confirmed(message):
            items = [*items, *self._later.pop(topic.text, [])]
        self._queue_up(items, topic)
        if spoilt is None:
            return
        if spoilt.later:
            self._later[topic.text] = spoilt.later
        self._deaf |= spoilt.deaf
        if spoilt.cost_bars:
            self._mute = True
            until_ms = time_ms + (spoilt.cost_bars - 1) * self._feed.plan.step_ms
            self._feed.lost.miss(self.topics, self.number, until_ms, refuse=spoilt.refuse)

    async def settle(self) -> None:
        """Wait until the client has received everything, or cut it off.

        A ping frame is sent after the last message; a client answers it after it has received all messages before.
        """
        if not self._owes or self._mute or self._ended:
            return
        self._owes = False
        name = f"{next(self._ping_names)}".encode()
        taken = self._awaited[name] = self._loop.create_future()
        self._outbox.message([name])
        try:
            await asyncio.wait_for(taken, self._feed.timing.stall_s)
        except TimeoutError:
            self._abort()

    def _queue_up(self, items: Iterable[Item], topic: Topic) -> None:
        self._pushed_at[topic.text] = self._loop.time()
        self._owes = True
        self._outbox.message(items)

    def _taken(self, name: bytes) -> None:
        future = self._awaited.pop(name, None)
        if future and not future.done():
            future.set_result(None)

    def _abort(self) -> None:
        if self._transport:
            self._transport.abort()

    async def _send_queued(self) -> None:
        while True:
            match await self._outbox.take():
                case list(texts):
                    self._write(b"".join(frame(text.encode()) for text in texts))
                case bytes(name):
                    self._write(frame(name, PING))
                case Close(code):
                    await self.socket.close(code=code)
                case Abort():
                    self._abort()
                case Frames(text, count):
                    self._write(frames(text.encode(), count))
                case Pieces(text, size, pause_s):
                    whole = frame(text.encode())
                    async with self._writing:  # a pong in between would break the frame
                        for at in range(0, len(whole), size):
                            self._write(whole[at : at + size])
                            await asyncio.sleep(pause_s)

    def _write(self, data: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(data)

    async def _answer(self, text: str) -> None:
        await asyncio.sleep(self._feed.timing.ack_s)
        try:
            request = parse_json(text)
            op, args = request.get("op"), request.get("args", [])
        except (ValueError, AttributeError) as err:
            self._reply({}, "", f"Failed to decode incoming data:{err}")
            return
        if not (isinstance(args, list) and all(isinstance(name, str) for name in args)):
            self._reply(request, str(op), "error:invalid args")
        elif op == "ping":
            if not self._deaf:
                self._reply(request, op, "pong", success=True)
        elif op == "subscribe":
            self._subscribe(request, args)
        else:
            self._reply(request, str(op), "error:invalid op")

    def _subscribe(self, request: Mapping[str, Any], args: list[str]) -> None:
        self._feed.catch_up()  # what has happened before is not for this subscription
        topics = {name: find_topic(self._feed.listings, self.category, name) for name in args}
        fault = self._feed.plan.subscription()
        refusal = (fault and fault.ret_msg) or self._refusal(args, topics)
        if refusal:  # one topic that can't be had, and none of the request is
            self._reply(request, "subscribe", refusal)
            return
        if fault is None:
            self._reply(request, "subscribe", "subscribe" if self.category == "spot" else "", success=True)
        for name, topic in topics.items():
            if topic:
                self.topics[name] = topic
                self._push_first(topic)
                if topic.depth == 1:  # deeper ones Bybit does not repeat
                    self._loop.call_later(self._feed.timing.repeat_s, self._repeat, topic)
        self._feed.on_subscribed()

    def _push_first(self, topic: Topic) -> None:
        now_ms = self._feed.clock.now_ms()
        for message in first_messages(topic, now_ms):
            self.push(topic, message, json.dumps(message, separators=(",", ":")), now_ms)

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

    def _reply(self, request: Mapping[str, Any], op: str, message: str, *, success: bool = False) -> None:
        reply = {
            "success": success,
            "ret_msg": message,
            "conn_id": f"sandbox-{self.number}",
            "req_id": request.get("req_id", ""),
            "op": op,
        }
        self._outbox.answer(json.dumps(reply))

    def _repeat(self, topic: Topic) -> None:
        """Send an order book again that has not changed for a while."""
        if self.topics.get(topic.text) is not topic or self.socket.closed or self._mute:
            return
        quiet_s = self._loop.time() - self._pushed_at.get(topic.text, 0.0)
        if quiet_s >= self._feed.timing.repeat_s:
            now_ms = self._feed.clock.now_ms()
            self._queue_up([json.dumps(m, separators=(",", ":")) for m in first_messages(topic, now_ms)], topic)
            quiet_s = 0.0
        self._loop.call_later(self._feed.timing.repeat_s - quiet_s, self._repeat, topic)
