import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from storage.schema import ArtifactError, ConfigError
from tasks.network.architecture import Block, DSCConfig, preset
from tasks.network.dsc import DSCTradingModel
from tasks.network.engine import Engine
from tasks.network.export import check_parity, onnx_graphs, open_session, step_series, weights_bytes
from tasks.network.folding import fold, load_weights
from tasks.network.onnx_graphs import onnx_plain, onnx_step, onnx_window

MakeModel = Callable[..., DSCTradingModel]

SMALL = DSCConfig(input_features=3, hidden_channels=4, num_blocks=2, window=5, newest_step=True, linear_bypass=True)

configs = st.builds(
    DSCConfig,
    input_features=st.sampled_from([1, 4, 10]),
    hidden_channels=st.sampled_from([1, 6, 32]),
    num_blocks=st.integers(1, 5),
    num_classes=st.integers(2, 4),
    kernel_size=st.sampled_from([3, 5, 7, 9]),
    window=st.sampled_from([1, 2, 13, 64]),
    block=st.sampled_from(get_args(Block)),
    newest_step=st.booleans(),
    linear_bypass=st.booleans(),
    risk_head=st.booleans(),
    input_clip=st.sampled_from([None, 1.0]),
)


def weights_of(model: DSCTradingModel) -> dict[str, NDArray[Any]]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def series(config: DSCConfig, bars: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(bars, config.input_features)).astype(np.float32)


def windows_of(config: DSCConfig, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.lib.stride_tricks.sliding_window_view(x, config.context, axis=0).copy()


@pytest.mark.promise(7)
@settings(deadline=None, max_examples=25)
@given(config=configs, extra=st.integers(0, 6), seed=st.integers(0, 99))
@example(config=DSCConfig(window=1, hidden_channels=4), extra=0, seed=0)
@example(config=preset("default"), extra=3, seed=0)
def test_every_way_to_run_a_network_gives_the_same_logits(
    random_model: MakeModel, config: DSCConfig, extra: int, seed: int
) -> None:
    model = random_model(config, seed)
    weights, x = weights_of(model), series(config, config.context + extra)
    windows = windows_of(config, x)
    with torch.no_grad():
        expected = model(torch.from_numpy(windows)).numpy()
        dense = model.forward_series(torch.from_numpy(x)).numpy()

    found = {
        "dense torch": dense,
        "plain ONNX": np.hstack(open_session(onnx_plain(config, weights)).run(None, {"window": windows})),
        "folded ONNX": np.hstack(open_session(onnx_window(fold(config, weights))).run(None, {"window": windows})),
        "one-bar ONNX": step_series(onnx_step(fold(config, weights)), x)[config.context - 1 :],
        "engine": Engine.from_weights(config, weights).run_series(x),
    }

    for path, logits in found.items():
        # Both sides are float32: logits above 1 are known to their own 1e-5 only.
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()), err_msg=path)


@pytest.mark.promise(7)
@settings(deadline=None, max_examples=8)
@given(config=configs.map(lambda config: DSCConfig(**{**vars(config), "padding": "zeros"})), seed=st.integers(0, 99))
def test_zero_padded_windows_give_the_same_logits_in_onnx(
    random_model: MakeModel, config: DSCConfig, seed: int
) -> None:
    model = random_model(config, seed)
    windows = windows_of(config, series(config, config.context + 2))
    with torch.no_grad():
        expected = model(torch.from_numpy(windows)).numpy()

    for graph in (onnx_plain(config, weights_of(model)), onnx_window(fold(config, weights_of(model)))):
        logits = np.hstack(open_session(graph).run(None, {"window": windows}))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


def test_step_of_several_markets_at_once_equals_each_alone(random_model: MakeModel) -> None:
    step = onnx_step(fold(SMALL, weights_of(random_model(SMALL))))
    x = np.stack([series(SMALL, 12), -series(SMALL, 12)], axis=1)  # (T, M, F)
    session = open_session(step)
    past, pool = (np.zeros((2, *value.shape[1:]), np.float32) for value in session.get_inputs()[1:])

    for bar in x:
        logits, past, pool = session.run(None, {"features": bar, "past": past, "pool": pool})

    alone = [step_series(step, x[:, market])[-1] for market in (0, 1)]
    np.testing.assert_allclose(logits, alone, rtol=0, atol=1e-6)


def test_runtime_leaves_nothing_in_the_home_of_its_user(random_model: MakeModel, tmp_path: Path) -> None:
    """By default it numbers the machine and keeps events for its makers there."""
    model, home = tmp_path / "model.onnx", tmp_path / "home"
    network = random_model(DSCConfig())
    model.write_bytes(onnx_graphs(network.config, load_weights(weights_bytes(network)))["model.onnx"])
    home.mkdir()
    start = (
        "from pathlib import Path; from tasks.network.export import open_session; open_session(Path({!r}).read_bytes())"
    )
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    environment["HOME"] = str(home)
    subprocess.run([sys.executable, "-c", start.format(str(model))], env=environment, check=True, timeout=120)  # noqa: S603
    assert [*home.rglob("*")] == []


