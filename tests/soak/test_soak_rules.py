"""The soak's own rules: each is kept by a sound store and broken by the damage that it is there to find."""

import json
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.recent import write_recent
from storage.results import ResultStore
from storage.schema import FEATURES, Window
from storage.settings import Settings
from tests.soak.soak_exchange import MARKET, SOURCE, SoakExchange
from tests.soak.soak_invariants import Decisions, decision_violations, store_violations
from tests.soak.soak_kills import WEIGHTS, plan
from tests.storage.stored import commit_window

NOW = datetime(2026, 1, 4, 10, tzinfo=UTC)
SIDES = {"beaten": "flat", "champion": {"num_trades": 0}, "challenger": {"sharpe_ratio": 1.0}}


@pytest.fixture(scope="module")
def exchange():
    """The soak's exchange, not listening: what it serves is all that is asked."""
    return SoakExchange(seed=1)


@pytest.fixture
def settings(exchange, tmp_path):
    """A store as a soak should leave it."""
    found = Settings(home=tmp_path, artifact_url=str(tmp_path / "models"))
    served, now_ms = exchange.served(), exchange.sandbox.clock.now_ms()
    last_ms = MARKET.floor(now_ms) - MARKET.interval_ms
    window = Window(first_ms=int(served.start_ms[0]), last_ms=last_ms)
    commit_window(CandleStore(found.database), SOURCE, MARKET, window, served, (), now_ms)
    write_recent(found.recent, SOURCE, MARKET, served)
    models = ArtifactStore(found.models)
    manifest = {"features": list(FEATURES)}
    ref = models.publish(SOURCE, MARKET.slug, "0123abcd", {"weights.safetensors": b"w"}, manifest, NOW)
    models.promote(SOURCE, MARKET.slug, ref, SIDES, expected=0, now=NOW)
    ResultStore(found.work).save("fold-1", {"a.json": b"whole"})
    return found


def broken(settings, exchange) -> dict[str, list[str]]:
    return {rule: found for rule, found in store_violations(settings, exchange) if found}


def damage_hash(settings):
    with duckdb.connect(settings.database) as con:
        con.execute("update candles set close = close * 1.01 where start_time = (select max(start_time) from candles)")


def damage_twice(settings):
    with duckdb.connect(settings.database) as con:
        con.execute("insert into candles select * from candles order by start_time desc limit 1")


def damage_gap(settings):
    with duckdb.connect(settings.database) as con:
        con.execute("delete from gaps")


def damage_recent(settings):
    write_recent(settings.recent, SOURCE, MARKET, CandleStore(settings.database).read(SOURCE, MARKET)[:-1])


def damage_version(settings):
    (weights,) = (settings.home / "models").rglob("weights.safetensors")
    weights.write_bytes(b"v")


def damage_champion(settings):
    models = ArtifactStore(settings.models)
    models.promote(SOURCE, MARKET.slug, models.versions(SOURCE, MARKET.slug)[0], SIDES, expected=1, now=NOW)


def damage_result(settings):
    (Path(settings.work.url) / "fold-2.zip").write_bytes(b"PK")


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (damage_hash, "the candles are what the exchange served, hash for hash"),
        (damage_twice, "no candle is stored twice"),
        (damage_gap, "every hole is a recorded gap, and nothing else is"),
        (damage_recent, "the file of recent candles is the end of the table"),
        (damage_version, "every visible version verifies, every hash of it"),
        (damage_champion, "the champions are a chain: each beat the one before"),
        (damage_result, "nothing unfinished is taken for a result"),
    ],
)
def test_rule_is_broken_by_the_damage_that_it_is_for(settings, exchange, damage, rule):
    damage(settings)
    assert rule in broken(settings, exchange)


def test_no_rule_is_broken_by_a_sound_store(settings, exchange):
    assert broken(settings, exchange) == {}


def test_decisions_are_counted_with_what_is_missing(tmp_path):
    log = tmp_path / "decisions.jsonl"
    lines = [{"version": "v1", "at": at} for at in (10.0, 11.0, 12.0, 19.5)] + [{"error": "boom", "at": 20.0}]
    log.write_text("\n".join(map(json.dumps, lines)) + '\n{"version": "cut')
    decisions = Decisions.of(log)
    assert (decisions.served, decisions.missed, decisions.longest_gap_s, decisions.champion) == (4, 6, 7.5, "v1")
    assert decision_violations(decisions, "v2") == [
        "surfaced: boom",
        "longest gap 7.5 s, at most 5 s may pass",
        "the last decision was by v1, the champion is v2",
    ]


def test_plan_is_the_same_for_a_seed_and_holds_every_kind():
    kills = plan(3, 24, 10.0, 450.0)
    assert kills == plan(3, 24, 10.0, 450.0)
    assert kills != plan(4, 24, 10.0, 450.0)
    assert {kill.kind for kill in kills} == set(WEIGHTS)
    assert [kill.at_s for kill in kills] == sorted(kill.at_s for kill in kills)
    assert kills[0].at_s >= 10.0
    assert kills[-1].at_s <= 450.0
