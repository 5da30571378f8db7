import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from storage.schema import ArtifactError, ConfigError, content_hash
from tasks.network.architecture import Block, DSCConfig, preset
from tasks.network.dsc import DSCTradingModel, load_model
from tasks.network.engine import Engine
from tasks.network.export import weights_bytes
from tasks.network.kernels import READY, WRONG_SHAPE, step_packed
from tasks.network.packing import kept_size

Floats = NDArray[np.float64]
MakeModel = Callable[..., DSCTradingModel]

SMALL = DSCConfig(input_features=3, hidden_channels=5, num_blocks=2, window=6, newest_step=True, linear_bypass=True)

configs = st.builds(
    DSCConfig,
    input_features=st.sampled_from([1, 3, 10, 16, 70]),
    hidden_channels=st.sampled_from([1, 5, 16, 33, 64, 80]),  # within one vector, whole vectors, more than one tile
    num_blocks=st.integers(1, 5),
    num_classes=st.integers(2, 5),
    kernel_size=st.sampled_from([3, 5, 7, 9]),
    window=st.sampled_from([1, 2, 7, 64, 100]),
    block=st.sampled_from(get_args(Block)),
    newest_step=st.booleans(),
    linear_bypass=st.booleans(),
    risk_head=st.booleans(),
    input_clip=st.sampled_from([None, 1.0]),
)


def bars(config: DSCConfig, count: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, config.input_features)) * 2


def engine_of(model: DSCTradingModel, markets: int = 1) -> Engine:
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return Engine.from_weights(model.config, weights, markets)


def kept(engine: Engine, market: int = 0) -> bytes:
    """What a market's state carries from bar to bar; the rest is scratch."""
    return engine.state(market)[: kept_size(engine.weights)].tobytes()


def exact_logits(model: DSCTradingModel, x: Floats) -> Floats:
    """Torch's windowed forward in float64, the same weights: (T - context + 1, K)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, model.config.context, axis=0).copy()
    precise = DSCTradingModel(model.config).double().eval()
    precise.load_state_dict(model.state_dict())
    with torch.no_grad():
        return np.asarray(precise(torch.from_numpy(windows)).numpy())


def told(config: DSCConfig, outputs: Floats) -> Floats:
    """What the engine tells of a bar with these outputs: probabilities, then a volatility head's variance ratio."""
    classes = config.num_classes
    return np.hstack([softmax(outputs[:, :classes]), np.exp(outputs[:, classes:])])


def softmax(logits: Floats) -> Floats:
    mass = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(mass / mass.sum(axis=1, keepdims=True))


@pytest.mark.promise(5)
@pytest.mark.promise(7)
@settings(deadline=None, max_examples=25)
@given(config=configs, extra=st.integers(0, 9), seed=st.integers(0, 99))
@example(config=DSCConfig(window=1, hidden_channels=4), extra=0, seed=0)
@example(config=preset("default"), extra=0, seed=0)
def test_steps_and_series_equal_the_network_in_float64(
    random_model: MakeModel, config: DSCConfig, extra: int, seed: int
) -> None:
    model = random_model(config, seed)
    x = bars(config, config.context + extra, seed)
    expected = exact_logits(model, x)
    engine = engine_of(model)

    probabilities = np.array([engine.step(row) for row in x])

    # float32 inside: some 1e-7 of the largest logit; 1e-5 is the promise
    allowed = 1e-5 * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(engine.run_series(x), expected, rtol=0, atol=allowed)
    np.testing.assert_allclose(probabilities[config.context - 1 :], told(config, expected), rtol=1e-5, atol=1e-5)
    assert np.isnan(probabilities[: config.context - 1]).all()


@settings(deadline=None, max_examples=10)
@given(config=configs, seed=st.integers(0, 99))
def test_series_and_markets_leave_the_state_of_single_steps_bit_for_bit(
    random_model: MakeModel, config: DSCConfig, seed: int
) -> None:
    model, markets = random_model(config, seed), 6
    x = np.stack([bars(config, 23, market) for market in range(markets)], axis=1)  # (T, M, F)
    stepped, together, warmed = (engine_of(model, markets) for _ in range(3))

    for row in x:
        alone = [stepped.step(features, market) for market, features in enumerate(row)]
        at_once = together.step_markets(row)
        np.testing.assert_array_equal(at_once, alone)
    for market in range(markets):
        warmed.warm_up(x[:, market], market)

    for market in range(markets):
        state = kept(stepped, market)
        assert kept(together, market) == state
        assert kept(warmed, market) == state


