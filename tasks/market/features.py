"""The model's inputs: recurrences that are advanced bar by bar, with the same code for history and live bars.

C, H, L, V are a bar's close, high, low and volume; C1 and C12 the closes 1 and 12 bars before; r = ln(C / C1).
The unit of every price feature is `vol` = sqrt(EWMA of r^2, span 100), close to close, per bar, dimensionless.

    feature         formula                                                   looks back   source
    return_1        r / vol                                                   1            (unit: vol, throughout)
    return_12       ln(C / C12) / (vol * sqrt(12))                            12
    volatility      ln(sqrt(mean of r^2 over 20 bars) / vol), within +-5      20
    volume_ratio    ln(V / mean of V over 20 bars), at least -5               20
    rsi             RSI / 100 - 0.5, that is gain / (gain + loss) - 0.5;      Wilder 14    Wilder 1978
                    gain and loss: averages with weight 1/14 of max(+-(C - C1), 0)
    macd            (EMA12 of C - EMA26 of C) / (C * vol)                     EMA 26       Appel
    macd_signal     EMA9 of (EMA12 - EMA26) / (C * vol)                       EMA 26 + 9   Appel
    range           (H - L) / (C * vol), at most 100                          this bar
    vwap_deviation  ln(C / VWAP) / vol, within +-100; VWAP of the UTC day     UTC day
                    so far, this bar included, at the typical price
                    (H + L + C) / 3
    log_volume      ln(V) - mean of ln(V) over 2,000 bars, within +-5         2,000
    vol_level       ln(max(vol, 1e-8) / 0.001)                                EWMA 100
    range_vol_12    ln(sqrt(EMA of ln(H / L)^2 / (4 ln 2), span 12) / vol),   EMA 12       Parkinson 1980
                    within +-5
    range_vol_100   the same, span 100                                        EMA 100
    vol_2000        ln(sqrt(mean of r^2, from the last 2,000 closes) / vol),  2,000
                    within +-5
    volume_level    ln(EMA of V, span 100) - mean of ln(V) over 2,000 bars,   2,000
                    within +-5
    week_sin_1 ..   sin and cos of k turns a UTC week, k = 1 to 6, that is    this bar
    week_cos_6      sin(2 pi k w), w: share of the week, from Monday, at the
                    bar's open
    day_sin_1 ..    sin and cos of k turns a UTC day, k = 1 to 4              this bar
    day_cos_4

The first ten are the source text's, and a network with ten inputs reads those. The others help to forecast how much the
market will move, which decides whether a trade can pay its costs: the present volatility and volume at several time
scales, and the time of day and week.

An EMA of span n has the weight 2 / (n + 1). Choices that the formulas leave open:

- A bar without trades: volume_ratio and log_volume are -5 (ln 0, clipped), and it stays out of the mean of ln(V),
  which is over the bars of the last 2,000 that traded. vwap_deviation is 0 until the day's first trade.
- A halt: a bar is silent if it has no trades and the same close as the bar before; from the 11th silent bar in a row on
  the market counts as halted. Bars of a halt have no features (NaN) and change nothing but the clock: no feature looks
  back on them, WARM_UP does not count them, and after the halt the recurrences continue from their state before it.
  Otherwise vol would decay to 0 during a halt while the day's VWAP stands still, and the huge vwap_deviation of these
  bars would determine the scale of all others.
- A flat market, vol < 1e-8: every price feature is 0, rsi and volatility included (an RSI of 50; TA-Lib says 0), and
  vol_level is at its floor.
- Only range and vwap_deviation use prices other than closes, which vol does not cover, so only they need a bound of
  100. In 0.7 million bars with features, of Bybit and Bitfinex, none exceeded 71.
- A gap, a repeated bar or an invalid candle (not finite, not positive, high below close ...) restarts all recurrences:
  a new segment begins, and its first WARM_UP - 1 bars are NaN. Gaps are never filled.

Recurrences start from zero, without seeding, since WARM_UP is long enough for any seed to be forgotten. Bars before the
start have a weight of (1 - 2/101)^2000 = 4e-18 in vol^2 and far less in the rest, so features agree to 1e-9 wherever
history starts, unless one bar before the start moved 70,000 times more than the market moves now.
"""

import math
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.compiled import compiled, inlined
from storage.schema import DAY_MS, FEATURES, MONDAY_MS, FloatArray, IntArray

