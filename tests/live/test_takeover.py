"""Versions that follow on each other: who decides at which bar, with which position, and what a shadow shows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from storage.schema import StoreError
from tasks.champion.version_selector import VersionChoice
from tasks.live.account import nothing_new
from tasks.live.session import Session
from tasks.live.session_config import SessionConfig
from tasks.live.session_replay import replay
from tests.live.conftest import CANDLES, MARKET, STEP_MS, Rig, make_model, predict
from tests.live.desk import INSTRUMENT, again, decisions_of

OPEN = Callable[..., Rig]


def test_next_version_takes_over_at_a_bar_with_the_position(desk: Any) -> None:
    first, second = make_model(5), make_model(6)
    here = desk(model=first)
    here.step(30)
    before = here.own.ledger
    here.market.take_over(second)
    assert here.own.ledger == before
    here.step(30, first=30)
    found = decisions_of(here)
    assert [one.version for one in found] == [first.ref.version] * 30 + [second.ref.version] * 30
    held = found[29].bars_held + 1 if found[29].wanted == found[29].position else 1
    assert (found[30].position, found[30].bars_held) == (found[29].wanted, held)
    reader = here.market._journal.reader()
    models = {model.ref.version: model for model in (first, second)}
    again = replay(reader, MARKET, models, INSTRUMENT, predict, funding=[])
    assert (again.unexplained, again.bars) == (0, 60)


def test_late_bar_after_the_champion_was_taken_away_changes_nothing_and_is_explained(desk: Any) -> None:
    here, bar = desk(), 0
    while here.own.ledger.side == 0:
        here.step(1, first=bar)
        bar += 1
    here.market.take_over(None, "the champion is flat")
    here.open(bar)
    held = here.own.ledger.side
    here.close(bar, late_ms=0.11 * STEP_MS)
    last = decisions_of(here)[-1]
    assert (last.version, last.target, last.wanted, last.cause) == ("", 0, held, "deadline")
    assert held
    found = again(here)
    assert (found.unexplained, found.causes["deadline"]) == (0, 1)


def test_version_that_follows_on_none_is_ready_at_once(open_rig: OPEN) -> None:
    rig = open_rig()
    rig.run(5, versions={MARKET: VersionChoice(None, "the champion is flat")})
    rig.run(10)
    with rig.reader() as reader:
        assert [one.lacks for one in reader.decisions(MARKET.slug)] == ["the champion is flat"] * 5 + [""] * 5
    assert rig.replayed().unexplained == 0


def test_champion_that_is_taken_away_ends_flat_at_the_next_open(desk: Any) -> None:
    here = desk()
    bar = 0
    while here.own.ledger.side == 0 or bar < 20:
        here.step(1, first=bar)
        bar += 1
    here.market.take_over(None, "the champion is flat")
    here.step(2, first=bar)
    assert here.own.ledger.side == 0
    last = decisions_of(here)[-1]
    assert (last.version, last.target, last.reason) == ("", 0, "the champion is flat")
    assert again(here).unexplained == 0


@pytest.mark.promise(15)
def test_champion_that_nobody_knows_keeps_what_is_held_and_opens_nothing_new_and_is_noted_once(desk: Any) -> None:
    here, usual, notes = desk(), desk(), []
    usual.step(60)
    bar = next(n for n, one in enumerate(decisions_of(usual)) if one.target == one.position != 0)
    here.step(bar)
    told = ["", "can't read s3://models (Connect timeout)", "can't read s3://models (Connect timeout)", ""]
    session = Session(
        [here.market], here.events, here.market._journal, time=here.time, config=SessionConfig(new_version_s=0.0),
        choose=lambda market, present: VersionChoice(present, unknown=told.pop(0)), on_note=notes.append,
    )  # fmt: skip
    held, model = here.own.ledger, here.own.model
    session._look()
    session._look()
    assert (here.own.ledger, here.own.model) == (held, model)
    here.step(40, first=bar)
    session._look()
    unsure = decisions_of(here)[bar:]
    assert all(one.wanted == nothing_new(one.position, one.target) for one in unsure)
    assert (unsure[0].version, unsure[0].cause, unsure[0].wanted) == (model.ref.version, "", unsure[0].position)
    assert any(one.cause == "champion" for one in unsure)
    assert len(notes) == 1
    assert "nobody knows its champion, nothing new is held: can't read s3://models (Connect timeout)" in notes[0]
    session._look()
    assert notes[1:] == [f"{MARKET}: its champion is known again"]
    here.step(40, first=bar + 40)
    assert "champion" not in {one.cause for one in decisions_of(here)[bar + 40 :]}
    assert any(one.position == 0 != one.wanted for one in decisions_of(here)[bar + 40 :])
    found = again(here)
    assert (found.unexplained, found.causes["champion"]) == (0, here.own.causes["champion"])


@pytest.mark.promise(16)
def test_shadow_equals_a_session_of_its_own(open_rig: OPEN) -> None:
    rig, alone = open_rig(), open_rig(model=make_model(6), name="alone")
    shadows = [make_model(seed) for seed in (6, 7)]
    rig.run(80, versions={MARKET: VersionChoice(rig.model, shadows=shadows)})
    alone.run(80)
    name = f"{MARKET.slug}@{shadows[0].ref.version}"
    with rig.reader() as beside, alone.reader() as by_itself:
        assert beside.accounts() == sorted([MARKET.slug, *(f"{MARKET.slug}@{one.ref.version}" for one in shadows)])
        fills = [bar.opened for bar in beside.opens(name)]
        assert fills == [bar.opened for bar in by_itself.opens(MARKET.slug)]
        assert sum(bar.fill is not None for bar in fills) >= 3
        for one, other in zip(beside.decisions(name), by_itself.decisions(MARKET.slug), strict=True):
            np.testing.assert_array_equal(one.values, other.values)
            assert (one.target, one.wanted, one.position) == (other.target, other.wanted, other.position)
    for model in (rig.model, *shadows):
        account = "" if model is rig.model else f"{MARKET.slug}@{model.ref.version}"
        again = rig.replayed(models={model.ref.version: model}, account=account, reference=CANDLES, funding=[])
        assert (again.unexplained, again.equal_decisions) == (0, 80)


@pytest.mark.promise(16)
def test_version_that_nobody_says_has_taken_over_is_unexplained(open_rig: OPEN) -> None:
    rig = open_rig()
    rig.run(10)
    with rig.session(20, versions={MARKET: VersionChoice(make_model(6))}) as session:
        session.run(lambda: rig.play(10))
    models = {model.ref.version: model for model in (rig.model, make_model(6))}
    assert rig.replayed(models=models, funding=[]).unexplained == 0
    with closing(sqlite3.connect(rig.path, isolation_level=None)) as db:
        db.execute("DELETE FROM takeovers WHERE version = ?", (make_model(6).ref.version,))
        assert rig.replayed(models=models, funding=[]).unexplained == 10
        db.execute("DELETE FROM takeovers")
    (first, *rest) = rig.replayed(models=models, funding=[]).differences
    assert (len(rest), first.said) == (19, f"by {rig.model.ref.version}, the journal lacks who had taken over")
    with pytest.raises(StoreError, match=f"it lacks which version decides in {MARKET.slug}; start another session"):
        rig.run(30, versions={MARKET: VersionChoice(make_model(6))})
