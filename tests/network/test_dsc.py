from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from tasks.network.architecture import Block, DSCConfig, preset
from tasks.network.dsc import DepthwiseSeparableConv1d, DSCTradingModel

PARITY = 1e-5  # the promise; float32 sums in another order differ by about 1e-7 of the largest term


def random_model(config: DSCConfig, seed: int = 0) -> DSCTradingModel:
    """Return a model in evaluation mode whose every weight, statistic and buffer is random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DSCTradingModel(config).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(std=0.5)
                module.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.5)
        model.feature_mean.normal_()
        model.feature_scale.uniform_(0.5, 2.0)
        model.temperature.fill_(1.3)
    return model


def tiny(channels: int, **changes: Any) -> DSCTradingModel:
    """Return a network of one block at torch's start."""
    shape = {"input_features": 1, "hidden_channels": channels, "num_blocks": 1, "input_clip": None}
    return DSCTradingModel(DSCConfig(**shape | changes))


def random_series(shape: tuple[int, ...], seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2


def windowed(model: DSCTradingModel, x: torch.Tensor) -> torch.Tensor:
    """Return `forward` on every window of one series (T, F), window by window."""
    context = model.config.context
    return torch.cat([model(x[i : i + context].T[None]) for i in range(len(x) - context + 1)])


def reference_logits(model: DSCTradingModel, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logits of one history window (context, F) by the formulas of architecture.py, in NumPy and float64."""
    w = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    config = model.config

    def norm(h: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        h = (h - w[f"{name}.running_mean"]) / np.sqrt(w[f"{name}.running_var"] + 1e-5)
        return np.asarray(h * w[f"{name}.weight"] + w[f"{name}.bias"])

    def norm_relu(h: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return np.maximum(norm(h, name), 0)

    bound = np.inf if config.input_clip is None else config.input_clip
    z = np.clip((x - w["feature_mean"]) / w["feature_scale"], -bound, bound)
    h = norm_relu(z @ w["stem.0.weight"][:, :, 0].T + w["stem.0.bias"], "stem.1")
    skips = []
    for i, dilation in enumerate(config.dilations):
        rows, block = range((config.kernel_size - 1) * dilation, len(h)), f"blocks.{i}"
        taps = [
            np.array([h[t - (config.kernel_size - 1 - k) * dilation] for t in rows]) for k in range(config.kernel_size)
        ]
        if config.block == "standard":
            mixed = sum(tap @ w[f"{block}.conv.weight"][:, :, k].T for k, tap in enumerate(taps))
            h = norm_relu(mixed, f"{block}.bn")
        else:
            filtered = norm(
                sum(tap * w[f"{block}.depthwise.weight"][:, 0, k] for k, tap in enumerate(taps)), f"{block}.bn1"
            )
            if config.block != "xception":
                filtered = np.maximum(filtered, 0)
            h = norm_relu(filtered @ w[f"{block}.pointwise.weight"][:, :, 0].T, f"{block}.bn2")
        skips.append(h)
    cut = np.concatenate([h[-config.window :] for h in skips], axis=1)
    s = cut @ w["skip_conv.weight"][:, :, 0].T + w["skip_conv.bias"]
    head = np.concatenate([s.mean(0), s[-1]]) if config.newest_step else s.mean(0)
    logits = w["classifier.3.weight"] @ head + w["classifier.3.bias"]
    if config.linear_bypass:
        logits = logits + w["bypass.weight"] @ z[-1]
    return np.asarray(logits / w["temperature"])


@st.composite
def cases(draw: st.DrawFn) -> tuple[DSCConfig, int, int]:
    """Draw a configuration, how many bars beyond the context, and a seed."""
    config = DSCConfig(
        input_features=draw(st.integers(1, 5)),
        hidden_channels=draw(st.integers(1, 17)),
        num_blocks=draw(st.integers(1, 4)),
        num_classes=draw(st.integers(2, 4)),
        kernel_size=draw(st.sampled_from([3, 5, 7, 9])),
        window=draw(st.integers(1, 33)),
        padding=draw(st.sampled_from(["history", "history", "zeros"])),
        block=draw(st.sampled_from(get_args(Block))),
        newest_step=draw(st.booleans()),
        linear_bypass=draw(st.booleans()),
        input_clip=draw(st.sampled_from([0.5, 5.0, None])),
    )
    return config, draw(st.integers(0, 9)), draw(st.integers(0, 2**20))


@pytest.mark.promise(7)
@settings(deadline=None, max_examples=40)
@given(case=cases())
def test_series_pass_equals_every_window(case: tuple[DSCConfig, int, int]) -> None:
    config, extra, seed = case
    model = random_model(config, seed)
    x = random_series((config.context + extra, config.input_features), seed)
    with torch.no_grad():
        dense, windows = model.forward_series(x), windowed(model, x)
    assert dense.shape == (extra + 1, config.num_classes)
    torch.testing.assert_close(dense, windows, atol=PARITY, rtol=0)


@pytest.mark.parametrize("block", get_args(Block))
@pytest.mark.parametrize("head", [True, False])
def test_window_pass_equals_the_formulas_in_numpy(block: Block, head: bool) -> None:
    config = DSCConfig(
        input_features=4,
        hidden_channels=6,
        num_blocks=3,
        kernel_size=5,
        window=7,
        block=block,
        newest_step=head,
        linear_bypass=head,
        input_clip=1.5,
    )
    model, x = random_model(config), random_series((config.context, 4))
    with torch.no_grad():
        logits = model(x.T[None])[0]
    np.testing.assert_allclose(logits.numpy(), reference_logits(model, x.double().numpy()), atol=PARITY, rtol=0)


def test_zero_padding_averages_the_padded_convolutions_of_the_whole_window() -> None:
    # one block, taps (1, 1, 1), everything else the identity, positive inputs: h = sum of three neighbours, ends of two
    model = tiny(1, num_classes=2, dropout=0.0, window=4, padding="zeros").eval()
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Linear):
            nn.init.ones_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm1d):
            module.eps = 0.0
    with torch.no_grad():
        logits = model(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    assert logits.tolist() == [[(3 + 6 + 9 + 7) / 4] * 2]


@settings(deadline=None, max_examples=15)
@given(case=cases())
def test_gradient_of_a_segment_equals_the_gradient_of_its_windows(case: tuple[DSCConfig, int, int]) -> None:
    config, extra, seed = case
    model = random_model(config, seed).double()  # float64, so that only a wrong formula can differ
    x = random_series((config.context + extra, config.input_features), seed).double()
    labels = torch.arange(extra + 1) % config.num_classes
    gradients = []
    for logits in (model.forward_series(x), windowed(model, x)):
        loss = functional.cross_entropy(logits, labels)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for series, window in zip(*gradients, strict=True):
        torch.testing.assert_close(series, window, atol=1e-10, rtol=1e-8)


def test_a_long_series_ends_where_its_last_window_ends() -> None:
    model = random_model(DSCConfig(input_features=2, hidden_channels=4, num_blocks=2, window=50))
    x = random_series((200_000, 2)) + 3  # a mean: the running sum grows
    with torch.no_grad():
        dense, last = model.forward_series(x)[-1], model(x[-model.config.context :].T[None])[0]
    torch.testing.assert_close(dense, last, atol=PARITY, rtol=0)


def test_logits_are_unchanged_when_the_future_is_cut_off() -> None:
    model = random_model(preset("default"))
    x = random_series((300, model.config.input_features))
    with torch.no_grad():
        whole, cut = model.forward_series(x), model.forward_series(x[:200])
    torch.testing.assert_close(whole[: len(cut)], cut, atol=1e-6, rtol=0)


def test_inputs_beyond_the_clip_count_as_the_clip() -> None:
    model = tiny(2, window=3, linear_bypass=True, input_clip=2.0).eval()
    model.feature_mean.fill_(10.0)
    model.feature_scale.fill_(0.5)
    with torch.no_grad():
        at_clip, beyond = model(torch.full((1, 1, 5), 11.0)), model(torch.full((1, 1, 5), 1e6))
    assert torch.equal(at_clip, beyond)


def test_names_in_the_state_are_those_of_the_source_text() -> None:
    state = DSCTradingModel(preset("source")).state_dict()
    shapes = {name: tuple(state[name].shape) for name in state if name.endswith(("weight", "bias"))}
    assert shapes["stem.0.weight"] == (64, 10, 1)
    assert shapes["blocks.3.depthwise.weight"] == (64, 1, 3)
    assert shapes["blocks.3.bn1.weight"] == shapes["blocks.3.bn2.bias"] == (64,)
    assert shapes["blocks.0.pointwise.weight"] == (64, 64, 1)
    assert shapes["skip_conv.weight"] == (64, 256, 1)
    assert shapes["classifier.3.weight"] == (3, 64)
    assert "blocks.0.depthwise.bias" not in shapes
    assert {"feature_mean", "feature_scale", "temperature"} <= state.keys()


def test_block_alone_keeps_the_length_with_its_default_padding() -> None:
    assert DepthwiseSeparableConv1d(4, 6)(torch.zeros(2, 4, 11)).shape == (2, 6, 11)


@pytest.mark.parametrize("shape", [(1, 10, 129), (1, 10, 131), (1, 9, 130), (10, 130)])
def test_window_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"x must be \(B, 10, 130\) windows, was \({shape[0]}, "):
        DSCTradingModel(DSCConfig()).eval()(torch.zeros(shape))


def test_series_of_another_width_or_too_short_is_refused() -> None:
    model = DSCTradingModel(DSCConfig()).eval()
    with pytest.raises(ValueError, match=r"x must be \(T, 10\) or \(B, T, 10\), was \(1, 200, 9\)"):
        model.forward_series(torch.zeros(200, 9))
    with pytest.raises(ValueError, match="a series must have at least the context of 130 bars, was 129"):
        model.forward_series(torch.zeros(129, 10))


def test_series_pass_in_training_mode_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"forward_series needs the model in evaluation mode; call model\.eval\(\)"):
        DSCTradingModel(DSCConfig()).forward_series(torch.zeros(200, 10))
