"""Monitoring: what is said of a market, and that old champions and expired ones are one notion."""

import hashlib
import inspect
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from storage.artifacts import ArtifactStore
from storage.candles import CandleStore, Coverage, FlowRun
from storage.schema import ConfigError, Market, Source, StoreBusyError, utc_text
from tasks.champion.expiry import ExpiryRule
from tasks.champion.health import MonitorConfig, changes, health
from tasks.champion.serving import served_champion
from tasks.champion.watch import champion_skill
from tasks.runs.alerts import KINDS
from tests.champion.example_manifest import judged_against

SOURCE, MARKET = Source("bybit"), Market(symbol="BTCUSDT")
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
EVIDENCE = {"champion": {"version": "flat"}, "challenger": {"sharpe_ratio": 1.0}}


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def coverage(newest: datetime | None, source: Source = SOURCE) -> Coverage:
    last = None if newest is None else ms(newest)
    return Coverage(source=source, market=MARKET, bars=10, first_ms=last, last_ms=last, gaps=0, rejected=0)


def published(store: ArtifactStore, source: Source, hash8: str, now: datetime):
    manifest = judged_against(1, trained_until_ms=ms(now))
    return store.publish(source, MARKET.slug, hash8, {"report.html": b"x"}, manifest.document(), now)


def complaints(store: ArtifactStore, now: datetime, source: Source = SOURCE, **limits) -> tuple[str, ...]:
    row = coverage(now - timedelta(minutes=5), source)
    return health(row, store, MonitorConfig(**limits), ms(now)).complaints


def sealed(document: dict) -> str:
    """Return a document with the seal that fits it, as whoever may write to the store can make one."""
    seal = hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return json.dumps({**document, "seal": seal})


@pytest.fixture
def reigning(tmp_path):
    """A champion that was made and promoted on Monday."""
    store = ArtifactStore(str(tmp_path))
    ref = published(store, SOURCE, "0123abcd", MONDAY)
    store.promote(SOURCE, MARKET.slug, ref, EVIDENCE, expected=0, now=MONDAY)
    return store


@pytest.mark.promise(13)
@pytest.mark.parametrize("days", [0.5, 1.9, 2.0, 2.9, 3.0, 30.0])
def test_champion_is_called_expired_exactly_when_it_is_no_longer_served(reigning, days):
    now = MONDAY + timedelta(days=days)
    served = served_champion(reigning, SOURCE, MARKET.slug, ms(now), ExpiryRule())
    said = complaints(reigning, now)
    assert (served.ref is None) == any("has expired" in line for line in said)
    assert (served.ref is None) == (days >= 3.0)


@pytest.mark.promise(13)
def test_market_that_is_retrained_weekly_may_miss_three_weeks(reigning):
    weekly = ExpiryRule(retrain_hours=168.0)
    for days, complaint in ((6.9, ""), (14.1, "one more missed retrain"), (21.0, "has expired: 3 retrains missed")):
        now = MONDAY + timedelta(days=days)
        served = served_champion(reigning, SOURCE, MARKET.slug, ms(now), weekly)
        row = coverage(now - timedelta(minutes=5))
        said = health(row, reigning, MonitorConfig(), ms(now), expiry=weekly).complaints
        assert (complaint in "".join(said), bool(said)) == (True, bool(complaint))
        assert (served.ref is None) == ("expired" in complaint)


def test_somebody_is_told_one_missed_retrain_before_the_champion_expires(reigning):
    assert complaints(reigning, MONDAY + timedelta(days=1.9)) == ()
    (said,) = complaints(reigning, MONDAY + timedelta(days=2.1))
    assert said == "one more missed retrain and champion 20260105T000000Z-0123abcd expires; run retrain"


def test_champion_that_later_retrains_kept_is_not_old_whatever_its_age(reigning):
    published(reigning, SOURCE, "4567abcd", MONDAY + timedelta(days=29))  # judged, not promoted
    assert complaints(reigning, MONDAY + timedelta(days=30)) == ()


def test_champion_of_a_replay_is_never_old(tmp_path):
    store, source = ArtifactStore(str(tmp_path)), Source("sandbox:0123abcd")
    ref = published(store, source, "0123abcd", MONDAY)
    store.promote(source, MARKET.slug, ref, EVIDENCE, expected=0, now=MONDAY)
    assert complaints(store, MONDAY + timedelta(days=300), source) == ()


def test_market_is_stale_only_beyond_the_limit_and_without_candles_says_so(tmp_path):
    store, now = ArtifactStore(str(tmp_path)), MONDAY + timedelta(minutes=2)
    last_closed = MONDAY - timedelta(minutes=5)
    late = {
        bars: health(coverage(last_closed - timedelta(minutes=5 * bars)), store, MonitorConfig(), ms(now)).complaints
        for bars in (0, 3, 4)
    }
    assert late == {0: (), 3: (), 4: ("stale: 4 closed bars are missing at the end; run ingest",)}
    assert health(coverage(None), store, MonitorConfig(), ms(now)).complaints == ("no candle is stored",)


def test_sandbox_market_that_moves_on_is_judged_like_an_exchange_and_a_replay_is_not(tmp_path):
    store, source = ArtifactStore(str(tmp_path)), Source("sandbox:0123abcd")
    limits = MonitorConfig(live_sandbox=True)
    hour_old = health(coverage(MONDAY - timedelta(hours=1), source), store, limits, ms(MONDAY))
    assert hour_old.complaints == ("stale: 11 closed bars are missing at the end; run ingest",)
    assert health(coverage(MONDAY - timedelta(days=2), source), store, limits, ms(MONDAY)).complaints == ()
    assert health(coverage(MONDAY - timedelta(hours=1), source), store, MonitorConfig(), ms(MONDAY)).complaints == ()


