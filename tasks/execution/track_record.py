"""How much a track record proves: the Sharpe ratio with its interval, its autocorrelation, and what luck would show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from storage.schema import FloatArray
from tasks.execution.metrics import DAYS_PER_YEAR, sharpe_ratio
from tasks.execution.significance import (
    annualisation_factor,
    autocorrelations,
    deflated_sharpe,
    expected_max_sharpe,
    minimum_track_record,
    probabilistic_sharpe,
    sharpe_interval,
)

FEWEST_TRADES = 30
"""Closed trades below which daily returns, however many, say nothing: one trade makes a Sharpe ratio of anything."""

_BLOCK_DAYS = 5  # a position of many hours ties neighbouring days together, hardly more
_FEWEST_BLOCKS = 4  # fewer can be put together in too few ways for an interval
_MOST_LAGS = 10  # days; further autocorrelations are noise of some 1 / sqrt(days) each
_YEARLY = math.sqrt(DAYS_PER_YEAR)


@dataclass(frozen=True, kw_only=True)
class TrackRecord:
    """What the daily returns prove; None where undefined.

    Attributes:
        days: UTC days.
        trades: Closed trades on them; below FEWEST_TRADES there is neither an interval nor a probability.
        sharpe_ratio: Annualised with sqrt(365).
        low: Of its 95 % interval by stationary bootstrap; None on fewer than 20 days.
        high: Of the same.
        sharpe_lo: Annualised with Lo's factor, which takes the days' autocorrelation in.
        probabilistic: Probability that the true ratio is above 0.
        days_needed: Days that would prove this ratio to be above 0 at 5 %; None where it is not.
    """

    days: int
    trades: int
    sharpe_ratio: float | None
    low: float | None
    high: float | None
    sharpe_lo: float | None
    probabilistic: float | None
    days_needed: float | None

    @property
    def caveat(self) -> str:
        """Why the ratio has no interval; empty where it has one."""
        if self.trades < FEWEST_TRADES:
            return too_few_trades(self.trades)
        return "" if self.low is not None else "no interval: too few days that differ"


@dataclass(frozen=True, kw_only=True)
class Deflation:
    """The track record as the best of all that was tried.

    Attributes:
        trials: Strategies that were looked at, this one included.
        spread: Standard deviation of their Sharpe ratios, annualised.
        expected_best: Annualised Sharpe ratio that the best of as many worthless ones is expected to show.
        deflated: Probability that the true Sharpe ratio is above that; None where undefined, or of too few trades.
    """

    trials: int
    spread: float
    expected_best: float
    deflated: float | None


def too_few_trades(trades: int) -> str:
    """Return in words that so few closed trades prove nothing."""
    return f"too few trades to judge: {trades} of {FEWEST_TRADES}"


def track_record(daily: FloatArray, trades: int) -> TrackRecord:
    """Return what (D,) daily returns of so many closed trades prove by themselves."""
    enough = trades >= FEWEST_TRADES
    resampled = enough and len(daily) >= _FEWEST_BLOCKS * _BLOCK_DAYS
    interval = sharpe_interval(daily, _BLOCK_DAYS) if resampled else None
    low, high = (None, None) if interval is None else (bound * _YEARLY for bound in interval)
    return TrackRecord(
        days=len(daily),
        trades=trades,
        sharpe_ratio=sharpe_ratio(daily, DAYS_PER_YEAR),
        low=low,
        high=high,
        sharpe_lo=_sharpe_lo(daily),
        probabilistic=probabilistic_sharpe(daily) if enough else None,
        days_needed=minimum_track_record(daily) if enough else None,
    )


def deflate(daily: FloatArray, tried: FloatArray, others: int = 0, *, trades: int) -> Deflation:
    """Return how the track record stands among all trials.

    Worthless strategies on D days lie sqrt(1 / (D - 1)) apart by chance alone. The trials' own spread is taken where
    it is larger: resemblance, or trials that never traded, would make it smaller and the judged one look rare.

    Args:
        daily: (D,) returns of the one that is judged.
        tried: (N,) Sharpe ratio per day of every strategy, that one included, each once; 0 for one that never traded.
        others: Strategies that were looked at elsewhere and have no ratio here.
        trades: Closed trades of the one that is judged.
    """
    traded = tried[tried != 0.0]
    trials = len(tried) + others
    variance = max(float(np.var(traded, ddof=1)) if len(traded) > 1 else 0.0, 1.0 / max(len(daily) - 1, 1))
    return Deflation(
        trials=trials,
        spread=math.sqrt(variance) * _YEARLY,
        expected_best=expected_max_sharpe(trials, variance) * _YEARLY,
        deflated=deflated_sharpe(daily, trials, variance) if trades >= FEWEST_TRADES else None,
    )


def _sharpe_lo(daily: FloatArray) -> float | None:
    """Lo 2002, with the autocorrelations of the first lags; None where too few days leave nothing to estimate."""
    ratio, lags = sharpe_ratio(daily, 1.0), min(_MOST_LAGS, len(daily) // 4)
    rho = autocorrelations(daily, lags) if ratio is not None and lags else None
    factor = None if rho is None else annualisation_factor(rho, DAYS_PER_YEAR)
    return None if ratio is None or factor is None else ratio * factor
