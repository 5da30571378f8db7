"""A manifest comes back as it was written, and nothing that does not fit is used."""

import json
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from storage.artifacts import ArtifactStore
from storage.schema import ArtifactError, Source, VersionRef
from tasks.champion.manifest import Manifest, read_manifest
from tasks.market.labels import LabelConfig
from tasks.market.walk_forward import seen_until_ms
from tasks.network.fit_config import FitConfig
from tasks.strategy.recipe import Recipe
from tests.champion.example_manifest import MANIFEST, METRICS

REF = VersionRef(source=Source("bybit"), name=MANIFEST.market.slug, version="20260104T100000Z-0123abcd")


def test_manifest_comes_back_from_the_store_as_it_was_published(tmp_path):
    recipe = Recipe(preset="source", labels=LabelConfig(horizon=7), fit=FitConfig(seed=3)).resolved
    whole = replace(MANIFEST, recipe=recipe, trained_until_ms=1_700_000_000_000, class_means=(-1.25, 0.1, 1.0 / 3.0))
    store = ArtifactStore(str(tmp_path))
    now = datetime(2026, 1, 4, tzinfo=UTC)
    ref = store.publish(REF.source, REF.name, "0123abcd", {"a.txt": b"a"}, whole.document(), now)
    assert read_manifest(store, ref) == whole


def test_training_knew_nothing_after_the_last_label_of_its_last_bar():
    assert seen_until_ms(replace(MANIFEST, trained_until_ms=1_000, label_span_ms=300).training_end) == 1_300


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the document with one value exchanged; with `...` for it, left out."""
    document = deepcopy(json.loads(json.dumps(MANIFEST.document())))
    *above, last = path.split(".")
    part = document
    for name in above:
        part = part[name]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("dataset", ..., "dataset: Field required"),
        ("dataset", 7, "dataset: Input should be a valid string"),
        ("trained_until_ms", 1.5, "trained_until_ms: Input should be a valid integer"),
        ("trained_until_ms", "1", "trained_until_ms: Input should be a valid integer"),
        ("class_means", [0.0, 1.0], "class_means.2: Field required"),
        ("class_means", [0.0, float("nan"), 1.0], "class_means.1: Input should be a finite number"),
        ("origin", "elsewhere", "origin: Input should be 'exchange', 'replayed' or 'synthetic'"),
        ("judgement.sequence", None, "judgement.sequence: Input should be a valid integer"),
        ("judgement.numbers.challenger.total_return", "much", "judgement.numbers.challenger.total_return: "),
        ("summary.lines", {}, "summary.lines: Input should be a valid array"),
        ("surplus", 1, "surplus: Unexpected keyword argument"),
        ("recipe.fit.surplus", 1, "recipe.fit.surplus: Unexpected keyword argument"),
        ("recipe.labels.horizon", 0, "recipe.labels"),
        # What a default of today would fill in was something else when it went without saying.
        ("recipe.fit.distil", ..., "recipe.fit.distil: Field required"),
        ("recipe.refit", ..., "recipe.refit: Field required"),
        ("judgement.numbers.challenger.cagr", ..., "judgement.numbers.challenger.cagr: Field required"),
    ],
)
def test_manifest_that_does_not_fit_is_refused_with_the_place_and_the_way_out(path, value, said):
    with pytest.raises(ArtifactError) as refused:
        Manifest.of(changed(path, value), REF)
    assert f"manifest of {REF} does not fit this program ({said}" in str(refused.value)
    assert str(refused.value).endswith("; roll back or retrain")


def test_manifest_with_a_number_that_is_not_finite_is_not_published(tmp_path):
    endless = replace(METRICS, total_return=float("inf"))
    judgement = replace(MANIFEST.judgement, numbers=replace(MANIFEST.judgement.numbers, challenger=endless))
    document = replace(MANIFEST, judgement=judgement).document()
    with pytest.raises(ArtifactError, match="plain JSON without NaN or infinity"):
        ArtifactStore(str(tmp_path)).publish(
            REF.source, REF.name, "0123abcd", {"a.txt": b"a"}, document, datetime(2026, 1, 4, tzinfo=UTC)
        )