@pytest.mark.promise(7)
def test_float_error_does_not_grow_over_a_million_bars(random_model: MakeModel) -> None:
    config = DSCConfig(input_features=3, hidden_channels=4, num_blocks=2, window=50, input_clip=None)
    x = np.abs(bars(config, 1_000_000)) * 10  # one sign: sums far from 0, where a float32 sum would lose its digits
    engine = engine_of(random_model(config))

    logits = engine.run_series(x)

    fresh = engine.run_series(x[-config.context :])  # has seen no other bar
    # Head values are the same float32 numbers; their float64 sum is at most 2 * window roundings of 2**-48 away.
    np.testing.assert_allclose(logits[-1], fresh[-1], rtol=1e-11, atol=0)


def test_overflow_inside_the_network_gives_nan_and_is_forgotten_within_two_windows(random_model: MakeModel) -> None:
    config = DSCConfig(input_features=3, hidden_channels=4, num_blocks=2, window=8, input_clip=None)
    model = random_model(config)
    with torch.no_grad():
        model.stem[0].weight.mul_(100)
    engine, fresh = engine_of(model), engine_of(model)
    x = bars(config, 40)
    engine.warm_up(x[:20])

    overflowed = engine.step(np.full(3, 1e38))
    for row in x[: config.receptive_field + 2 * config.window]:
        after = engine.step(row)
    fresh.warm_up(x[: config.receptive_field + 2 * config.window - 1])

    assert np.isnan(overflowed).all()
    np.testing.assert_allclose(after, fresh.step(row), rtol=1e-12, atol=0)


def test_engine_has_probabilities_from_the_bar_that_completes_the_context(random_model: MakeModel) -> None:
    engine = engine_of(random_model(SMALL))
    x = bars(SMALL, SMALL.context)

    engine.warm_up(x[: SMALL.context - 2])
    assert np.isnan(engine.step(x[-2])).all()
    assert engine.step(x[-1]).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_bar_that_is_not_finite_is_refused_before_the_state_changes(random_model: MakeModel, value: float) -> None:
    engine = engine_of(random_model(SMALL), markets=2)
    for row in bars(SMALL, 20):
        engine.step_markets([row, -row])
    before = [kept(engine, market) for market in (0, 1)]
    bad = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, value]])

    with pytest.raises(ValueError, match=r"features must be finite, in float32 too, was .+ at \[2\]; no state was"):
        engine.step(bad[1])
    with pytest.raises(ValueError, match=r"at \[1, 2\]"):
        engine.step_markets(bad)
    with pytest.raises(ValueError, match=r"at \[1, 2\]"):
        engine.warm_up(bad)
    with pytest.raises(ValueError, match=r"at \[1, 2\]"):
        engine.run_series(bad)

    assert [kept(engine, market) for market in (0, 1)] == before


@pytest.mark.parametrize(
    ("features", "was"),
    [(np.zeros(2), r"\(2,\)"), (np.zeros((3, 2)), r"\(3, 2\)"), (0.0, r"\(\)"), ([1.0] * 4, r"\(4,\)")],
)
def test_step_of_another_shape_is_refused(random_model: MakeModel, features: Any, was: str) -> None:
    with pytest.raises(ValueError, match=r"features must be \(3,\), was " + was):
        engine_of(random_model(SMALL)).step(features)


def test_tables_of_another_shape_are_refused(random_model: MakeModel) -> None:
    engine = engine_of(random_model(SMALL), markets=2)

    with pytest.raises(ValueError, match=r"features must be \(rows, 3\), was \(2, 4\)"):
        engine.step_markets(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"features must be \(2, 3\), one row per market, was \(3, 3\)"):
        engine.step_markets(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"features must be \(rows, 3\), was \(3,\)"):
        engine.run_series(np.zeros(3))
    with pytest.raises(ValueError, match=f"a series must have at least the context of {SMALL.context} bars, was 4"):
        engine.run_series(np.zeros((4, 3)))


def test_any_kind_of_array_runs_the_one_compiled_step(random_model: MakeModel) -> None:
    engine = engine_of(random_model(SMALL), markets=6)
    x = bars(SMALL, 1)[0].astype(np.float32).astype(np.float64)  # the same numbers in every type
    frozen = x.copy()
    frozen.flags.writeable = False
    kinds = [x, x.tolist(), x.astype(np.float32), np.repeat(x, 2)[::2], x[::-1].copy()[::-1], frozen]

    signatures = len(step_packed.signatures)
    for market, kind in enumerate(kinds):
        engine.step(kind, market)

    assert len({kept(engine, market) for market in range(6)}) == 1
    assert len(step_packed.signatures) == signatures  # nothing was compiled for a kind of its own


