"""The simple models: they find what is there, choose on validation alone, and never see the bars they predict."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from storage.schema import ConfigError, DatasetError
from tasks.network.baseline_config import BaselineConfig
from tasks.network.baselines import BOOSTING, CLASSICAL, LOGISTIC, fit_baseline
from tasks.network.series import Series

BARS, CLASSES = 6_000, 3
TRAIN, VALIDATION, TEST = (0, 3_500), (3_500, 4_500), slice(4_500, BARS)
CONFIG = BaselineConfig(strengths=(0.01, 1.0), leaves=(4, 8), most_trees=60)


def planted(seed: int = 1) -> Series:
    """Labels drawn from softmax(features @ weights): the logistic regression's own world."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(BARS, 4))
    logits = features @ rng.normal(size=(4, CLASSES))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((BARS, 1)) > shares.cumsum(1)[:, :-1]).sum(1)
    return Series(features=features, labels=labels, segment=np.zeros(BARS, np.int64))


def fitted(name: str, series: Series, config: BaselineConfig = CONFIG):
    return fit_baseline(name, series, TRAIN, VALIDATION, TEST, config, input_clip=5.0, num_classes=CLASSES)


def log_loss(probabilities, labels) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("name", CLASSICAL)
def test_baseline_beats_the_prior_when_a_signal_is_planted(name):
    series = planted()
    found = fitted(name, series)
    labels = series.labels[TEST]
    assert found.probabilities.shape == (BARS - 4_500, CLASSES)
    np.testing.assert_allclose(found.probabilities.sum(1), 1.0, atol=1e-12)
    prior = np.bincount(labels) / len(labels)
    assert log_loss(found.probabilities, labels) < log_loss(np.tile(prior, (len(labels), 1)), labels) - 0.1


def test_logistic_regression_equals_scikit_learns_default_solver_before_calibration():
    series = planted()
    found = fitted(LOGISTIC, series, BaselineConfig(strengths=(1.0,), leaves=(4,)))
    learn = series.features[: TRAIN[1]]
    z = (series.features - learn.mean(0)) / learn.std(0)
    oracle = LogisticRegression(C=1.0, max_iter=1_000, tol=1e-8).fit(z[: TRAIN[1]], series.labels[: TRAIN[1]])
    expected = oracle.predict_log_proba(z[TEST]) / found.temperature
    expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)  # two solvers, two stopping rules


@pytest.mark.parametrize("name", CLASSICAL)
def test_whole_grid_is_kept_and_the_best_on_validation_is_chosen(name):
    tried = fitted(name, planted()).tried
    assert len(tried) == 2
    (chosen,) = [one for one in tried if one.chosen]
    assert chosen.validation_loss == min(one.validation_loss for one in tried)


@pytest.mark.promise(6)
@pytest.mark.parametrize("name", CLASSICAL)
def test_predictions_are_unchanged_when_the_test_labels_are_exchanged(name):
    series = planted()
    labels = series.labels.copy()
    labels[TEST] = (labels[TEST] + 1) % CLASSES
    other = Series(features=series.features, labels=labels, segment=series.segment)
    np.testing.assert_array_equal(fitted(name, series).probabilities, fitted(name, other).probabilities)


def test_boosting_gives_the_same_trees_twice():
    first, second = fitted(BOOSTING, planted()), fitted(BOOSTING, planted())
    np.testing.assert_array_equal(first.probabilities, second.probabilities)


@pytest.mark.parametrize("name", CLASSICAL)
def test_mirror_images_are_tried_at_every_point_and_taken_only_where_the_law_has_them(name):
    rng = np.random.default_rng(5)
    features = rng.normal(size=(BARS, 30))
    odd, even = np.ones(30), np.ones(30)  # the law is odd in the first two
    odd[:2], even[2] = -1.0, -1.0
    edge = 0.5 * features[:, 0] - 0.5 * features[:, 1]
    shares = np.exp(np.column_stack([-edge, 0.5 * features[:, 2], edge]))
    shares /= shares.sum(1, keepdims=True)
    labels = (rng.random((BARS, 1)) > shares.cumsum(1)[:, :-1]).sum(1)
    labels[: TRAIN[1] - 1_000] = -1  # little to learn from
    series = Series(features=features, labels=labels, segment=np.zeros(BARS, np.int64), signs=odd)
    found, alone = fitted(name, series), fitted(name, replace(series, signs=None))
    assert [one.setting.endswith(", mirrored") for one in found.tried] == [False, False, True, True]
    assert [one.validation_loss for one in found.tried[:2]] == [one.validation_loss for one in alone.tried]
    (chosen,) = [one for one in found.tried if one.chosen]
    assert chosen.setting.endswith(", mirrored")
    true = log_loss(shares[TEST], labels[TEST])
    assert true < log_loss(found.probabilities, labels[TEST]) < log_loss(alone.probabilities, labels[TEST])
    denied = fitted(name, replace(series, signs=even))
    np.testing.assert_array_equal(denied.probabilities, alone.probabilities)


@pytest.mark.parametrize("name", CLASSICAL)
def test_labels_of_no_weight_teach_nothing(name):
    series = planted()
    poisoned = series.labels.copy()
    poisoned[:2_000] = (poisoned[:2_000] + 1) % CLASSES
    weights = np.where(np.arange(BARS) < 2_000, 0.0, 1.0)
    wrong = Series(features=series.features, labels=poisoned, segment=series.segment)
    found, misled = fitted(name, replace(wrong, weights=weights)), fitted(name, wrong)
    labels = series.labels[TEST]
    assert log_loss(found.probabilities, labels) < log_loss(misled.probabilities, labels) - 0.1
    right = fitted(name, replace(series, weights=weights))
    np.testing.assert_allclose(found.probabilities, right.probabilities, atol=1e-9)


def test_bar_without_a_feature_has_no_probabilities():
    series = planted()
    series.features[4_600, 2] = np.nan
    found = fitted(LOGISTIC, series).probabilities
    assert np.isnan(found[100]).all()
    assert np.isfinite(np.delete(found, 100, axis=0)).all()


def test_grids_of_two_sizes_are_refused():
    with pytest.raises(ConfigError, match="grids of one size >= 1, had 2 and 1"):
        BaselineConfig(strengths=(0.1, 1.0), leaves=(4,))


def test_span_without_a_class_is_refused():
    series = planted()
    series.labels[: TRAIN[1]] = np.minimum(series.labels[: TRAIN[1]], 1)
    with pytest.raises(DatasetError, match="hold no label of class 2"):
        fitted(LOGISTIC, series)
