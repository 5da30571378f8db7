"""The members of a network trained side by side: one tensor holds the weights of all, one operation serves them all.

Small networks cost a step more in calls than in arithmetic. So members are one batch: every mixing is one product of M
matrices, every normalisation one pass over M * C rows, and the optimiser sees one (M, P) tensor. No member reads
another's numbers: each learns what it would learn alone.

An activation is (M, C, T * b), bars one after the other and of each bar its b segments: a shift of k bars is one of
k * b columns whatever the segment, and the statistics of a channel are those of one contiguous row.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tasks.network.dsc import DSCTradingModel

_EPS, _MOMENTUM = 1e-5, 0.1  # torch's of every BatchNorm1d


class Trained(NamedTuple):
    """What training changes, member by member.

    Attributes:
        weights: (M, P) every parameter, in the order of `DSCTradingModel.parameters`.
        means: (M, B * C) running mean of every BatchNorm, in the order of its modules.
        variances: (M, B * C) their running variance.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor


class Moments(NamedTuple):
    """What a normalisation found in M * C rows.

    Attributes:
        mean: (1, M * C).
        sharpness: (1, M * C) 1 / sqrt(biased variance + eps).
        columns: N that it counted.
    """

    mean: Tensor
    sharpness: Tensor
    columns: int


