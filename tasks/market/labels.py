"""The labels. The only file that looks ahead: horizon + 1 bars, or the volatility horizon.

A decision at the close of bar t is filled at the open of t + 1, so the label is the return from that open on:

    R_t = ln(O[t+1+H] / O[t+1])        buy if R_t > threshold_t, sell if R_t < -threshold_t, else hold
    threshold_t = max(k * vol_t * sqrt(H), cost_floor_multiple * round_trip_cost)

For Gaussian returns P(hold) = 2 * Phi(k) - 1, so k = 0.4307 gives thirds wherever the cost floor does not bind.

The model also forecasts how much the market will move: the realised variance over a separate horizon, close to close,

    RV_t = sum of ln(C[t+i] / C[t+i-1])^2 over i = 1 .. volatility horizon
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from storage.bounds import Checked, NonNegativeFloat, PositiveInt
from storage.schema import BUY, CLASSES, HOLD, SELL, BoolArray, FloatArray, IntArray, Title
from tasks.market.features import FLAT_VOL
from tasks.market.volatility import summed_squares

UNKNOWN = -1
"""Class of a bar whose label cannot be known."""

Rows = slice | IntArray | BoolArray
"""Bars by range, by index or by mask."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig(Checked):
    """Horizon and thresholds of the labels.

    Attributes:
        horizon: Bars from fill to exit.
        k: Threshold in units of the volatility over the horizon; 0.4307 gives three equal classes for Gaussian returns.
        cost_floor_multiple: Lower bound of the threshold in round-trip costs: a move that does not pay its costs is a
            hold.
    """

    horizon: Annotated[PositiveInt, Title("Bars ahead")] = 12
    k: Annotated[NonNegativeFloat, Title("Threshold, in units of volatility")] = 0.4307
    cost_floor_multiple: Annotated[NonNegativeFloat, Title("Threshold, in units of costs")] = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """The label of each bar.

    Attributes:
        horizon: Bars from fill to exit.
        classes: (T,) SELL, HOLD or BUY; UNKNOWN where `forward_return` or `threshold` is NaN.
        forward_return: (T,) log return from the open of t+1 to the open of t+1+horizon; NaN if a gap or the end of the
            series lies in between.
        threshold: (T,) in the same unit, >= 0; NaN where volatility is.
        end: (T,) t+1+horizon, the last bar that the label reads; beyond T - 1 for the newest bars, which are UNKNOWN.
    """

    horizon: int
    classes: IntArray
    forward_return: FloatArray
    threshold: FloatArray
    end: IntArray


def label_bars(
    open_: FloatArray, vol: FloatArray, segment: IntArray, config: LabelConfig, round_trip_cost: float
) -> Labels:
    """Return each bar's label.

    Args:
        open_: (T,) open of each bar, quote currency.
        vol: (T,) volatility per bar as `features.Features` gives it, NaN while warming up.
        segment: (T,) never decreasing; bars of one number follow each other without a gap.
        round_trip_cost: Fees and slippage of entry and exit together, as a share of notional, >= 0.
    Returns:
        Labels of T bars.
    Raises:
        ValueError: The arrays differ in length, or `round_trip_cost` is negative or not finite.
    """
    bars, horizon = len(open_), config.horizon
    if not bars == len(vol) == len(segment):
        raise ValueError(f"open_, vol and segment must have one length, were {bars}, {len(vol)}, {len(segment)}")
    if not (math.isfinite(round_trip_cost) and round_trip_cost >= 0):
        raise ValueError(f"round_trip_cost must be finite and >= 0, was {round_trip_cost!r}")

    end = np.arange(bars, dtype=np.int64) + 1 + horizon
    ending = max(bars - 1 - horizon, 0)  # bars whose label ends within the series
    whole = segment[1 + horizon :] == segment[:ending]
    forward_return = np.full(bars, np.nan)
    forward_return[:ending][whole] = np.log(open_[1 + horizon :][whole] / open_[1 : 1 + ending][whole])

    classes, threshold = classify(forward_return, vol, config, round_trip_cost)
    return Labels(horizon=horizon, classes=classes, forward_return=forward_return, threshold=threshold, end=end)


