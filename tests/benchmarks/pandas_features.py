"""The features as a careful pandas user writes them: what ours are compared with."""

import numpy as np
import pandas as pd

from storage.schema import DAY_MS, MONDAY_MS
from tasks.market.features import WARM_UP


def pandas_features(frame: pd.DataFrame) -> pd.DataFrame:
    """Return every feature of candles, column by column: no apply, no Python loop."""
    close, volume = frame["close"], frame["volume"]
    log_close = np.log(close)
    r = log_close.diff()
    vol = np.sqrt((r**2).ewm(span=100, adjust=False).mean())
    change = close.diff()
    gain = change.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    loss = (-change).clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    macd = close.ewm(span=12, adjust=False).mean() - close.ewm(span=26, adjust=False).mean()
    unit = close * vol
    day = frame["start_ms"] // DAY_MS
    value = (frame["high"] + frame["low"] + close) / 3 * volume
    vwap = value.groupby(day).cumsum() / volume.groupby(day).cumsum()
    log_volume = np.log(volume)
    usual_volume = log_volume.rolling(WARM_UP).mean()
    parkinson = np.log(frame["high"] / frame["low"]) ** 2 / (4 * np.log(2))
    turns = {
        "week": (2 * np.pi * ((frame["start_ms"] - MONDAY_MS) % (7 * DAY_MS)) / (7 * DAY_MS), 6),
        "day": (2 * np.pi * (frame["start_ms"] % DAY_MS) / DAY_MS, 4),
    }
    return pd.DataFrame(
        {
            "return_1": r / vol,
            "return_12": log_close.diff(12) / (vol * np.sqrt(12)),
            "volatility": np.log(np.sqrt((r**2).rolling(20).mean()) / vol).clip(-5, 5),
            "volume_ratio": np.log(volume / volume.rolling(20).mean()).clip(-5, 5),
            "rsi": gain / (gain + loss) - 0.5,
            "macd": macd / unit,
            "macd_signal": macd.ewm(span=9, adjust=False).mean() / unit,
            "range": (frame["high"] - frame["low"]) / unit,
            "vwap_deviation": np.log(close / vwap) / vol,
            "log_volume": (log_volume - usual_volume).clip(-5, 5),
            "vol_level": np.log(vol / 1e-3),
            "range_vol_12": np.log(np.sqrt(parkinson.ewm(span=12, adjust=False).mean()) / vol).clip(-5, 5),
            "range_vol_100": np.log(np.sqrt(parkinson.ewm(span=100, adjust=False).mean()) / vol).clip(-5, 5),
            "vol_2000": np.log(np.sqrt((r**2).rolling(WARM_UP - 1).mean()) / vol).clip(-5, 5),
            "volume_level": (np.log(volume.ewm(span=100, adjust=False).mean()) - usual_volume).clip(-5, 5),
            **{
                f"{name}_{wave.__name__}_{k}": wave(k * turn)
                for name, (turn, most) in turns.items()
                for k in range(1, most + 1)
                for wave in (np.sin, np.cos)
            },
        }
    )
