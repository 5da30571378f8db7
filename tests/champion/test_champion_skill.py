"""A champion's skill and confidence on labels that have matured since its training."""

import re
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
import safetensors.numpy

from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.schema import Window
from storage.settings import Settings
from tasks.champion.health import MarketHealth, MonitorConfig, health
from tasks.champion.manifest import Manifest, read_manifest
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.folding import load_weights
from tests.golden.make_golden import EXCHANGE, MARKET, restore
from tests.storage.stored import commit_window

LAW = EXCHANGE.synthetic


@pytest.fixture
def champion(home) -> ArtifactStore:
    """A home whose champion learned that returns follow a signal."""
    return restore(home)


def inspected(models: ArtifactStore, law: SyntheticMarket, bars: int | None = None, **limits) -> MarketHealth:
    """Store the market's candles and look at it when the last one has closed."""
    store, candles = CandleStore(Settings.from_environment().database), generate(law)[:bars]
    span = Window(first_ms=int(candles.start_ms[0]), last_ms=int(candles.start_ms[-1]))
    now_ms = span.last_ms + MARKET.interval_ms
    commit_window(store, EXCHANGE.source, MARKET, span, candles, (), now_ms + MARKET.interval_ms)
    (row,) = store.coverage()
    return health(row, models, MonitorConfig(drift_bars=0, **limits), now_ms, store)


def test_champion_on_the_market_that_it_learned_has_the_skill_that_it_was_published_with(champion):
    found = inspected(champion, LAW)
    ref = champion.champion(EXCHANGE.source, MARKET.slug).ref
    assert found.complaints == ()
    log_loss, prior = map(float, re.findall(r"log-loss (\S+) nat, prior (\S+), over", found.skill)[0])
    assert log_loss < prior - 0.02
    assert "\n  skill     log-loss " in found.text()
    model, *_ = read_manifest(champion, ref).summary.lines
    assert log_loss == pytest.approx(model.log_loss, abs=0.05)  # of both folds


def test_champion_on_a_market_that_has_turned_round_needs_a_person(champion):
    found = inspected(champion, replace(LAW, psi=-LAW.psi))
    assert set(found.breaches) == {"skill"}
    assert found.breaches["skill"].startswith("the champion forecasts less than the class shares do: log-loss 1.")
    assert "; roll back or run retrain" in found.text().splitlines()[0]


def test_champion_that_is_surer_than_it_is_right_needs_a_person(champion):
    old = champion.champion(EXCHANGE.source, MARKET.slug)
    artifact = champion.load(old.ref, source=EXCHANGE.source)
    weights = load_weights(artifact.files["weights.safetensors"])
    sure = weights | {"temperature": np.array(0.2 * weights["temperature"], np.float32)}
    files = {**artifact.files, "weights.safetensors": safetensors.numpy.save(dict(sure))}
    manifest = Manifest.of(artifact.manifest, old.ref)
    rule = replace(manifest.recipe.promotion, calibration_margin=0.02)  # the golden one lets anything through
    manifest = replace(manifest, recipe=replace(manifest.recipe, promotion=rule))
    later = datetime.fromisoformat(old.ref.made) + timedelta(days=1)
    ref = champion.publish(EXCHANGE.source, MARKET.slug, "0123abcd", files, manifest.document(), later)
    champion.promote(EXCHANGE.source, MARKET.slug, ref, old.evidence, expected=old.sequence, now=later)
    found = inspected(champion, LAW)
    assert found.breaches["calibration"].startswith("the champion is not right as often as it says: log-loss ")
    assert found.text().splitlines()[0].endswith("; run retrain")


@pytest.mark.parametrize(
    ("bars", "limits", "expected"),
    [
        (3_500, {}, r"not measured: [0-9]+ of 120 new labels"),
        (None, {"skill_labels": 0}, "not measured: skill_labels is 0"),
    ],
)
def test_too_little_to_judge_by_is_said_and_no_reason(champion, bars, limits, expected):
    found = inspected(champion, LAW, bars, **limits)
    assert re.fullmatch(expected, found.skill)
    assert found.complaints == ()
