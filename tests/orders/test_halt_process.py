"""`python -m flows.halt` as a process, while the session hangs or is dead: all is closed, latched, and stays so."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tasks.live.halts import Halts
from tasks.sandbox.listing import Listing
from tests.live import killed_trader
from tests.live.conftest import CANDLES, MARKET, START_MS, rigs
from tests.live.order_rig import ACCOUNT, KEY
from tests.live.test_kill import play_bar, wait_until
from tests.sandbox.outside import Outside

ROOT = Path(__file__).parents[2]
BARS, LATER = 60, 12
OTHERS = [replace(MARKET, symbol=symbol) for symbol in ("AAAUSDT", "BBBUSDT")]
MARKETS = [MARKET, *OTHERS]


class Child:
    """A session in a process of its own, played bar by bar."""

    def __init__(self, rig: Any, number: int) -> None:
        self.rig, self.closed = rig, 0
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.live.killed_trader"])
        ready = rig.path.with_name(f"ready-{number}")
        asked = {
            "url": rig.sandbox.url, "stream_url": rig.sandbox.stream_url, "path": str(rig.path), "bars": BARS,
            "point": "", "bar_ms": START_MS, "ready": str(ready),
        }  # fmt: skip
        self.process = context.Process(target=killed_trader.hold, args=(asked,), daemon=True)
        self.process.start()
        wait_until(lambda: ready.exists() or not self.process.is_alive())

    def play(self, closed: int) -> None:
        """Close a bar after `closed` ones, and wait until it is decided on."""
        play_bar(self.rig, self.process)

        def decided() -> bool:
            with self.rig.reader() as reader:
                return reader.decided(MARKET.slug) > closed or not self.process.is_alive()

        wait_until(decided)


def opened(rig: Any) -> list[str]:
    orders = rig.sandbox.account(KEY.key).orders.values()
    return [one.link_id for one in orders if one.symbol == MARKET.symbol and not one.reduce_only and one.filled]


def halted(home: Path, url: str, *options: str) -> tuple[int, str, float]:
    """Run the halt; return its status, what it said, and after how many of its seconds all was flat."""
    env = os.environ | {
        "DSC_HOME": str(home), "DSC_BYBIT_SANDBOX_KEY": KEY.key, "DSC_BYBIT_SANDBOX_SECRET": KEY.secret,
    }  # fmt: skip
    symbols = ",".join(one.symbol for one in MARKETS)
    command = [sys.executable, "-m", "flows.halt", "--mode", "sandbox", "--url", url, "--symbols", symbols, *options]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    said = done.stdout + done.stderr
    return done.returncode, said, max((float(one) for one in re.findall(r"is flat after ([\d.]+) s", said)), default=0)


@pytest.mark.promise(17)
@pytest.mark.parametrize("how", ["hung", "dead"])
def test_halt_closes_all_markets_and_stays_while_the_session_is(
    tmp_path: Path, found: dict[str, Any], how: str
) -> None:
    with rigs(tmp_path) as start:
        rig = start(accounts=[ACCOUNT], more=[Listing(candles=CANDLES, market=one) for one in OTHERS])
        account, child, closed = lambda: rig.sandbox.account(KEY.key), Child(rig, 0), 0
        while closed < 3 or not account().positions[MARKET.symbol].size:
            child.play(closed)
            closed += 1
            with rig.reader() as reader:
                (last,) = reader.decisions(MARKET.slug, last=1)
            give_up_s = monotonic() + abs(last.wanted)  # for the orders of the open, where there are any
            wait_until(lambda: account().positions[MARKET.symbol].size or monotonic() > give_up_s)  # noqa: B023
        os.kill(child.process.pid, signal.SIGSTOP if how == "hung" else signal.SIGKILL)
        for one in OTHERS:
            Outside(rig.sandbox.desk, KEY.key).order(one.symbol, "Sell", "0.3")
            Outside(rig.sandbox.desk, KEY.key).order(one.symbol, "Buy", "0.1", orderType="Limit", price="60")
        before = opened(rig)

        status, said, flat_s = halted(tmp_path, rig.sandbox.url, "--why", "the news")
        assert (status, "STILL OPEN" in said) == (0, False), said
        found["halt_flat_s"] = max(found.get("halt_flat_s", 0.0), flat_s)
        assert 0.0 < flat_s < 5.0, said
        for one in MARKETS:
            assert account().positions[one.symbol].size == 0
            assert f"{one.symbol} is flat and no order waits" in said
            latched = Halts.of(tmp_path).read("sandbox", one)
            assert latched is not None
            assert latched.why == "the news"
        assert not account().open_orders
        keys = sum(said.count(one) for one in (KEY.key, KEY.secret))
        found["keys_found"] = found.get("keys_found", 0) + keys
        assert keys == 0

        if how == "hung":
            os.kill(child.process.pid, signal.SIGCONT)
        else:
            child = Child(rig, 1)
        for bar in range(closed, closed + LATER):
            child.play(bar)
        assert child.process.is_alive()
        assert opened(rig) == before  # latched, whatever it would like
        child.process.kill()
        child.process.join()
        with rig.reader() as reader:
            later = reader.decisions(MARKET.slug)[closed:]
            assert any(one.cause == "halted" for one in later)
        assert [one for one in rig.replayed(funding=[]).differences if not one.cause] == []
        assert halted(tmp_path, rig.sandbox.url, "--rearm")[0] == 0
        assert Halts.of(tmp_path).read("sandbox", MARKET) is None


def test_halt_without_a_key_says_that_it_latched_and_closed_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.halt", "--mode", "demo", "--symbols", "BTCUSDT"]
    kept = {name: text for name, text in os.environ.items() if not name.startswith("DSC_BYBIT_")}
    done = subprocess.run(  # noqa: S603
        command, env=kept | {"DSC_HOME": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 1
    assert "BTCUSDT on demo is halted" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("NOT CLOSED KEY: ")
    assert line.endswith("; no order was cancelled and no position closed")


@pytest.mark.promise(17)
@pytest.mark.parametrize("damaged", ["home", "home/halts"])
def test_halt_closes_and_ends_with_status_1_where_no_latch_can_be_written(tmp_path: Path, damaged: str) -> None:
    (tmp_path / damaged).parent.mkdir(exist_ok=True)
    (tmp_path / damaged).touch()  # a file where a folder must be, for root may write anywhere
    with rigs(tmp_path) as start:
        rig = start(accounts=[ACCOUNT], more=[Listing(candles=CANDLES, market=one) for one in OTHERS])
        Outside(rig.sandbox.desk, KEY.key).order(MARKET.symbol, "Sell", "0.3")
        status, said, _ = halted(tmp_path / "home", rig.sandbox.url)
        assert rig.sandbox.account(KEY.key).positions[MARKET.symbol].size == 0, said
        assert (status, said.count("NOT LATCHED"), "STILL OPEN" in said) == (1, len(MARKETS), False), said
        assert f"{MARKET.symbol} is flat and no order waits" in said
