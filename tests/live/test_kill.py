"""Killed at any point of a bar and started again, a session ends with the ledger that it would have had anyway."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tasks.journal.journal_rows import BarOpen, Decision
from tests.live import killed_child
from tests.live.conftest import CANDLES, MARKET, START_MS, STEP_MS, WAIT_S, Rig, make_model

BARS, AT, TAKEOVER = 40, 16, 25
# Where a process dies, and after how many closed bars that is; None: amid the open of one of the next.
POINTS = {
    "received": AT + 1, "stepped": AT + 1, "decision journalled": AT + 1, "fill journalled": None,
    "taken over": TAKEOVER, "summary written": BARS,
}  # fmt: skip
OPEN = Callable[..., Rig]


@pytest.fixture(scope="module")
def start_child() -> Callable[[dict[str, Any]], Any]:
    """Return what starts a session in another process: forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.live.killed_child"])

    def start(asked: dict[str, Any]) -> Any:
        process = context.Process(target=killed_child.hold, args=(asked,), daemon=True)
        process.start()
        return process

    return start


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def hold(rig: Rig, start: Callable[[dict[str, Any]], Any], point: str = "") -> list[int]:
    """Play a session bar by bar to another process, started again when it was killed; return how each ended."""
    ends: list[int] = []
    closed = 0
    while ends[-1:] != [0]:
        ready = rig.path.with_name(f"ready-{len(ends)}")
        child = start(
            {
                "url": rig.sandbox.url, "path": str(rig.path), "bars": BARS,
                "takeover": TAKEOVER, "point": "" if ends else point, "bar_ms": START_MS + AT * STEP_MS,
                "ready": str(ready),
            }
        )  # fmt: skip
        wait_until(lambda: ready.exists() or not child.is_alive())  # noqa: B023
        while child.is_alive() and closed < BARS:
            dies = not ends and POINTS.get(point) == closed
            wait_until(lambda: (not dies and has_stepped(rig, closed)) or not child.is_alive())  # noqa: B023
            closed += play_bar(rig, child)
        child.join(WAIT_S)
        ends.append(child.exitcode)
    return ends


def play_bar(rig: Rig, child: Any) -> int:
    """Let a bar close once the session listens; return 0 where it has died instead, which may be at any moment."""
    while child.is_alive():
        playing = None
        with suppress(TimeoutError):
            playing = rig.play(1, listens_within_s=0.2)
        if playing is not None:
            return int(playing.result(WAIT_S))
    return 0


def has_stepped(rig: Rig, closed: int) -> bool:
    """Return whether a session is done with what has closed, and the next version has taken over if it must have."""
    with rig.reader() as reader:
        taken = len(reader.takeovers(MARKET.slug))
        return reader.decided(MARKET.slug) == closed and (closed < TAKEOVER or taken == 2)


def told(rig: Rig) -> tuple[list[tuple[Any, ...]], list[BarOpen]]:
    with rig.reader() as reader:
        decisions: list[Decision] = reader.decisions(MARKET.slug)
        named = [(d.start_ms, d.version, d.position, d.bars_held, d.target, d.wanted, d.cause) for d in decisions]
        return named, reader.opens(MARKET.slug)


@pytest.fixture(scope="module")
def undisturbed(module_rig: OPEN, start_child: Any) -> tuple[list[tuple[Any, ...]], list[BarOpen]]:
    rig = module_rig()
    assert hold(rig, start_child) == [0]
    return told(rig)


@pytest.mark.promise(16)
@pytest.mark.parametrize("point", POINTS)
def test_killed_session_ends_with_the_same_ledger_when_it_is_started_again(
    open_rig: OPEN, start_child: Any, undisturbed: Any, point: str
) -> None:
    rig = open_rig()
    assert hold(rig, start_child, point) == [-signal.SIGKILL, 0]
    decisions, opens = told(rig)
    expected_decisions, expected_opens = undisturbed
    assert decisions == expected_decisions
    assert [bar.opened for bar in opens] == [bar.opened for bar in expected_opens]
    assert sum(bar.opened.fill is not None for bar in opens) >= 5
    models = {model.ref.version: model for model in (make_model(5), make_model(6))}
    again = rig.replayed(models=models, reference=CANDLES, funding=[])
    assert (again.unexplained, again.bars, again.missing) == (0, BARS, 0)
