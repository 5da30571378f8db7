"""The checks that train, on as few bars as a recipe takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.schema import Market, Source
from storage.snapshots import Dataset, write_dataset
from tasks.market.features import build_features
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig
from tasks.strategy import leak_suite
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import load_samples


def test_bars_that_are_enough_for_the_folds_are_enough_for_permuted_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leak_suite, "_FIT", replace(leak_suite._FIT, distil=0.0))  # on labels alone, in a second
    market, recipe = Market(), Recipe(folds=FoldConfig(folds=1, test_share=0.3, validation_share=0.3))
    candles = generate(SyntheticMarket(bars=2_500))
    batch = build_features(candles.matrix(), market.interval_ms)
    nothing = np.empty(0)
    dataset = Dataset(
        source=Source("sandbox:0123abcd"), market=market, candles=candles, features=batch.values, vol=batch.vol,
        segment=batch.segment, funding_ms=nothing.astype(np.int64), funding_rate=nothing, code_hash="0" * 16,
    )  # fmt: skip
    samples = load_samples(tmp_path, write_dataset(tmp_path, dataset), recipe)
    usable = len(candles) - samples.folds[0].train.start
    assert usable / 10 < 10 * recipe.labels.horizon, "a tenth of them is too few to validate on"
    assert leak_suite.permuted_labels(samples, market.interval_ms).passed
