"""Drift of a champion's market, from stored candles and the dataset that it was trained on."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.schema import Candles, Market, Source, Window
from storage.settings import Settings
from storage.snapshots import Dataset, write_dataset
from tasks.champion.health import MarketHealth, MonitorConfig, health
from tasks.market.features import build_features
from tasks.market.synthetic import SyntheticMarket, generate
from tests.champion.example_manifest import MANIFEST
from tests.storage.stored import commit_window

SOURCE, MARKET, TRAINED, ALL = Source("sandbox:0123abcd"), Market(), 25_000, 28_000
NOW = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def candles() -> Candles:
    return generate(SyntheticMarket(bars=ALL))


def inspected(candles: Candles, bars: int = ALL, drift_bars: int = 1_000) -> MarketHealth:
    """Train on the first bars, promote, store `bars` of them, and look."""
    settings = Settings.from_environment()
    settings.prepare_home()
    known = candles[:TRAINED]
    built = build_features(known.matrix(), MARKET.interval_ms)
    dataset = Dataset(
        source=SOURCE, market=MARKET, candles=known, features=built.values, vol=built.vol, segment=built.segment,
        funding_ms=np.empty(0, np.int64), funding_rate=np.empty(0), code_hash="0" * 64,
    )  # fmt: skip
    data = write_dataset(settings.datasets, dataset)
    models = ArtifactStore(settings.models)
    manifest = replace(MANIFEST, dataset=data.id, trained_until_ms=int(known.start_ms[-1]))
    ref = models.publish(SOURCE, MARKET.slug, "0123abcd", {"report.html": b"x"}, manifest.document(), NOW)
    models.promote(
        SOURCE, MARKET.slug, ref, {"champion": {"version": "flat"}, "challenger": {"days": 1.0}}, expected=0, now=NOW
    )
    store = CandleStore(settings.database)
    kept = candles[:bars]
    span = Window(first_ms=int(kept.start_ms[0]), last_ms=int(kept.start_ms[-1]))
    commit_window(store, SOURCE, MARKET, span, kept, (), span.last_ms + 2 * MARKET.interval_ms)
    (row,) = store.coverage()
    limits = MonitorConfig(drift_bars=drift_bars, skill_labels=0)
    return health(row, models, limits, span.last_ms, store, settings.datasets)


def test_market_that_goes_on_as_before_has_no_drift(home, candles):
    found = inspected(candles)
    assert found.complaints == ()
    assert "of its limit" in found.drift


def test_market_whose_volume_has_jumped_is_called_changed_and_the_feature_named(home, candles):
    volume = candles.volume.copy()
    volume[-1_900:] *= 30
    found = inspected(replace(candles, volume=volume, turnover=volume * candles.close))
    (said,) = found.complaints
    assert said.startswith("the market has changed: log_volume has ")
    assert said.endswith("; run retrain")


def test_one_block_that_differs_is_shown_and_no_reason_yet(home, candles):
    volume = candles.volume.copy()
    volume[-900:] *= 30
    found = inspected(replace(candles, volume=volume, turnover=volume * candles.close))
    assert found.complaints == ()
    assert found.drift.startswith("log_volume has ")


def test_too_few_new_bars_are_no_drift_but_said(home, candles):
    assert inspected(candles, bars=TRAINED + 300).drift == "not measured: 300 of 2,000 new bars"


def test_nothing_is_compared_when_the_limit_is_zero_bars(home, candles):
    assert inspected(candles, drift_bars=0).drift == "not measured: drift_bars is 0"
