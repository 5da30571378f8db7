"""Pruning DSC_HOME through the real flow: what a version needs stays, whatever goes is named."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.prune import prune
from storage.artifacts import ArtifactStore
from storage.pruning import PruneRule
from storage.results import ResultStore
from storage.schema import FEATURES, Candles, ConfigError, Market, Source, VersionRef
from storage.snapshots import Dataset, write_dataset
from tasks.journal.journal import Journal

SOURCE, MARKET = Source("bybit"), Market(symbol="BTCUSDT")


def stored_dataset(home: Path, code: str) -> str:
    """Store a dataset that looks unused for years, and return its id."""
    ones = np.ones(3)
    columns = dict.fromkeys(("open", "high", "low", "close", "volume", "turnover"), ones)
    dataset = Dataset(
        source=SOURCE,
        market=MARKET,
        candles=Candles(start_ms=np.arange(3) * MARKET.interval_ms, **columns),
        features=np.zeros((3, len(FEATURES))),
        vol=ones,
        segment=np.zeros(3, np.int64),
        funding_ms=np.empty(0, np.int64),
        funding_rate=np.empty(0),
        code_hash=code,
    )
    reference = write_dataset(home / "datasets", dataset)
    os.utime(home / "datasets" / f"{reference.id}.zip", (1, 1))
    return reference.id


def test_prune_names_what_went_and_keeps_what_a_version_was_made_from(prefect_api, home, capsys):
    kept, spare, pooled = (stored_dataset(home, code) for code in ("a", "b", "c"))
    manifest = {"features": list(FEATURES), "dataset": kept, "recipe": {"pool": [f"ETHUSDT:{pooled}"]}}
    store = ArtifactStore(str(home / "models"))
    store.publish(SOURCE, MARKET.slug, "0123abcd", {"a.json": b"{}"}, manifest, datetime.now(UTC))
    work = ResultStore(home / "work")
    for key in ("fold-old", "fold-new"):
        work.save(key, {"a.json": b"{}"})
    os.utime(home / "work" / "fold-old.zip", (1, 1))
    removed = prune(rule=PruneRule(keep_datasets=0))
    assert (removed.results.keys, removed.datasets.keys) == (("fold-old",), (spare,))
    assert {path.stem for path in (home / "datasets").iterdir()} == {kept, pooled}
    said = capsys.readouterr().out
    assert "work removed=1" in said
    assert f"datasets removed=1 freed_mb=0.0 {spare}" in said


def test_prune_keeps_every_dataset_when_a_version_cannot_say_what_it_needs(prefect_api, home, caplog):
    kept = stored_dataset(home, "a")
    store = ArtifactStore(str(home / "models"))
    manifest = {"features": list(FEATURES), "dataset": kept}
    ref = store.publish(SOURCE, MARKET.slug, "0123abcd", {"a.json": b"{}"}, manifest, datetime.now(UTC))
    path = Path(store.location(ref, "manifest.json"))
    path.write_bytes(path.read_bytes().replace(b"features", b"faetures"))
    assert prune(rule=PruneRule(keep_datasets=0)).datasets.keys == ()
    assert (home / "datasets" / f"{kept}.zip").is_file()
    assert "every dataset is kept: manifest of bybit/linear-BTCUSDT-5" in caplog.text


@pytest.mark.parametrize("needs", [{}, {"dataset": 7}, {"dataset": "d" * 16, "recipe": {"pool": 7}}])
def test_prune_keeps_every_dataset_when_a_manifest_names_none(prefect_api, home, caplog, needs):
    kept = stored_dataset(home, "a")
    store = ArtifactStore(str(home / "models"))
    store.publish(
        SOURCE, MARKET.slug, "0123abcd", {"a.json": b"{}"}, {"features": list(FEATURES), **needs}, days_ago(0)
    )
    assert prune(rule=PruneRule(keep_datasets=0)).datasets.keys == ()
    assert (home / "datasets" / f"{kept}.zip").is_file()
    assert "does not say which datasets it needs" in caplog.text


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def published(home: Path, number: int, days: float, dataset: str = "d" * 16) -> VersionRef:
    manifest = {"features": list(FEATURES), "dataset": dataset}
    store = ArtifactStore(str(home / "models"))
    return store.publish(SOURCE, MARKET.slug, f"{number:08d}", {"a.json": b"{}"}, manifest, days_ago(days))


@pytest.mark.promise(13)
def test_versions_that_nobody_needs_expire_with_their_datasets_and_no_others(prefect_api, home):
    store, rule = ArtifactStore(str(home / "models")), PruneRule(keep_datasets=0, keep_versions=2)
    datasets = [stored_dataset(home, code) for code in "abcdef"]
    ages = (60, 50, 45, 40, 20, 10)
    refs = [published(home, number, age, datasets[number]) for number, age in enumerate(ages)]
    spare, champion, before, in_session, young, newest = refs
    for sequence, ref in enumerate((before, champion)):
        store.promote(SOURCE, MARKET.slug, ref, {"champion": {"a": 1}, "challenger": {"a": 1}}, expected=sequence,
                      now=days_ago(30 - sequence))  # fmt: skip
    with Journal(home / "sessions" / "paper.sqlite") as journal:
        journal.takeover(MARKET.slug, 0, in_session.version, np.zeros(9))
    removed = prune(rule=rule)
    assert removed.versions.keys == (str(spare),)
    assert removed.datasets.keys == (datasets[0],)
    assert store.whole_versions(SOURCE, MARKET.slug) == (champion, before, in_session, young, newest)
    assert store.versions(SOURCE, MARKET.slug) == tuple(refs)  # luck is still deflated over all that were tried
    store.rollback(SOURCE, MARKET.slug, "the second one lost money", datetime.now(UTC))
    assert prune(rule=PruneRule(keep_versions=1, version_days=15)).versions.keys == (str(young),)


@pytest.mark.parametrize("harm", ["journal", "history"])
def test_no_version_expires_where_nothing_tells_which_are_needed(prefect_api, home, caplog, harm):
    spare = [published(home, number, 60 + number) for number in range(3)]
    if harm == "journal":
        (home / "sessions").mkdir()
        (home / "sessions" / "paper.sqlite").write_text("no journal")
    else:
        folder = home / "models" / SOURCE / MARKET.slug / "champion"
        folder.mkdir()
        (folder / "000002.json").write_text("{}")
    assert prune(rule=PruneRule(keep_versions=1)).versions.keys == ()
    assert "kept: " in caplog.text
    assert len(ArtifactStore(str(home / "models")).whole_versions(SOURCE, MARKET.slug)) == len(spare)


def test_versions_at_a_place_that_others_share_never_expire(prefect_api, home, tmp_path, monkeypatch):
    for number in range(3):
        published(home, number, 60 + number)
    monkeypatch.setenv("DSC_ARTIFACT_URL", str(tmp_path / "shared"))
    (home / "models").rename(tmp_path / "shared")
    assert prune(rule=PruneRule(keep_versions=1)).versions.keys == ()


def test_what_failed_runs_left_goes_from_the_home_and_from_nowhere_else(prefect_api, home, tmp_path):
    for folder in (home / "prefect" / "storage", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
        (folder / "old").write_bytes(b"an exception")
        os.utime(folder / "old", (1, 1))
        (folder / "new").write_bytes(b"an exception")
        with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: folder}):
            left = prune().leftovers
        assert left.keys == (("old",) if folder.is_relative_to(home) else ())
    assert [path.name for path in (home / "prefect" / "storage").iterdir()] == ["new"]


def test_rule_that_could_touch_a_running_run_is_refused():
    with pytest.raises(ConfigError, match=r"keep_days must be >= 1, was 0\.5"):
        PruneRule(keep_days=0.5)
    with pytest.raises(ConfigError, match="keep_versions must be >= 1, was 0"):
        PruneRule(keep_versions=0)
    with pytest.raises(ConfigError, match="keep_datasets must be >= 0, was -1"):
        PruneRule(keep_datasets=-1)
