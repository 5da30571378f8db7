"""Rows of the baseline comparison: the model and its baselines on the same bars, costs and decision rule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.schema import SELL, BoolArray, FloatArray, IntArray
from tasks.execution.metrics import Metrics
from tasks.execution.significance import diebold_mariano
from tasks.execution.skill import log_losses, loss_lag


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One row of the baseline comparison.

    Attributes:
        log_loss: Nat, on the bars for which every forecaster has a forecast; None for one without probabilities.
        accuracy: On the same bars; None for one without a forecast.
        lead: Its log-loss minus the model's, nat: positive where the model is better.
        lead_error: Standard error of that, with autocorrelation up to a day.
        p_value: Diebold-Mariano, one-sided: the chance of such a lead if the model were no better.
        total_return: Net of costs.
        sharpe_ratio: From UTC days; None where undefined.
        max_drawdown: Share of the peak; None for the median of random positions.
        num_trades: Round trips; None likewise.
        direction: Share of the moves among these bars that went to its more probable side; None without probabilities.
    """

    name: str
    log_loss: float | None = None
    accuracy: float | None = None
    lead: float | None = None
    lead_error: float | None = None
    p_value: float | None = None
    total_return: float
    sharpe_ratio: float | None
    max_drawdown: float | None = None
    num_trades: int | None = None
    direction: float | None = None


def common_labels(classes: IntArray, forecasts: Mapping[str, FloatArray]) -> BoolArray:
    """Return (N,) whether a bar has a label and probabilities of every forecaster, so that all use the same bars."""
    known = classes >= 0
    for probabilities in forecasts.values():
        known &= np.isfinite(probabilities).all(axis=1)
    return known


def rate_forecasts(
    model: str, forecasts: Mapping[str, FloatArray], classes: IntArray, *, overlap: int, bars_per_day: float
) -> dict[str, dict[str, float | None]]:
    """Return every forecaster's log-loss, accuracy and direction, and the lead of `model` over it, as in its row.

    The (N, K) forecasts are scored where none of them is NaN; a class of -1 is unknown. One label spans `overlap` bars,
    from which and `bars_per_day` `loss_lag` derives the Diebold-Mariano lag.
    """
    known = common_labels(classes, forecasts)
    labels = classes[known]
    lag = loss_lag(overlap, bars_per_day, len(labels))
    losses = {name: log_losses(probabilities[known], labels) for name, probabilities in forecasts.items()}
    rated: dict[str, dict[str, float | None]] = {}
    for name, probabilities in forecasts.items():
        accuracy = float(np.mean(probabilities[known].argmax(1) == labels))
        down, up = SELL, probabilities.shape[1] - 1
        moved = (labels == down) | (labels == up)
        said_up = probabilities[known, up] > probabilities[known, down]
        direction = float(np.mean((said_up == (labels == up))[moved])) if moved.any() else None
        rated[name] = {"log_loss": float(losses[name].mean()), "accuracy": accuracy, "direction": direction}
        if name == model:
            continue
        lead = diebold_mariano(model_loss=losses[model], reference_loss=losses[name], lag=lag)
        rated[name] |= {
            "lead": float(losses[name].mean() - losses[model].mean()),
            "lead_error": None if lead is None else lead.standard_error,
            "p_value": None if lead is None else lead.p_value,
        }
    return rated


def comparison_row(name: str, metrics: Metrics, **forecast: Any) -> ComparisonRow:
    """Return a row of the comparison; `forecast` is from `rate_forecasts`, or the accuracy of who predicts classes."""
    return ComparisonRow(
        name=name,
        **forecast,
        total_return=metrics.total_return,
        sharpe_ratio=metrics.sharpe_ratio,
        max_drawdown=metrics.max_drawdown,
        num_trades=metrics.num_trades,
    )
