"""Killed while its orders are under way and started again, a session ends with the exchange's books."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.live import killed_trader
from tests.live.conftest import MARKET, START_MS, STEP_MS, WAIT_S, Rig
from tests.live.order_rig import Trader
from tests.live.test_kill import play_bar, wait_until

BARS, AT = 14, 3
PATIENCE_S = 2.0  # for the orders of an open; then the next bar closes, and what is not known is unknown
OPEN = Callable[..., Rig]


@pytest.fixture(scope="module")
def start_child() -> Callable[[dict[str, Any]], Any]:
    """Return what starts a session in another process: forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.live.killed_trader"])

    def start(asked: dict[str, Any]) -> Any:
        process = context.Process(target=killed_trader.hold, args=(asked,), daemon=True)
        process.start()
        return process

    return start


def has_traded(rig: Rig, closed: int) -> bool:
    """Return whether a session has decided on what has closed, and traded what it decided."""
    with rig.reader() as reader:
        if reader.decided(MARKET.slug) < closed:
            return False
        decisions, opens = reader.decisions(MARKET.slug, last=1), reader.opens(MARKET.slug, last=1)
        held = opens[-1].opened.ledger.side if opens else 0
        next_ms = START_MS + closed * STEP_MS
        return not decisions or decisions[-1].wanted == held or (bool(opens) and opens[-1].start_ms >= next_ms)


def hold(rig: Rig, start: Callable[[dict[str, Any]], Any], point: str) -> list[int]:
    """Play a session bar by bar to another process, started again when it was killed; return how each ended."""
    ends: list[int] = []
    closed = 0
    while ends[-1:] != [0]:
        assert len(ends) < 3
        ready = rig.path.with_name(f"ready-{len(ends)}")
        child = start(
            {
                "url": rig.sandbox.url, "path": str(rig.path), "bars": BARS,
                "point": "" if ends else point, "bar_ms": START_MS + AT * STEP_MS, "ready": str(ready),
            }
        )  # fmt: skip
        wait_until(lambda: ready.exists() or not child.is_alive())  # noqa: B023
        while child.is_alive() and closed < BARS:
            give_up_s = time.monotonic() + PATIENCE_S
            wait_until(
                lambda: has_traded(rig, closed) or not child.is_alive() or time.monotonic() > give_up_s  # noqa: B023
            )
            closed += play_bar(rig, child)
        child.join(WAIT_S)
        ends.append(child.exitcode)
    return ends


@pytest.mark.promise(14)
@pytest.mark.parametrize("point", killed_trader.POINTS)
def test_killed_session_ends_with_the_exchange_s_books_when_it_is_started_again(
    open_rig: OPEN, start_child: Any, point: str
) -> None:
    trader = Trader(open_rig)
    assert hold(trader.rig, start_child, point) == [-signal.SIGKILL, 0]
    again = trader.check()
    assert (again.bars, again.missing) == (BARS, 0)
    assert again.fills >= 3
    assert set(again.causes) <= {"slippage", "stale", "unknown"}  # the last two where a bar is over before its orders
    with trader.rig.reader() as reader:
        assert all(one.booked_ms is not None for one in reader.executions(MARKET.slug))