WARM_UP = 2_000
"""Bars of a segment until features are given, bars of a halt not counted: by then the mean of ln(V) over 2,000 bars is
full, and the initial state is forgotten to 1e-9."""

OUTPUTS = (*FEATURES, "vol")
"""Names of the values that `advance` writes, in order."""

FLAT_VOL = 1e-8
"""Below this volatility per bar a market counts as flat; far below a calm market's, and far above rounding errors."""

CLIP = 5.0  # bound of logs of ratios: e^5 is 148 times the usual
FARTHEST = 100.0
"""Bound of features that their formula does not bound, in units of vol."""

_VOL_WEIGHT = 2 / 101
_RSI_WEIGHT = 1 / 14
_FAST_WEIGHT, _SLOW_WEIGHT, _SIGNAL_WEIGHT = 2 / 13, 2 / 27, 2 / 10
_RANGE_FAST_WEIGHT, _RANGE_SLOW_WEIGHT, _VOLUME_WEIGHT = 2 / 13, 2 / 101, 2 / 101
_SHORT = 20  # bars of `volatility` and `volume_ratio`
_SILENT_AT_MOST = 10  # bars; half of the short means is then still from before, and vol has lost about a tenth
_LAG = 12  # bars of `return_12`
_LONG = WARM_UP - 1  # returns of `vol_2000`: as many as the first bar with features has
_WEEK_TURNS, _DAY_TURNS = 6, 4  # harmonics
_USUAL_VOL = 1e-3  # centres vol_level; any other number would do
_MONDAY = MONDAY_MS // DAY_MS
_WEEKDAY_SINES = tuple(math.sin(2 * math.pi * day / 7) for day in range(7))
_WEEKDAY_COSINES = tuple(math.cos(2 * math.pi * day / 7) for day in range(7))
_WEEK_ANGLE = 2 * math.pi / (7 * DAY_MS)  # per millisecond
_PARKINSON = 1 / (4 * math.log(2))
_LEAST, _MOST = 1e-100, 1e100  # prices and volumes; no product or quotient of such numbers leaves float64

_AT: Any = namedtuple("_AT", OUTPUTS)(*range(len(OUTPUTS)))  # index of each output

# The state is one float64 array, so that other compiled code can hold it: the clock, then what a restart clears
# (scalars, four ring buffers), then the ring buffer of ln(V), NaN where a bar did not trade or has not come yet.
_INTERVAL_MS, _LAST_MS, _BARS, _CLOSE, _RETURN, _LAG_RETURN, _VARIANCE, _GAIN, _LOSS = range(9)
_FAST, _SLOW, _SIGNAL, _DAY, _DAY_VALUE, _DAY_VOLUME, _LOG_VOLUME_SUM, _TRADED = range(9, 17)
_RANGE_FAST, _RANGE_SLOW, _VOLUME_MEAN, _SLOW_SUM, _SLOW_REST, _SILENT = range(17, 23)
_SQUARES = 23
_VOLUMES = _SQUARES + _SHORT
_CLOSES = _VOLUMES + _SHORT
_SLOW_SQUARES = _CLOSES + _LAG
_LOG_VOLUMES = _SLOW_SQUARES + _LONG
_SIZE = _LOG_VOLUMES + WARM_UP


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """The features of a series of candles.

    Attributes:
        values: (T, F) in the order of `storage.schema.FEATURES`, dimensionless; NaN while a segment warms up or halts.
        vol: (T,) volatility per bar, dimensionless, >= 0; NaN on the same bars.
        segment: (T,) number of the gap-free segment of the bar, from 0. An invalid candle is a segment of its own.
    """

    values: FloatArray
    vol: FloatArray
    segment: IntArray


def new_state(interval_ms: int) -> FloatArray:
    """Return the initial state of a series.

    Args:
        interval_ms: Milliseconds per bar, >= 1.
    Returns:
        Packed float64 state; only `advance` reads and writes it. A copy of it is a snapshot.
    Raises:
        ValueError: `interval_ms` < 1.
    """
    if interval_ms < 1:
        raise ValueError(f"interval_ms must be >= 1, was {interval_ms!r}")
    state = np.zeros(_SIZE)
    state[_INTERVAL_MS] = interval_ms
    _restart(state)
    return state


