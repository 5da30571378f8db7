"""Scores of variance forecasts: QLIKE, R2 of the logarithm, how often the forecast was far exceeded, calibration.

Realised variance is a noisy measure, and most losses rank forecasts wrongly because of its noise; QLIKE ranks them as
if the true variance were observed (Patton 2011, 10.1016/j.jeconom.2010.03.034). It is the likelihood of a Gaussian of
that variance and depends only on the ratio of realised variance to forecast, so calm and volatile days count equally.

Windows of consecutive bars overlap, so every test accounts for autocorrelation up to the horizon.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from storage.schema import FloatArray
from tasks.execution.significance import diebold_mariano

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Levels of the quantiles of realised variance / forecast that are forecast and checked."""

FAR_BEYOND = 1.5
"""Multiple of the expected standard deviation above which a window counts as far exceeding its forecast."""


@dataclass(frozen=True, kw_only=True)
class VarianceForecast:
    """Variance forecasts of N bars.

    Attributes:
        mean: (N,) expected variance over the horizon, dimensionless, > 0; NaN where unknown.
        log: (N,) expected logarithm of the variance; below the logarithm of `mean`, as variances are skewed.
    """

    mean: FloatArray
    log: FloatArray


@dataclass(frozen=True, kw_only=True)
class VolScore:
    """Scores of one forecast on the windows for which every forecast is known.

    Attributes:
        qlike: Mean of RV / F - ln(RV / F) - 1, F the expected variance; 0 is perfect.
        log_r2: Share of the variance of ln RV that the expected logarithm explains; below 0 if the mean of these
            windows would have been a better forecast.
        exceeding: Share of the windows whose realised risk, sqrt(RV), was above `FAR_BEYOND` times the expected one.
        lead: QLIKE of this one minus the model's; positive where the model is better, None for the model itself.
        lead_error: Standard error of that, with autocorrelation up to the horizon.
        p_value: Diebold-Mariano, one-sided: the chance of such a lead without any; None where undefined.
    """

    name: str
    qlike: float
    log_r2: float
    exceeding: float
    lead: float | None = None
    lead_error: float | None = None
    p_value: float | None = None


def qlike(realised: FloatArray, forecast: FloatArray) -> FloatArray:
    """Return the QLIKE loss of each forecast variance, both (N,) and > 0: RV / F - ln(RV / F) - 1, at least 0."""
    ratio = realised / forecast
    return np.asarray(ratio - np.log(ratio) - 1.0)


def log_r2(realised: FloatArray, expected_log: FloatArray) -> float:
    """Return 1 - sum of (ln RV - expected)^2 / sum of (ln RV - its mean)^2; NaN where RV never varies."""
    logs = np.log(realised)
    spread = float(np.sum((logs - logs.mean()) ** 2))
    return 1.0 - float(np.sum((logs - expected_log) ** 2)) / spread if spread > 0.0 else float("nan")


def exceeding(realised: FloatArray, forecast: FloatArray) -> float:
    """Return the share of windows whose sqrt(RV) is above FAR_BEYOND times the expected risk sqrt(F)."""
    return float(np.mean(realised > FAR_BEYOND**2 * forecast))


def beyond_usual(variance: FloatArray) -> float:
    """Return the share of windows whose risk is above FAR_BEYOND times its geometric mean over all windows.

    This measures how steady the risk is, not whether its level was right: the scale, and so the unit of the variances
    (N,), cancels out.
    """
    logs = np.log(variance)
    return float(np.mean(logs - logs.mean() > 2.0 * np.log(FAR_BEYOND)))


def below_quantiles(realised: FloatArray, forecast: FloatArray, quantiles: FloatArray) -> FloatArray:
    """Return the share of windows at or below each forecast quantile.

    Args:
        realised: (N,) realised variance.
        forecast: (N,) expected variance.
        quantiles: (N, len(LEVELS)) forecast quantiles of RV / F for each window.
    Returns:
        (len(LEVELS),): equal to `LEVELS` where the forecast is calibrated.
    """
    return np.asarray(np.mean((realised / forecast)[:, None] <= quantiles, axis=0))


def score_vol_forecasts(
    realised: FloatArray, forecasts: Mapping[str, VarianceForecast], horizon: int
) -> tuple[VolScore, ...]:
    """Return the scores of each forecast in their order; the first is the model, which is compared with the others.

    Args:
        realised: (N,) realised variance of consecutive bars, > 0.
        forecasts: Name -> forecast of the same bars, without NaN.
        horizon: Bars that a window spans: the lag up to which losses are autocorrelated.
    """
    losses = {name: qlike(realised, one.mean) for name, one in forecasts.items()}
    model = next(iter(losses))
    scores = []
    for name, one in forecasts.items():
        test = None
        if name != model:
            test = diebold_mariano(model_loss=losses[model], reference_loss=losses[name], lag=horizon)
        scores.append(
            VolScore(
                name=name,
                qlike=float(losses[name].mean()),
                log_r2=log_r2(realised, one.log),
                exceeding=exceeding(realised, one.mean),
                lead=None if name == model else float(np.mean(losses[name] - losses[model])),
                lead_error=test.standard_error if test else None,
                p_value=test.p_value if test else None,
            )
        )
    return tuple(scores)
