"""A replay believes nothing that the journal of a session with orders says: whatever is changed in it is found."""

# ruff: noqa: S608  # the statements are this file's own

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.journal.journal_reader import JournalReader
from tasks.live.session_replay import Replayed, replay
from tests.live.conftest import MARKET, START_MS, STEP_MS, Rig, predict
from tests.live.order_rig import Trader
from tests.sandbox.order_actions import order_fault

OPEN = Callable[..., Rig]
BARS = 40


@pytest.fixture(scope="module")
def held(module_rig: OPEN) -> Rig:
    """Return what a session left that met a rejection, a halt for one bar, and funding."""
    stamps = [(START_MS + n * STEP_MS, 0.001) for n in range(5, BARS, 3)]
    trader = Trader(module_rig, funding=stamps)
    trader.rig.sandbox.follow(order_fault("acknowledged, then rejected", MARKET.symbol, nth=4))

    def before_bar(bar: int, market: object) -> None:
        if bar == 20:
            trader.halts.latch("sandbox", MARKET, "a person says so")
        elif bar == 26:
            trader.halts.rearm("sandbox", MARKET)

    trader.hold(BARS, before_bar, patience_s=30.0)
    trader.check()
    return trader.rig


@pytest.fixture
def planted(held: Rig, tmp_path: Path) -> Callable[[str], Replayed]:
    """Return what changes a copy of the journal by statements of SQL and replays it."""

    def plant(statements: str) -> Replayed:
        path = tmp_path / "planted.sqlite"
        shutil.copy(held.path, path)
        db = sqlite3.connect(path)
        for statement in filter(None, statements.split(";")):
            assert db.execute(statement).rowcount >= 1
        db.commit()
        db.close()
        with JournalReader.of(path) as reader:
            instrument = held.link.gateway.instrument(MARKET)
            return replay(reader, MARKET, {held.model.ref.version: held.model}, instrument, predict, funding=[])

    return plant


def test_untouched_journal_explains_everything(held: Rig) -> None:
    again = held.replayed(funding=[])
    assert again.unexplained == 0
    assert {"rejected", "halted", "funding"} <= set(again.causes)