class MemberStack:
    """M networks of one shape, which learn apart.

    Attributes:
        trained: The live tensors: a step changes them in place. `weights` is the leaf that gradients are asked of.
    """

    def __init__(self, members: Sequence[DSCTradingModel]) -> None:
        first = members[0]
        self.config = first.config
        self._shapes = {name: parameter.shape for name, parameter in first.named_parameters()}
        self._norms = [name for name, module in first.named_modules() if isinstance(module, nn.BatchNorm1d)]
        for member in members:
            # The normalisation behind it takes any bias away: it is left out of the sums, so it has to be zero.
            nn.init.zeros_(member.stem[0].bias)  # type: ignore[arg-type]  # a Sequential's items are untyped
        weights = torch.stack([parameters_to_vector(member.parameters()).detach() for member in members])
        means, variances = (
            torch.stack([torch.cat([getattr(norm, name) for norm in _norms_of(member)]) for member in members])
            for name in ("running_mean", "running_var")
        )
        self.trained = Trained(weights.requires_grad_(), means, variances)

    def logits(self, z: Tensor, keep: Tensor) -> Tensor:
        """Return the uncalibrated logits of every bar that has its context, and move the running statistics.

        Args:
            z: (M, T, b, F) scaled inputs of b segments a member.
            keep: (M, H, C, b) what dropout leaves of the H * C inputs of the head: 0, or what makes up for the zeros.
                It is the same at every bar of a segment, so that each sample sees ordinary dropout.

        Returns:
            (M, K, T - context + 1, b); with padding "zeros", where a window shares nothing with the next, T is the
            context, and a segment a window.
        """
        config = self.config
        segments = z.shape[2]
        part = self._parts()
        z = z.flatten(1, 2).transpose(1, 2)  # (M, F, T * b)
        moments: list[Moments] = []

        def norm(x: Tensor) -> Tensor:
            name = self._norms[len(moments)]
            return _normalized(x, part[f"{name}.weight"], part[f"{name}.bias"], moments)

        h = norm(torch.bmm(part["stem.0.weight"].squeeze(3), z)).relu_()
        blocks = []
        for number, dilation in enumerate(config.dilations):
            shift, name = dilation * segments, f"blocks.{number}"
            if config.padding == "zeros":
                beside = (config.kernel_size - 1) // 2 * shift
                h = functional.pad(h, (beside, beside))
            if config.block == "standard":
                h = norm(_convolved(h, part[f"{name}.conv.weight"], shift)).relu_()
            else:
                taps = part[f"{name}.depthwise.weight"].squeeze(2)
                filtered = norm(_ShiftedSum.apply(h, taps, shift))  # type: ignore[no-untyped-call]  # torch does not
                if config.block == "separable":
                    filtered = filtered.relu_()
                h = norm(torch.bmm(part[f"{name}.pointwise.weight"].squeeze(3), filtered)).relu_()
            blocks.append(h)
        self._move_statistics(moments)
        newest = config.context - 1  # the first bar with its context
        length = h.shape[2]
        skips = torch.cat([one[:, :, -length:] for one in blocks], 1)
        s = torch.baddbmm(part["skip_conv.bias"][..., None], part["skip_conv.weight"].squeeze(3), skips)
        logits = self._head(s.view(*s.shape[:2], -1, segments), keep, part["classifier.3.weight"])
        logits = logits + part["classifier.3.bias"][..., None, None]
        if config.linear_bypass:
            direct = torch.bmm(part["bypass.weight"], z[:, :, newest * segments :])
            logits = logits + direct.view_as(logits)
        return logits

    @torch.no_grad()
    def write(self, trained: Trained, models: Sequence[DSCTradingModel]) -> None:
        """Set the parameters and running statistics of M models of this shape."""
        for model, weights, means, variances in zip(models, *trained, strict=True):
            vector_to_parameters(weights.clone(), model.parameters())  # they become views of it
            parts = (torch.split(numbers, self.config.hidden_channels) for numbers in (means, variances))
            for norm, mean, variance in zip(_norms_of(model), *parts, strict=True):
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)

    def _head(self, s: Tensor, keep: Tensor, weight: Tensor) -> Tensor:
        """Return (M, K, T', b) logits from s (M, C, L, b): the mean over the window, beside it the newest bar.

        Dropout and classifier commute with the mean: only their K columns are averaged.
        """
        members, channels, length, segments = s.shape
        heads = keep.shape[1]
        dropped = s[:, None] * keep[..., None, :]  # (M, H, C, L, b)
        parts = weight.view(members, -1, heads, channels).transpose(1, 2)  # (M, H, K, C)
        columns = torch.bmm(parts.flatten(0, 1), dropped.flatten(0, 1).flatten(2))
        columns = columns.view(members, heads, -1, length, segments)
        window = self.config.window
        logits: Tensor = functional.avg_pool2d(columns[:, 0], (window, 1), stride=1)
        return logits + columns[:, 1, :, window - 1 :] if heads == 2 else logits

    def _parts(self) -> dict[str, Tensor]:
        """Return every parameter of all members by its name, (M, ...)."""
        parts = torch.split(self.trained.weights, [shape.numel() for shape in self._shapes.values()], 1)
        return {
            name: part.view(len(part), *shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    @torch.no_grad()
    def _move_statistics(self, moments: Sequence[Moments]) -> None:
        """Move every running mean and variance towards this step's, as BatchNorm does."""
        shape = len(self.trained.weights), len(moments), -1
        means, sharpness = (
            torch.cat(found).view(shape[1], shape[0], -1).transpose(0, 1)
            for found in ([one.mean for one in moments], [one.sharpness for one in moments])
        )
        unbiased = means.new_tensor([one.columns / max(1, one.columns - 1) for one in moments])[:, None]
        self.trained.means.view(shape).lerp_(means, _MOMENTUM)
        self.trained.variances.view(shape).lerp_((sharpness**-2 - _EPS) * unbiased, _MOMENTUM)


def _norms_of(model: DSCTradingModel) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]


def _normalized(x: Tensor, weight: Tensor, bias: Tensor, moments: list[Moments]) -> Tensor:
    """Return BatchNorm(x) of (M, C, N) over its N columns, and append what it found.

    One group a row: GroupNorm's kernel does statistics, gain and shift at once, several times as fast as BatchNorm's.
    """
    members, channels, columns = x.shape
    rows = members * channels
    gain, shift = (part.reshape(rows).contiguous() for part in (weight, bias))  # the kernel reads them as they lie
    out, mean, sharpness = torch.native_group_norm(x.view(1, rows, columns), gain, shift, 1, rows, columns, rows, _EPS)
    moments.append(Moments(mean.detach(), sharpness.detach(), columns))
    return out.view_as(x)


def _convolved(x: Tensor, weight: Tensor, shift: int) -> Tensor:
    """Return the convolution of x (M, C, N) with weight (M, O, C, K), its taps `shift` columns apart, oldest first."""
    taps = weight.shape[3]
    length = x.shape[2] - (taps - 1) * shift
    shifted = torch.cat([x[:, :, k * shift : k * shift + length] for k in range(taps)], 1)
    return torch.bmm(weight.transpose(2, 3).flatten(2), shifted)


class _ShiftedSum(torch.autograd.Function):
    """Depthwise convolution: K shifted multiply-adds in place.

    Autograd of the same lines would keep and fill a full-size tensor for every tap.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, shift: int) -> Tensor:
        """Return (M, C, N - (K-1) * shift) for x (M, C, N) and taps (M, C, K), oldest first."""
        ctx.save_for_backward(x, taps)
        ctx.shift = shift
        count = taps.shape[2]
        length = x.shape[2] - (count - 1) * shift
        out = x[:, :, :length] * taps[:, :, :1]
        for k in range(1, count):
            out.addcmul_(x[:, :, k * shift : k * shift + length], taps[:, :, k : k + 1])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        x, taps = ctx.saved_tensors
        grad_x, grad_taps = torch.zeros_like(x), torch.empty_like(taps)
        for k in range(taps.shape[2]):
            columns = slice(k * ctx.shift, k * ctx.shift + grad.shape[2])
            grad_x[:, :, columns].addcmul_(grad, taps[:, :, k : k + 1])
            torch.linalg.vecdot(grad, x[:, :, columns], out=grad_taps[:, :, k])
        return grad_x, grad_taps, None
