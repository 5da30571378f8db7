"""Bybit's streams, kept alive: who reads the queue never meets a socket.

A message is read here, and a supervisor replaces a connection that is dead, or silent for too long, by a new one.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import websocket

from storage.api_keys import ApiKey
from storage.foreign import parse_json
from storage.schema import ConfigError, Market, one_line
from tasks.exchange.bans import Ban
from tasks.exchange.pacing import RetryPolicy
from tasks.exchange.private_events import PRIVATE_TOPICS, AccountReconnected, PrivateDecoder
from tasks.exchange.stream_events import BadMessage, Decoder, Reconnected, Refused, UnknownTopic, topics_of
from tasks.exchange.stream_socket import StreamSocket, StreamTiming
from tasks.exchange.transport import Exchange

QUEUE_EVENTS = 100_000
"""Events that may wait to be read: five bursts of 20,000, some 20 MB."""

_LOOK_S = 0.1  # how soon a patient stream notices that it is closed
_TOLD = 3  # bad messages whose text is kept


@dataclass
class StreamCounts:
    """What a stream has seen.

    Attributes:
        messages: Read, of topics that were asked for.
        bad: Dropped because they can't be what they say.
        unknown: Dropped because nobody asked for their topic.
        overflowed: Events dropped because nobody read the queue.
        connections: Made.
        failures: Attempts to connect that failed.
    """

    messages: int = 0
    bad: int = 0
    unknown: int = 0
    overflowed: int = 0
    connections: int = 0
    failures: int = 0


class Reader(Protocol):
    """Reads the messages of one connection."""

    def decode(self, message: Mapping[str, Any], received_ns: int) -> Sequence[Any]:
        """Return the events of a message, in its order.

        Raises:
            UnknownTopic: Nobody asked for it.
            BadMessage: It can't be what its topic says.
        """


class Stream:
    """A stream, for as long as the `with` block lasts.

    Args:
        channel: linear, spot, inverse or private.
        groups: Topics; each group is asked for in one request, so that one alone is refused.
        exchange: Which of Bybit's hosts.
        url: Where a sandbox's stream listens, as ws://127.0.0.1:<port>; None elsewhere.
        key: Of the account whose stream it is; None for a public one.
        events: Where events go, in the order in which they came; several streams may share it. A full one loses events.
        timing: When a connection counts as dead, and how soon there is a new one.
        patient: A full queue is waited for, as the clock of a replay waits for its listeners; an exchange does not.
        ban: Until when the address is refused: nothing is connected meanwhile. None for one that nobody shares.
        on_note: Is told, in one line, of every connection lost and made.
    """

    def __init__(
        self,
        channel: str,
        groups: Sequence[tuple[str, ...]],
        *,
        exchange: Exchange,
        url: str | None = None,
        key: ApiKey | None = None,
        events: queue.Queue[Any] | None = None,
        timing: StreamTiming = StreamTiming(),
        patient: bool = False,
        ban: Ban | None = None,
        on_note: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.channel = channel
        self.events: queue.Queue[Any] = events or queue.Queue(QUEUE_EVENTS)
        self.counts = StreamCounts()
        self.bad_messages: list[str] = []
        self._groups = list(groups)
        self._exchange = exchange
        self._key = key
        self._silence_s = timing.silence_s
        self._url = url
        self._timing = timing
        self._patient = patient
        self._ban = ban or Ban()
        self._back_off = RetryPolicy(
            first_wait_s=timing.first_wait_s, max_wait_s=timing.max_wait_s, jitter=timing.jitter
        )
        self._on_note = on_note
        self._asked: dict[str, tuple[str, ...]] = {}
        self._decoder = self._reader()
        self._data_s = 0.0  # when the last message came that shows that the feed is alive
        self._connection: StreamSocket | None = None
        self._closing = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="stream", daemon=True)

    @property
    def generation(self) -> int:
        """How many connections there have been; a gap may lie before each."""
        return self.counts.connections

    def __enter__(self) -> Self:
        self._supervisor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and every thread of it; nothing is put into the queue any more."""
        self._closing.set()
        if (connection := self._connection) is not None:
            connection.ended.set()
        if self._supervisor.is_alive():
            self._supervisor.join()

    def _supervise(self) -> None:
        fruitless = 0
        while not self._closing.is_set() and self._groups:
            if left_s := self._ban.left_s():
                self._on_note(f"stream {self.channel} is not connected for {left_s:.0f} s: this address is refused")
                self._closing.wait(left_s)
                continue
            opened_s = time.monotonic()
            try:
                reason = self._connect_and_watch()
            except (websocket.WebSocketException, OSError) as err:
                self.counts.failures += 1
                reason = f"{type(err).__name__}: {one_line(err, 120)}"
            if self._closing.is_set():
                break
            fruitless = 1 if self._data_s > opened_s else fruitless + 1
            wait_s = self._back_off.back_off_s(fruitless)
            self._on_note(f"stream {self.channel} lost ({reason}), connecting again in {wait_s:.1f} s")
            self._closing.wait(wait_s)

    def _connect_and_watch(self) -> str:
        """Hold one connection until it is dead, and return why it is."""
        connection = StreamSocket(
            self.channel,
            self._url,
            exchange=self._exchange,
            key=self._key,
            timing=self._timing,
            on_text=self._receive,
            stop=self._closing,
        )
        self._connection = connection
        try:
            self.counts.connections += 1
            self._decoder = self._reader()
            self._greet(connection)
            self._put(self._reconnected())
            # What is asked for is noted before it is sent: the answer may be faster than the next line.
            self._asked = {f"{self.generation}-{place}": group for place, group in enumerate(self._groups)}
            for name, group in self._asked.items():
                connection.ws.send(json.dumps({"op": "subscribe", "req_id": name, "args": list(group)}))
            connection.start_pings()
            self._on_note(f"stream {self.channel} connected, generation={self.generation}")
            return self._watch(connection)
        finally:
            self._connection = None
            connection.end()

    def _watch(self, connection: StreamSocket) -> str:
        since_s = time.monotonic()
        while not self._closing.is_set() and self._groups:
            left_s = max(self._data_s, since_s) + self._silence_s - time.monotonic()
            if left_s <= 0:
                return f"silent for {self._silence_s:g} s"
            if connection.ended.wait(left_s):
                return connection.reason
        return "closed"

    def _receive(self, text: str) -> None:
        received_ns = time.monotonic_ns()
        try:
            message = parse_json(text)
            if not isinstance(message, dict):
                raise BadMessage(f"must be an object, was {type(message).__name__}")
            if "topic" in message:
                for event in self._decoder.decode(message, received_ns):
                    self._put(event)
                self.counts.messages += 1
                self._data_s = received_ns / 1e9
            else:
                self._answered(message, received_ns)
        except UnknownTopic:
            self.counts.unknown += 1
        except ValueError as err:
            self.counts.bad += 1
            if len(self.bad_messages) < _TOLD:
                self.bad_messages.append(f"{type(err).__name__}: {one_line(err)}; {text[:80]!r}")

    def _reader(self) -> Reader:
        raise NotImplementedError

    def _reconnected(self) -> object:
        raise NotImplementedError

    def _greet(self, connection: StreamSocket) -> None:
        """Do what must be done before topics are asked for."""

    def _answered(self, message: dict[str, Any], received_ns: int) -> None:
        """Take in the answer to a request."""

    def _put(self, event: object) -> None:
        while not self._closing.is_set():
            try:
                self.events.put(event, block=self._patient, timeout=_LOOK_S)
            except queue.Full:
                if self._patient:
                    continue
                self.counts.overflowed += 1
            return


