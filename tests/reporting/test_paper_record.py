"""What paper sessions came to, as monitor and report tell it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.schema import Market, Source, StoreError
from tasks.execution.paper import Fill, Ledger, Opened, Quote
from tasks.journal.journal import Journal
from tasks.journal.journal_reader import JournalReader
from tasks.journal.journal_rows import BarOpen, Decision
from tasks.reporting.paper_record import PaperRecord, paper_records

MARKET = Market(interval="240", symbol="BTC-27MAR26")
BYBIT = Source("bybit")
START_MS = 1_767_225_600_000


def write(home: Path, name: str, bars: int = 2, turns: int = 1, **facts: Any) -> None:
    """Journal a session that turns its one coin round at the first bars, and whose coin then gains 1 % a bar."""
    account, step_ms = MARKET.slug, MARKET.interval_ms
    with Journal(home / "sessions" / f"{name}.sqlite") as journal:
        journal.agree({"mode": "paper", "source": "bybit", "capital": {account: 100.0}} | facts)
        cash, held, price = 100.0, 0.0, 100.0
        for bar in range(bars):
            at_ms, fill = START_MS + bar * step_ms, None
            if bar < turns:
                change = 2.0 if held < 0 else -2.0 if held > 0 else 1.0
                cash, held, fill = cash - change * price, held + change, Fill(change, price, 0.0, 0.0)
            opened = Opened(Ledger(cash, held, int(np.sign(held)), 1), fill, 0.0)
            journal.opened([(account, BarOpen(at_ms, 1, "", Quote(price), 0.0, 0.0, opened))])
            close = price = 100.0 if bar < turns - 1 else price * 1.01
            one = Decision(at_ms, "v", np.empty(0), 1, 1, 1, 1, "", "", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
            journal.decided(account, (at_ms, close, close, close, close, 1.0, 1.0), "stream", [(account, one)])


def summary(bars: int, unexplained: int = 0) -> dict[str, Any]:
    numbers = {
        "slug": MARKET.slug, "bars": bars, "equal_decisions": bars - 1, "unexplained": unexplained, "capital": 100.0,
        "equity": 102.0, "backtest_equity": 103.0,
    }  # fmt: skip
    return {"summary": {"markets": [numbers]}}


def only(home: Path) -> PaperRecord:
    (found,) = paper_records(home, BYBIT, MARKET)
    return found


def test_session_that_goes_on_has_its_own_numbers_and_no_comparison(tmp_path: Path) -> None:
    write(tmp_path, "one")
    assert only(tmp_path).row() == {
        "session": "one", "version": "v", "bars": 2, "fills": 1, "net return": "+2.01\N{NO-BREAK SPACE}%",
        "backtest's": "\N{EN DASH}", "Sharpe ratio": "too few", "equal decisions": "it has not ended",
        "unexplained": "\N{EN DASH}",
    }  # fmt: skip


def test_session_that_has_ended_stands_beside_the_backtest(tmp_path: Path) -> None:
    write(tmp_path, "one", **summary(bars=2))
    found = only(tmp_path)
    assert (found.net_return, found.backtest_return) == pytest.approx((0.02, 0.03))
    assert found.line() == (
        "one: version v, bars 2, fills 1, net return +2.00\N{NO-BREAK SPACE}%, backtest's +3.00\N{NO-BREAK SPACE}%, "
        "Sharpe ratio too few, equal decisions 1 of 2, unexplained 0"
    )
    assert found.breaches == {}


def test_summary_of_before_it_went_on_is_none(tmp_path: Path) -> None:
    write(tmp_path, "one", bars=3, **summary(bars=2))
    assert only(tmp_path).equal_decisions is None


def test_difference_without_a_cause_needs_a_person(tmp_path: Path) -> None:
    write(tmp_path, "one", **summary(bars=2, unexplained=3))
    assert only(tmp_path).breaches == {
        "paper": "paper session one differs from the backtest 3 times without a cause; "
        "evaluate --session one says where"
    }


def test_sharpe_ratio_needs_days_and_trades(tmp_path: Path) -> None:
    write(tmp_path, "few-days", bars=6 * 19, turns=32)
    assert only(tmp_path).sharpe_ratio is None
    write(tmp_path, "enough", bars=6 * 20, turns=32)
    found = only(tmp_path)
    assert (found.session, found.fills) == ("enough", 32)
    assert found.sharpe_ratio is not None
    write(tmp_path, "few-trades", bars=6 * 20, turns=30)
    assert only(tmp_path).sharpe_ratio is None


def test_newest_come_first_and_other_markets_sources_modes_and_damage_are_left_out(tmp_path: Path) -> None:
    for age, (name, facts) in enumerate(
        {
            "newer": {}, "older": {}, "signals": {"mode": "signal"}, "elsewhere": {"source": "testnet"},
        }.items()
    ):  # fmt: skip
        write(tmp_path, name, **facts)
        os.utime(tmp_path / "sessions" / f"{name}.sqlite", (1e9 - age, 1e9 - age))
    (tmp_path / "sessions" / "damaged.sqlite").write_bytes(b"no database" * 100)
    assert [one.session for one in paper_records(tmp_path, BYBIT, MARKET, most=5)] == ["newer", "older"]
    assert [one.session for one in paper_records(tmp_path, BYBIT, MARKET)] == ["newer"]
    assert paper_records(tmp_path, BYBIT, Market()) == []
    assert paper_records(tmp_path / "nowhere", BYBIT, MARKET) == []


@pytest.mark.promise(19)
@pytest.mark.parametrize(
    "facts",
    [
        {"capital": {}}, {"capital": 100.0}, {"capital": {MARKET.slug: "a lot"}}, {"source": "elsewhere"},
        {"source": 1},
        {"summary": []}, {"summary": {"markets": [{}]}}, {"summary": {"markets": [{"slug": MARKET.slug}]}},
        {"summary": {"markets": [summary(bars=2)["summary"]["markets"][0] | {"capital": 0.0}]}},
    ],
)  # fmt: skip
def test_journal_that_says_what_no_session_writes_is_left_out(tmp_path: Path, facts: dict[str, Any]) -> None:
    write(tmp_path, "whole")
    write(tmp_path, "damaged", **facts)
    os.utime(tmp_path / "sessions" / "damaged.sqlite", (2e9, 2e9))
    assert only(tmp_path).session == "whole"


def test_journal_whose_account_began_with_nothing_on_record_is_called_damaged(tmp_path: Path) -> None:
    write(tmp_path, "one", capital={})
    with (
        JournalReader.of(tmp_path / "sessions" / "one.sqlite") as reader,
        pytest.raises(
            StoreError, match=rf"the journal is damaged \(equity: KeyError: '{MARKET.slug}'\); start another session"
        ),
    ):
        reader.equity(MARKET, MARKET.slug)


@pytest.mark.parametrize("table", ["notes", "opens", "takeovers", "candles"])
def test_every_question_to_a_damaged_journal_is_answered_or_refused(tmp_path: Path, table: str) -> None:
    write(tmp_path, "one")
    path = tmp_path / "sessions" / "one.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"DROP TABLE {table}")
    refused = 0
    with JournalReader.of(path) as reader:
        for ask in (
            reader.markets, reader.versions, reader.accounts, reader.notes, lambda: reader.unsealed(MARKET.slug),
            lambda: reader.fills(MARKET.slug), lambda: reader.turns(MARKET.slug, 0),
            lambda: reader.round_trips(MARKET.slug), lambda: reader.equity(MARKET, MARKET.slug),
        ):  # fmt: skip
            try:
                ask()
            except StoreError:
                refused += 1
    assert refused


@pytest.mark.parametrize("market", [MARKET, Market(), Market(symbol="ETHUSDT", category="spot", interval="D")])
def test_market_is_what_its_slug_says(market: Market) -> None:
    assert Market.of_slug(market.slug) == market