@inlined
def advance(state: FloatArray, candle: FloatArray, out: FloatArray) -> bool:
    """Update the state with one closed candle and write its features.

    Args:
        state: From `new_state`; changed in place.
        candle: (6,) start_ms, open, high, low, close, volume.
        out: (F + 1,) overwritten with the values of `OUTPUTS`; NaN until the segment holds WARM_UP bars, and in a halt.
    Returns:
        Whether this bar opens a new segment: the first bar, one after a gap, an invalid one, or one after that.
    """
    start, high, low, close, volume = candle[0], candle[2], candle[3], candle[4], candle[5]
    valid = _is_candle(start, candle[1], high, low, close, volume)
    follows = valid and start == state[_LAST_MS] + state[_INTERVAL_MS]
    if not follows:
        _restart(state)
    if valid:
        volume = volume if volume >= _LEAST else 0.0
        _remember_silence(state, close, volume)
        _remember_day(state, start, (high + low + close) / 3 * volume, volume)
        state[_LAST_MS] = start
    halted = state[_SILENT] > _SILENT_AT_MOST
    if valid and not halted:
        _remember_prices(state, close)
        _remember_range(state, math.log(high / low))
        _remember_volume(state, volume)
        state[_BARS] += 1
    if state[_BARS] >= WARM_UP and not halted:
        _write(state, high, low, close, volume, out)
        _write_levels(state, out)
        _write_calendar(state, start, out)
    else:
        out[:] = np.nan
    return not follows


def build_features(matrix: FloatArray, interval_ms: int) -> Features:
    """Return the features of a series of candles: `advance` in a loop.

    Args:
        matrix: (T, 6) as `Candles.matrix` gives it: start_ms, open, high, low, close, volume; oldest first.
    Returns:
        Features of T bars.
    Raises:
        ValueError: `matrix` has another shape, or `interval_ms` < 1.
    """
    if matrix.ndim != 2 or matrix.shape[1] != 6:
        raise ValueError(f"matrix must be (T, 6), start_ms open high low close volume, was {matrix.shape}")
    bars = len(matrix)
    values, vol, segment = np.empty(bars * len(FEATURES) + 1), np.empty(bars), np.empty(bars, np.int64)
    _advance_all(new_state(interval_ms), np.ascontiguousarray(matrix, np.float64), values, vol, segment)
    return Features(values=values[:-1].reshape(bars, len(FEATURES)), vol=vol, segment=segment)


def halted_bars(vol: FloatArray, segment: IntArray) -> int:
    """Return how many bars were left out of warm segments because the market had halted; (T,) as in `Features`."""
    known = np.isfinite(vol)
    warm = np.maximum.accumulate(np.where(known, segment, -1)) == segment
    return int((warm & ~known).sum())


@compiled
def _advance_all(state: FloatArray, matrix: FloatArray, values: FloatArray, vol: FloatArray, segment: IntArray) -> None:
    number, width = -1, len(FEATURES)
    for bar in range(len(matrix)):
        row, end = bar * width, bar * width + width
        number += advance(state, matrix[bar], values[row : end + 1])
        vol[bar] = values[end]  # the next bar overwrites it with its first feature
        segment[bar] = number


@compiled
def _is_candle(start: float, open_: float, high: float, low: float, close: float, volume: float) -> bool:
    # Every comparison with NaN is false, so NaN fails too.
    return (
        math.isfinite(start)
        and _LEAST <= low <= open_ <= high <= _MOST
        and low <= close <= high
        and 0 <= volume <= _MOST
    )


@compiled
def _restart(state: FloatArray) -> None:
    state[_LAST_MS] = np.nan
    state[_BARS:_LOG_VOLUMES] = 0.0
    state[_LOG_VOLUMES:] = np.nan


@compiled
def _remember_silence(state: FloatArray, close: float, volume: float) -> None:
    silent = volume == 0.0 and (state[_BARS] == 0.0 or close == state[_CLOSE])
    state[_SILENT] = state[_SILENT] + 1.0 if silent else 0.0


