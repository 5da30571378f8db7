"""The things that go wrong with an order, each as a fault plan; `tests/sandbox/actions.py` has those of reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tasks.sandbox.faults import CREATE_PATH, Action, Fault, FaultPlan, Match, OrderTwist, Reply
from tests.sandbox.actions import delivery, ret_code
from tests.sandbox.outside import Outside

FAULTS = (
    "accepted, answer lost",
    "refused, answer lost",
    "accepted, invisible, refused as duplicate when sent again",
    "acknowledged, then rejected",
    "acknowledged, then cancelled unfilled",
    "partly filled, then cancelled",
    "end told twice",
    "execution told before the order",
    "execution told twice",
    "realtime lags",
    "history lags",
    "position lags",
    "filled while the private stream is down",
    "foreign order",
    "deleveraged",
    "leverage reset",
    "acknowledged after recv_window",
    "HTTP 403 on create",
)
"""Names of what `order_fault` knows."""


def order_fault(
    name: str,
    symbol: str,
    *,
    nth: int = 0,
    parts: int = 1,
    polls: int = 4,
    late_s: float = 1.5,
    foreign_qty: str = "1",
    params: Mapping[str, str] | None = None,
) -> FaultPlan:
    """Return the plan in which one order meets a fault.

    Args:
        name: One of `FAULTS`.
        symbol: Of the market.
        nth: Which of the orders that match, from 0.
        parts: In how many executions the order fills, at least.
        polls: How many times reads lag.
        late_s: How late a late acknowledgement is, real seconds; longer than the client's recv_window.
        foreign_qty: Size of an order by hand, coins.
        params: What an order must have to match, such as {"reduceOnly": "true"}.
    """
    action, twist = _cases(symbol, parts, polls, late_s, foreign_qty)[name]
    befalls = Action(name, action.spoil, hold_s=action.hold_s, unseen=action.unseen, twist=twist)
    return [Fault(Match(method="POST", path=CREATE_PATH, nth=nth, params=params or {}), befalls)]


def late_answer(late_s: float) -> Action:
    """Answer late: everything has been decided before."""

    def spoil(reply: Reply) -> None:
        reply.delay_s = late_s

    return Action(f"answer {late_s} s late", spoil)


def late_request(late_s: float) -> Action:
    """Let the request arrive late, whether the client is still there or not."""
    return Action(f"request {late_s} s late", hold_s=late_s)


def unseen(action: Action) -> Action:
    """Let the exchange never see the request that is answered so."""
    return Action(f"unseen, {action.name}", action.spoil, unseen=True)


def refused_unheard(code: int) -> Action:
    """Refuse, and lose the refusal: the connection is reset."""

    def spoil(reply: Reply) -> None:
        reply.refuse(code, "refused")
        reply.delivery = "reset"

    return Action(f"{code}, lost", spoil, unseen=True)


def _cases(
    symbol: str, parts: int, polls: int, late_s: float, foreign_qty: str
) -> Mapping[str, tuple[Action, OrderTwist]]:
    def twist(**given: Any) -> OrderTwist:
        return OrderTwist(parts=parts, **given)

    def deleverage(outside: Outside) -> None:
        if size := outside.size(symbol):
            outside.deleverage(symbol, format(abs(size), "f"))

    def then(what: Callable[[Outside], object]) -> tuple[Action, OrderTwist]:
        return Action(""), twist(then=lambda desk, key: what(Outside(desk, key)))

    usual = Action("")
    invisible = {"realtime": polls, "history": polls, "executions": polls}
    return dict(
        zip(
            FAULTS,
            [
                (delivery("reset"), twist()),
                (refused_unheard(110007), twist()),
                (ret_code(10016, "Internal server error"), twist(unseen=invisible)),
                (usual, twist(rejected=True)),
                (usual, twist(share=0)),
                (usual, twist(share=0.5)),
                (usual, twist(end_twice=True)),
                (usual, twist(execution_first=True)),
                (usual, twist(executions_twice=True)),
                (usual, twist(unseen={"realtime": polls})),
                (usual, twist(unseen={"history": polls})),
                (usual, twist(unseen={"positions": polls})),
                (usual, twist(stream_down=True)),
                then(lambda outside: outside.order(symbol, "Buy", foreign_qty)),
                then(deleverage),
                then(lambda outside: outside.set_leverage(symbol, "10")),
                (late_answer(late_s), twist()),
                (Action("", lambda reply: reply.html(403, "access too frequent"), unseen=True), twist()),
            ],
            strict=True,
        )
    )