def test_graphs_say_what_goes_in_and_out(random_model: MakeModel) -> None:
    config = preset("default")  # 2 blocks of 3 taps: past is 2 * (1 + 2) bars
    folded = fold(config, weights_of(random_model(config)))

    def ends(graph: bytes) -> tuple[dict[str, list[Any]], dict[str, list[Any]], dict[str, str]]:
        session = open_session(graph)
        inputs, outputs = ({v.name: v.shape for v in end} for end in (session.get_inputs(), session.get_outputs()))
        return inputs, outputs, session.get_modelmeta().custom_metadata_map

    assert ends(onnx_window(folded)) == (
        {"window": ["batch", config.input_features, config.context]},
        {"logits": ["batch", 3], "log_variance_ratio": ["batch", 1]},
        {"context": "10"},
    )
    memory = {"past": ["markets", 6, config.hidden_channels], "pool": ["markets", 3, 4]}
    assert ends(onnx_step(folded)) == (
        {"features": ["markets", config.input_features], **memory},
        {
            "logits": ["markets", 3],
            **{f"next_{name}": shape for name, shape in memory.items()},
            "log_variance_ratio": ["markets", 1],
        },
        {"context": "10"},
    )
    assert {p.domain for p in onnx.load_from_string(onnx_step(folded)).opset_import} == {""}  # no operator of a vendor


def test_published_graphs_are_the_window_and_for_history_the_step(random_model: MakeModel) -> None:
    zeros = DSCConfig(input_features=3, hidden_channels=4, num_blocks=2, padding="zeros")

    assert set(onnx_graphs(SMALL, weights_of(random_model(SMALL)))) == {"model.onnx", "step.onnx"}
    assert set(onnx_graphs(zeros, weights_of(random_model(zeros)))) == {"model.onnx"}
    with pytest.raises(ConfigError, match="a one-bar step needs padding \"history\", was 'zeros'"):
        onnx_step(fold(zeros, weights_of(random_model(zeros))))


@pytest.mark.promise(8)
def test_same_weights_give_the_same_bytes(random_model: MakeModel) -> None:
    model, again = random_model(SMALL), random_model(SMALL)

    assert weights_bytes(model) == weights_bytes(again)
    assert onnx_graphs(SMALL, weights_of(model)) == onnx_graphs(SMALL, weights_of(again))


@pytest.mark.promise(8)
def test_weights_come_back_bit_for_bit_with_scaler_and_temperature(random_model: MakeModel) -> None:
    model = random_model(SMALL)

    loaded = load_weights(weights_bytes(model))

    assert loaded.keys() == model.state_dict().keys() >= {"feature_mean", "feature_scale", "temperature"}
    for name, tensor in model.state_dict().items():
        assert loaded[name].tobytes() == tensor.numpy().tobytes()


@pytest.mark.promise(9)
@pytest.mark.parametrize("data", [b"", b"\x80\x05K\x01.", b"\xff" * 64])  # nothing, a pickle, noise
def test_bytes_that_are_not_safetensors_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=f"weights must be safetensors, these {len(data)} bytes are not"):
        load_weights(data)


def test_parity_names_every_path(random_model: MakeModel) -> None:
    model = random_model(SMALL)
    graphs = onnx_graphs(SMALL, weights_of(model))
    x = series(SMALL, SMALL.context + 30)

    differences = check_parity(model, x, window=graphs["model.onnx"], step=graphs["step.onnx"])

    assert differences.keys() == {"torch series", "onnx window", "onnx step", "engine"}
    assert max(differences.values()) < 1e-5


@pytest.mark.parametrize(("broken", "path"), [("window", "onnx window"), ("step", "onnx step")])
def test_parity_refuses_a_graph_of_other_weights(random_model: MakeModel, broken: str, path: str) -> None:
    model = random_model(SMALL)
    right, wrong = (onnx_graphs(SMALL, weights_of(m)) for m in (model, random_model(SMALL, seed=1)))
    graphs = {"window": right["model.onnx"], "step": right["step.onnx"]}
    graphs[broken] = wrong[{"window": "model.onnx", "step": "step.onnx"}[broken]]

    with pytest.raises(ArtifactError, match=rf"{path} must give torch's logits within .+e-05, was off by "):
        check_parity(model, series(SMALL, 40), **graphs)


def test_parity_on_less_than_a_context_is_refused(random_model: MakeModel) -> None:
    model = random_model(SMALL)

    with pytest.raises(ValueError, match=f"parity needs at least the context of {SMALL.context} bars, was 3"):
        check_parity(model, series(SMALL, 3), window=b"")
