"""What every network of a fold starts from: the logistic solution, the mirror's verdict, and the teacher."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from storage.results import ResultStore
from storage.schema import DatasetError, FloatArray, LeakError
from tasks.network.architecture import DSCConfig
from tasks.network.fit import fit
from tasks.network.fit_config import FitConfig
from tasks.network.series import Series
from tasks.network.start import Start, prepare
from tasks.strategy.folds import StoredStart

NETWORK = DSCConfig(
    input_features=3, hidden_channels=8, num_blocks=1, window=4, newest_step=True, linear_bypass=True, input_clip=None
)
QUICK = FitConfig(epochs=1, segment_bars=128, batch_segments=2, start_penalty=5.0)
BARS, TRAIN, VALIDATION = 1_600, (10, 1_200), (1_210, 1_600)
SIGNS = np.array([-1.0, 1.0, 1.0])


def series_of(seed: int = 3, *, odd: bool = True) -> Series:
    """Labels drawn from a linear law, whose mirror image is the reverse if `odd`."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((BARS, 3))
    logits = np.column_stack([-x[:, 0], x[:, 1], x[:, 0]] if odd else [-2 * x[:, 1], x[:, 2], 2 * x[:, 1]])
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return Series(features=x * [2.0, 1.0, 0.1], labels=labels, segment=np.zeros(BARS, np.int64), signs=SIGNS)


def scaled(series: Series) -> FloatArray:
    learn = series.features[slice(*TRAIN)]
    return np.asarray((series.features - learn.mean(0)) / learn.std(0))


def softmax(logits: FloatArray) -> FloatArray:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def said(start: Start, z: FloatArray) -> FloatArray:
    assert start.weight is not None
    assert start.bias is not None
    return softmax(z @ start.weight.T + start.bias)


def test_start_is_the_penalised_logistic_regression_of_the_training_bars():
    series = replace(series_of(), signs=None)
    start = prepare(NETWORK, series, TRAIN, VALIDATION, QUICK)
    z, train = scaled(series), slice(*TRAIN)
    oracle = LogisticRegression(C=1 / 5.0, max_iter=1_000, tol=1e-10).fit(z[train], series.labels[train])
    np.testing.assert_allclose(said(start, z), oracle.predict_proba(z), atol=1e-5)
    assert not start.mirrored


def test_mirrored_start_is_the_solution_of_every_sample_and_its_mirror_image():
    series = series_of()
    start = prepare(NETWORK, series, TRAIN, VALIDATION, QUICK)
    assert start.mirrored
    learn = series.features[slice(*TRAIN)]
    image = (learn * SIGNS - learn.mean(0)) / learn.std(0)
    z, labels = scaled(series), series.labels[slice(*TRAIN)]
    both = np.concatenate([z[slice(*TRAIN)], image]), np.concatenate([labels, 2 - labels])
    oracle = LogisticRegression(C=1 / (2 * 5.0), max_iter=1_000, tol=1e-10).fit(*both)
    np.testing.assert_allclose(said(start, z), oracle.predict_proba(z), atol=1e-5)


def test_mirror_image_that_validation_denies_is_not_learned_from():
    series = series_of(odd=False)
    start = prepare(NETWORK, series, TRAIN, VALIDATION, QUICK)
    alone = prepare(NETWORK, replace(series, signs=None), TRAIN, VALIDATION, QUICK)
    assert not start.mirrored
    np.testing.assert_array_equal(start.weight, alone.weight)
    np.testing.assert_array_equal(start.teacher, alone.teacher)


def test_two_classes_start_from_the_same_probabilities_as_the_oracles():
    series = replace(series_of(), signs=None)
    series = replace(series, labels=np.minimum(series.labels, 1))
    start = prepare(replace(NETWORK, num_classes=2), series, TRAIN, VALIDATION, QUICK)
    assert start.weight is not None
    assert start.weight.shape == (2, 3)
    np.testing.assert_allclose(start.weight.sum(0), 0.0, atol=1e-12)
    # Two lines of half a weight have half the square of one.
    z, train = scaled(series), slice(*TRAIN)
    oracle = LogisticRegression(C=2 / 5.0, max_iter=1_000, tol=1e-10).fit(z[train], series.labels[train])
    np.testing.assert_allclose(said(start, z), oracle.predict_proba(z), atol=1e-5)


def test_start_of_separable_data_is_finite():
    series = replace(series_of(), signs=None)
    series = replace(series, labels=np.digitize(series.features[:, 0], [-1.0, 1.0]))
    start = prepare(NETWORK, series, TRAIN, VALIDATION, QUICK)
    assert np.isfinite(start.weight).all()
    assert np.isfinite(start.bias).all()


def test_start_is_the_same_for_every_seed_and_for_the_twin():
    series = series_of()
    one = prepare(NETWORK, series, TRAIN, VALIDATION, QUICK)
    for network, config in ((NETWORK.twin, QUICK), (NETWORK, replace(QUICK, seed=99))):
        other = prepare(network, series, TRAIN, VALIDATION, config)
        for name in ("weight", "bias", "teacher"):
            np.testing.assert_array_equal(getattr(other, name), getattr(one, name))


@pytest.mark.parametrize("fields", [{}, {"bypass_start": "zero", "distil": 0.0}], ids=["all", "nothing"])
def test_start_that_was_kept_trains_to_the_same_weights_as_one_that_is_made(tmp_path, fields):
    series, config = series_of(), replace(QUICK, **fields)
    work = ResultStore(tmp_path)
    work.save("start-1", StoredStart(start=prepare(NETWORK, series, TRAIN, VALIDATION, config)))
    kept = fit(NETWORK, series, TRAIN, VALIDATION, config, start=work.load("start-1", StoredStart).start)
    assert_equal_weights(kept.model, fit(NETWORK, series, TRAIN, VALIDATION, config).model)


def test_training_beside_a_thread_that_grows_trees_ends_with_the_same_weights():
    series = series_of()
    start = prepare(NETWORK, series, TRAIN, VALIDATION, QUICK)
    alone = fit(NETWORK, series, TRAIN, VALIDATION, QUICK, start=start)
    stop = threading.Event()

    def grow() -> None:
        while not stop.is_set():
            prepare(NETWORK, series, TRAIN, VALIDATION, QUICK)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        beside = fit(NETWORK, series, TRAIN, VALIDATION, QUICK, start=start)
    finally:
        stop.set()
        thread.join()
    assert_equal_weights(beside.model, alone.model)


def test_class_that_training_never_shows_and_a_validation_within_it_are_refused():
    series = series_of()
    lacking = replace(series, labels=np.minimum(series.labels, 1), signs=None)
    with pytest.raises(DatasetError, match="hold no label of class 2"):
        prepare(NETWORK, lacking, TRAIN, VALIDATION, QUICK)
    with pytest.raises(LeakError, match="validation starts at bar 1199, before train stops at bar 1200"):
        prepare(NETWORK, series, TRAIN, (1_199, 1_600), QUICK)


def assert_equal_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
