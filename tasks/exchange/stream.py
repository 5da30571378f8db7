"""Bybit's websocket streams as a queue of events, with automatic reconnection.

Messages are decoded here, and a supervisor thread replaces a connection that is dead or silent for too long.
"""

import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import websocket

from storage.api_keys import ApiKey
from storage.foreign import parse_json
from storage.schema import ConfigError, Market, one_line
from tasks.exchange.bans import Ban
from tasks.exchange.boot_clock import AWAKE_S, boottime_ns, boottime_s
from tasks.exchange.private_events import PRIVATE_TOPICS, AccountReconnected, decode_private
from tasks.exchange.stream_events import Decoder, Reconnected, SubscriptionRefused, topics_of
from tasks.exchange.stream_socket import StreamSocket, StreamTiming
from tasks.exchange.transport import Exchange
from tasks.exchange.wire_values import BadMessage

QUEUE_EVENTS = 100_000
"""Most events in the queue: five bursts of 20,000, some 20 MB."""

_LOOK_S = 0.1  # how soon a patient stream notices that it is closed
_TOLD = 3  # most bad messages of a stream that are told of


@dataclass
class StreamCounts:
    """Counters of a stream.

    Attributes:
        messages: Messages of subscribed topics that were decoded.
        bad: Messages dropped because they were malformed, or of a topic that was not subscribed.
        overflowed: Events dropped because the queue was full.
        failures: Attempts that ended in an error of the socket.
    """

    messages: int = 0
    bad: int = 0
    overflowed: int = 0
    connections: int = 0
    failures: int = 0


Decode = Callable[[Mapping[str, Any], int], Sequence[Any]]
"""Returns the events of a message that came at a time of `boottime_ns`; raises BadMessage."""


