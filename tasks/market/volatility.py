"""Past volatility over a day, a week and a month: the inputs of the HAR model. Looks back only."""

import numpy as np

from storage.schema import DAY_MS, FloatArray, IntArray

_DAYS = (1, 7, 30)  # Corsi 2009 uses 1, 5 and 22 trading days; crypto markets never close


def summed_squares(close: FloatArray, segment: IntArray) -> FloatArray:
    """Return (T,) the sum of all squared log returns up to each bar, without returns across segment boundaries."""
    squares = np.zeros(len(close))
    inside = np.flatnonzero(segment[1:] == segment[:-1]) + 1
    squares[inside] = np.log(close[inside] / close[inside - 1]) ** 2
    return np.cumsum(squares)


def trailing_variance(close: FloatArray, segment: IntArray, bars: int, least: int) -> FloatArray:
    """Return the mean squared log return of the last `bars` bars, or of all bars of the segment if it has fewer.

    Args:
        close: (T,) last price of each bar, quote currency, > 0.
        segment: (T,) never decreasing; bars of one number follow each other without a gap.
        bars: Number of returns in the mean, >= 1.
        least: Smallest number of returns, 1 <= least <= bars.
    Returns:
        (T,) per bar, dimensionless, >= 0; NaN where the segment has had fewer than `least` returns.
    Raises:
        ValueError: `bars` or `least` is out of range, or the arrays differ in length.
    """
    if not 1 <= least <= bars:
        raise ValueError(f"least must be in 1 .. bars, was {least!r} with bars {bars!r}")
    if len(close) != len(segment):
        raise ValueError(f"close and segment must have one length, were {len(close)} and {len(segment)}")
    places = np.arange(len(close))
    first = np.maximum.accumulate(np.where(np.diff(segment, prepend=-1) != 0, places, 0))
    count = np.minimum(places - first, bars)
    summed = summed_squares(close, segment)
    return np.where(count >= least, (summed - summed[places - count]) / np.maximum(count, 1), np.nan)


def har_inputs(close: FloatArray, segment: IntArray, interval_ms: int) -> FloatArray:
    """Return each bar's mean squared log return over the last day, week and month.

    Corsi 2009, 10.1093/jjfinec/nbp001. If a segment is younger than a week or a month, over all its bars.

    Args:
        close: (T,) last price of each bar, quote currency, > 0.
        segment: (T,) number of the gap-free segment of each bar.
    Returns:
        (T, 3) per bar; NaN where a segment is younger than a day.
    """
    lengths = [max(round(days * DAY_MS / interval_ms), 1) for days in _DAYS]
    return np.column_stack([trailing_variance(close, segment, bars, lengths[0]) for bars in lengths])


def forecast_volatility(vol: FloatArray, log_variance_ratio: FloatArray) -> FloatArray:
    """Return the forecast volatility per bar over the volatility horizon, (T,).

    Args:
        vol: (T,) present volatility per bar.
        log_variance_ratio: (T,) log of the forecast variance over the variance at present volatility; NaN where
            unknown.
    """
    return np.asarray(vol * np.exp(log_variance_ratio / 2.0))
