"""An address that is refused once: no process of the home asks again before ten minutes have passed."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from storage.schema import Banned, Market
from tasks.exchange.bans import Ban
from tasks.exchange.connection import ExchangeConfig, connect, connect_stream
from tasks.exchange.pacing import RetryPolicy
from tasks.exchange.stream import PublicStream
from tasks.live.order_gateway import account_of
from tasks.sandbox.faults import Fault, Match
from tasks.sandbox.venue_account import AccountSpec
from tests.exchange.banned_child import KEY
from tests.sandbox import actions

ROOT = Path(__file__).parents[2]
ROLES = ("gateway", "account")


class Times:
    """A monotonic clock and a clock on the wall that move together, unless somebody sets the latter."""

    def __init__(self) -> None:
        self.s, self.wall_s = 0.0, 1_000_000.0

    def pass_(self, seconds: float) -> None:
        self.s, self.wall_s = self.s + seconds, self.wall_s + seconds

    def ban(self, path: Path | None) -> Ban:
        return Ban(path, clock=lambda: self.s, wall_clock_s=lambda: self.wall_s)


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return what lets a process of its own ask, so many seconds from now on, and gives what it heard."""
    with ExitStack() as stack:
        children: dict[str, subprocess.Popen[str]] = {}

        def ask(sandbox: Any, role: str, after_s: float) -> str:
            if role not in children:
                command = [sys.executable, "-m", "tests.exchange.banned_child", role, sandbox.url, str(tmp_path / "b")]
                child = subprocess.Popen(  # noqa: S603
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
                )
                children[role] = stack.enter_context(child)
                assert child.stdout is not None
                assert child.stdout.readline() == "ready\n"
            child = children[role]
            assert child.stdin is not None
            assert child.stdout is not None
            print(after_s, file=child.stdin, flush=True)
            return child.stdout.readline().strip()

        yield ask
        for child in children.values():
            assert child.stdin is not None
            child.stdin.close()


@pytest.mark.promise(19)
@pytest.mark.parametrize(("banned", "other"), [ROLES, ROLES[::-1]])
def test_no_process_asks_for_ten_minutes_after_either_was_refused(
    open_sandbox: Any, make_candles: Any, ask: Callable[..., str], banned: str, other: str, tmp_path: Path
) -> None:
    here = open_sandbox(make_candles(10), accounts=[AccountSpec(key=KEY.key, secret=KEY.secret)])
    for role in ROLES:
        assert ask(here, role, 0.0) == "served"
    method = "GET" if banned == "gateway" else "POST"
    here.follow([Fault(Match(path=None, method=method), actions.http_status(403))])
    assert "HTTP 403" in ask(here, banned, 0.0)
    asked = len(here.requests)
    for after_s in (0.0, 300.0, 590.0):
        for role in ROLES:
            assert "refuses this address" in ask(here, role, after_s)
    assert len(here.requests) == asked
    assert {ask(here, role, 601.0) for role in (other, banned)} == {"served"}
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600


def test_ban_that_another_process_was_told_of_is_waited_out_by_a_gateway_that_was_served(
    open_sandbox: Any, make_candles: Any, open_gateway: Any, fake_time: Any, tmp_path: Path
) -> None:
    here = open_sandbox(make_candles(10))
    wall_clock_s = lambda: fake_time.wall_clock_ms() / 1e3  # noqa: E731
    one, other = (Ban(tmp_path / "b", clock=fake_time.clock, wall_clock_s=wall_clock_s) for _ in range(2))
    told: list[str] = []
    gateway = open_gateway(here, ban=one, on_retry=told.append)
    gateway.server_time_ms()
    other.begin(600.0)
    gateway.server_time_ms()
    assert sum(fake_time.slept) == pytest.approx(600.0, abs=0.1)
    assert told == ["this address is refused, another process was told: waiting 600 s for the time"]
    other.begin(600.0)
    asked = len(here.requests)
    with pytest.raises(Banned, match="for 600 s more; nothing was asked"):
        open_gateway(here, ban=one, retry=RetryPolicy()).server_time_ms()  # nobody has served this one yet
    assert len(here.requests) == asked


