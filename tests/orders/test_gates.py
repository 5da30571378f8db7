"""Who may trade: every mode with every key, champion and confirmation, before anything is connected to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from storage.schema import Market, Source, StoreBusyError, StoreError
from storage.settings import Settings
from tasks.champion.version_selector import VersionChoice
from tasks.exchange.connection import ExchangeConfig
from tasks.exchange.private_events import ExecutionNews
from tasks.execution.limits import TradingLimits
from tasks.execution.orders import Execution, Leg, Order, Status
from tasks.journal.journal import Journal
from tasks.live import run
from tasks.live.gates import CONFIRM_LIVE, Denied
from tasks.live.halts import Halts
from tasks.live.run import run_session
from tasks.live.session_config import OrderConfig, SessionConfig
from tasks.live.session_plan import SessionPlan, session_path
from tasks.live.session_start import one_session
from tests.live.conftest import NETWORK, make_model, predict

MODES = ("paper", "demo", "testnet", "live")
KEYS = ("none", "other", "own")
CHAMPIONS = {
    "none": "there is no champion", "flat": "the champion is flat", "expired": "the champion has expired",
    "other source": "there is no champion", "right": "",
}  # fmt: skip
MARKET = Market(symbol="BTCUSDT")
ENVIRONMENTS = ("demo", "testnet", "live")
SAID = OrderConfig(stop_share=0.1, close_after_bars=3)
IN_VOLS = TradingLimits(daily_vols=3.0)


class Connected(BaseException):
    """The session goes on: it would connect now. No error, which would end it."""


@pytest.fixture
def knock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return what tells how far a session comes: trades, watches, or the code of a refusal."""

    def knock(mode: str, key: str, champion: str, confirmed: bool, **changes: Any) -> str:
        for environment in ENVIRONMENTS:
            for part in ("KEY", "SECRET"):
                monkeypatch.delenv(f"DSC_BYBIT_{environment.upper()}_{part}", raising=False)
        own = mode if mode in ENVIRONMENTS else "live"
        if key != "none":
            whose = own if key == "own" else next(one for one in ENVIRONMENTS if one != own)
            monkeypatch.setenv(f"DSC_BYBIT_{whose.upper()}_KEY", "publicpart")
            monkeypatch.setenv(f"DSC_BYBIT_{whose.upper()}_SECRET", "hunter2")
        monkeypatch.setenv(CONFIRM_LIVE, "live BTCUSDT" if confirmed else "live BTCUSD")
        network = replace(NETWORK, risk_head=changes.pop("forecasts", True))
        model = None if CHAMPIONS[champion] else make_model(market=MARKET, network=network)
        chosen = VersionChoice(model, CHAMPIONS[champion])
        monkeypatch.setattr(run.VersionSelector, "at_start", lambda self, market, watching: chosen)
        exchange = "testnet" if mode == "testnet" else "bybit"
        given: dict[str, Any] = {
            "exchange": ExchangeConfig(exchange=exchange), "markets": [MARKET], "mode": mode, "name": "gates",
            "config": SessionConfig(capital=1_000.0, orders=SAID),
        }  # fmt: skip
        settings = Settings.from_environment({"DSC_HOME": str(tmp_path)})
        on_alert = changes.pop("on_alert", lambda line: None)
        try:
            run_session(SessionPlan(**given | changes), settings, predict, on_alert=on_alert)
        except Denied as err:
            return err.code if "hunter2" not in str(err) else "the secret is in the error"
        except Connected:
            return "trades" if chosen.model else "watches"
        raise AssertionError("neither refused nor connected")

    @contextmanager
    def connect(*args: Any) -> Iterator[None]:
        raise Connected
        yield

    monkeypatch.setattr(run, "connect_stream", connect)
    monkeypatch.setattr(run, "_begins_ms", lambda *args: 0)
    return knock


