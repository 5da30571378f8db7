"""The best that anybody can do in a synthetic market, in closed form; k, psi and x are those of `SyntheticMarket`."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from storage.schema import FloatArray

THIRDS = 0.4307
"""Threshold in standard deviations that divides a normal law into thirds."""


def best_accuracy(k: float, classes: Literal[2, 3] = 3, threshold: float = THIRDS) -> float:
    """Return the accuracy that no forecast of the next bar beats (null: k = 0; ar, gated, drift: the market's k).

    Args:
        k: Correlation of what is seen with what follows, -1 < k < 1.
        classes: 2: the sign. 3: sell, hold, buy at `threshold`.
        threshold: In standard deviations of what follows, >= 0 (3 classes).
    Returns:
        Expected share of hits of the best forecast.
    """
    if classes == 2:
        return 0.5 + math.asin(abs(k)) / math.pi  # Sheppard 1899
    x, weight = _standard_normal()
    return float(np.sum(weight * _class_probabilities(k, threshold, x).max(axis=0)))


def best_log_loss(k: float, classes: Literal[2, 3] = 3, threshold: float = THIRDS) -> float:
    """Return the log loss that no forecast of the next bar beats, in nats; arguments as in `best_accuracy`."""
    x, weight = _standard_normal()
    p = _class_probabilities(k, threshold if classes == 3 else 0.0, x)
    information = p * np.log(np.maximum(p, np.finfo(np.float64).tiny))  # p ln p -> 0
    return float(-np.sum(weight * information))


def drift_correlation(k: float, psi: float, horizon: int) -> float:
    """Return the correlation of s at bar t with the return of the `horizon` bars after it (constant volatility)."""
    return k * (1 - psi**horizon) / (1 - psi) / _drift_deviation(k, psi, horizon)


def drift_best_accuracy(
    k: float, psi: float, horizon: int, classes: Literal[2, 3] = 2, threshold: float = THIRDS
) -> float:
    """Return the accuracy over `horizon` bars that no forecast beats in the drift market (constant volatility).

    Args:
        k: Strength of the signal.
        psi: Its autocorrelation per bar.
        horizon: Bars, >= 1.
        classes: 2: the sign. 3: sell, hold, buy at `threshold`.
        threshold: As `LabelConfig.k`: in units of one bar's volatility times sqrt(horizon).
    Returns:
        Expected share of hits of the best forecast.
    """
    in_deviations = threshold * math.sqrt(horizon) / _drift_deviation(k, psi, horizon)
    return best_accuracy(drift_correlation(k, psi, horizon), classes, in_deviations)


def drift_best_log_loss(
    k: float, psi: float, horizon: int, classes: Literal[2, 3] = 3, threshold: float = THIRDS
) -> float:
    """Return the log loss over `horizon` bars that no forecast beats; arguments as in `drift_best_accuracy`."""
    in_deviations = threshold * math.sqrt(horizon) / _drift_deviation(k, psi, horizon)
    return best_log_loss(drift_correlation(k, psi, horizon), classes, in_deviations)


def drift_gross_per_bar(k: float, volatility: float) -> float:
    """Return what holding sign(s) earns per bar before costs: the mean of volatility * k * |s|, as a log return."""
    return volatility * k * math.sqrt(2 / math.pi)


def drift_flips_per_bar(psi: float) -> float:
    """Return how often s changes its sign, per bar."""
    return math.acos(psi) / math.pi


def drift_net_per_bar(k: float, psi: float, volatility: float, cost_per_side: float) -> float:
    """Return what holding sign(s) earns per bar after costs: a flip pays `cost_per_side` of notional twice."""
    return drift_gross_per_bar(k, volatility) - 2 * cost_per_side * drift_flips_per_bar(psi)


def _drift_deviation(k: float, psi: float, horizon: int) -> float:
    """Return the standard deviation of the sum of `horizon` successive e: more than sqrt(horizon), since they trend."""
    lags = np.arange(1, horizon)
    return math.sqrt(horizon + 2 * k**2 * float(np.sum((horizon - lags) * psi**lags)))


def _class_probabilities(k: float, threshold: float, x: FloatArray) -> FloatArray:
    """Return (3, n) probabilities of sell, hold and buy where x is seen; hold is 0 at threshold 0."""
    q = math.sqrt(1 - k**2)
    sell, buy = _normal_cdf((-threshold - k * x) / q), _normal_cdf((k * x - threshold) / q)
    return np.stack([sell, np.maximum(1 - sell - buy, 0.0), buy])


def _standard_normal() -> tuple[FloatArray, FloatArray]:
    """Return points and weights that integrate against the standard normal density.

    The trapezoid rule on +-9 in steps of 0.001: exact to rounding for smooth integrands, about 1e-7 where max(p) has
    a kink.
    """
    x = np.linspace(-9, 9, 18_001)
    density = np.exp(-(x**2) / 2)
    return x, density / density.sum()


def _normal_cdf(x: FloatArray) -> FloatArray:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
