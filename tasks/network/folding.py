"""The network with everything folded that folds exactly, in float64. NumPy and safetensors only.

In evaluation mode a BatchNorm is an affine map, so it goes into the convolution before it. Average pooling commutes
with the 1x1 skip convolution, and that with the classifier, so the head becomes one (K, B*C) matrix on each
position's block outputs. The temperature divides the classes' rows of that matrix, of the bypass and of the bias.

The scaler stays apart: inside the stem, x*w/scale - mean*w/scale would cancel in float32, and a finite clip stands
between the two anyway.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors

from storage.schema import ArtifactError, FloatArray, one_line
from tasks.network.architecture import DSCConfig

BN_EPS = 1e-5  # torch.nn.BatchNorm1d's default, which the model keeps

Weights = Mapping[str, NDArray[Any]]
"""A model's tensors by their names in DSCTradingModel.state_dict()."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldedSeparable:
    """A depthwise block: separable or xception.

    Attributes:
        taps, taps_bias: (C, K) depthwise filter, oldest bar first, and (C,).
        mixing, bias: (C, C) pointwise matrix, output channel first, and (C,).
    """

    taps: FloatArray
    taps_bias: FloatArray
    mixing: FloatArray
    bias: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldedStandard:
    """Its standard-convolution twin.

    Attributes:
        mixing, bias: (C, C, K) convolution, output channel first, oldest bar first, and (C,).
    """

    mixing: FloatArray
    bias: FloatArray


FoldedBlock = FoldedSeparable | FoldedStandard


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldedWeights:
    """The whole network: outputs = mean over the window of pooled @ h + newest @ h + bypass @ z + bias.

    h is the concatenation of the blocks' outputs at one position, (B*C,); z the scaled and clipped features, (F,).

    Attributes:
        feature_mean, feature_scale: (F,) the scaler: z = (x - mean) / scale.
        stem, stem_bias: (C, F) and (C,).
        blocks: B of them.
        pooled: (outputs, B*C) head of the pooled positions.
        newest: (outputs, B*C) head of the newest position; None without `newest_step`.
        bypass: (outputs, F) head of the newest z; None without `linear_bypass`.
        bias: (outputs,).
    """

    config: DSCConfig
    feature_mean: FloatArray
    feature_scale: FloatArray
    stem: FloatArray
    stem_bias: FloatArray
    blocks: tuple[FoldedBlock, ...]
    pooled: FloatArray
    newest: FloatArray | None
    bypass: FloatArray | None
    bias: FloatArray


def load_weights(data: bytes) -> dict[str, NDArray[Any]]:
    """Return tensors by name from safetensors; runs no code from them.

    Raises:
        ArtifactError: `data` is not safetensors.
    """
    try:
        return load_safetensors(data)
    except Exception as err:  # safetensors' own error type derives from Exception alone
        raise ArtifactError(f"weights must be safetensors, these {len(data)} bytes are not ({one_line(err)})") from err


def fold(config: DSCConfig, weights: Weights) -> FoldedWeights:
    """Fold a trained network, whose weights are of any float type.

    Raises:
        ArtifactError: A tensor is missing, of another shape, or not finite; a scale or the temperature is not
            positive, or a variance is negative.
    """
    read = _Reader(weights)
    features, channels, outputs = config.input_features, config.hidden_channels, config.outputs
    stem, stem_bias = _fold_norm(
        read("stem.0.weight", channels, features, 1)[:, :, 0], read("stem.0.bias", channels), read, "stem.1", channels
    )
    divisor = np.ones((outputs, 1))
    divisor[: config.num_classes] = read.positive("temperature")
    skip = read("skip_conv.weight", channels, config.num_blocks * channels, 1)[:, :, 0]
    skip_bias = read("skip_conv.bias", channels)
    heads = 2 if config.newest_step else 1
    classifier = read("classifier.3.weight", outputs, heads * channels) / divisor
    pooled, newest = classifier[:, :channels], classifier[:, channels:]
    bias = read("classifier.3.bias", outputs) / divisor[:, 0] + pooled @ skip_bias
    return FoldedWeights(
        config=config,
        feature_mean=read("feature_mean", features),
        feature_scale=read.positive("feature_scale", features),
        stem=stem,
        stem_bias=stem_bias,
        blocks=tuple(_fold_block(config, read, f"blocks.{i}") for i in range(config.num_blocks)),
        pooled=pooled @ skip,
        newest=newest @ skip if config.newest_step else None,
        bypass=read("bypass.weight", outputs, features) / divisor if config.linear_bypass else None,
        bias=bias + newest @ skip_bias if config.newest_step else bias,
    )


class _Reader:
    """Tensors by name, checked, as float64."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __call__(self, name: str, *shape: int) -> FloatArray:
        """Return a tensor of this shape."""
        if name not in self._weights:
            raise ArtifactError(
                f"weights must hold {name!r}, found {len(self._weights)} others; was it another config?"
            )
        tensor = np.asarray(self._weights[name], np.float64)
        if tensor.shape != shape:
            raise ArtifactError(f"{name} must be {shape}, was {tensor.shape}; the weights belong to another config")
        if not np.isfinite(tensor).all():
            raise ArtifactError(f"{name} must be finite, {np.count_nonzero(~np.isfinite(tensor))} values were not")
        return tensor

    def positive(self, name: str, *shape: int) -> FloatArray:
        """Return a tensor of this shape whose values are all > 0."""
        tensor = self(name, *shape)
        if not (tensor > 0).all():
            raise ArtifactError(f"{name} must be > 0, was {tensor.min()}")
        return tensor


def _fold_block(config: DSCConfig, read: _Reader, name: str) -> FoldedBlock:
    channels, taps = config.hidden_channels, config.kernel_size

    def folded(layer: str, norm: str, *shape: int) -> tuple[FloatArray, FloatArray]:
        weight = read(f"{name}.{layer}.weight", channels, *shape)
        return _fold_norm(weight, np.zeros(channels), read, f"{name}.{norm}", channels)

    if config.block == "standard":
        mixing, bias = folded("conv", "bn", channels, taps)
        return FoldedStandard(mixing=mixing, bias=bias)
    depthwise, depthwise_bias = folded("depthwise", "bn1", 1, taps)
    pointwise, bias = folded("pointwise", "bn2", channels, 1)
    return FoldedSeparable(taps=depthwise[:, 0], taps_bias=depthwise_bias, mixing=pointwise[:, :, 0], bias=bias)


def _fold_norm(
    weight: FloatArray, bias: FloatArray, read: _Reader, norm: str, channels: int
) -> tuple[FloatArray, FloatArray]:
    """Return the weight and bias of a convolution followed by the BatchNorm called `norm`; output channel first."""
    variance = read(f"{norm}.running_var", channels)
    if (variance < 0).any():
        raise ArtifactError(f"{norm}.running_var must be >= 0, was {variance.min()}")
    gain = read(f"{norm}.weight", channels) / np.sqrt(variance + BN_EPS)
    shift = read(f"{norm}.bias", channels) + (bias - read(f"{norm}.running_mean", channels)) * gain
    return weight * gain.reshape(-1, *[1] * (weight.ndim - 1)), shift
