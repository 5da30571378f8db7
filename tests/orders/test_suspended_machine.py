"""A machine that sleeps amid a session: what was known and due before is old when it wakes, however short it seems."""

from __future__ import annotations

import queue
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tasks.exchange.bans import Ban
from tasks.exchange.stream import PrivateStream
from tests.orders.cells import BAR_MS, KEY, LIMIT_S, MARKET, STREAM, D, Desk


def sleep_through(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let time pass as a suspended machine sees it: `time.monotonic` stands still, the clock since boot goes on."""
    clock_gettime, clock_gettime_ns = time.clock_gettime, time.clock_gettime_ns
    monkeypatch.setattr(time, "clock_gettime", lambda clock: clock_gettime(clock) + seconds)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: clock_gettime_ns(clock) + int(1e9 * seconds))


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


def test_ban_that_has_ended_while_the_machine_slept_keeps_nobody_from_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    ban = Ban()
    ban.begin(600.0)
    sleep_through(monkeypatch, 590.0)
    assert 5.0 < ban.left_s() <= 10.0
    sleep_through(monkeypatch, 10.0)
    assert ban.left_s() == 0.0


@pytest.mark.promise(15)
def test_private_stream_that_died_while_the_machine_slept_is_down_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        here, events = Desk(tmp_path / "orders.sqlite", stack), queue.Queue[Any]()
        quiet = replace(STREAM, ping_interval_s=600.0, ping_timeout_s=60.0)  # so that it hears of nothing by itself
        stream = stack.enter_context(
            PrivateStream(KEY, exchange="sandbox", url=here.sandbox.stream_url, events=events, timing=quiet)
        )
        assert events.get(timeout=LIMIT_S).generation == 1
        give_up_s = monotonic() + LIMIT_S
        while events.empty():  # it may sleep before it is watched
            assert monotonic() < give_up_s
            sleep_through(monkeypatch, 3_600.0)
            with suppress(queue.Empty):
                events.put(events.get(timeout=2.0))
        assert events.get(timeout=LIMIT_S).generation == 2
        stream.close()
        sleep_through(monkeypatch, 40.0)
        assert 40.0 <= stream.down_s < 40.0 + LIMIT_S
