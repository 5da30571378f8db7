"""What is solved rather than searched for: the scaler, the temperature, and a ridge regression."""

import numpy as np

from storage.schema import FloatArray, IntArray
from tasks.network.series import Series, finite_bars

_SHARPEST, _FLATTEST = 0.05, 20.0  # bounds of the temperature: beyond them the answer is "no skill" or a tiny sample
_BISECTIONS = 60  # halve a range of 20 below float64's resolution


def scaler(features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the (F,) mean and standard deviation of the finite rows of (N, F); a constant feature has scale 1."""
    known = finite_bars(features)
    finite = features if known.all() else features[known]  # a copy of years of bars only where one is needed
    mean, scale = finite.mean(axis=0), finite.std(axis=0)
    return mean, np.where(scale > 1e-12 * (1 + np.abs(mean)), scale, 1.0)


def ridge(x: FloatArray, y: FloatArray, penalty: float) -> tuple[FloatArray, float]:
    """Return the weights (F,) and the intercept of a ridge regression on standardised inputs, told of raw ones.

    Args:
        x: (N, F) inputs; one that never varies gets the weight 0.
        y: (N,) what is to be forecast.
        penalty: Of the squared weights, as a share of the samples.
    """
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-9 * (1 + np.abs(mean)), scale, np.inf)
    z = (x - mean) / scale
    gram = z.T @ z / len(z) + penalty * np.eye(z.shape[1])
    weight: FloatArray = np.linalg.solve(gram, z.T @ (y - y.mean()) / len(z)) / scale
    return weight, float(y.mean() - mean @ weight)


def series_scaler(series: Series, train: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Return the series' own scaling, or that of its bars [start, stop) of `train`."""
    return scaler(series.features[slice(*train)]) if series.scaling is None else series.scaling


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
