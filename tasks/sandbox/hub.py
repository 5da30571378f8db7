"""The hub of the public stream: sends events to all subscribers in the exchange's order."""

import asyncio
import json
import threading
from collections.abc import Collection, Mapping

from aiohttp import web

from tasks.sandbox.audience import Audience, LostClients
from tasks.sandbox.clock import VirtualClock
from tasks.sandbox.listing import Listing
from tasks.sandbox.push import Topic, messages_at
from tasks.sandbox.sockets import Connection, Feed, PushTiming
from tasks.sandbox.stream_faults import FollowedPlan, Message

STREAM_PATH = "/v5/public/"
STREAM_CATEGORIES = ("linear", "spot")


class Hub:
    """All connections of the public stream.

    It belongs to the event loop in which it was created; every method but `hear` must be called there.
    """

    def __init__(
        self, listings: Mapping[tuple[str, str], Listing], clock: VirtualClock, timing: PushTiming, plan: FollowedPlan
    ) -> None:
        self._audience: Audience[Connection] = Audience()
        self._lost = LostClients(self._audience, timing.stall_s)
        self.feed = Feed(
            listings=listings,
            clock=clock,
            timing=timing,
            plan=plan,
            catch_up=self.publish,
            on_subscribed=self._audience.tell_subscribed,
            lost=self._lost,
        )
        self._told_ms = clock.now_ms()
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection until either side ends it, or refuse it."""
        status, refused = self.feed.plan.handshake(), self._lost.refuses(self.feed.clock.now_ms())
        if status or refused:
            return web.Response(status=status or 503, text="not today")
        category = request.path.removeprefix(STREAM_PATH)
        connection = Connection(self.feed, category, self._audience.next_number(), request.transport)
        return await self._audience.attend(connection, request)

    def hear(self) -> None:
        """Publish new events; may be called from any thread."""
        if threading.get_ident() == self._thread:
            self.publish()
        else:
            self._loop.call_soon_threadsafe(self.publish)

    def publish(self) -> None:
        """Send all events since the last call, up to the clock's time, to every subscriber."""
        now_ms = self.feed.clock.now_ms()
        markets: dict[tuple[str, str], dict[str, Topic]] = {}
        for connection in self._audience.connections:
            for name, topic in connection.topics.items():
                markets.setdefault(topic.listing.key, {})[name] = topic
        while markets:
            time_ms = min(self.feed.listings[key].replay.next_event_ms(self._told_ms) for key in markets)
            if time_ms > now_ms:
                break
            for topics in markets.values():
                for topic, message in messages_at(topics.values(), time_ms):
                    self._broadcast(topic, message, time_ms)
            self._told_ms = time_ms
        self._told_ms = now_ms

    async def settle(self) -> None:
        """Wait until every client has received everything, or has been cut off for not receiving it."""
        await asyncio.gather(*(connection.settle() for connection in self._audience.connections))

    async def subscribed(self, names: Collection[str]) -> None:
        """Wait until each of these topics has a subscriber that receives messages."""
        await self._audience.subscribed(names)

    async def come_back(self) -> None:
        """Wait until the clients that lost their connection, and whose time is over, receive their topics again."""
        await self._lost.come_back(self.feed.clock.now_ms())

    def _broadcast(self, topic: Topic, message: Message, time_ms: int) -> None:
        message["ts"] += self.feed.clock.told_ms() - self.feed.clock.now_ms()
        text = json.dumps(message, separators=(",", ":"))
        for connection in self._audience.connections:
            if topic.text in connection.topics and connection.category == topic.listing.market.category:
                connection.push(topic, message, text, time_ms)
