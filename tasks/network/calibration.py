"""What is solved rather than searched for: the scaler, the logistic start of the bypass, and the temperature."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from storage.schema import FloatArray, IntArray
from tasks.network.segments import finite_bars

_SHARPEST, _FLATTEST = 0.05, 20.0  # bounds of the temperature: beyond them the answer is "no skill" or a tiny sample
_BISECTIONS = 60  # halve a range of 20 below float64's resolution


def scaler(features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the (F,) mean and standard deviation of the finite rows of (N, F); a constant feature has scale 1."""
    finite = features[finite_bars(features)]
    mean, scale = finite.mean(axis=0), finite.std(axis=0)
    return mean, np.where(scale > 1e-12 * (1 + np.abs(mean)), scale, 1.0)


def logistic_regression(
    z: Tensor, labels: Tensor, num_classes: int, *, penalty: float = 1.0, signs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the multinomial logistic regression of labels on scaled features: weights (K, F) and intercepts (K,).

    Minimises the summed log-loss plus half the squared weights times `penalty`, scikit-learn's 1 / C. Solved in
    float64 from zero: no seed.

    Args:
        z: (N, F) scaled features.
        labels: (N,) int64 classes.
        num_classes: K.
        penalty: Of the weights, > 0: also keeps separable data finite.
        signs: (F,) -1 or 1: only weights for which z * signs has the classes in reverse are looked for, which is the
            same as adding the mirror image of every sample. None for any weights.
    """
    z = z.double()
    weight = z.new_zeros(num_classes, z.shape[1], requires_grad=True)
    bias = z.new_zeros(num_classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def tied() -> tuple[Tensor, Tensor]:
        return (weight, bias) if signs is None else ((weight + weight.flip(0) * signs) / 2, (bias + bias.flip(0)) / 2)

    def closure() -> Tensor:
        solver.zero_grad()
        w, b = tied()
        log_loss = functional.cross_entropy(functional.linear(z, w, b), labels)
        loss = log_loss + penalty * w.square().sum() / (2 * len(z))
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]  # torch does not type it
    w, b = tied()
    return w.detach(), b.detach()


def best_temperature(logits: FloatArray, labels: IntArray) -> float:
    """Return the temperature T with the least log-loss of softmax(logits / T), between 0.05 and 20.

    Guo et al. 2017, arXiv:1706.04599. The loss is convex in 1/T with slope mean(E_p[z] - z_label): bisected.

    Args:
        logits: (N, K), uncalibrated, finite.
        labels: (N,) classes.
    """
    chosen = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]

    def slope(sharpness: float) -> float:
        scaled = sharpness * (logits - logits.max(axis=1, keepdims=True))
        p = np.exp(scaled)
        p /= p.sum(axis=1, keepdims=True)
        return float(np.mean((p * logits).sum(axis=1) - chosen))

    low, high = 1 / _FLATTEST, 1 / _SHARPEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)
