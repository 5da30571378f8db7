"""The depthwise-separable network in torch, with every block that it may have, and two ways to run it.

`forward` reads windows, (B, F, T) as the source text does, with nn.Conv1d. `forward_series` reads a series,
time-major (T, F), and returns the logits of every bar that has its context: with padding "history" positions are
shared between windows, so one pass replaces thousands of windows. Both compute the same function (architecture.py
writes it down) and agree within 1e-5.
"""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from storage.schema import ArtifactError, one_line
from tasks.network.architecture import DSCConfig
from tasks.network.folding import fold

_WINDOWS_AT_ONCE = 256  # padding "zeros": windows per batch of the fallback; more gains nothing and costs memory


class DepthwiseSeparableConv1d(nn.Module):
    """Filter each channel along time, then mix channels at each position; BatchNorm and ReLU after both.

    Howard et al. 2017, arXiv:1704.04861. Without `inner_relu` it is Xception's, Chollet 2017, arXiv:1610.02357.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        bias: bool = False,
        *,
        inner_relu: bool = True,
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(
            in_channels, in_channels, kernel_size, stride, padding, dilation, groups=in_channels, bias=bias
        )
        self.bn1 = nn.BatchNorm1d(in_channels)
        self.pointwise = nn.Conv1d(in_channels, out_channels, 1, bias=bias)
        self.bn2 = nn.BatchNorm1d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.inner_relu = inner_relu

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, T') for (B, in_channels, T)."""
        x = self.bn1(self.depthwise(x))
        out: Tensor = self.relu(self.bn2(self.pointwise(self.relu(x) if self.inner_relu else x)))
        return out

    def forward_series(self, x: Tensor) -> Tensor:
        """Return `forward` without padding and stride, time-major: (B, T - (K-1)*dilation, C) for (B, T, C)."""
        taps = self.depthwise.weight[:, 0].T  # (K, C)
        dilation = self.depthwise.dilation[0]
        scale, shift = _affine(self.bn1, self.depthwise.bias)
        filtered = _shifted_sum(x, taps * scale, dilation, shift)
        return _pointwise(filtered.relu_() if self.inner_relu else filtered, self.pointwise, self.bn2).relu_()


class StandardConv1d(nn.Module):
    """The twin: one convolution that filters and mixes at once, BatchNorm, ReLU; same kernel, dilation and channels."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, padding: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm1d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, T') for (B, in_channels, T)."""
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out

    def forward_series(self, x: Tensor) -> Tensor:
        """Return what `forward` does without padding, time-major: (B, T - (K-1)*dilation, C) for (B, T, C)."""
        weight, dilation = self.conv.weight, self.conv.dilation[0]
        length = x.shape[1] - (weight.shape[2] - 1) * dilation
        scale, shift = _affine(self.bn, None)
        weight = weight * scale[:, None, None]
        out = functional.linear(x[:, :length], weight[:, :, 0], shift)
        for k in range(1, weight.shape[2]):
            out = out + functional.linear(x[:, k * dilation : k * dilation + length], weight[:, :, k])
        return out.relu_()


class PoolAndNewest(nn.Module):
    """The mean over time, and beside it the newest position."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2C, 1) for (B, C, T)."""
        return torch.cat([x.mean(2, keepdim=True), x[:, :, -1:]], dim=1)