class PublicStream(Stream):
    """The public stream of some markets of one category; demo has none of its own and shares Bybit's.

    Args:
        markets: All of one category; the session needs their bars, best prices, trades and tickers.
        options: As of `Stream`.

    Raises:
        ConfigError: No market, or markets of several categories.
    """

    def __init__(self, markets: Sequence[Market], **options: Any) -> None:
        categories = {market.category for market in markets}
        if len(categories) != 1:
            raise ConfigError(f"a stream must be of one category, was of {sorted(categories) or 'none'}")
        (self.category,) = categories
        super().__init__(self.category, [topics_of(market) for market in markets], **options)

    def _reader(self) -> Reader:
        return Decoder(self.category, frozenset(topic for group in self._groups for topic in group))

    def _reconnected(self) -> Reconnected:
        return Reconnected(self.category, self.generation, time.monotonic_ns())

    def _answered(self, message: dict[str, Any], received_ns: int) -> None:
        if message.get("op") != "subscribe" or message.get("success") is not False:
            return
        topics = self._asked.get(str(message.get("req_id")))
        if topics is not None:
            self._groups = [group for group in self._groups if group != topics]
            self._put(Refused(topics, one_line(message.get("ret_msg"), 120), received_ns))
            if not self._groups and self._connection is not None:
                self._connection.ended.set()


class PrivateStream(Stream):
    """What an account's orders, executions and positions do. Pongs show that it lives: it is silent for hours.

    Args:
        key: Of the account.
        options: As of `Stream`.
    """

    def __init__(self, key: ApiKey, **options: Any) -> None:
        super().__init__("private", [PRIVATE_TOPICS], key=key, **options)
        self._silence_s = 2 * self._timing.ping_interval_s + self._timing.ping_timeout_s
        self._admitted = threading.Event()
        self._down_since_s: float | None = time.monotonic()

    @property
    def down_s(self) -> float:
        """For how long nothing of the account could be heard, seconds; 0 while its topics are subscribed."""
        since_s = self._down_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def _connect_and_watch(self) -> str:
        try:
            return super()._connect_and_watch()
        finally:
            if self._down_since_s is None:
                self._down_since_s = time.monotonic()

    def _reader(self) -> Reader:
        return PrivateDecoder()

    def _reconnected(self) -> AccountReconnected:
        return AccountReconnected(self.generation, time.monotonic_ns())

    def _greet(self, connection: StreamSocket) -> None:
        """Show the key; topics that are asked for before the answer are refused."""
        self._admitted.clear()
        connection.show_key()
        give_up_s = time.monotonic() + self._timing.connect_s
        while not self._admitted.wait(_LOOK_S) and not self._closing.is_set():
            if connection.ended.is_set() or time.monotonic() > give_up_s:
                raise websocket.WebSocketException(f"the key is not admitted: {connection.reason}")

    def _answered(self, message: dict[str, Any], received_ns: int) -> None:
        if message.get("op") == "pong":
            self._data_s = received_ns / 1e9
        elif message.get("success") is False:
            if (connection := self._connection) is not None:
                connection.fail(f"the exchange refuses: {one_line(message.get('ret_msg'), 80)}")
        elif message.get("op") == "auth":
            self._admitted.set()
        elif message.get("op") == "subscribe":
            self._down_since_s = None
