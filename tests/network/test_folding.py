from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from storage.schema import ArtifactError
from tasks.network.architecture import Block, DSCConfig
from tasks.network.dsc import DSCTradingModel
from tasks.network.folding import FoldedSeparable, FoldedStandard, FoldedWeights, fold

Floats = NDArray[np.float64]


def weights_of(model: DSCTradingModel) -> dict[str, NDArray[Any]]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def folded_logits(folded: FoldedWeights, window: Floats) -> Floats:
    """The folded formulas, written out for one (F, T) window."""
    config = folded.config
    z = (window - folded.feature_mean[:, None]) / folded.feature_scale[:, None]
    bound = np.inf if config.input_clip is None else config.input_clip
    z = np.clip(z, -bound, bound)
    h = np.maximum(folded.stem @ z + folded.stem_bias[:, None], 0)
    outputs = []
    for block, dilation in zip(folded.blocks, config.dilations, strict=True):
        reach = (config.kernel_size - 1) * dilation
        half = reach // 2 if config.padding == "zeros" else 0
        h = np.pad(h, ((0, 0), (half, half)))
        length = h.shape[1] - reach
        shifted = [h[:, k * dilation : length + k * dilation] for k in range(config.kernel_size)]
        if isinstance(block, FoldedStandard):
            h = np.maximum(sum(block.mixing[:, :, k] @ x for k, x in enumerate(shifted)) + block.bias[:, None], 0)
        else:
            u = sum(block.taps[:, k, None] * x for k, x in enumerate(shifted)) + block.taps_bias[:, None]
            h = block.mixing @ (u if config.block == "xception" else np.maximum(u, 0)) + block.bias[:, None]
            h = np.maximum(h, 0)
        outputs.append(h)
    position = np.concatenate([h[:, -config.window :] for h in outputs])
    logits = folded.pooled @ position.mean(axis=1) + folded.bias
    if folded.newest is not None:
        logits = logits + folded.newest @ position[:, -1]
    if folded.bypass is not None:
        logits = logits + folded.bypass @ z[:, -1]
    return np.asarray(logits)


@pytest.mark.parametrize("padding", ["history", "zeros"])
@pytest.mark.parametrize("block", get_args(Block))
@pytest.mark.parametrize(("newest_step", "linear_bypass"), [(False, False), (True, False), (False, True), (True, True)])
def test_folded_formulas_equal_the_network_in_float64(
    random_model: Callable[..., DSCTradingModel], padding: Any, block: Block, newest_step: bool, linear_bypass: bool
) -> None:
    config = DSCConfig(
        input_features=4,
        hidden_channels=6,
        num_blocks=3,
        kernel_size=5,
        window=12,
        padding=padding,
        block=block,
        newest_step=newest_step,
        linear_bypass=linear_bypass,
        input_clip=1.5,
    )
    model = random_model(config).double()
    windows = np.random.default_rng(3).normal(size=(3, 4, config.context)) * 2
    with torch.no_grad():
        expected = model(torch.from_numpy(windows)).numpy()

    folded = fold(config, weights_of(model))

    found = [folded_logits(folded, window) for window in windows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)  # both float64: only rounding is between them


def test_batch_norm_folds_into_the_convolution_before_it() -> None:
    # One channel, one tap that counts. Stem: gain 3/sqrt(0.25) = 6, so weight 2*6 and bias 4 + (1 - 2)*6.
    config = DSCConfig(input_features=1, hidden_channels=1, num_blocks=1, num_classes=2, window=1, input_clip=None)
    norm = {"weight": 3.0, "bias": 4.0, "running_mean": 2.0, "running_var": 0.25 - 1e-5}  # 1e-5: BatchNorm's epsilon
    weights: dict[str, NDArray[Any]] = {
        f"{name}.{part}": np.array([value])
        for name in ("stem.1", "blocks.0.bn1", "blocks.0.bn2")
        for part, value in norm.items()
    }
    weights |= {
        "feature_mean": np.zeros(1),
        "feature_scale": np.ones(1),
        "temperature": np.array(2.0),
        "stem.0.weight": np.array([[[2.0]]]),
        "stem.0.bias": np.array([1.0]),
        "blocks.0.depthwise.weight": np.array([[[0.0, 0.0, 5.0]]]),
        "blocks.0.pointwise.weight": np.array([[[7.0]]]),
        "skip_conv.weight": np.array([[[10.0]]]),
        "skip_conv.bias": np.array([1.0]),
        "classifier.3.weight": np.array([[1.0], [-1.0]]),
        "classifier.3.bias": np.array([0.5, 0.25]),
    }

    folded = fold(config, weights)

    block = folded.blocks[0]
    assert isinstance(block, FoldedSeparable)
    assert folded.stem == pytest.approx(12.0)
    assert folded.stem_bias == pytest.approx(-2.0)
    assert block.taps[0] == pytest.approx([0.0, 0.0, 30.0])
    assert block.taps_bias == pytest.approx(4.0 - 2.0 * 6.0)
    assert block.mixing == pytest.approx(42.0)
    assert folded.pooled[:, 0] == pytest.approx([5.0, -5.0])  # skip 10, classifier +-1, temperature 2
    assert folded.bias == pytest.approx([(0.5 + 1.0) / 2, (0.25 - 1.0) / 2])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("skip_conv.bias", None, r"weights must hold 'skip_conv.bias', found \d+ others"),
        ("stem.0.bias", np.zeros(5), r"stem.0.bias must be \(6,\), was \(5,\); the weights belong to another config"),
        ("feature_mean", np.full(4, np.nan), "feature_mean must be finite, 4 values were not"),
        ("feature_scale", np.array([1.0, 0.0, 1.0, 1.0]), "feature_scale must be > 0, was 0.0"),
        ("temperature", np.array(-1.0), "temperature must be > 0, was -1.0"),
        ("blocks.0.bn1.running_var", np.full(6, -0.5), "blocks.0.bn1.running_var must be >= 0, was -0.5"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    random_model: Callable[..., DSCTradingModel], name: str, value: NDArray[Any] | None, message: str
) -> None:
    config = DSCConfig(input_features=4, hidden_channels=6, num_blocks=1)
    weights = weights_of(random_model(config))
    if value is None:
        del weights[name]
    else:
        weights[name] = value

    with pytest.raises(ArtifactError, match=message):
        fold(config, weights)
