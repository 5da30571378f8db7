"""Significance of a track record: interval, autocorrelation correction and deflation of its Sharpe ratio."""

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
"""With fewer closed trades no interval or probability is given: the Sharpe ratio then depends on single trades."""

_BLOCK_DAYS = 5  # a position of many hours correlates neighbouring days, hardly more
_FEWEST_BLOCKS = 4  # fewer blocks give too few different resamples for an interval
_MOST_LAGS = 10  # days; autocorrelations at longer lags are noise of about 1 / sqrt(days) each
_YEARLY = math.sqrt(DAYS_PER_YEAR)


@dataclass(frozen=True, kw_only=True)
class TrackRecord:
    """Sharpe ratio of the daily returns and its significance; None where undefined.

    Attributes:
        days: UTC days.
        trades: Closed trades on them; below FEWEST_TRADES there is neither an interval nor a probability.
        sharpe_ratio: Annualised with sqrt(365).
        low: Lower bound of its 95 % interval by stationary bootstrap; None on fewer than 20 days.
        high: Upper bound of the same.
        sharpe_lo: Annualised with Lo's factor, which corrects for the autocorrelation of days.
        probabilistic: Probability that the true ratio is above 0.
        days_needed: Days after which this ratio is significantly above 0 at 5 %; None where it is not above 0.
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
class DeflatedSharpe:
    """The deflated Sharpe ratio: the track record corrected for the number of strategies that were tried.

    Attributes:
        trials: Strategies that were tried, this one included.
        spread: Standard deviation of their Sharpe ratios, annualised.
        expected_best: Expected highest annualised Sharpe ratio of that many strategies without skill.
        deflated: Probability that the true Sharpe ratio is above that; None where undefined or with too few trades.
    """

    trials: int
    spread: float
    expected_best: float
    deflated: float | None


def too_few_trades(trades: int) -> str:
    """Return the message for fewer than FEWEST_TRADES closed trades."""
    return f"too few trades to judge: {trades} of {FEWEST_TRADES}"


def track_record(daily: FloatArray, trades: int) -> TrackRecord:
    """Return the significance of (D,) daily returns from `trades` closed trades, before deflation."""
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


def deflate_sharpe(daily: FloatArray, tried: FloatArray, others: int = 0, *, trades: int) -> DeflatedSharpe:
    """Return the deflated Sharpe ratio of a track record among all trials.

    By chance alone, Sharpe ratios per day of strategies without skill have a standard deviation of sqrt(1 / (D - 1))
    on D days. The trials' own spread is used where it is larger. Where it is smaller, because the trials resemble each
    other, it would make this strategy's ratio look too exceptional.

    Args:
        daily: (D,) returns of the strategy in question.
        tried: (N,) Sharpe ratio per day of every strategy, this one included, each once; 0 for one that never traded.
        others: Further strategies that were tried elsewhere, without a ratio here.
    """
    traded = tried[tried != 0.0]
    trials = len(tried) + others
    variance = max(float(np.var(traded, ddof=1)) if len(traded) > 1 else 0.0, 1.0 / max(len(daily) - 1, 1))
    return DeflatedSharpe(
        trials=trials,
        spread=math.sqrt(variance) * _YEARLY,
        expected_best=expected_max_sharpe(trials, variance) * _YEARLY,
        deflated=deflated_sharpe(daily, trials, variance) if trades >= FEWEST_TRADES else None,
    )


def _sharpe_lo(daily: FloatArray) -> float | None:
    """Return the ratio annualised as in Lo 2002, with the autocorrelations of the first lags; None on too few days."""
    ratio, lags = sharpe_ratio(daily, 1.0), min(_MOST_LAGS, len(daily) // 4)
    rho = autocorrelations(daily, lags) if ratio is not None and lags else None
    factor = None if rho is None else annualisation_factor(rho, DAYS_PER_YEAR)
    return None if ratio is None or factor is None else ratio * factor