@pytest.mark.promise(14)
def test_eleven_of_120_cells_trade(knock: Any, found: dict[str, Any]) -> None:
    said = {cell: knock(*cell) for cell in product(MODES, KEYS, CHAMPIONS, (False, True))}
    trading = {cell for cell, heard in said.items() if heard == "trades"}
    found |= {"gate_cells": len(said), "gate_trading": len(trading)}
    assert len(said) == 120
    assert trading == {
        *(("paper", key, "right", confirmed) for key in KEYS for confirmed in (False, True)),
        *((mode, "own", "right", confirmed) for mode in ("demo", "testnet") for confirmed in (False, True)),
        ("live", "own", "right", True),
    }
    refused = {heard for cell, heard in said.items() if cell[0] != "paper" and cell not in trading}
    assert refused == {"KEY", "CHAMPION", "CONFIRMATION"}
    assert {heard for (mode, *_), heard in said.items() if mode == "paper"} == {"trades", "watches"}


@pytest.mark.promise(14)
@pytest.mark.parametrize(
    ("mode", "changes", "code"),
    [
        ("demo", {"exchange": ExchangeConfig(exchange="testnet")}, "SOURCE"),
        ("demo", {"exchange": ExchangeConfig()}, "SOURCE"),
        ("testnet", {"exchange": ExchangeConfig(exchange="bybit")}, "SOURCE"),
        ("live", {"exchange": ExchangeConfig(exchange="testnet")}, "SOURCE"),
        ("live", {"version": "newest"}, "VERSION"),
        ("live", {"config": SessionConfig(orders=SAID)}, "CAPITAL"),
        ("live", {"config": SessionConfig(capital=1.0)}, "UNKNOWN"),
        ("live", {"config": SessionConfig(capital=1.0, orders=OrderConfig(stop_share=0.1))}, "UNKNOWN"),
        ("live", {"config": SessionConfig(capital=1.0, orders=OrderConfig(close_after_bars=3))}, "UNKNOWN"),
        ("live", {"config": SessionConfig(capital=1.0, orders=SAID, limits=IN_VOLS)}, "trades"),
        ("demo", {"config": SessionConfig(limits=IN_VOLS), "forecasts": False}, "UNFORESEEN"),
        ("live", {"config": SessionConfig(capital=1.0, orders=SAID, limits=IN_VOLS), "forecasts": False}, "UNFORESEEN"),
        ("demo", {"config": SessionConfig()}, "trades"),
        ("sandbox", {"exchange": ExchangeConfig()}, "trades"),
        ("sandbox", {"exchange": ExchangeConfig(url="http://127.0.0.1:1")}, "KEY"),
        ("demo", {"version": "bybit/linear-BTCUSDT-5/20260101T000000Z-00000005"}, "VERSION"),
        ("live", {"markets": [MARKET, Market(symbol="ETHUSDT")]}, "CONFIRMATION"),
    ],
)
def test_what_does_not_fit_is_refused_and_demo_may_leave_out_what_live_needs_said(
    knock: Any, mode: str, changes: dict[str, Any], code: str
) -> None:
    assert knock(mode, "own", "right", True, **changes) == code


@pytest.mark.promise(17)
def test_halted_market_is_not_traded_until_it_is_re_armed(knock: Any, tmp_path: Path) -> None:
    halts = Halts.of(tmp_path)
    halts.latch("demo", MARKET, "the news")
    assert knock("demo", "own", "right", False) == "HALTED"
    assert knock("testnet", "own", "right", False) == "trades"  # another account
    halts.rearm("demo", MARKET)
    assert knock("demo", "own", "right", False) == "trades"
    path = tmp_path / "halts" / "demo-linear-BTCUSDT.json"
    path.write_text("{")
    assert knock("demo", "own", "right", False) == "HALTED"  # what can't be read is a halt


@pytest.mark.promise(15)
def test_session_that_holds_something_goes_on_though_halted_and_is_told_of_when_it_may_not(
    knock: Any, tmp_path: Path
) -> None:
    halts, alerts = Halts.of(tmp_path), list[str]()
    halts.latch("demo", MARKET, "the news")
    with Journal(session_path(tmp_path, "gates")) as journal:
        bought = Execution("e", Decimal("0.4"), Decimal(100), Decimal(0))
        journal.execution(MARKET.slug, 0, None, ExecutionNews(MARKET.symbol, "", "o", "Trade", "Buy", bought, 1, 1))
        assert knock("demo", "own", "right", False, on_alert=alerts.append) == "trades"  # it closes, and opens nothing
        assert alerts == []
        assert knock("demo", "own", "expired", False, on_alert=alerts.append) == "CHAMPION"
        (line,) = alerts
        assert line.startswith(f"{MARKET} on demo: STILL OPEN: 0.4 by the journal")
        assert line.endswith("python -m flows.halt --mode demo --symbols BTCUSDT")
        sold = ExecutionNews(MARKET.symbol, "", "o", "Trade", "Sell", bought._replace(exec_id="f"), 1, 1)
        journal.execution(MARKET.slug, 0, None, sold)
        assert knock("demo", "own", "right", False, on_alert=alerts.append) == "HALTED"
        assert len(alerts) == 1


