"""The live tick against the path that history takes: features in one call, torch over the series, decisions in one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from storage.schema import FEATURES, ConfigError, FloatArray, Market
from tasks.execution.accounting import Costs
from tasks.execution.decision import DecisionConfig, decide_series, packed
from tasks.market.features import WARM_UP, build_features
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.architecture import DSCConfig
from tasks.network.dsc import DSCTradingModel
from tasks.network.engine import Engine
from tasks.network.inference import forecast_series
from tasks.strategy.live_tick import LiveTick, forecast_vol, tick_packed

STEP_MS = 300_000
CONFIG = DSCConfig(hidden_channels=16, num_blocks=2, window=12, newest_step=True, linear_bypass=True, risk_head=True)
PARAMS = packed(DecisionConfig(min_hold=3), Costs(commission=1e-5, slippage=0.0), np.array([-1.0, 0.0, 1.0]), 4)


@pytest.fixture(scope="module")
def model() -> DSCTradingModel:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return DSCTradingModel(CONFIG).eval()


@pytest.fixture(scope="module")
def matrix() -> FloatArray:
    """Candles with a halt, a gap, after which everything has to warm up again, and one that is none near the end."""
    candles = generate(SyntheticMarket(bars=2 * WARM_UP + 900, interval_ms=STEP_MS)).matrix()
    candles[WARM_UP + 100 : WARM_UP + 150, 1:] = [*[candles[WARM_UP + 99, 4]] * 4, 0.0]
    broken = np.delete(candles, slice(WARM_UP + 300, WARM_UP + 303), axis=0)
    broken[-20, 2] = np.nan
    return broken


def live_on(model: DSCTradingModel) -> LiveTick:
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return LiveTick(Engine.from_weights(CONFIG, weights), STEP_MS, PARAMS)


@pytest.mark.promise(5)
@pytest.mark.promise(10)
def test_live_ticks_equal_features_probabilities_and_decisions_of_the_batch_path(
    model: DSCTradingModel, matrix: FloatArray
) -> None:
    batch = build_features(matrix, STEP_MS)
    probabilities, log_ratio = forecast_series(model, batch.values, batch.segment)
    contiguous = np.concatenate([[False], batch.segment[1:] == batch.segment[:-1]])
    targets = decide_series(probabilities, batch.vol, contiguous, PARAMS)

    live, ticks, held = live_on(model), [], 0
    for bar, candle in enumerate(matrix):
        position = ticks[-1].target if bar and contiguous[bar] else 0
        before = ticks[-2].target if bar > 1 and contiguous[bar - 1] else 0
        held = held + 1 if position == before else 1
        ticks.append(live.step(candle, position, held))

    np.testing.assert_allclose([tick.features for tick in ticks], batch.values, rtol=0, atol=1e-9)
    np.testing.assert_allclose([tick.vol for tick in ticks], batch.vol, rtol=0, atol=1e-9)
    np.testing.assert_allclose([tick.probabilities for tick in ticks], probabilities, rtol=0, atol=1e-5)
    forecast = [tick.forecast_vol for tick in ticks]
    np.testing.assert_allclose(forecast, batch.vol * np.exp(log_ratio / 2), rtol=1e-5)
    np.testing.assert_array_equal([tick.target for tick in ticks], targets)
    known = np.isfinite(probabilities[:, 0])
    assert np.flatnonzero(~known[WARM_UP + 100 : WARM_UP + 200]).tolist() == list(range(10, 50 + CONFIG.context - 1))
    assert 0 < known.sum() < len(known)
    assert set(targets[known]) == {-1, 0, 1}


def test_history_bars_make_the_next_candle_ready_and_one_less_does_not(
    model: DSCTradingModel, matrix: FloatArray
) -> None:
    enough, short = live_on(model), live_on(model)
    bars = enough.history_bars

    enough.warm_up(matrix[:bars])
    short.warm_up(matrix[1:bars])

    assert np.isfinite(enough.step(matrix[bars]).probabilities).all()
    assert np.isnan(short.step(matrix[bars]).probabilities).all()
    assert short.step(matrix[bars + 1], position=0).probabilities.sum() == pytest.approx(1.0)


def test_gap_means_no_position_until_everything_is_warm_again(model: DSCTradingModel, matrix: FloatArray) -> None:
    live = live_on(model)
    live.warm_up(matrix[: live.history_bars])
    after_gap = matrix[live.history_bars + 1]

    tick = live.step(after_gap, position=1, bars_held=9)

    assert tick.target == 0
    assert np.isnan(tick.values[:-1]).all()  # behind them stands the share, a whole one
    assert tick.share == 1.0


def test_candle_of_any_kind_runs_the_one_compiled_tick(model: DSCTradingModel, matrix: FloatArray) -> None:
    live = live_on(model)
    live.warm_up(matrix[: live.history_bars - 3])
    columns = np.asfortranarray(matrix)
    kinds: list[Any] = [
        matrix[live.history_bars - 3].tolist(),
        columns[live.history_bars - 2],
        matrix[live.history_bars - 1],
    ]
    kinds[-1].flags.writeable = False

    signatures = len(tick_packed.signatures)
    for kind in kinds:
        live.step(kind)

    assert np.isfinite(live.step(matrix[live.history_bars]).probabilities).all()
    assert len(tick_packed.signatures) == signatures


def test_network_without_a_risk_head_forecasts_no_volatility(matrix: FloatArray) -> None:
    config = replace(CONFIG, risk_head=False)
    with torch.random.fork_rng():
        weights = {name: one.numpy() for name, one in DSCTradingModel(config).eval().state_dict().items()}
    live = LiveTick(Engine.from_weights(config, weights), STEP_MS, PARAMS)
    live.warm_up(matrix[: live.history_bars])
    tick = live.step(matrix[live.history_bars])
    assert np.isfinite(tick.probabilities).all()
    assert np.isnan(tick.forecast_vol)
    assert np.isnan(forecast_vol(tick.values[:-2]))  # as a journal of before has them


@pytest.mark.promise(15)
def test_position_that_nobody_can_size_is_not_opened(matrix: FloatArray) -> None:
    config, ticks = replace(CONFIG, risk_head=False), {}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        weights = {name: one.numpy() for name, one in DSCTradingModel(config).eval().state_dict().items()}
    for sizing in ("fixed", "volatility"):
        rule = DecisionConfig(rule="argmax", sizing=sizing)
        params = packed(rule, Costs(), np.array([-1.0, 0.0, 1.0]), 12, Market().bars_per_year)
        live = LiveTick(Engine.from_weights(config, weights), STEP_MS, params)
        live.warm_up(matrix[: live.history_bars])
        ticks[sizing] = [live.step(candle) for candle in matrix[live.history_bars : live.history_bars + 40]]
    assert {(tick.target, tick.share) for tick in ticks["volatility"]} == {(0, 0.0)}
    assert {tick.share for tick in ticks["fixed"]} == {1.0}
    assert {tick.target for tick in ticks["fixed"]} != {0}


@pytest.mark.parametrize("candle", [np.zeros(5), np.zeros((1, 6)), [1.0] * 7])
def test_candle_of_another_shape_is_refused(model: DSCTradingModel, candle: Any) -> None:
    with pytest.raises(ValueError, match=r"candle must be \(6,\): start_ms open high low close volume, was"):
        live_on(model).step(candle)


def test_network_with_more_inputs_or_other_classes_is_refused() -> None:
    config = DSCConfig(input_features=len(FEATURES) + 1, hidden_channels=4, num_blocks=1, window=4)
    weights = {name: tensor.numpy() for name, tensor in DSCTradingModel(config).state_dict().items()}

    with pytest.raises(ConfigError, match=r"at most 35 features and tell 3 classes apart, was 36 and 3"):
        LiveTick(Engine.from_weights(config, weights), STEP_MS, PARAMS)
