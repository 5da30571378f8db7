"""A replay believes nothing that a journal says: whatever is changed in it afterwards is found."""

# ruff: noqa: S608  # the statements are this file's own

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from storage.schema import FEATURES, StoreError
from tasks.journal.journal import Journal
from tasks.journal.journal_reader import JournalReader
from tasks.live.session_replay import Replayed, replay
from tests.live.conftest import CANDLES, MARKET, Rig, predict

OPEN = Callable[..., Rig]
BARS = 60


@pytest.fixture(scope="module")
def held(module_rig: OPEN) -> Rig:
    rig = module_rig()
    rig.run(BARS)
    return rig


@pytest.fixture
def planted(held: Rig, tmp_path: Path) -> Callable[[str], Replayed]:
    """Return what changes a copy of the journal by a statement of SQL and replays it."""

    def plant(statement: str, *values: object) -> Replayed:
        path = tmp_path / "planted.sqlite"
        shutil.copy(held.path, path)
        with sqlite3.connect(path) as db:
            assert db.execute(statement, values).rowcount >= 1
        db.close()
        return replayed(held, path)

    return plant


def replayed(held: Rig, path: Path) -> Replayed:
    with JournalReader.of(path) as reader:
        models = {held.model.ref.version: held.model}
        instrument = held.link.gateway.instrument(MARKET)
        return replay(reader, MARKET, models, instrument, predict, reference=CANDLES, funding=[])


@contextmanager
def rows(held: Rig) -> Iterator[JournalReader]:
    with held.reader() as reader:
        yield reader


def filled(held: Rig, which: int = 3) -> int:
    """Return the open time of a bar with a fill."""
    with rows(held) as reader:
        return [bar.start_ms for bar in reader.opens(MARKET.slug) if bar.opened.fill][which]


def test_untouched_journal_explains_everything(held: Rig) -> None:
    again = replayed(held, held.path)
    assert (again.differences, again.bars) == ([], BARS)


LAST_FILL = "start_ms = (SELECT max(start_ms) FROM opens WHERE change IS NOT NULL)"
FOURTH = "start_ms = (SELECT start_ms FROM opens WHERE change IS NOT NULL ORDER BY start_ms LIMIT 1 OFFSET 3)"
CHANGES = {
    "price of a fill": f"UPDATE opens SET price = price * 1.001 WHERE {FOURTH}",
    "price of the last fill": f"UPDATE opens SET price = price * 1.001 WHERE {LAST_FILL}",
    "quantity of a fill": f"UPDATE opens SET change = change * 1.01 WHERE {FOURTH}",
    "fee of a fill": f"UPDATE opens SET fee = 0.0 WHERE {FOURTH}",
    "cash after a fill": f"UPDATE opens SET cash = cash + 1.0 WHERE {FOURTH}",
    "a fill that is gone": f"UPDATE opens SET change = NULL, price = NULL, fee = NULL, slippage = NULL WHERE {FOURTH}",
    "an open that is gone": f"DELETE FROM opens WHERE {FOURTH}",
    "funding that was never due": f"UPDATE opens SET funding = 3.0 WHERE {FOURTH}",
    "an open that was not stale": f"UPDATE opens SET wanted = 0, cause = 'stale' WHERE {FOURTH}",
    "a restart that never was": f"UPDATE opens SET wanted = 0, cause = 'restart' WHERE {FOURTH}",
    "a quote that was not there": f"UPDATE opens SET first = first * 1.002, price = price * 1.002 WHERE {FOURTH}",
    "target of a decision": f"UPDATE decisions SET target = -target WHERE target != 0 AND {FOURTH}",
    "a deadline that was met": "UPDATE decisions SET wanted = position, cause = 'deadline' WHERE wanted != position",
    "a clock that was right": f"UPDATE decisions SET wanted = 0, cause = 'clock' WHERE wanted != 0 AND {FOURTH}",
    "bars that were not missed": (
        "UPDATE decisions SET wanted = position, cause = 'missed bars' WHERE wanted != position"
    ),
    "position before a decision": f"UPDATE decisions SET position = 0, bars_held = 1 WHERE position != 0 AND {FOURTH}",
    "a decision that is gone": f"DELETE FROM decisions WHERE {FOURTH}",
    "close of a candle": f"UPDATE candles SET close = high, high = high * 1.01 WHERE {FOURTH}",
    "a candle that is gone": f"DELETE FROM candles WHERE {FOURTH}",
}


@pytest.mark.promise(16)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change_of_a_journal_is_found(planted: Callable[..., Replayed], change: str) -> None:
    assert planted(change).unexplained >= 1


@pytest.mark.parametrize("place", [0, len(FEATURES), len(FEATURES) + 2], ids=["feature", "vol", "probability"])
def test_changed_value_of_a_decision_is_found(held: Rig, planted: Callable[..., Replayed], place: int) -> None:
    start_ms = filled(held)
    with rows(held) as reader:
        values = next(one.values for one in reader.decisions(MARKET.slug) if one.start_ms == start_ms).copy()
    values[place] += 1e-3
    again = planted("UPDATE decisions SET vals = ? WHERE start_ms = ?", values.tobytes(), start_ms)
    assert again.unexplained == 1
    assert np.isclose(max(again.feature_diff, again.probability_diff), 1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE facts SET value = '{' WHERE name = 'mode'",
        "UPDATE decisions SET vals = x'00' WHERE start_ms = (SELECT max(start_ms) FROM decisions)",
        "UPDATE candles SET close = NULL WHERE start_ms = (SELECT max(start_ms) FROM candles)",
        "UPDATE candles SET close = -1 WHERE start_ms = (SELECT max(start_ms) FROM candles)",
    ],
)
def test_row_that_no_session_writes_is_said_in_one_line(planted: Callable[[str], Replayed], statement: str) -> None:
    with pytest.raises(StoreError, match="the journal is damaged"):
        planted(statement)


def test_journal_that_is_overwritten_is_said_by_the_session_that_would_go_on(held: Rig, tmp_path: Path) -> None:
    path = tmp_path / "overwritten.sqlite"
    with sqlite3.connect(held.path) as db:
        db.execute("VACUUM INTO ?", (str(path),))
    db.close()
    content = path.read_bytes()
    path.write_bytes(content[: 5 * 4096] + b"\x5a" * (len(content) - 5 * 4096))
    with Journal(path) as journal, pytest.raises(StoreError, match="the journal is damaged"):
        journal.reader().candles(MARKET.slug)


def test_journal_of_another_format_is_refused_and_left_as_it_is(held: Rig, tmp_path: Path) -> None:
    path = tmp_path / "older.sqlite"
    shutil.copy(held.path, path)
    with sqlite3.connect(path) as db:
        db.executescript("DROP TABLE seals; PRAGMA user_version = 1;")
    with pytest.raises(StoreError, match="must be of format 2, was 1"):
        Journal(path)
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'seals'").fetchone() == (0,)
    db.close()
