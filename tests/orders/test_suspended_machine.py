"""A machine that sleeps amid a session: what was known and due before is old when it wakes, however short it seems."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.orders.cells import BAR_MS, LIMIT_S, MARKET, D, Desk


def sleep_through(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let time pass as a suspended machine sees it: `time.monotonic` stands still, the clock since boot goes on."""
    clock_gettime = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: clock_gettime(clock) + seconds)


@pytest.mark.promise(15)
def test_half_of_a_flip_that_was_under_way_opens_nothing_after_the_machine_has_slept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        here = Desk(tmp_path / "orders.sqlite", stack)
        here.want("0.3")
        here.work()
        here.want("-0.4", bar=1)
        here.desk.work()
        assert len(here.posts) == 2  # what closes is sent, and not heard of yet
        sleep_through(monkeypatch, 2 * LIMIT_S)
        here.work()
        assert (here.desk.held, len(here.posts), here.desk.trouble) == (D(0), 2, "")
        assert here.desk.outcome(BAR_MS + MARKET.interval_ms) == "stale"


@pytest.mark.promise(15)
def test_what_the_account_holds_is_unknown_after_the_machine_has_slept_until_it_is_compared_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        here = Desk(tmp_path / "orders.sqlite", stack)
        here.desk.reconcile()
        assert here.desk.unknown == ""
        sleep_through(monkeypatch, 3_600.0)
        assert here.desk.unknown == "nobody has asked for 3600 s what the account holds"
        here.desk.reconcile()
        assert here.desk.unknown == ""
