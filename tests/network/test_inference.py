"""Predictions of a whole series: each is that of its window, and missing where the window is not whole."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from storage.schema import ConfigError
from tasks.network.dsc import DSCTradingModel
from tasks.network.fit import fit
from tasks.network.inference import predict_series, torch_threads
from tests.network.planted_series import (
    NETWORK,
    QUICK,
    TRAIN,
    VALIDATION,
    assert_same_weights,
    planted_series,
    softmax,
)


def bypass_model() -> DSCTradingModel:
    """Return a network that answers softmax(newest first feature * (1, 0, -1)): bypass alone, head at zero."""
    model = fit(NETWORK, planted_series(1_600), TRAIN, VALIDATION, replace(QUICK, epochs=1)).model
    for weight in model.parameters():
        nn.init.zeros_(weight)
    assert model.bypass is not None
    model.bypass.weight.data[:, 0] = torch.tensor([1.0, 0.0, -1.0])
    model.feature_mean.zero_()
    model.feature_scale.fill_(1.0)
    model.temperature.fill_(1.0)
    return model


def test_predictions_are_missing_exactly_where_the_context_is_not_finite_or_crosses_segments() -> None:
    model = bypass_model()
    features = np.random.default_rng(0).standard_normal((40, 3))
    features[15, 1] = np.nan
    features[16, 2] = 1e300  # finite in float64, not in the float32 that the network computes in
    segment = np.where(np.arange(40) < 28, 4, 5)
    p = predict_series(model, features, segment)
    # context 6: bars 0-4 are too early, 15-21 see bar 15 or 16, 28-32 begin a new segment
    expected = np.r_[
        np.full(5, False), np.full(10, True), np.full(7, False), np.full(6, True), np.full(5, False), np.full(7, True)
    ]
    assert np.isfinite(p).all(axis=1).tolist() == expected.tolist()
    assert np.isnan(p[~expected]).all()
    first = features[expected, 0]
    np.testing.assert_allclose(p[expected], softmax(np.column_stack([first, 0 * first, -first])), atol=1e-6)


def test_predictions_of_a_long_series_are_those_of_its_windows() -> None:
    series = planted_series(20_000)
    model = fit(NETWORK, series, TRAIN, VALIDATION, QUICK).model
    p = predict_series(model, series.features, series.segment)
    bars = np.array([5, 8_191, 8_192, 8_196, 8_197, 8_198, 16_388, 19_999])  # around the seams of the passes too
    windows = torch.stack([torch.from_numpy(series.features[t - 5 : t + 1].T).float() for t in bars])
    with torch.no_grad():
        expected = functional.softmax(model(windows), dim=1).numpy()
    np.testing.assert_allclose(p[bars], expected, atol=1e-5)
    assert p.dtype == np.float64


def test_series_shorter_than_the_context_has_no_predictions() -> None:
    series = planted_series(1_600)
    model = fit(NETWORK, series, TRAIN, VALIDATION, QUICK).model
    assert np.isnan(predict_series(model, series.features[:5], series.segment[:5])).all()
    assert predict_series(model, series.features[:0], series.segment[:0]).shape == (0, 3)


def test_prediction_of_another_width_or_in_training_mode_is_refused() -> None:
    series = planted_series(1_600)
    model = fit(NETWORK, series, TRAIN, VALIDATION, QUICK).model
    with pytest.raises(ConfigError, match="input_features must be at most the series' 2 features, was 3"):
        predict_series(model, series.features[:, :2], series.segment)
    with pytest.raises(RuntimeError, match=r"predict_series needs the model in evaluation mode; call model\.eval\(\)"):
        predict_series(model.train(), series.features, series.segment)


def test_network_reads_the_first_features_when_the_series_has_more() -> None:
    series = planted_series(1_600)
    wider = replace(series, features=np.column_stack([series.features, np.arange(1_600)]))
    narrow, wide = (fit(NETWORK, one, TRAIN, VALIDATION, QUICK) for one in (series, wider))
    assert_same_weights(narrow, wide)
    np.testing.assert_array_equal(
        predict_series(wide.model, wider.features, wider.segment),
        predict_series(narrow.model, series.features, series.segment),
    )


def test_number_of_threads_is_shared_with_who_asks_for_the_same_and_given_to_another_afterwards() -> None:
    before, has_two = torch.get_num_threads(), Event()

    def ask(threads: int) -> None:
        with torch_threads(threads):
            if threads == 2:
                has_two.set()

    with ThreadPoolExecutor(1) as other:
        with torch_threads(1):
            other.submit(ask, 1).result(timeout=60)
            with ThreadPoolExecutor(1) as new:  # it begins with the number that the process has
                assert new.submit(torch.get_num_threads).result(timeout=60) == 1
            waits = other.submit(ask, 2)
            assert not has_two.wait(0.05)
            assert torch.get_num_threads() == 1
        waits.result(timeout=60)
    assert has_two.is_set()
    assert torch.get_num_threads() == before