@inlined
def _remember_prices(state: FloatArray, close: float) -> None:
    bars = int(state[_BARS])
    previous = state[_CLOSE] if bars > 0 else close
    lagged = state[_CLOSES + bars % _LAG] if bars >= _LAG else close
    change = close - previous
    log_return = math.log(close / previous)
    state[_CLOSE] = state[_CLOSES + bars % _LAG] = close
    state[_RETURN] = log_return
    state[_LAG_RETURN] = math.log(close / lagged)
    state[_VARIANCE] += _VOL_WEIGHT * (log_return**2 - state[_VARIANCE])
    state[_SQUARES + bars % _SHORT] = log_return**2
    slow = _SLOW_SQUARES + bars % _LONG
    _add_exactly(state, log_return**2)
    _add_exactly(state, -state[slow])
    state[slow] = log_return**2
    state[_GAIN] += _RSI_WEIGHT * (max(change, 0.0) - state[_GAIN])
    state[_LOSS] += _RSI_WEIGHT * (max(-change, 0.0) - state[_LOSS])
    # Both EMAs are stored as distances from the close, so that rounding errors scale with moves, not with the price.
    state[_FAST] = (1 - _FAST_WEIGHT) * (state[_FAST] - change)
    state[_SLOW] = (1 - _SLOW_WEIGHT) * (state[_SLOW] - change)
    state[_SIGNAL] += _SIGNAL_WEIGHT * (state[_FAST] - state[_SLOW] - state[_SIGNAL])


@compiled
def _add_exactly(state: FloatArray, value: float) -> None:
    # Knuth's two-sum: rounding errors are summed separately, so that a huge bar leaves no error behind.
    total = state[_SLOW_SUM]
    added = total + value
    part = added - total
    state[_SLOW_REST] += (total - (added - part)) + (value - part)
    state[_SLOW_SUM] = added


@compiled
def _remember_range(state: FloatArray, log_range: float) -> None:
    square = _PARKINSON * log_range**2
    state[_RANGE_FAST] += _RANGE_FAST_WEIGHT * (square - state[_RANGE_FAST])
    state[_RANGE_SLOW] += _RANGE_SLOW_WEIGHT * (square - state[_RANGE_SLOW])


@inlined
def _remember_volume(state: FloatArray, volume: float) -> None:
    bars = int(state[_BARS])
    place = bars % WARM_UP
    state[_VOLUMES + bars % _SHORT] = volume
    state[_VOLUME_MEAN] += _VOLUME_WEIGHT * (volume - state[_VOLUME_MEAN])
    oldest = state[_LOG_VOLUMES + place]
    newest = math.log(volume) if volume > 0 else np.nan
    state[_LOG_VOLUMES + place] = newest
    if not math.isnan(oldest):
        state[_LOG_VOLUME_SUM] -= oldest
        state[_TRADED] -= 1
    if not math.isnan(newest):
        state[_LOG_VOLUME_SUM] += newest
        state[_TRADED] += 1
    if place == 0:  # once per round of the ring buffer the sum is computed anew, so that rounding errors can't pile up
        state[_LOG_VOLUME_SUM] = 0.0
        for log_volume in state[_LOG_VOLUMES:]:
            if not math.isnan(log_volume):
                state[_LOG_VOLUME_SUM] += log_volume


@compiled
def _remember_day(state: FloatArray, start: float, value: float, volume: float) -> None:
    day = math.floor(start / DAY_MS)
    if day != state[_DAY]:
        state[_DAY] = day
        state[_DAY_VALUE] = state[_DAY_VOLUME] = 0.0
    state[_DAY_VALUE] += value
    state[_DAY_VOLUME] += volume


@inlined
def _write(state: FloatArray, high: float, low: float, close: float, volume: float, out: FloatArray) -> None:
    vol = math.sqrt(state[_VARIANCE])
    out[_AT.vol] = vol
    out[_AT.vwap_deviation] = 0.0
    if vol < FLAT_VOL:
        out[: _AT.log_volume] = 0.0
        out[_AT.range_vol_12 : _AT.volume_level] = 0.0
    else:
        per_vol, per_move = 1 / vol, 1 / (close * vol)
        out[_AT.return_1] = state[_RETURN] * per_vol
        out[_AT.return_12] = state[_LAG_RETURN] * per_vol / math.sqrt(_LAG)
        out[_AT.volatility] = _clipped_log_root(_mean(state, _SQUARES) * per_vol**2)
        out[_AT.rsi] = state[_GAIN] / (state[_GAIN] + state[_LOSS]) - 0.5
        out[_AT.macd] = (state[_FAST] - state[_SLOW]) * per_move
        out[_AT.macd_signal] = state[_SIGNAL] * per_move
        out[_AT.range] = min((high - low) * per_move, FARTHEST)
        if state[_DAY_VOLUME] > 0:
            deviation = math.log(close * state[_DAY_VOLUME] / state[_DAY_VALUE]) * per_vol
            out[_AT.vwap_deviation] = min(max(deviation, -FARTHEST), FARTHEST)
    if volume > 0:
        newest = state[_LOG_VOLUMES + (int(state[_BARS]) - 1) % WARM_UP]
        out[_AT.volume_ratio] = _clipped_log(volume / _mean(state, _VOLUMES))
        out[_AT.log_volume] = min(max(newest - state[_LOG_VOLUME_SUM] / state[_TRADED], -CLIP), CLIP)
    else:
        out[_AT.volume_ratio] = out[_AT.log_volume] = -CLIP


