"""Fault plans of the public stream.

A plan consists of actions (`tests/sandbox/stream_actions.py` has them) and the times at which they happen. There are
four kinds of times:

    AtBar(5, ...)           the message that confirms a bar. Bars are counted from the one that is forming when the plan
                            begins, 0, in the shortest interval of the sandbox's markets, also without subscribers.
    AtMessage(40, ...)      a message, counted from 0 over all connections. Repeats of an unchanged order book, which
                            come in real time, do not count.
    AtHandshake(1, ...)     an attempt to connect, counted from 0.
    AtSubscription(0, ...)  a request to subscribe, counted from 0.

An action that ends or mutes a connection would cost the client all bars until it has reconnected, which depends on real
time. So a played clock (`Sandbox.play`) closes a given number of bars, during which connections are refused (HTTP 503),
and then waits until the client receives its topics again: it has missed exactly that many bars.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.schema import ConfigError
from tasks.sandbox.faults import is_turn

Message = dict[str, Any]


@dataclass(frozen=True)
class Close:
    """The server ends the connection with a close frame."""

    code: int


@dataclass(frozen=True)
class Abort:
    """The connection ends without a close frame."""


@dataclass(frozen=True)
class Pieces:
    """A message that is written a few bytes at a time."""

    text: str
    size: int
    pause_s: float


@dataclass(frozen=True)
class Frames:
    """A message in several frames."""

    text: str
    count: int


Item = str | Close | Abort | Pieces | Frames
"""What goes over the wire; a str is a message in one frame."""


@dataclass(kw_only=True)
class Delivery:
    """A message on its way to one client.

    Attributes:
        text: The same as JSON.
        items: Items to send instead, in order.
        later: Items to send after the next bar of the same topic is confirmed.
        deaf: Pings on this connection are no longer answered.
        cost_bars: Bars that close before the client can reconnect, the one confirmed now included; then the clock
            waits for it. Nothing but answers and pongs is sent on this connection any more. 0 if it goes on.
        refuse: At least one attempt to reconnect is refused with HTTP 503.
    """

    message: Message
    text: str
    items: list[Item]
    later: list[str] = field(default_factory=list)
    deaf: bool = False
    cost_bars: int = 0
    refuse: bool = False


@dataclass(frozen=True)
class StreamAction:
    """A fault of a message or of its connection.

    Attributes:
        spoil: Changes the delivery in place.
        clock_jump_ms: Jump of the time that the exchange reports; data time is not changed.
    """

    name: str
    spoil: Callable[[Delivery], None] = field(default=lambda delivery: None, repr=False)
    clock_jump_ms: int = 0


@dataclass(frozen=True)
class AtBar:
    """An action when a bar is confirmed; with `topic`, such as kline.5.BTCUSDT, only for this topic."""

    bar: int
    action: StreamAction
    topic: str | None = None


@dataclass(frozen=True)
class AtMessage:
    """An action at the n-th message; with `topic`, only messages of this topic count."""

    message: int
    action: StreamAction
    topic: str | None = None


@dataclass(frozen=True)
class AtHandshake:
    """HTTP `status` (403, 429, 503) instead of a connection, `times` in a row; None for all from there on."""

    handshake: int
    status: int
    times: int | None = 1


@dataclass(frozen=True)
class AtSubscription:
    """A request to subscribe is refused, or if `ret_msg` is None accepted without an answer; `times` in a row."""

    subscription: int
    ret_msg: str | None
    times: int | None = 1


@dataclass(frozen=True)
class StreamPlan:
    """Faults of the stream; the default is none.

    Raises:
        ConfigError: A number is below 0.
    """

    faults: Sequence[AtBar | AtMessage | AtHandshake | AtSubscription] = ()

    def __post_init__(self) -> None:
        for fault in self.faults:
            numbers = [value for value in vars(fault).values() if isinstance(value, int)]
            if min(numbers) < 0:
                raise ConfigError(f"a fault's numbers must be >= 0, was {fault!r}")


class FollowedPlan:
    """State of a plan that is being followed, from the bar that is forming."""

    def __init__(self, plan: StreamPlan, begin_ms: int, step_ms: int) -> None:
        self.step_ms = step_ms
        self._bars = [
            (begin_ms + (fault.bar + 1) * step_ms, fault) for fault in plan.faults if isinstance(fault, AtBar)
        ]
        self._messages = [fault for fault in plan.faults if isinstance(fault, AtMessage)]
        self._seen = [0] * len(self._messages)
        self._handshakes = [fault for fault in plan.faults if isinstance(fault, AtHandshake)]
        self._shaken = 0
        self._subscriptions = [fault for fault in plan.faults if isinstance(fault, AtSubscription)]
        self._subscribed = 0

    def clock_jumps(self) -> list[tuple[int, int]]:
        """Return the times of the jumps of the reported time, and their size, milliseconds."""
        return [(ms, fault.action.clock_jump_ms) for ms, fault in self._bars if fault.action.clock_jump_ms]

    def take(self, message: Message, text: str, time_ms: int) -> Delivery | None:
        """Return the changed delivery of a message to one client; None if it is sent unchanged."""
        topic = message["topic"]
        actions: list[StreamAction] = []
        if is_confirmed(message):
            actions += [f.action for ms, f in self._bars if ms == time_ms and f.topic in (None, topic)]
        for i, fault in enumerate(self._messages):
            if fault.topic in (None, topic):
                actions += [fault.action] if self._seen[i] == fault.message else []
                self._seen[i] += 1
        if not actions:
            return None
        delivery = Delivery(message=message, text=text, items=[text])
        for action in actions:
            action.spoil(delivery)
        return delivery

    def handshake(self) -> int | None:
        """Count an attempt to connect; return the HTTP status with which it is refused, if any."""
        number, self._shaken = self._shaken, self._shaken + 1
        return next((f.status for f in self._handshakes if is_turn(number, f.handshake, f.times)), None)

    def subscription(self) -> AtSubscription | None:
        """Count a request to subscribe; return its fault, if any."""
        number, self._subscribed = self._subscribed, self._subscribed + 1
        return next((f for f in self._subscriptions if is_turn(number, f.subscription, f.times)), None)


def is_confirmed(message: Message) -> bool:
    """Return whether this message confirms a closed bar."""
    return str(message["topic"]).startswith("kline.") and bool(message["data"][0]["confirm"])