class DSCTradingModel(nn.Module):
    """Stem, dilated blocks, skip convolution over all of them, and a head; see architecture.py for the mathematics.

    The scaler (`feature_mean`, `feature_scale`) and the `temperature` are buffers: they travel with the weights.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    temperature: Tensor

    def __init__(self, config: DSCConfig) -> None:
        super().__init__()
        self.config = config
        features, channels, outputs = config.input_features, config.hidden_channels, config.outputs
        self.stem = nn.Sequential(nn.Conv1d(features, channels, 1), nn.BatchNorm1d(channels), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(_block(config, dilation) for dilation in config.dilations)
        self.skip_conv = nn.Conv1d(channels * config.num_blocks, channels, 1)
        pool = PoolAndNewest() if config.newest_step else nn.AdaptiveAvgPool1d(1)
        linear = nn.Linear(2 * channels if config.newest_step else channels, outputs)
        self.classifier = nn.Sequential(pool, nn.Flatten(), nn.Dropout(config.dropout), linear)
        self.bypass = nn.Linear(features, outputs, bias=False) if config.linear_bypass else None
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_scale", torch.ones(features))
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the calibrated logits of windows, and the logarithm of the variance ratio of a volatility head.

        Args:
            x: (B, F, context) raw features, oldest bar first.

        Returns:
            (B, outputs): K logits over the temperature, whose softmax gives probabilities, then what the volatility
            head says.

        Raises:
            ValueError: Another shape. A longer window would be averaged whole and be another function.
        """
        features, context = self.config.input_features, self.config.context
        if x.dim() != 3 or x.shape[1] != features or x.shape[2] != context:
            raise ValueError(f"x must be (B, {features}, {context}) windows, was {tuple(x.shape)}")
        z = self.scale(x.transpose(1, 2)).transpose(1, 2)
        h = self.stem(z)
        skips = []
        for layer in self.blocks:
            h = layer(h)
            skips.append(h)
        s = self.skip_conv(torch.cat([h[:, :, -self.config.window :] for h in skips], dim=1))
        logits: Tensor = self.classifier(s)
        if self.bypass is not None:
            logits = logits + self.bypass(z[:, :, -1])
        return self._calibrated(logits)

    def forward_series(self, x: Tensor) -> Tensor:
        """Return what `forward` does, of every bar that has its context, in evaluation mode.

        Training has a pass of its own (`tasks.network.stack`). Padding "zeros" shares nothing between windows and falls
        back to batched windows, at a window's price for every bar.

        Args:
            x: (T, F) or (B, T, F) raw features, time-major, consecutive bars, oldest first, finite: one NaN would
                spoil every later bar through the running mean.

        Returns:
            (T - context + 1, outputs) or (B, T - context + 1, outputs); row i belongs to bar i + context - 1.

        Raises:
            ValueError: Another shape, or fewer bars than the context.
            RuntimeError: The model is in training mode.
        """
        if self.training:
            raise RuntimeError("forward_series needs the model in evaluation mode; call model.eval() first")
        if x.dim() == 2:
            return self.forward_series(x[None])[0]
        features, context = self.config.input_features, self.config.context
        if x.dim() != 3 or x.shape[2] != features:
            raise ValueError(f"x must be (T, {features}) or (B, T, {features}), was {tuple(x.shape)}")
        if x.shape[1] < context:
            raise ValueError(f"a series must have at least the context of {context} bars, was {x.shape[1]}")
        if self.config.padding == "zeros":
            windows = x.unfold(1, context, 1)  # (B, T', F, context), a view
            batches = torch.split(windows.flatten(0, 1), _WINDOWS_AT_ONCE)
            return torch.cat([self(batch) for batch in batches]).view(*windows.shape[:2], -1)
        z = self.scale(x)
        h = _pointwise(z, self.stem[0], self.stem[1]).relu_()
        skips = []
        layer: Any  # every block has forward_series; nn.Module's stub has not
        for layer in self.blocks:
            h = layer.forward_series(h)
            skips.append(h)
        logits = self._head_series(skips)
        if self.bypass is not None:
            logits = logits + self.bypass(z[:, context - 1 :])
        return self._calibrated(logits)

    def _calibrated(self, outputs: Tensor) -> Tensor:
        """Return the outputs (.., outputs) with the logits over the temperature."""
        if not self.config.risk_head:
            return outputs / self.temperature
        classes = self.config.num_classes
        return torch.cat([outputs[..., :classes] / self.temperature, outputs[..., classes:]], dim=-1)

    def scale(self, x: Tensor) -> Tensor:
        """Return z for time-major x (B, T, F)."""
        z = (x - self.feature_mean) / self.feature_scale
        clip = self.config.input_clip
        return z if clip is None else z.clamp(-clip, clip)

    def _head_series(self, skips: list[Tensor]) -> Tensor:
        """Return (B, T', outputs) from each block's output (B, T_i, C), time-major.

        Pooling commutes with the skip convolution and that with the classifier, so their product maps each position
        to so many columns (as many more for the newest step), and only these are averaged.
        """
        channels, window, outputs = self.config.hidden_channels, self.config.window, self.config.outputs
        linear: Any = self.classifier[3]
        skip: Any = self.skip_conv
        parts = torch.split(linear.weight, channels, dim=1)
        bias = linear.bias + torch.stack([part @ skip.bias for part in parts]).sum(0)
        head = torch.cat([part @ skip.weight[:, :, 0] for part in parts])  # (outputs or twice that, B*C)
        length = skips[-1].shape[1]
        blocks = torch.split(head, channels, dim=1)
        columns: Any = sum(h[:, -length:] @ block.T for h, block in zip(skips, blocks, strict=True))
        logits: Tensor = _running_mean(columns[..., :outputs], window) + bias
        return logits + columns[:, window - 1 :, outputs:] if self.config.newest_step else logits