@inlined
def _write_levels(state: FloatArray, out: FloatArray) -> None:
    vol = out[_AT.vol]
    out[_AT.vol_level] = math.log(max(vol, FLAT_VOL) / _USUAL_VOL)
    if vol >= FLAT_VOL:
        per_variance = 1 / state[_VARIANCE]
        out[_AT.range_vol_12] = _clipped_log_root(state[_RANGE_FAST] * per_variance)
        out[_AT.range_vol_100] = _clipped_log_root(state[_RANGE_SLOW] * per_variance)
        out[_AT.vol_2000] = _clipped_log_root((state[_SLOW_SUM] + state[_SLOW_REST]) / _LONG * per_variance)
    if state[_TRADED] > 0:
        usual = state[_LOG_VOLUME_SUM] / state[_TRADED]
        out[_AT.volume_level] = min(max(math.log(max(state[_VOLUME_MEAN], _LEAST)) - usual, -CLIP), CLIP)
    else:
        out[_AT.volume_level] = -CLIP


@inlined
def _write_calendar(state: FloatArray, start: float, out: FloatArray) -> None:
    # The day's angle is seven times its part of the week's angle, so one sine and one cosine serve both.
    day = int(state[_DAY])
    seventh = (start - state[_DAY] * DAY_MS) * _WEEK_ANGLE
    sine, cosine = math.sin(seventh), math.cos(seventh)
    weekday = (day - _MONDAY) % 7
    s, c = _turned(_WEEKDAY_SINES[weekday], _WEEKDAY_COSINES[weekday], sine, cosine)
    _write_turns(s, c, _WEEK_TURNS, out[_AT.week_sin_1 :])
    s, c = _turned(sine, cosine, sine, cosine)
    s, c = _turned(s, c, sine, cosine)
    s, c = _turned(s, c, s, c)
    s, c = _turned(s, c, sine, cosine)  # seven times: 2 * (2 + 1) + 1
    _write_turns(s, c, _DAY_TURNS, out[_AT.day_sin_1 :])


@compiled
def _write_turns(sine: float, cosine: float, turns: int, out: FloatArray) -> None:
    # Harmonic k turns harmonic k // 2 by the rest: a chain of three turns reaches the sixth.
    out[0], out[1] = sine, cosine
    for k in range(2, turns + 1):
        one, other = 2 * (k // 2 - 1), 2 * (k - k // 2 - 1)
        out[2 * k - 2], out[2 * k - 1] = _turned(out[one], out[one + 1], out[other], out[other + 1])


@compiled
def _turned(s: float, c: float, sine: float, cosine: float) -> tuple[float, float]:
    return s * cosine + c * sine, c * cosine - s * sine


@compiled
def _mean(state: FloatArray, ring: int) -> float:
    # Summed anew for every bar: a running sum would keep the rounding error of a huge bar in the quiet bars after it.
    # Four partial sums, because a chain of dependent additions took most of a bar's time.
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for place in range(ring, ring + _SHORT, 4):
        a += state[place]
        b += state[place + 1]
        c += state[place + 2]
        d += state[place + 3]
    return ((a + b) + (c + d)) / _SHORT


@compiled
def _clipped_log(ratio: float) -> float:
    return min(max(math.log(ratio), -CLIP), CLIP) if ratio > 0 else -CLIP


@compiled
def _clipped_log_root(ratio: float) -> float:
    # Half the log instead of the log of the root: a square root and a division less.
    return min(max(math.log(ratio) / 2, -CLIP), CLIP) if ratio > 0 else -CLIP