@pytest.mark.promise(15)
@pytest.mark.parametrize("status", [Status.SUBMITTING, Status.UNKNOWN, Status.ACKED, Status.PARTIAL])
def test_session_of_whose_order_nobody_knows_goes_on_though_halted_and_is_told_of_when_it_may_not(
    knock: Any, tmp_path: Path, status: Status
) -> None:
    halts, alerts = Halts.of(tmp_path), list[str]()
    halts.latch("demo", MARKET, "nobody can tell for 60 s what has become of order dsc-1")
    order = Order(link_id="dsc-1", leg=Leg("Buy", Decimal("0.4"), False)).submitting(1)
    with Journal(session_path(tmp_path, "gates")) as journal:
        journal.order(MARKET.slug, 0, replace(order, status=status))
        assert knock("demo", "own", "right", False, on_alert=alerts.append) == "trades"
        assert knock("demo", "own", "expired", False, on_alert=alerts.append) == "CHAMPION"
        (line,) = alerts
        assert line.startswith(f"{MARKET} on demo: STILL OPEN: 0 by the journal, and nobody knows what becomes")
        assert "becomes of order dsc-1; no session minds it; close it: " in line
        journal.order(MARKET.slug, 0, replace(order, status=Status.REJECTED))
        assert knock("demo", "own", "right", False, on_alert=alerts.append) == "HALTED"
        assert len(alerts) == 1


@pytest.mark.promise(15)
def test_session_that_fails_while_it_holds_something_tells_of_it(
    knock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[str] = []

    def fail(*args: Any) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(run, "connect_stream", fail)
    with pytest.raises(StoreError, match="the disk is full"):
        knock("demo", "own", "right", False, on_alert=alerts.append)
    assert alerts == []  # nothing is held
    with Journal(session_path(tmp_path, "gates")) as journal:
        bought = Execution("e", Decimal("0.4"), Decimal(100), Decimal(0))
        journal.execution(MARKET.slug, 0, None, ExecutionNews(MARKET.symbol, "", "o", "Trade", "Buy", bought, 1, 1))
    with pytest.raises(StoreError, match="the disk is full"):
        knock("demo", "own", "right", False, on_alert=alerts.append)
    (line,) = alerts
    assert line.startswith(f"{MARKET} on demo: STILL OPEN: 0.4 by the journal")


@pytest.mark.promise(15)
def test_session_whose_journal_can_t_be_read_tells_that_something_may_be_open(knock: Any, tmp_path: Path) -> None:
    alerts, path = list[str](), session_path(tmp_path, "gates")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no journal" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        knock("demo", "own", "right", False, on_alert=alerts.append)
    (line,) = alerts
    assert line.startswith(f"{MARKET} on demo: STILL OPEN: nobody knows what, for the journal {path} ")
    assert "(file is not a database)" in line
    assert line.endswith("python -m flows.halt --mode demo --symbols BTCUSDT")


@pytest.mark.promise(14)
def test_position_of_an_account_is_of_one_session_whatever_its_interval(knock: Any, tmp_path: Path) -> None:
    with ExitStack() as first:
        one_session(tmp_path, Source("bybit"), [MARKET], first, "demo")
        hourly = replace(MARKET, interval="60")
        with pytest.raises(StoreBusyError, match="sends orders of BTCUSDT to demo must be one at a time"):
            knock("demo", "own", "right", False, markets=[hourly])
        assert knock("paper", "none", "right", False, markets=[hourly]) == "trades"
        assert knock("live", "own", "right", True, markets=[hourly]) == "trades"  # another account
