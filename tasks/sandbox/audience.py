"""Who listens to a stream: its connections, and the clients that a fault has cut off."""

import asyncio
import itertools
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from aiohttp import web


class Listener(Protocol):
    """A client's connection: its number within the stream, its socket, and the topics whose messages arrive."""

    number: int
    socket: web.WebSocketResponse

    @property
    def heard(self) -> Collection[str]: ...  # noqa: D102

    async def run(self) -> None: ...  # noqa: D102


One = TypeVar("One", bound=Listener)


class Audience(Generic[One]):
    """All connections of a stream; its methods must be called in the stream's event loop."""

    def __init__(self) -> None:
        self.connections: list[One] = []
        self._numbers = itertools.count(1)
        self._news = asyncio.Event()

    def next_number(self) -> int:
        """Return the number of a new connection."""
        return next(self._numbers)

    async def attend(self, connection: One, request: web.Request) -> web.StreamResponse:
        """Serve a connection until either side ends it."""
        await connection.socket.prepare(request)
        self.connections.append(connection)
        try:
            await connection.run()
        finally:
            self.connections.remove(connection)
        return connection.socket

    async def subscribed(self, names: Collection[str]) -> None:
        """Wait until each of these topics has a subscriber that receives messages."""
        while not set(names) <= {name for connection in self.connections for name in connection.heard}:
            await self.new_subscriptions()

    async def new_subscriptions(self) -> None:
        """Wait until `tell_subscribed` is called."""
        await self._news.wait()

    def tell_subscribed(self) -> None:
        """Record that there are new subscriptions."""
        self._news.set()
        self._news = asyncio.Event()


@dataclass(frozen=True)
class _Missed:
    """A client that lost its connection: its topics, the connection's number, and when the clock waits for it."""

    topics: frozenset[str]
    number: int
    until_ms: int


class LostClients:
    """The clients cut off by a fault, for whose return a played clock waits up to `wait_s` real seconds."""

    def __init__(self, audience: Audience[Any], wait_s: float) -> None:
        self._audience, self._wait_s = audience, wait_s
        self._missed: list[_Missed] = []
        self._refuse_until_ms, self._refuses = 0, False

    def miss(self, topics: Collection[str], number: int, until_ms: int, *, refuse: bool = False) -> None:
        """Record that a client has lost its connection.

        Args:
            until_ms: Until this time a played clock runs on and connections are refused; then it waits for the client.
            refuse: Whether the next attempt to connect is refused, however late it comes.
        """
        self._missed.append(_Missed(frozenset(topics), number, until_ms))
        self._refuse_until_ms = max(self._refuse_until_ms, until_ms)
        self._refuses |= refuse

    def refuses(self, now_ms: int) -> bool:
        """Return whether an attempt to connect at this time is refused."""
        refuses, self._refuses = self._refuses or now_ms < self._refuse_until_ms, False
        return refuses

    async def come_back(self, now_ms: int) -> None:
        """Wait until the clients whose time is over by now receive their topics again."""
        due = [missed for missed in self._missed if missed.until_ms <= now_ms]
        if due:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._heard_again(due), self._wait_s)
            self._missed = [missed for missed in self._missed if missed not in due]

    async def _heard_again(self, missed: Sequence[_Missed]) -> None:
        while not all(self._is_heard_again(topic, missed) for one in missed for topic in one.topics):
            await self._audience.new_subscriptions()

    def _is_heard_again(self, topic: str, missed: Sequence[_Missed]) -> bool:
        lost = [one.number for one in missed if topic in one.topics]
        new = [connection for connection in self._audience.connections if connection.number > min(lost)]
        return sum(topic in connection.heard for connection in new) >= len(lost)
