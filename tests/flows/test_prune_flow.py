"""Pruning DSC_HOME through the real flow: what a version needs stays, whatever goes is named."""

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from flows.prune import prune
from storage.artifacts import ArtifactStore
from storage.pruning import PruneRule
from storage.results import ResultStore
from storage.schema import FEATURES, Candles, ConfigError, Market, Source
from storage.snapshots import Dataset, write_dataset

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
    kept, spare = (stored_dataset(home, code) for code in ("a", "b"))
    manifest = {"features": list(FEATURES), "dataset": kept}
    store = ArtifactStore(str(home / "models"))
    store.publish(SOURCE, MARKET.slug, "0123abcd", {"a.json": b"{}"}, manifest, datetime.now(UTC))
    work = ResultStore(home / "work")
    for key in ("fold-old", "fold-new"):
        work.save(key, {"a.json": b"{}"})
    os.utime(home / "work" / "fold-old.zip", (1, 1))
    removed = prune(rule=PruneRule(keep_datasets=0))
    assert (removed.results.keys, removed.datasets.keys) == (("fold-old",), (spare,))
    assert {path.stem for path in (home / "datasets").iterdir()} == {kept}
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


def test_rule_that_could_touch_a_running_run_is_refused():
    with pytest.raises(ConfigError, match=r"keep_days must be >= 1, was 0\.5"):
        PruneRule(keep_days=0.5)
    with pytest.raises(ConfigError, match="keep_datasets must be >= 0, was -1"):
        PruneRule(keep_datasets=-1)