def classify(
    move: FloatArray, vol: FloatArray, config: LabelConfig, round_trip_cost: float
) -> tuple[IntArray, FloatArray]:
    """Return the (T,) class of each natural-log return over the horizon, and the threshold that it had to pass."""
    threshold = np.maximum(config.k * vol * math.sqrt(config.horizon), config.cost_floor_multiple * round_trip_cost)
    classes = np.full(len(move), HOLD, np.int64)
    classes[move > threshold] = BUY
    classes[move < -threshold] = SELL
    classes[np.isnan(move) | np.isnan(threshold)] = UNKNOWN
    return classes, threshold


def realised_variance(close: FloatArray, segment: IntArray, horizon: int) -> FloatArray:
    """Return the sum of the squared log returns of the `horizon` bars after each bar.

    Looks ahead: the last close read is that of bar t + horizon.

    Args:
        close: (T,) last price of each bar, quote currency, > 0.
        segment: (T,) never decreasing; bars of one number follow each other without a gap.
        horizon: Bars ahead, >= 1.
    Returns:
        (T,) dimensionless, >= 0; NaN where a gap or the end of the series lies between.
    Raises:
        ValueError: `horizon` < 1, or the arrays differ in length.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be >= 1 bar, was {horizon!r}")
    if len(close) != len(segment):
        raise ValueError(f"close and segment must have one length, were {len(close)} and {len(segment)}")
    variance = np.full(len(close), np.nan)
    whole = np.flatnonzero(segment[horizon:] == segment[: max(len(close) - horizon, 0)])
    total = summed_squares(close, segment)
    variance[whole] = total[whole + horizon] - total[whole]
    return variance


def class_means(labels: Labels, vol: FloatArray, rows: Rows) -> FloatArray:
    """Return the mean forward return of each class, in units of volatility over the horizon.

    Multiplied by a bar's own vol * sqrt(horizon) and weighted with its probabilities, they give its expected return.

    Args:
        labels: Labels of T bars.
        vol: (T,) volatility per bar.
        rows: Bars of the training set only, since these numbers decide trades later.
    Returns:
        (3,) sell, hold, buy, dimensionless; 0 for a class without bars. Bars with vol < FLAT_VOL are left out.
    """
    usable = _known(labels, rows) & (vol >= FLAT_VOL)
    classes = labels.classes[usable]
    scaled = labels.forward_return[usable] / (vol[usable] * math.sqrt(labels.horizon))
    counts = np.bincount(classes, minlength=len(CLASSES))
    means: FloatArray = np.bincount(classes, scaled, minlength=len(CLASSES)) / np.maximum(counts, 1)
    return means


def sample_uniqueness(labels: Labels, rows: Rows) -> FloatArray:
    """Return the uniqueness of each label: the mean of 1 / (number of overlapping labels) over the bars of its return.

    The sum is the effective number of independent samples: n overlapping labels of H bars count as about n / H, and
    every standard error of a score must use that number.

    Args:
        labels: Labels of T bars.
        rows: Bars counted as samples; those with an UNKNOWN label are left out.
    Returns:
        (T,) within (0, 1]; 0 on bars that are not samples.
    """
    # Lopez de Prado 2018, sec. 4.3. The return from open t+1 to open `end` accrues over the bars t+1 .. end-1.
    samples = np.flatnonzero(_known(labels, rows))
    bars = len(labels.end)
    first, stop = samples + 1, labels.end[samples]
    under_way = np.cumsum(np.bincount(first, minlength=bars) - np.bincount(stop, minlength=bars))
    shares = np.concatenate([[0.0], np.cumsum(1 / np.maximum(under_way, 1))])
    uniqueness = np.zeros(bars)
    uniqueness[samples] = (shares[stop] - shares[first]) / labels.horizon
    return uniqueness


def scored(classes: IntArray, probabilities: FloatArray) -> BoolArray:
    """Return which bars a forecast can be scored on: those whose label and whose probabilities are known.

    Args:
        classes: (N,) label of each bar.
        probabilities: (N, 3), NaN where unknown.
    Returns:
        (N,) mask.
    """
    known: BoolArray = (classes != UNKNOWN) & np.isfinite(probabilities).all(axis=1)
    return known


def _known(labels: Labels, rows: Rows) -> BoolArray:
    chosen = np.zeros(len(labels.end), np.bool_)
    chosen[rows] = True
    chosen &= labels.classes != UNKNOWN
    return chosen