def test_ban_outlives_its_process_and_ends_with_it_in_others(tmp_path: Path) -> None:
    times = Times()
    one, other = times.ban(tmp_path / "bans" / "b"), times.ban(tmp_path / "bans" / "b")
    assert other.left_s() == 0
    one.begin(600.0)
    times.pass_(10.0)
    assert [one.left_s(), other.left_s(), times.ban(tmp_path / "bans" / "b").left_s()] == pytest.approx([590.0] * 3)
    times.pass_(591.0)
    assert [one.left_s(), other.left_s(), times.ban(tmp_path / "bans" / "b").left_s()] == [0, 0, 0]


def test_end_that_is_too_far_away_is_ten_minutes_for_every_process_together(tmp_path: Path) -> None:
    times, path = Times(), tmp_path / "b"
    path.write_bytes(b"\0" * 100)
    os.utime(path, (4e9, 4e9))
    assert times.ban(path).left_s() == pytest.approx(600.0)
    times.pass_(400.0)
    assert times.ban(path).left_s() == pytest.approx(200.0)


def test_file_that_can_t_be_written_or_looked_at_leaves_the_ban_to_the_process_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "bans").write_bytes(b"no folder")
    times = Times()
    here = times.ban(tmp_path / "bans" / "b")
    assert here.left_s() == 0
    here.begin(600.0)
    assert here.left_s() == pytest.approx(600.0)
    with pytest.raises(Banned, match="Bybit refuses this address for 600 s more; nothing was asked"):
        here.check("Bybit")


def test_demo_shares_bybit_s_ban_and_testnet_and_sandboxes_have_their_own(tmp_path: Path) -> None:
    Ban.of(tmp_path, "bybit", None).begin(600.0)
    left = {name: Ban.of(tmp_path, name, None).left_s() > 0 for name in ("bybit", "demo", "testnet")}  # type: ignore[arg-type]
    assert left == {"bybit": True, "demo": True, "testnet": False}
    Ban.of(tmp_path, "sandbox", "http://127.0.0.1:1234").begin(600.0)
    assert Ban.of(tmp_path, "sandbox", "http://127.0.0.1:1235").left_s() == 0


@pytest.mark.parametrize("opened", [connect, connect_stream])
def test_ban_of_a_gateway_is_one_of_the_home_s_accounts_too(
    open_sandbox: Any, make_candles: Any, tmp_path: Path, opened: Any
) -> None:
    here = open_sandbox(make_candles(10), accounts=[AccountSpec(key=KEY.key, secret=KEY.secret)])
    config, bans = ExchangeConfig(url=here.url), tmp_path / "bans"
    given: tuple[Any, ...] = (Market(),) if opened is connect else ([Market()], 0, 0)
    with opened(config, *given, bans=bans) as found, account_of(KEY, here.url, bans) as account:
        gateway = found if opened is connect else found.gateway
        here.follow([Fault(Match(path=None), actions.http_status(403))])
        with pytest.raises(Banned):
            gateway.server_time_ms()
        asked = len(here.requests)
        with pytest.raises(Banned, match="nothing was asked"):
            account.position(Market())
        assert len(here.requests) == asked
    assert [path.stat().st_size for path in bans.iterdir()] == [0]


@pytest.mark.promise(19)
def test_stream_connects_to_no_address_that_is_refused_and_does_when_that_is_over(
    open_sandbox: Any, make_candles: Any
) -> None:
    here, times, told = open_sandbox(make_candles(10)), Times(), queue.Queue[str]()
    ban = times.ban(None)
    ban.begin(600.0)
    given = {"exchange": "sandbox", "url": here.stream_url, "on_note": told.put}
    stream = PublicStream([Market()], ban=ban, **given)
    stream._closing.wait = lambda left_s: times.pass_(left_s) or stream.counts.connections  # type: ignore[method-assign]
    with stream:
        assert told.get(timeout=30) == "stream linear is not connected for 600 s: this address is refused"
        assert told.get(timeout=30) == "stream linear connected, generation=1"
    assert times.s == 600.0
