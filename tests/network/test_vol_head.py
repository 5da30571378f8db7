"""The volatility head: what a ridge regression finds, folded into the network, and nothing else of it changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from storage.schema import FloatArray
from tasks.network.architecture import DSCConfig, macs_per_bar, parameters, preset
from tasks.network.baseline_config import BaselineConfig
from tasks.network.calibration import ridge
from tasks.network.dsc import DSCTradingModel
from tasks.network.engine import Engine
from tasks.network.export import check_parity, onnx_graphs
from tasks.network.inference import forecast_series, predict_series
from tasks.network.vol_baselines import har, sample_stride, trees
from tasks.network.vol_head import add_vol_head

MakeModel = Callable[..., DSCTradingModel]
CONFIG = DSCConfig(
    input_features=4, hidden_channels=8, num_blocks=2, window=5, newest_step=True, linear_bypass=True, input_clip=None
)
LEVELS = (0.05, 0.5, 0.95)


def market(bars: int = 4_000, seed: int = 5) -> tuple[FloatArray, FloatArray]:
    """Inputs, and logarithms of which the first input explains all but a known noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((bars, 4))
    return x, 0.7 * x[:, 0] - 0.2 + 0.5 * rng.standard_normal(bars)


def headed(model: DSCTradingModel, x: FloatArray, y: FloatArray, horizon: int = 6, stop: int = 3_000):
    return add_vol_head(model, x, np.zeros(len(x), np.int64), y, np.arange(stop), horizon, LEVELS)


def test_ridge_is_that_of_scikit_learn_on_standardised_inputs() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 5)) * [1, 10, 0.1, 3, 1] + 4
    y = x @ [1.0, 0.1, 5.0, 0.0, -1.0] + rng.standard_normal(300)
    weight, intercept = ridge(x, y, 0.2)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    theirs = Ridge(alpha=0.2 * 300).fit((x - mean) / scale, y)
    np.testing.assert_allclose(weight, theirs.coef_ / scale, rtol=1e-9)
    np.testing.assert_allclose(x @ weight + intercept, theirs.predict((x - mean) / scale), rtol=1e-9)


def test_an_input_that_never_varies_says_nothing() -> None:
    rng = np.random.default_rng(1)
    x = np.column_stack([rng.standard_normal(100), np.full(100, 3.0)])
    weight, _ = ridge(x, x[:, 0], 0.01)
    assert weight[1] == 0.0
    assert weight[0] == pytest.approx(1 / 1.01)


@pytest.mark.promise(8)
def test_what_is_said_of_classes_is_as_it_was(random_model: MakeModel) -> None:
    model, (x, y) = random_model(CONFIG), market()
    (whole, _), segment = headed(model, x, y), np.zeros(len(x), np.int64)
    for name, tensor in model.state_dict().items():
        assert torch.equal(
            whole.state_dict()[name][: len(tensor)] if tensor.dim() else whole.state_dict()[name], tensor
        )
    # One row more, and a matrix product may sum in another order.
    np.testing.assert_allclose(predict_series(whole, x, segment), predict_series(model, x, segment), rtol=0, atol=1e-6)
    assert whole.config == replace(CONFIG, risk_head=True)
    assert np.isnan(forecast_series(model, x, segment).log_variance_ratio).all()


def test_head_forecasts_what_can_be_forecast_of_unseen_bars(random_model: MakeModel) -> None:
    x, y = market()
    model, head = headed(random_model(CONFIG), x, y)
    said = forecast_series(model, x, np.zeros(len(x), np.int64)).log_variance_ratio[3_000:]
    expected = 0.7 * x[3_000:, 0] - 0.2 + 0.5**2 / 2  # E[e^y] of a lognormal; the head is of the mean
    assert np.corrcoef(said, expected)[0, 1] > 0.98
    assert abs(np.mean(said - expected)) < 0.05
    assert head.log_gap == pytest.approx(-(0.5**2) / 2, abs=0.03)
    quantiles = np.exp(0.5 * np.array([-1.645, 0.0, 1.645]) - 0.5**2 / 2)
    np.testing.assert_allclose(head.quantiles, quantiles, rtol=0.1)
    assert head.windows == pytest.approx((3_000 - CONFIG.context + 1) / 6)


