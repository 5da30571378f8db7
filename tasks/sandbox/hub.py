"""The hub of the public stream: sends events to all subscribers in the exchange's order, and tracks lost clients."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web

from tasks.sandbox.clock import VirtualClock
from tasks.sandbox.listing import Listing
from tasks.sandbox.push import Topic, messages_at
from tasks.sandbox.sockets import Connection, PushTiming
from tasks.sandbox.stream_faults import FollowedPlan, Message

STREAM_PATH = "/v5/public/"
STREAM_CATEGORIES = ("linear", "spot")


@dataclass(frozen=True)
class _Missed:
    """A client that lost its connection: its topics, the connection's number, and when the clock waits for it."""

    topics: frozenset[str]
    number: int
    until_ms: int


class Hub:
    """All connections of the public stream.

    It belongs to the event loop in which it was created; every method but `hear` must be called there.

    Args:
        listings: The markets.
        clock: The exchange's clock.
        timing: Delays of the stream.
        plan: The fault plan.
    """

    def __init__(
        self, listings: Mapping[tuple[str, str], Listing], clock: VirtualClock, timing: PushTiming, plan: FollowedPlan
    ) -> None:
        self.listings = listings
        self.clock = clock
        self.timing = timing
        self.plan = plan
        self._connections: list[Connection] = []
        self._numbers = itertools.count(1)
        self._told_ms = clock.now_ms()
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._news = asyncio.Event()
        self._missed: list[_Missed] = []
        self._refuse_until_ms, self._refuses = 0, False

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection until either side ends it, or refuse it."""
        status = self.plan.handshake()
        if status or self._refuses or self.clock.now_ms() < self._refuse_until_ms:
            self._refuses = False
            return web.Response(status=status or 503, text="not today")
        category = request.path.removeprefix(STREAM_PATH)
        connection = Connection(self, category, next(self._numbers), request.transport)
        await connection.socket.prepare(request)
        self._connections.append(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
        return connection.socket

    def hear(self) -> None:
        """Publish new events; may be called from any thread."""
        if threading.get_ident() == self._thread:
            self.publish()
        else:
            self._loop.call_soon_threadsafe(self.publish)

    def publish(self) -> None:
        """Send all events since the last call, up to the clock's time, to every subscriber."""
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
                    self._broadcast(topic, message, time_ms)
            self._told_ms = time_ms
        self._told_ms = now_ms

    async def settle(self) -> None:
        """Wait until every client has received everything, or has been cut off for not receiving it."""
        await asyncio.gather(*(connection.settle() for connection in self._connections))

    async def subscribed(self, names: Collection[str]) -> None:
        """Wait until each of these topics has a subscriber that receives messages."""
        while not set(names) <= {name for connection in self._connections for name in connection.heard}:
            await self._news.wait()

    def tell_subscribed(self) -> None:
        """Record that there are new subscriptions."""
        self._news.set()
        self._news = asyncio.Event()

    def miss(self, connection: Connection, until_ms: int, *, refuse: bool = False) -> None:
        """Record that a client has lost its connection.

        Args:
            connection: The lost connection.
            until_ms: Until this time a played clock runs on and connections are refused; then it waits for the client.
            refuse: Whether the next attempt to connect is refused, however late it comes.
        """
        self._missed.append(_Missed(frozenset(connection.topics), connection.number, until_ms))
        self._refuse_until_ms = max(self._refuse_until_ms, until_ms)
        self._refuses |= refuse

    async def come_back(self) -> None:
        """Wait until the clients that lost their connection, and whose time is over, receive their topics again."""
        due = [missed for missed in self._missed if missed.until_ms <= self.clock.now_ms()]
        if due:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._heard_again(due), self.timing.stall_s)
            self._missed = [missed for missed in self._missed if missed not in due]

    async def _heard_again(self, missed: Sequence[_Missed]) -> None:
        while not all(self._is_heard_again(topic, missed) for one in missed for topic in one.topics):
            await self._news.wait()

    def _is_heard_again(self, topic: str, missed: Sequence[_Missed]) -> bool:
        lost = [one.number for one in missed if topic in one.topics]
        new = [connection for connection in self._connections if connection.number > min(lost)]
        return sum(topic in connection.heard for connection in new) >= len(lost)

    def _broadcast(self, topic: Topic, message: Message, time_ms: int) -> None:
        message["ts"] += self.clock.told_ms() - self.clock.now_ms()
        text = json.dumps(message, separators=(",", ":"))
        for connection in self._connections:
            if topic.text in connection.topics and connection.category == topic.listing.market.category:
                connection.push(topic, message, text, time_ms)
