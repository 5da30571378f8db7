"""What goes wrong between an exchange and its client, as an ordered plan that the sandbox follows.

A plan is a list of (match, action). The match says which requests, the action what happens to them: it may ask
something else than the client did, and change the answer on its way back. Each fault counts the requests that it
matches, and the first fault whose turn it is acts. `tests/sandbox/actions.py` has actions for all that goes wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from storage.bounds import Checked, NonNegativeInt, PositiveInt

KLINE_PATH = "/v5/market/kline"
RESET_HEADER = "X-Bapi-Limit-Reset-Timestamp"


@dataclass(kw_only=True)
class Reply:
    """An answer on its way to the client.

    Attributes:
        envelope: What becomes the JSON body, unless `text` is set.
        now_ms: The exchange's clock, UTC milliseconds.
        text: The body as it is sent.
        delivery: whole; short: fewer bytes than Content-Length says; chunk: a broken chunk; reset: the connection is
            reset instead; never: nothing is sent until the client gives up.
    """

    envelope: Any
    now_ms: int
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json; charset=utf-8"})
    text: bytes | None = None
    delivery: Literal["whole", "short", "chunk", "reset", "never"] = "whole"

    def body(self) -> bytes:
        """Return the bytes of the body."""
        return self.text if self.text is not None else json.dumps(self.envelope, separators=(",", ":")).encode()

    def refuse(self, code: int | str, message: str | None) -> None:
        """Make this a refusal with Bybit's `code`; without a message, the field is left out."""
        self.envelope = {"retCode": code, "result": {}, "retExtInfo": {}, "time": self.now_ms}
        if message is not None:
            self.envelope["retMsg"] = message

    def html(self, status: int, text: str) -> None:
        """Make this a page of a proxy or a firewall instead of an answer of the API."""
        page = f"<html><head><title>{status}</title></head><body>{text}</body></html>"
        self.status, self.text = status, page.encode()
        self.headers["Content-Type"] = "text/html"


@dataclass(frozen=True)
class Action:
    """What happens to a request and its answer.

    Attributes:
        name: For reading a plan.
        spoil: Changes the answer in place.
        rewrite: Takes the query and returns what the exchange is asked instead.
    """

    name: str
    spoil: Callable[[Reply], None] = field(default=lambda reply: None, repr=False)
    rewrite: Callable[[dict[str, str]], dict[str, str]] = field(default=lambda params: params, repr=False)


@dataclass(frozen=True, kw_only=True)
class Match(Checked):
    """Which requests.

    Attributes:
        path: The request's path; None for any.
        params: Query parameters that the request must have; numbers as text.
        nth: The first of the matching requests that is meant, from 0.
        times: How many from there on; None for all.
        method: GET or POST.
    """

    path: str | None = KLINE_PATH
    params: Mapping[str, str] = field(default_factory=dict)
    nth: NonNegativeInt = 0
    times: PositiveInt | None = 1
    method: str = "GET"

    def covers(self, method: str, path: str, params: Mapping[str, str]) -> bool:
        """Return whether the request is of the kind that is meant."""
        same = method == self.method and self.path in (None, path)
        return same and all(params.get(name) == value for name, value in self.params.items())

    def is_turn(self, seen: int) -> bool:
        """Return whether the request after `seen` others of its kind is meant."""
        return seen >= self.nth and (self.times is None or seen < self.nth + self.times)


@dataclass(frozen=True)
class Fault:
    """An action and the requests that it befalls."""

    match: Match
    action: Action


FaultPlan = Sequence[Fault]
"""Faults in order."""


class PlannedFaults:
    """A plan being followed: counts the requests that each of its faults has matched."""

    def __init__(self, plan: FaultPlan) -> None:
        self._faults = tuple(plan)
        self._seen = [0] * len(self._faults)

    def take(self, method: str, path: str, params: Mapping[str, str]) -> Action | None:
        """Return what happens to this request; None leaves it alone."""
        acting = None
        for index, fault in enumerate(self._faults):
            if fault.match.covers(method, path, params):
                if acting is None and fault.match.is_turn(self._seen[index]):
                    acting = fault.action
                self._seen[index] += 1
        return acting