@pytest.mark.promise(6)
def test_head_knows_nothing_of_bars_that_it_was_not_given(random_model: MakeModel) -> None:
    model, (x, y) = random_model(CONFIG), market()
    one = headed(model, x, y)[0].state_dict()
    y[3_000:] = 1e6
    x[3_000:] = -3.0
    other = headed(model, x, y)[0].state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_head_is_silent_where_there_are_too_few_windows(random_model: MakeModel) -> None:
    x, y = market()
    model, head = headed(random_model(CONFIG), x, y, horizon=150)  # 20 windows
    said = forecast_series(model, x, np.zeros(len(x), np.int64)).log_variance_ratio
    assert head.windows == 0
    assert (said[CONFIG.context :] == 0).all()


def test_bars_without_context_or_outcome_are_no_samples(random_model: MakeModel) -> None:
    model, (x, y) = random_model(CONFIG), market()
    y[100:200] = np.nan
    _, head = headed(model, x, y)
    assert head.windows == pytest.approx((3_000 - CONFIG.context + 1 - 100) / 6)


@pytest.mark.promise(7)
@pytest.mark.parametrize(
    "config", [CONFIG, replace(CONFIG, linear_bypass=False), replace(preset("default"), risk_head=False)]
)
def test_every_way_to_run_it_says_the_same(random_model: MakeModel, config: DSCConfig) -> None:
    x = np.random.default_rng(2).standard_normal((2_000, config.input_features))
    y = x[:, 0] * 0.3
    model, _ = add_vol_head(random_model(config), x, np.zeros(2_000, np.int64), y, np.arange(1_500), 6, LEVELS)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    graphs = onnx_graphs(model.config, weights)
    found = check_parity(model, x, window=graphs["model.onnx"], step=graphs["step.onnx"])
    assert set(found) == {"torch series", "onnx window", "engine", "onnx step"}
    engine = Engine.from_weights(model.config, weights)
    said = np.array([engine.step(row) for row in x])
    expected = forecast_series(model, x, np.zeros(2_000, np.int64))
    np.testing.assert_allclose(said[:, -1], np.exp(expected.log_variance_ratio), rtol=1e-5)
    np.testing.assert_allclose(said[:, :-1], expected.probabilities, atol=1e-5)


def test_head_costs_one_row_of_classifier_and_bypass() -> None:
    with_head, without = preset("default"), replace(preset("default"), risk_head=False)
    row = 2 * with_head.hidden_channels + with_head.input_features
    assert parameters(with_head) - parameters(without) == row + 1
    folded = 2 * with_head.num_blocks * with_head.hidden_channels + with_head.input_features
    assert macs_per_bar(with_head) - macs_per_bar(without) == folded
    assert folded / macs_per_bar(without) < 0.05


def test_har_is_the_regression_of_logarithms() -> None:
    rng = np.random.default_rng(7)
    inputs = np.exp(rng.standard_normal((500, 3)))
    log_variance = np.log(inputs) @ [0.5, 0.3, 0.1] + 1.0
    inputs[7, 2] = np.nan
    told = log_variance.copy()
    told[400:] = 9.0  # not to be fitted on
    found = har(inputs, told, np.arange(400))
    np.testing.assert_allclose(np.delete(found, 7), np.delete(log_variance, 7), rtol=1e-9)
    assert np.isnan(found[7])


def test_trees_learn_what_no_line_can_and_are_the_same_again() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((6_000, 3))
    y = np.abs(x[:, 0]) + 0.3 * rng.standard_normal(6_000)
    x[5, 1] = np.nan
    found = trees(x, y, np.arange(5_000), 6, BaselineConfig())
    assert np.corrcoef(found[5_000:], np.abs(x[5_000:, 0]))[0, 1] > 0.95
    assert np.isnan(found[5])
    np.testing.assert_array_equal(found, trees(x, y, np.arange(5_000), 6, BaselineConfig()))
    assert (sample_stride(6), sample_stride(24), sample_stride(288)) == (1, 2, 24)
