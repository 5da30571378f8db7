"""The persistence forecast: the last move happens again. Looks back only."""

import numpy as np

from storage.schema import FloatArray, IntArray
from tasks.market.labels import LabelConfig, classify


def past_classes(
    close: FloatArray, vol: FloatArray, segment: IntArray, config: LabelConfig, round_trip_cost: float
) -> IntArray:
    """Return the class of the move over the last `horizon` bars, by the thresholds of the labels.

    Args:
        close: (T,) last price of each bar, quote currency.
        vol: (T,) volatility per bar, NaN while warming up.
        segment: (T,) number of the gap-free segment of each bar.
        round_trip_cost: As in `label_bars`.
    Returns:
        (T,) SELL, HOLD or BUY; UNKNOWN where the segment is shorter than `horizon` bars or volatility is unknown.
    """
    horizon = config.horizon
    move = np.full(len(close), np.nan)
    whole = horizon + np.flatnonzero(segment[horizon:] == segment[: max(len(close) - horizon, 0)])
    move[whole] = np.log(close[whole] / close[whole - horizon])
    return classify(move, vol, config, round_trip_cost)[0]