def test_step_writes_to_a_given_array_what_it_returns_without_one(random_model: MakeModel) -> None:
    engine, x = engine_of(random_model(SMALL), markets=2), bars(SMALL, SMALL.context)
    out = np.empty(3)

    for row in x:
        new = engine.step(row)
        assert engine.step(row, 1, out) is out
        np.testing.assert_array_equal(out, new)


@pytest.mark.parametrize("features", [np.zeros(3), [0.0, 0.0, 0.0]])
def test_unsuitable_array_for_a_result_is_refused_and_no_state_changed(random_model: MakeModel, features: Any) -> None:
    engine = engine_of(random_model(SMALL))
    before, frozen = kept(engine), np.empty(3)
    frozen.flags.writeable = False

    for out in (np.empty(2), np.empty(3, np.float32), np.empty(6)[::2], np.empty((3, 1)), frozen, [0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match=r"out must be a writable, contiguous \(3,\) array of float64"):
            engine.step(features, 0, out)  # type: ignore[arg-type]  # that is the point

    assert kept(engine) == before


@njit
def step_inside(weights: Any, state: Any, x: Any, out: Any) -> Any:
    return step_packed(weights, state, x, out)


def test_step_runs_inside_other_compiled_code(random_model: MakeModel) -> None:
    engine, x = engine_of(random_model(SMALL), markets=2), bars(SMALL, SMALL.context)
    out = np.empty(3)

    for row in x:
        status = step_inside(engine.weights, engine.state(1), row, out)
        alone = engine.step(row)
        np.testing.assert_array_equal(out, alone)

    assert status == READY
    assert step_inside(engine.weights, engine.state(1), x[0, :2].copy(), out) == WRONG_SHAPE
    assert kept(engine, 1) == kept(engine, 0)


def test_network_that_cannot_stream_is_refused() -> None:
    with pytest.raises(ConfigError, match="the engine needs padding \"history\", was 'zeros'"):
        Engine.from_weights(preset("source"), {})


def test_no_markets_and_a_state_too_large_are_refused(random_model: MakeModel) -> None:
    with pytest.raises(ConfigError, match="markets must be >= 1, was 0"):
        engine_of(random_model(SMALL), markets=0)
    with pytest.raises(ConfigError, match=r"weights and state must each be under 16777216 numbers, was "):
        engine_of(random_model(DSCConfig(kernel_size=63, num_blocks=12, hidden_channels=128)))


def test_weights_that_overflow_float32_are_refused(random_model: MakeModel) -> None:
    model = random_model(SMALL)
    model.feature_scale.fill_(1e-42)

    with pytest.raises(ArtifactError, match="folded weights must fit in float32, some did not; is a feature_scale"):
        engine_of(model)


def test_fresh_process_without_torch_or_prefect_gives_the_same_bits(random_model: MakeModel, tmp_path: Path) -> None:
    config = preset("default")
    model, x = random_model(config), bars(config, 300)
    (tmp_path / "weights.safetensors").write_bytes(weights_bytes(model))
    np.save(tmp_path / "x.npy", x)
    code = """
import sys
from pathlib import Path
import numpy as np
from storage.schema import content_hash
from tasks.network.architecture import preset
from tasks.network.engine import Engine
from tasks.network.folding import load_weights
folder = Path(sys.argv[1])
engine = Engine.from_weights(preset("default"), load_weights((folder / "weights.safetensors").read_bytes()))
print(content_hash([engine.run_series(np.load(folder / "x.npy")).tobytes()]))
print(sorted({"torch", "prefect", "onnx", "onnxruntime", "pandas"} & set(sys.modules)))
"""

    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # the code above

    digest = content_hash([engine_of(model).run_series(x).tobytes()])
    assert run.stdout.splitlines() == [digest, "[]"]


UNSERVED = {
    "temperature": 0.0,
    "feature_scale": 0.0,
    "feature_mean": np.nan,
    "stem.0.weight": np.inf,
    "stem.1.running_var": -1.0,
}


@pytest.mark.promise(19)
@pytest.mark.parametrize("name", UNSERVED)
def test_model_and_engine_refuse_the_same_weights(name: str) -> None:
    config = DSCConfig(input_features=3, hidden_channels=4, num_blocks=1, window=4)
    weights = {key: tensor.numpy().copy() for key, tensor in DSCTradingModel(config).state_dict().items()}
    load_model(config, weights)
    weights[name].flat[0] = UNSERVED[name]
    for load in (Engine.from_weights, load_model):
        with pytest.raises(ArtifactError, match=f"{name} must be "):
            load(config, weights)