def test_somebody_is_told_when_a_state_changes_and_not_while_it_stays():
    found = [["stale"], ["stale", "drift"], ["drift"], ["drift"], []]
    told = [changes(before, after) for before, after in pairwise([[], *found])]
    assert told == [{"stale": "raised"}, {"drift": "raised"}, {"stale": "over"}, {}, {"drift": "over"}]


@pytest.mark.promise(15)
def test_clock_that_is_behind_serves_nothing_and_needs_a_person(reigning):
    behind = MONDAY - timedelta(days=30)
    served = served_champion(reigning, SOURCE, MARKET.slug, ms(behind), ExpiryRule())
    assert served.ref is None
    assert served.reason.endswith("; set the clock, or, if it was wrong then, roll back (flows.rollback)")
    said = health(coverage(MONDAY - timedelta(minutes=5)), reigning, MonitorConfig(), ms(behind)).breaches
    assert said["clock"] == (
        "this machine's clock says 2025-12-06T00:00Z, a bar closed 2026-01-05T00:00Z; set the clock"
    )
    a_little = MONDAY - timedelta(minutes=4)  # another machine's may differ
    assert served_champion(reigning, SOURCE, MARKET.slug, ms(a_little), ExpiryRule()).ref is not None


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="drift_bars must be >= 0, was -1"):
        MonitorConfig(drift_bars=-1)
    with pytest.raises(ConfigError, match="stale_bars must be >= 1, was 0"):
        MonitorConfig(stale_bars=0)


def test_many_gaps_and_a_failed_ingest_need_a_person_and_stand_in_the_first_line(reigning):
    now = MONDAY + timedelta(days=1)
    row = replace(coverage(now - timedelta(minutes=5)), bars=80, gaps=20)
    began = ms(now - timedelta(minutes=4))
    run = FlowRun(source=SOURCE, market=MARKET.slug, started_ms=began, status="failed")
    found = health(row, reigning, MonitorConfig(), ms(now), run=run)
    assert found.complaints == (
        "20 of 100 bars are missing (20.00%), at most 10.00% may; run ingest with recheck_gaps",
        "the last ingest failed; its run says why",
    )
    first, candles, champion, *_ = found.text().splitlines()
    assert first == f"{found.market}: {'; '.join(found.complaints)}"
    assert candles.endswith(f", 20 missing; last ingest failed {utc_text(began)}")
    assert champion.endswith(", for 1.0 days")
    done = health(row, reigning, MonitorConfig(gap_limit=0.2), ms(now), run=replace(run, status="completed"))
    assert done.complaints == ()
    assert done.text().splitlines()[0] == f"{done.market}: ok"
    with pytest.raises(ConfigError, match=r"gap_limit must be in 0\.\.1, was 1\.1"):
        MonitorConfig(gap_limit=1.1)


def test_latest_run_of_each_market_is_found(tmp_path):
    store, other = CandleStore(tmp_path / "market.duckdb"), replace(MARKET, symbol="ETHUSDT")
    assert store.latest_runs() == []
    for market, minute, status in ((MARKET, 0, "failed"), (MARKET, 5, "completed"), (other, 1, "failed")):
        run = store.start_run(SOURCE, market, ms(MONDAY) + 60_000 * minute)
        store.finish_run(run, status, ms(MONDAY) + 60_000 * minute + 1)
    found = {run.market: run.status for run in store.latest_runs()}
    assert found == {MARKET.slug: "completed", other.slug: "failed"}


def test_champion_whose_candles_can_t_be_read_is_not_called_unreadable(reigning, monkeypatch):
    def busy(*_):
        raise StoreBusyError("market.duckdb is in use by another process")

    def look():
        now_ms = ms(MONDAY + timedelta(days=2))
        return health(coverage(MONDAY), reigning, MonitorConfig(), now_ms, SimpleNamespace(read=busy))

    found = look()
    assert found.champion == reigning.champion(SOURCE, MARKET.slug).ref.version
    assert "one more missed retrain" in found.breaches["champion"]
    assert found.breaches["skill"] == (
        "the champion can't be judged (market.duckdb is in use by another process); look again later"
    )
    assert found.skill == "not measured: market.duckdb is in use by another process"
    assert found.drift.endswith("is not on this machine")  # what was found before stays
    monkeypatch.setattr("tasks.champion.health.champion_drift", busy)
    assert look().drift == found.skill


def test_every_breach_that_monitoring_names_is_an_alert_that_can_be_raised():
    source = "".join(Path(inspect.getsourcefile(one)).read_text() for one in (health, champion_skill))
    kinds = set(re.findall(r'(?:breaches|wrong)\["(\w+)"\]', source)) | {"recovered"}
    assert {"stale", "gaps", "ingest", "champion", "drift", "skill", "calibration", "clock"} < kinds
    assert kinds <= set(KINDS)


@pytest.mark.promise(19)
@pytest.mark.parametrize("content", ["{", "", "[]", "null", sealed({}), sealed({"version": 3})])
def test_champion_entry_that_is_damaged_is_that_market_s_trouble_alone(reigning, tmp_path, content):
    (entry,) = [
        path for path in tmp_path.rglob("*") if path.is_file() and "champion" in str(path.relative_to(tmp_path))
    ]
    entry.write_text(content)
    row = coverage(MONDAY + timedelta(hours=1))
    found = health(row, reigning, MonitorConfig(), ms(MONDAY + timedelta(hours=1)))
    assert set(found.breaches) == {"champion"}
    assert found.breaches["champion"].startswith("the champion can't be read (")
    other = replace(row, market=Market(symbol="ETHUSDT"))
    assert health(other, reigning, MonitorConfig(), ms(MONDAY + timedelta(hours=1))).champion == "flat"
