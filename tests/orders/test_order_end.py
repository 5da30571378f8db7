"""How a session with orders ends: flat or held, as asked; and nothing that it wrote shows a key."""

from __future__ import annotations

import pickle
import queue
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.exchange.boot_clock import boottime_s
from tasks.execution.paper import Quote
from tasks.live.exchange_time import DataTime
from tasks.live.halts import Halts
from tasks.live.order_desk import CLOSES_LATER_S
from tasks.live.order_gateway import OrderGateway
from tasks.live.session import Session
from tasks.live.session_config import SessionConfig
from tasks.sandbox.faults import CREATE_PATH, Fault, Match
from tests.live.conftest import MARKET, rigs
from tests.live.order_rig import ACCOUNT, DESK, KEY, NO_LIMITS
from tests.orders.cells import BAR_MS, PRICE
from tests.orders.many_markets import MANY
from tests.sandbox import actions


@pytest.mark.promise(17)
@pytest.mark.parametrize("at_end", ["flat", "hold"])
def test_session_ends_as_asked_and_shows_no_key(
    tmp_path: Path, at_end: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], found: Any
) -> None:
    bars = 8
    with rigs(tmp_path) as start:
        rig = start(accounts=[ACCOUNT])
        config = SessionConfig(at_end=at_end)  # type: ignore[arg-type]
        echoes = f"error sign! origin_string[1795925842237{KEY.key}5000{{}}]"
        alerts: list[str] = []
        with OrderGateway(
            rig.link, KEY, "tests", Halts.of(tmp_path), limits=NO_LIMITS, desk_timing=DESK, on_alert=alerts.append
        ) as orders:
            with rig.session(bars, mode="sandbox", orders=orders, config=config) as session:
                session.run(lambda: rig.play(bars, bar_every_s=0.25))
            position = rig.sandbox.account(KEY.key).positions[MARKET.symbol]
            (market,) = session.markets.values()
            assert (position.size == 0) == (at_end == "flat")
            assert float(position.size) == market.own.ledger.quantity
            Halts.of(tmp_path).latch("sandbox", MARKET, "the news")
            rig.sandbox.follow([Fault(Match(path="/v5/position/list", times=None), actions.ret_code(10004, echoes))])
            refused = failure(lambda: orders.trading.position(MARKET))
        orders.trading.ban.begin(600.0)
        caught = [refused, failure(lambda: orders.trading.position(MARKET)), failure(lambda: pickle.dumps(KEY))]
        with rig.reader() as reader:
            journal = [repr(one) for _, one in reader.orders(MARKET.slug)] + [
                repr(reader.notes()),
                repr(reader.facts()),
            ]
        own = market.own
        things = (orders, orders.trading, session, own, own.desk, own.limit_book, orders.trading._questions)
        shown = [repr(one) + repr(vars(one)) for one in things]
    printed = capfd.readouterr()
    written = [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert {"halts", "risk"} <= {path.name for path in tmp_path.iterdir()}
    told = [caplog.text, printed.out, printed.err, repr(KEY), *rig.notes, *alerts]
    texts = [*shown, *journal, *caught, *written, *told]
    assert "error sign!" in refused
    keys = sum(text.count(secret) for text in texts for secret in (KEY.key, KEY.secret))
    found["keys_found"] = found.get("keys_found", 0) + keys
    assert keys == 0


@pytest.mark.promise(17)
def test_session_that_ends_flat_closes_its_markets_side_by_side(open_many: MANY) -> None:
    here, stop, config = open_many(3), threading.Event(), SessionConfig(at_end="flat")
    here.hold("0.3")
    stop.set()
    before, markets = len(here.sandbox.requests), here.sessions(config)
    Session(markets, queue.Queue(), here.journal, time=DataTime(), config=config, stop=stop).run()
    positions = here.sandbox.account(KEY.key).positions.values()
    assert ([one.size for one in positions], [one.still_open for one in markets]) == ([0, 0, 0], ["", "", ""])
    asked = [one.path for one in here.sandbox.requests[before:] if "/market/" not in one.path]
    assert asked[:3] == [CREATE_PATH] * 3  # before anybody asks what has become of the first
    assert CREATE_PATH not in asked[3:]


@pytest.mark.promise(17)
def test_market_whose_turn_comes_too_late_at_the_end_of_a_session_is_told_of(open_many: MANY) -> None:
    here, told = open_many(1), list[str]()
    here.hold("0.3")
    (own,) = here.own
    own.alert = told.append
    before, at_ms, quote = len(here.sandbox.requests), BAR_MS + 1, Quote(float(PRICE))
    own.begin_close_out(at_ms, quote, boottime_s() - CLOSES_LATER_S - 1.0)  # so long others have taken
    assert not own.is_closing()
    assert own.close_out(at_ms, quote).opened.ledger.side == 1
    assert len(here.sandbox.requests) == before
    assert told == ["is halted: 0.3 could not be closed at the end of the session; it is still held"]


def failure(do: Callable[[], object]) -> str:
    """Return what an error shows, the way to it included."""
    try:
        do()
    except Exception:
        return traceback.format_exc()
    raise AssertionError("it did not fail")
