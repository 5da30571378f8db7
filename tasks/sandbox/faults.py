"""Fault plans of REST requests.

A plan is a list of (match, action). The match selects requests; the action may change the request before the exchange
sees it, and the answer on its way back. Each fault counts the requests that it matches, and the first fault whose turn
it is acts. `tests/sandbox/actions.py` has actions for reads, `tests/sandbox/order_actions.py` for orders.

The exchange processes a request before its answer is changed. So an order whose answer is lost has been accepted,
unless the action keeps the exchange from seeing the request (`unseen`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from storage.bounds import Checked, NonNegativeFloat, NonNegativeInt, PositiveInt, Share
from tasks.sandbox.order_record import Read

KLINE_PATH = "/v5/market/kline"
CREATE_PATH = "/v5/order/create"
RESET_HEADER = "X-Bapi-Limit-Reset-Timestamp"


@dataclass(kw_only=True)
class Reply:
    """An answer on its way to the client.

    Attributes:
        envelope: The JSON body, unless `text` is set.
        now_ms: The exchange's clock, UTC milliseconds.
        text: The body to send instead of the envelope.
        delivery: whole; short: fewer bytes than Content-Length says; chunk: a broken chunk; reset: the connection is
            reset instead; never: nothing is sent until the client gives up.
        delay_s: Delay of the answer after the request was processed, real seconds.
    """

    envelope: Any
    now_ms: int
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json; charset=utf-8"})
    text: bytes | None = None
    delivery: Literal["whole", "short", "chunk", "reset", "never"] = "whole"
    delay_s: float = 0.0

    def body(self) -> bytes:
        """Return the bytes of the body."""
        return self.text if self.text is not None else json.dumps(self.envelope, separators=(",", ":")).encode()

    def refuse(self, code: int | str, message: str | None) -> None:
        """Make this a refusal with Bybit's `code`; without a message, the field is left out."""
        self.envelope = {"retCode": code, "result": {}, "retExtInfo": {}, "time": self.now_ms}
        if message is not None:
            self.envelope["retMsg"] = message

    def html(self, status: int, text: str) -> None:
        """Make this an HTML page of a proxy or a firewall instead of an answer of the API."""
        page = f"<html><head><title>{status}</title></head><body>{text}</body></html>"
        self.status, self.text = status, page.encode()
        self.headers["Content-Type"] = "text/html"


@dataclass(frozen=True, kw_only=True)
class OrderTwist(Checked):
    """A fault in the handling of an order after its acknowledgement.

    Attributes:
        rejected: It is rejected.
        share: Largest share of its quantity that is filled, in whole steps; the rest is cancelled. 0 cancels it
            unfilled.
        parts: Least number of executions, as far as whole steps allow.
        late_s: Additional delay of its matching, real seconds, even if the clock is moved meanwhile.
        execution_first: The message of its first execution comes before the first message of the order.
        executions_twice: Each message of an execution comes twice, with the same execId.
        end_twice: The message of its end comes twice.
        unseen: Number of reads each that do not show the order, its executions, and the position it leads to.
        stream_down: The private stream is down from its acceptance to its end.
        then: Called at its end with the `desk.Desk` and the account's key, to cause further events.
    """

    rejected: bool = False
    share: Share = 1.0
    parts: PositiveInt = 1
    late_s: NonNegativeFloat = 0.0
    execution_first: bool = False
    executions_twice: bool = False
    end_twice: bool = False
    unseen: Mapping[Read, int] = field(default_factory=dict)
    stream_down: bool = False
    then: Callable[[Any, str], object] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Action:
    """A fault of a request or its answer.

    Attributes:
        spoil: Changes the answer in place.
        rewrite: Takes the query, or an order's body, and returns what the exchange gets instead.
        hold_s: Delay of the request before it reaches the exchange, real seconds; it arrives even if the client has
            given up.
        unseen: The exchange never sees the request; the answer comes from `spoil` only.
        twist: Fault in the handling of the order that the request places.
    """

    name: str
    spoil: Callable[[Reply], None] = field(default=lambda reply: None, repr=False)
    rewrite: Callable[[dict[str, str]], dict[str, str]] = field(default=lambda params: params, repr=False)
    hold_s: float = 0.0
    unseen: bool = False
    twist: OrderTwist | None = None


@dataclass(frozen=True, kw_only=True)
class Match(Checked):
    """Selects requests.

    Attributes:
        path: The request's path; None for any.
        params: Parameters that the request must have, in its query or its body; numbers, true and false as text.
        nth: Number of the first matching request that is selected, from 0.
        times: Number of requests selected from there on; None for all.
        method: GET or POST.
    """

    path: str | None = KLINE_PATH
    params: Mapping[str, str] = field(default_factory=dict)
    nth: NonNegativeInt = 0
    times: PositiveInt | None = 1
    method: str = "GET"

    def covers(self, method: str, path: str, params: Mapping[str, str]) -> bool:
        """Return whether the request matches, apart from its number."""
        same = method == self.method and self.path in (None, path)
        return same and all(params.get(name) == value for name, value in self.params.items())


@dataclass(frozen=True)
class Fault:
    """An action and the requests to which it applies."""

    match: Match
    action: Action


FaultPlan = Sequence[Fault]
"""Faults in order."""


class PlannedFaults:
    """State of a plan that is being followed: counts the requests that each of its faults has matched."""

    def __init__(self, plan: FaultPlan) -> None:
        self._faults = tuple(plan)
        self._seen = [0] * len(self._faults)

    def take(self, method: str, path: str, params: Mapping[str, str]) -> Action | None:
        """Return the action for this request, or None."""
        acting = None
        for index, fault in enumerate(self._faults):
            if fault.match.covers(method, path, params):
                if acting is None and is_turn(self._seen[index], fault.match.nth, fault.match.times):
                    acting = fault.action
                self._seen[index] += 1
        return acting


def is_turn(seen: int, first: int, times: int | None) -> bool:
    """Return whether what comes after `seen` others is one of the `times` from number `first` on; None for all."""
    return seen >= first and (times is None or seen < first + times)