FOURTH = "start_ms = (SELECT start_ms FROM opens WHERE change IS NOT NULL ORDER BY start_ms LIMIT 1 OFFSET 3)"
LAST = "start_ms = (SELECT max(start_ms) FROM opens WHERE change IS NOT NULL)"
OPENED = "start_ms = (SELECT start_ms FROM orders WHERE status = 'filled' AND NOT reduces ORDER BY start_ms LIMIT 1)"
AN_ORDER = "link_id = (SELECT link_id FROM orders WHERE status = 'filled' ORDER BY start_ms LIMIT 1 OFFSET 2)"
LAST_ORDER = "link_id = (SELECT link_id FROM orders WHERE status = 'filled' ORDER BY start_ms DESC LIMIT 1)"
REJECTED = "status = 'rejected'"
AN_EXECUTION = "exec_id = (SELECT exec_id FROM executions WHERE kind = 'Trade' ORDER BY time_ms LIMIT 1 OFFSET 3)"
FUNDING = "exec_id = (SELECT exec_id FROM executions WHERE kind = 'Funding' ORDER BY time_ms LIMIT 1)"
TRADED = "link_id IN (SELECT link_id FROM orders WHERE status = 'filled')"
CHANGES = {
    "price of a fill": f"UPDATE opens SET price = price * 1.001 WHERE {FOURTH}",
    "price of the last fill": f"UPDATE opens SET price = price * 1.001 WHERE {LAST}",
    "quantity of a fill": f"UPDATE opens SET change = change * 1.01 WHERE {FOURTH}",
    "fee of a fill": f"UPDATE opens SET fee = 0.0 WHERE {FOURTH}",
    "cash after a fill": f"UPDATE opens SET cash = cash + 0.00001 WHERE {FOURTH}",
    "quantity after a fill, in its last digit": f"UPDATE opens SET quantity = quantity + 0.000001 WHERE {FOURTH}",
    "weight after a fill": f"UPDATE opens SET weight = -weight WHERE {FOURTH}",
    "bars held": f"UPDATE opens SET bars_held = bars_held + 1 WHERE {FOURTH}",
    "funding that was never due": f"UPDATE opens SET funding = 3.0 WHERE {FOURTH}",
    "a first price that was not there": f"UPDATE opens SET first = first * 1.002 WHERE {FOURTH}",
    "what was wanted": f"UPDATE opens SET wanted = 0 WHERE wanted != 0 AND {FOURTH}",
    "a fill that is gone": f"UPDATE opens SET change = NULL, price = NULL, fee = NULL, slippage = NULL WHERE {FOURTH}",
    "an open that is gone": f"DELETE FROM opens WHERE {FOURTH}",
    "an open that is gone with its executions": (
        f"DELETE FROM executions WHERE booked_ms = (SELECT start_ms FROM opens WHERE {FOURTH});"
        f"DELETE FROM opens WHERE {FOURTH}"
    ),
    "a row amid a bar that is gone": (
        f"DELETE FROM opens WHERE start_ms = (SELECT booked_ms FROM executions WHERE {FUNDING})"
    ),
    "an open that was not stale": f"UPDATE opens SET cause = 'stale' WHERE {FOURTH}",
    "a fill that was not partial": f"UPDATE opens SET cause = 'partial' WHERE {FOURTH}",
    "an order that was not rejected": f"UPDATE opens SET cause = 'rejected' WHERE {FOURTH}",
    "an order that was not unknown": f"UPDATE opens SET cause = 'unknown' WHERE {FOURTH}",
    "a halt that was not there": f"UPDATE opens SET cause = 'halted' WHERE {FOURTH}",
    "a limit that held": f"UPDATE opens SET cause = 'NOTIONAL' WHERE {FOURTH}",
    "a limit that held and is noted, though an order opened": (
        f"UPDATE opens SET cause = 'NOTIONAL' WHERE {OPENED};"
        f"INSERT INTO notes (at_ms, market, kind, said) SELECT start_ms, account, 'NOTIONAL at open', '' FROM opens "
        f"WHERE {OPENED}"
    ),
    "a rejection without its cause": "UPDATE opens SET cause = '' WHERE cause = 'rejected'",
    "quantity of an order": f"UPDATE orders SET quantity = '1.999' WHERE {AN_ORDER}",
    "quantity of the last order": f"UPDATE orders SET quantity = '2.001' WHERE {LAST_ORDER}",
    "executed of an order": f"UPDATE orders SET executed = '1.999' WHERE {AN_ORDER}",
    "side of an order": f"UPDATE orders SET side = iif(side = 'Buy', 'Sell', 'Buy') WHERE {AN_ORDER}",
    "an order that was to reduce": f"UPDATE orders SET reduces = 1 - reduces WHERE {AN_ORDER}",
    "status of an order": f"UPDATE orders SET status = 'cancelled' WHERE {AN_ORDER}",
    "an order that never ended": f"UPDATE orders SET status = 'unknown' WHERE {AN_ORDER}",
    "a rejected order that filled": f"UPDATE orders SET status = 'filled' WHERE {REJECTED}",
    "a rejected order that was absent": f"UPDATE orders SET status = 'absent' WHERE {REJECTED}",
    "bar of an order": f"UPDATE orders SET start_ms = start_ms + 300000 WHERE {AN_ORDER}",
    "name of an order": f"UPDATE orders SET link_id = 'dsc-0' WHERE {AN_ORDER}",
    "an order that is gone": f"DELETE FROM orders WHERE {AN_ORDER}",
    "a rejected order that is gone": f"DELETE FROM orders WHERE {REJECTED}",
    "an order that never was": (
        "INSERT INTO orders SELECT 'dsc-1', account, start_ms, side, quantity, reduces, 'rejected', sent_ms, '', '0', "
        f"updated_ms, 0, '' FROM orders WHERE {AN_ORDER}"
    ),
    "price of an execution": f"UPDATE executions SET price = '83.01' WHERE {AN_EXECUTION}",
    "quantity of an execution": f"UPDATE executions SET quantity = '0.5' WHERE {AN_EXECUTION}",
    "fee of an execution": f"UPDATE executions SET fee = '0' WHERE {AN_EXECUTION}",
    "side of an execution": f"UPDATE executions SET side = iif(side = 'Buy', 'Sell', 'Buy') WHERE {AN_EXECUTION}",
    "kind of an execution": f"UPDATE executions SET kind = 'AdlTrade' WHERE {AN_EXECUTION}",
    "order of an execution": f"UPDATE executions SET link_id = '' WHERE {AN_EXECUTION}",
    "row of an execution": f"UPDATE executions SET booked_ms = booked_ms + 300000 WHERE {AN_EXECUTION}",
    "an execution in no row": f"UPDATE executions SET booked_ms = NULL WHERE {AN_EXECUTION}",
    "an execution that is gone": f"DELETE FROM executions WHERE {AN_EXECUTION}",
    "an execution that never was": (
        "INSERT INTO executions SELECT 'new', account, link_id, kind, side, quantity, price, fee, time_ms, booked_ms "
        f"FROM executions WHERE {AN_EXECUTION}"
    ),
    "name of a rejected order": f"UPDATE orders SET link_id = 'dsc-0' WHERE {REJECTED}",
    "time of an execution": f"UPDATE executions SET time_ms = time_ms + 1 WHERE {AN_EXECUTION}",
    "name of an execution": f"UPDATE executions SET exec_id = 'another' WHERE {AN_EXECUTION}",
    "time of funding": f"UPDATE executions SET time_ms = time_ms - 1 WHERE {FUNDING}",
    "funding that was booked": f"UPDATE executions SET fee = '-9' WHERE {FUNDING}",
    "funding that is gone": f"DELETE FROM executions WHERE {FUNDING}",
    "target of a decision": f"UPDATE decisions SET target = -target WHERE target != 0 AND {FOURTH}",
    "a halt of a decision that was not there": (
        "UPDATE decisions SET wanted = 0, cause = 'halted' WHERE wanted != 0 AND start_ms = "
        "(SELECT min(start_ms) FROM decisions WHERE wanted != 0)"
    ),
    "a decision that was not unknown": (
        "UPDATE decisions SET wanted = position, cause = 'unknown' WHERE wanted != position AND cause = ''"
    ),
    "a note of a halt that is gone": "DELETE FROM notes WHERE kind = 'halted at close'",
    "position before a decision": f"UPDATE decisions SET position = 0, bars_held = 1 WHERE position != 0 AND {FOURTH}",
    "a decision that is gone": f"DELETE FROM decisions WHERE {FOURTH}",
    "close of a candle": f"UPDATE candles SET close = high, high = high * 1.01 WHERE {FOURTH}",
    "a candle that is gone": f"DELETE FROM candles WHERE {FOURTH}",
}


@pytest.mark.promise(16)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change_of_a_journal_is_found(planted: Callable[[str], Replayed], change: str) -> None:
    assert planted(change).unexplained >= 1