def _block(config: DSCConfig, dilation: int) -> nn.Module:
    """Return a block of the kind that the config names."""
    channels, taps = config.hidden_channels, config.kernel_size
    padding = (taps - 1) // 2 * dilation if config.padding == "zeros" else 0
    if config.block == "standard":
        return StandardConv1d(channels, channels, taps, padding, dilation)
    inner_relu = config.block == "separable"
    return DepthwiseSeparableConv1d(channels, channels, taps, padding=padding, dilation=dilation, inner_relu=inner_relu)


def load_model(config: DSCConfig, weights: Mapping[str, NDArray[Any]]) -> DSCTradingModel:
    """Return a trained network, its tensors by their names in `state_dict`, in evaluation mode.

    Raises:
        ArtifactError: The weights don't fit the config, or are such as the engine refuses: not finite, a scale or a
            temperature that is not positive.
    """
    model = DSCTradingModel(config)
    try:
        model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in weights.items()})
    except (RuntimeError, TypeError) as err:
        why = one_line(str(err).splitlines()[-1])
        raise ArtifactError(f"weights must fit the network's config ({why})") from err
    fold(config, weights)
    return model.eval()


def _shifted_sum(x: Tensor, taps: Tensor, dilation: int, bias: Tensor) -> Tensor:
    """Return the depthwise convolution of x (B, T, C) with taps (K, C), oldest first, plus bias (C,)."""
    length = x.shape[1] - (len(taps) - 1) * dilation
    out = x[:, :length] * taps[0] + bias
    for k in range(1, len(taps)):
        out.addcmul_(x[:, k * dilation : k * dilation + length], taps[k])
    return out


def _pointwise(x: Tensor, conv: Any, bn: Any) -> Tensor:
    """Return bn(conv(x)) of a 1x1 convolution as one matrix product; x is (B, T, C_in)."""
    scale, shift = _affine(bn, conv.bias)
    return functional.linear(x, conv.weight[:, :, 0] * scale[:, None], shift)


def _affine(bn: Any, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the (C,) scale and shift that `bn` is in evaluation mode, after a convolution with this bias."""
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    mean = bn.running_mean if bias is None else bn.running_mean - bias
    return scale, bn.bias - mean * scale


def _running_mean(x: Tensor, window: int) -> Tensor:
    """Return the mean of every `window` consecutive rows of x (B, T, K): (B, T - window + 1, K).

    Summed in float64: differences of a float32 running sum lose 1e-5 within some ten thousand bars.
    """
    total = functional.pad(x.double().cumsum(1), (0, 0, 1, 0))
    return ((total[:, window:] - total[:, :-window]) / window).to(x.dtype)
