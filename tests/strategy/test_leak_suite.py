"""The leak report: the checks that train pass on as few bars as a recipe takes, and fail where a leak is planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.results import ResultStore
from storage.schema import FloatArray, IntArray, Market
from tasks.market import leaks
from tasks.market.leaks import LeakCheck
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import Fold, FoldConfig
from tasks.network import fit as network_fit
from tasks.network.dsc import DSCTradingModel
from tasks.network.fit import Fitted
from tasks.strategy import leak_suite
from tasks.strategy.folds import fold_key
from tasks.strategy.leak_report import leaks_key
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import Samples, fold_bars, load_samples
from tests.strategy.stored_candles import stored

INTERVAL_MS = Market().interval_ms
CANDLES = generate(SyntheticMarket(bars=8_000))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on labels alone, in a second."""
    monkeypatch.setattr(leak_suite, "_FIT", replace(leak_suite._FIT, distil=0.0))


def samples_of(place: Path, recipe: Recipe, bars: int = 8_000) -> Samples:
    return load_samples(place, stored(place, CANDLES[:bars].matrix()), recipe)


@pytest.mark.usefixtures("quick")
def test_bars_that_are_enough_for_the_folds_are_enough_for_permuted_labels(tmp_path: Path) -> None:
    recipe = Recipe(folds=FoldConfig(folds=1, test_share=0.3, validation_share=0.3))
    samples = samples_of(tmp_path, recipe, bars=2_500)
    usable = 2_500 - samples.folds[0].train.start
    assert usable / 10 < 10 * recipe.labels.horizon, "a tenth of them is too few to validate on"
    assert leak_suite.permuted_labels(samples, INTERVAL_MS).passed


@pytest.mark.promise(6)
@pytest.mark.usefixtures("quick")
def test_permuted_labels_that_stand_among_the_features_are_a_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_of(tmp_path, Recipe(folds=FoldConfig(folds=1, test_share=0.3, validation_share=0.3)))
    permute, answer = leaks.permuted_in_blocks, samples.dataset.features[:, 0]

    def told(classes: IntArray, block: int) -> IntArray:
        found = permute(classes, block)
        answer[len(answer) - len(found) :] = found - 1.0
        return found

    monkeypatch.setattr(leaks, "permuted_in_blocks", told)
    assert not leak_suite.permuted_labels(samples, INTERVAL_MS).passed


@pytest.mark.promise(6)
def test_model_that_reads_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model = DSCTradingModel(replace(leak_suite._NETWORK, linear_bypass=False)).eval()
    assert leak_suite.steady_predictions(model, CANDLES.matrix(), INTERVAL_MS).passed
    predict = leak_suite.predict_series
    monkeypatch.setattr(leak_suite, "predict_series", lambda *args: np.roll(predict(*args), -1, axis=0))
    found = leak_suite.steady_predictions(model, CANDLES.matrix(), INTERVAL_MS)
    assert not found.passed
    assert found.name == "future perturbation, predictions"
    assert "p_sell" in found.found


@pytest.mark.promise(6)
@pytest.mark.usefixtures("quick")
def test_training_that_is_stopped_by_the_bars_of_its_test_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = leak_suite._quick_fit

    def reads_on(features: FloatArray, classes: IntArray, fold: Fold, segment: IntArray) -> Fitted:
        later = replace(fold, validation=replace(fold.validation, stop=fold.test.stop))
        return fit(features, classes, later, segment)

    monkeypatch.setattr(leak_suite, "_quick_fit", reads_on)
    found = leak_suite.isolated_training()
    assert not found.passed
    assert "test" in found.found


@pytest.mark.promise(6)
@pytest.mark.usefixtures("quick")
def test_scaler_that_is_fitted_on_all_bars_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = network_fit.series_scaler
    monkeypatch.setattr(
        network_fit, "series_scaler", lambda series, train: scaler(series, (train[0], len(series.labels)))
    )
    found = leak_suite.isolated_training()
    assert not found.passed
    assert "feature_mean" in found.found


def test_report_on_other_folds_is_another_report_though_the_newest_network_is_the_same(tmp_path: Path) -> None:
    one, two = (Recipe(folds=FoldConfig(folds=folds, test_share=0.2 * folds)) for folds in (1, 2))
    keys = []
    for recipe in (one, two):
        samples = samples_of(tmp_path, recipe)
        newest = fold_key(fold_bars(samples, recipe, len(samples.folds) - 1).digest, recipe)
        keys.append((newest, leaks_key(samples.dataset.ref, recipe, newest)))
    (fold, report), (same, other) = keys
    assert fold == same
    assert report != other


def test_checks_of_the_code_are_made_once_for_all_markets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = ResultStore(tmp_path)
    made = LeakCheck(name="made", passed=True, found="", wanted="")
    for check in ("isolated_training", "random_walk", "planted_leak"):
        monkeypatch.setattr(leak_suite, check, lambda *args: made)
    assert [*leak_suite.checks_of_code(work)] == [made] * 3
    monkeypatch.setattr(leak_suite, "isolated_training", lambda: pytest.fail("made again"))
    assert [*leak_suite.checks_of_code(work)] == [made] * 3
    for what in ("code_behind", "version_of"):
        with monkeypatch.context() as patch:
            patch.setattr(leak_suite, what, lambda *names: "another")
            checks = leak_suite.checks_of_code(work)
            with pytest.raises(pytest.fail.Exception, match="made again"):
                next(checks)
