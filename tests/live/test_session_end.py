"""How a session ends, and who may go on with its journal or read it meanwhile."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import pytest

from storage.schema import Instrument, Market, StoreBusyError, StoreError
from tasks.champion.version_selector import VersionChoice
from tasks.journal.journal import Journal
from tasks.journal.journal_reader import JournalReader
from tasks.live.market_session import MarketSession
from tasks.live.session_config import SessionConfig
from tasks.live.session_start import one_session
from tests.live.conftest import CANDLES, MARKET, SOURCE, START_MS, STEP_MS, Rig
from tests.live.desk import KEY

OPEN = Callable[..., Rig]


@pytest.mark.parametrize("at_end", ["flat", "hold"])
def test_session_ends_flat_or_held_as_its_rules_say(open_rig: OPEN, at_end: Any) -> None:
    rig, stop = open_rig(), threading.Event()

    def stop_when_held(market: MarketSession, decision: Any) -> None:
        if decision.start_ms >= START_MS + 20 * STEP_MS and decision.position and decision.wanted == decision.position:
            stop.set()

    rules = SessionConfig(at_end=at_end)
    with rig.session(None, config=rules, stop=stop, on_decision=stop_when_held) as session:
        session.run(lambda: rig.play(300))
    (one,) = session.markets.values()
    assert (one.own.ledger.side == 0) is (at_end == "flat")
    assert one.counts.stepped < 300
    again = rig.replayed(reference=CANDLES, funding=[])
    assert again.unexplained == 0
    assert ("stop" in again.causes) is (at_end == "flat")


def test_second_session_of_a_market_names_the_first(tmp_path: Any) -> None:
    with ExitStack() as first, ExitStack() as second:
        one_session(tmp_path, SOURCE, (MARKET,), first)
        with pytest.raises(StoreBusyError, match=f"a session of {MARKET}"):
            one_session(tmp_path, SOURCE, (Market(symbol="OTHERUSDT"), MARKET), second)


def test_journal_of_another_session_is_refused(open_rig: OPEN) -> None:
    rig = open_rig()
    rig.run(3)
    with pytest.raises(StoreError, match="start another session"), rig.session(5, mode="signal"):
        pass


def test_session_goes_on_with_its_capital_though_nothing_decides_any_more(open_rig: OPEN) -> None:
    rig = open_rig()
    rig.run(20)
    session = rig.run(30, versions={MARKET: VersionChoice(None, "the champion is flat")})
    assert (session.markets[KEY].counts.stepped, session.markets[KEY].own.ledger.side) == (30, 0)
    with rig.reader() as reader:
        assert reader.facts()["capital"] == {MARKET.slug: 10_000.0}
    assert rig.replayed().unexplained == 0


def test_home_that_can_t_be_written_is_said(tmp_path: Any) -> None:
    folder = tmp_path / "file"
    folder.write_text("no folder")
    with pytest.raises(StoreError, match="free space or set DSC_HOME"):
        Journal(folder / "sessions" / "one.sqlite")


def test_reader_sees_a_session_while_it_runs(open_rig: OPEN) -> None:
    rig, seen = open_rig(), []

    def look(market: Any, decision: Any) -> None:
        with JournalReader.of(rig.path) as reader:
            seen.append(reader.decisions(MARKET.slug, last=1)[0].start_ms == decision.start_ms)

    rig.run(20, on_decision=look)
    assert seen == [True] * 20


def test_reader_sees_one_moment_of_a_session_that_goes_on(open_rig: OPEN) -> None:
    rig = open_rig()
    rig.run(5)
    with rig.reader() as reader:
        before = reader.decided(MARKET.slug)
        rig.run(10)
        assert reader.decided(MARKET.slug) == len(reader.decisions(MARKET.slug)) == before == 5
    with rig.reader() as reader:
        assert reader.decided(MARKET.slug) == 10


def test_journal_that_another_program_writes_to_is_said_to_be_locked(
    open_rig: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, connect = open_rig(), sqlite3.connect
    rig.run(3)
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options | {"timeout": 0.0}))
    with closing(connect(rig.path, isolation_level=None)) as other, Journal(rig.path) as journal:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"is locked: another program is writing to it; end that \(`fuser .*"):
            journal.note(0, MARKET.slug, "a note", "nobody may write")


def test_session_goes_on_when_the_exchange_has_changed_what_decides_no_fill(
    open_rig: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = open_rig()
    rig.run(10)
    began = rig.link.gateway.instrument(MARKET)
    changed = replace(began, status="PreLaunch", funding_interval_min=60)
    monkeypatch.setattr(rig.link.gateway, "instrument", lambda market: changed)
    session = rig.run(20)
    assert session.markets[KEY].counts.stepped == 20
    said = "the exchange has changed its rules since this session began: status Trading -> PreLaunch, funding_interval"
    assert [line for line in rig.notes if said in line]
    with rig.reader() as reader:
        assert Instrument(**reader.facts()["instruments"][MARKET.slug]) == began


def test_session_says_what_to_do_when_the_exchange_has_changed_what_its_fills_keep_to(
    open_rig: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = open_rig()
    rig.run(3)
    changed = replace(rig.link.gateway.instrument(MARKET), min_notional="10", qty_step="0.01")
    monkeypatch.setattr(rig.link.gateway, "instrument", lambda market: changed)
    told = (
        r"\(qty_step 0\.001 -> 0\.01, min_notional 5 -> 10\), so it can't go on; close what it holds .* another --ses"
    )
    with pytest.raises(StoreError, match=told), rig.session(5):
        pass