class Stream:
    """A stream, open for as long as the `with` block lasts.

    Args:
        channel: linear, spot or private.
        groups: Topics; each group is subscribed by a request of its own, so that a refusal affects this group alone.
        url: Address of the sandbox's stream, as ws://127.0.0.1:<port>; None for Bybit.
        key: API key of the account, for a private stream; None for a public one.
        events: Queue for the events, in order of arrival; several streams may share it. Events are dropped if it is
            full.
        timing: When a connection counts as dead, and how soon the next one is made.
        patient: Whether to wait while the queue is full instead of dropping events; for replays, whose clock waits for
            its clients.
        ban: The shared ban of this address: no connection is made while it lasts. None for one that is not shared.
        on_note: Called with one line for every connection lost and made, and for the first malformed messages.
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
        self._groups = list(groups)
        self._silence_s = timing.silence_s
        self._timing = timing
        self._patient = patient
        self._ban = ban or Ban()
        self._on_note = on_note
        self._asked: dict[str, tuple[str, ...]] = {}
        self._decode = self._decoder()
        self._data_s = 0.0  # time of the last message that shows that the feed is alive
        self._connection: StreamSocket | None = None
        self._closing = threading.Event()
        self._connect = partial(
            StreamSocket, channel, url, exchange=exchange, key=key, timing=timing, on_text=self._receive,
            stop=self._closing,
        )  # fmt: skip
        self._supervisor = threading.Thread(target=self._supervise, name="stream", daemon=True)

    @property
    def generation(self) -> int:
        """Number of connections so far; events may have been lost before each."""
        return self.counts.connections

    def __enter__(self) -> Self:
        self._supervisor.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and stop its threads; no event is put into the queue any more."""
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
                while (left_s := self._ban.left_s()) and not self._closing.wait(min(left_s, AWAKE_S)):
                    pass
                continue
            opened_s = boottime_s()
            try:
                reason = self._connect_and_watch()
            except Exception as err:  # whatever else it is: without this thread the stream would be silent for ever
                self.counts.failures += 1
                reason = f"{type(err).__name__}: {one_line(err, 120)}"
            if self._closing.is_set():
                break
            fruitless = 1 if self._data_s > opened_s else fruitless + 1
            wait_s = self._timing.back_off_s(fruitless)
            self._on_note(f"stream {self.channel} lost ({reason}), connecting again in {wait_s:.1f} s")
            self._closing.wait(wait_s)

    def _connect_and_watch(self) -> str:
        """Make one connection, watch it until it is dead, and return the reason."""
        self._connection = connection = self._connect()
        try:
            self.counts.connections += 1
            self._decode = self._decoder()
            self._greet(connection)
            self._put(self._reconnected())
            # Stored before the requests are sent: an answer may come before the next line runs.
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
        since_s = boottime_s()
        while not self._closing.is_set() and self._groups:
            left_s = max(self._data_s, since_s) + self._silence_s - boottime_s()
            if left_s <= 0:
                return f"silent for {self._silence_s:g} s"
            if connection.ended.wait(min(left_s, AWAKE_S)):
                return connection.reason
        return "closed"

    def _receive(self, text: str) -> None:
        received_ns = boottime_ns()
        try:
            message = parse_json(text)
            if not isinstance(message, dict):
                raise BadMessage(f"must be an object, was {type(message).__name__}")
            if "topic" in message:
                for event in self._decode(message, received_ns):
                    self._put(event)
                self.counts.messages += 1
                self._data_s = received_ns / 1e9
            else:
                self._answered(message, received_ns)
        except ValueError as err:
            self.counts.bad += 1
            if self.counts.bad <= _TOLD:
                self._on_note(f"stream {self.channel} dropped a message ({type(err).__name__}: {one_line(err)})")

    def _decoder(self) -> Decode:
        """Return what decodes the messages of one connection."""
        raise NotImplementedError

    def _reconnected(self) -> object:
        raise NotImplementedError

    def _greet(self, connection: StreamSocket) -> None:
        """Do what must be done before topics are subscribed; nothing by default."""

    def _answered(self, message: dict[str, Any], received_ns: int) -> None:
        """Handle the answer to a request; ignored by default."""

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
    """The public stream of markets of one category; demo has none of its own and uses Bybit's.

    Args:
        markets: All of one category; their bars, best bid and ask, trades and tickers are subscribed.
        options: As of `Stream`.

    Raises:
        ConfigError: `markets` is empty or of several categories.
    """

    def __init__(self, markets: Sequence[Market], **options: Any) -> None:
        categories = {market.category for market in markets}
        if len(categories) != 1:
            raise ConfigError(f"a stream must be of one category, was of {sorted(categories) or 'none'}")
        (self.category,) = categories
        super().__init__(self.category, [topics_of(market) for market in markets], **options)

    def _decoder(self) -> Decode:
        return Decoder(self.category, frozenset(topic for group in self._groups for topic in group)).decode

    def _reconnected(self) -> Reconnected:
        return Reconnected(self.category, self.generation, boottime_ns())

    def _answered(self, message: dict[str, Any], received_ns: int) -> None:
        if message.get("op") != "subscribe" or message.get("success") is not False:
            return
        topics = self._asked.get(str(message.get("req_id")))
        if topics is not None:
            self._groups = [group for group in self._groups if group != topics]
            self._put(SubscriptionRefused(topics, one_line(message.get("ret_msg"), 120), received_ns))
            if not self._groups and self._connection is not None:
                self._connection.ended.set()


class PrivateStream(Stream):
    """The private stream of an account's orders and executions.

    It may have no event for hours, so pongs count as signs of life.

    Args:
        options: As of `Stream`.
    """

    def __init__(self, key: ApiKey, **options: Any) -> None:
        super().__init__("private", [PRIVATE_TOPICS], key=key, **options)
        self._silence_s = 2 * self._timing.ping_interval_s + self._timing.ping_timeout_s
        self._admitted = threading.Event()
        self._down_since_s: float | None = boottime_s()

    @property
    def down_s(self) -> float:
        """Seconds since the topics were last subscribed; 0 while they are."""
        since_s = self._down_since_s
        return 0.0 if since_s is None else boottime_s() - since_s

    def _connect_and_watch(self) -> str:
        try:
            return super()._connect_and_watch()
        finally:
            if self._down_since_s is None:
                self._down_since_s = boottime_s()

    def _decoder(self) -> Decode:
        return decode_private

    def _reconnected(self) -> AccountReconnected:
        return AccountReconnected(self.generation, boottime_ns())

    def _greet(self, connection: StreamSocket) -> None:
        """Authenticate and wait for the answer; topics subscribed before it would be refused."""
        self._admitted.clear()
        connection.show_key()
        give_up_s = boottime_s() + self._timing.connect_s
        while not self._admitted.wait(_LOOK_S) and not self._closing.is_set():
            if connection.ended.is_set() or boottime_s() > give_up_s:
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
