"""Every feature against a closed form, against pandas written from the formulas, and against TA-Lib."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storage.schema import FEATURES, FloatArray
from tasks.market.features import WARM_UP, build_features
from tasks.market.synthetic import SyntheticMarket, generate


def market_frame(interval_ms: int = 300_000, bars: int = 8_000) -> pd.DataFrame:
    """A market with bars that did not trade, and one fall of 0.68 in log."""
    candles = generate(SyntheticMarket(kind="gated", bars=bars, seed=3, interval_ms=interval_ms))
    columns = ["start_ms", "open", "high", "low", "close", "volume"]
    frame = pd.DataFrame(candles.matrix(), columns=columns)
    frame.loc[100::53, "volume"] = 0.0
    frame.loc[4_000:, ["open", "high", "low", "close"]] *= np.exp(-0.68)
    return frame


def pandas_features(frame: pd.DataFrame) -> pd.DataFrame:
    """The table in the docstring of features.py, one expression a feature, over whole columns."""
    close, volume = frame["close"], frame["volume"]
    r = np.log(close).diff()
    vol = (r**2).ewm(span=100).mean() ** 0.5
    ema12, ema26 = close.ewm(span=12).mean(), close.ewm(span=26).mean()
    change = close.diff()
    gain, loss = (part.clip(lower=0).ewm(alpha=1 / 14).mean() for part in (change, -change))
    day = pd.to_datetime(frame["start_ms"], unit="ms", utc=True).dt.date
    value = (frame["high"] + frame["low"] + close) / 3 * volume
    vwap = value.groupby(day).cumsum() / volume.groupby(day).cumsum()
    traded = volume.where(volume > 0)
    slow = np.log(traded).rolling(2_000, min_periods=1).mean()
    parkinson = np.log(frame["high"] / frame["low"]) ** 2 / (4 * np.log(2))
    moments = pd.to_datetime(frame["start_ms"], unit="ms", utc=True)
    of_day = (moments - moments.dt.floor("D")) / pd.Timedelta(days=1)
    of_week = (moments.dt.day_of_week + of_day) / 7
    columns = {
        "return_1": r / vol,
        "return_12": np.log(close).diff(12) / (vol * 12**0.5),
        "volatility": np.log((r**2).rolling(20).mean() ** 0.5 / vol).clip(-5, 5),
        "volume_ratio": np.log(traded / volume.rolling(20).mean()).fillna(-5).clip(lower=-5),
        "rsi": (100 - 100 / (1 + gain / loss)) / 100 - 0.5,
        "macd": (ema12 - ema26) / (close * vol),
        "macd_signal": (ema12 - ema26).ewm(span=9).mean() / (close * vol),
        "range": ((frame["high"] - frame["low"]) / (close * vol)).clip(upper=100),
        "vwap_deviation": (np.log(close / vwap) / vol).fillna(0).clip(-100, 100),
        "log_volume": (np.log(traded) - slow).fillna(-5).clip(-5, 5),
        "vol_level": np.log(vol / 0.001),
        "range_vol_12": np.log(parkinson.ewm(span=12).mean() ** 0.5 / vol).clip(-5, 5),
        "range_vol_100": np.log(parkinson.ewm(span=100).mean() ** 0.5 / vol).clip(-5, 5),
        # Not pandas' rolling mean: its running sum keeps some of the fall's rounding.
        "vol_2000": np.log(np.sqrt(windowed_mean((r**2).fillna(0).to_numpy(), 1_999)) / vol).clip(-5, 5),
        "volume_level": (np.log(volume.ewm(span=100).mean()) - slow).clip(-5, 5),
        **{f"week_sin_{k}": np.sin(2 * np.pi * k * of_week) for k in range(1, 7)},
        **{f"week_cos_{k}": np.cos(2 * np.pi * k * of_week) for k in range(1, 7)},
        **{f"day_sin_{k}": np.sin(2 * np.pi * k * of_day) for k in range(1, 5)},
        **{f"day_cos_{k}": np.cos(2 * np.pi * k * of_day) for k in range(1, 5)},
        "vol": vol,
    }
    return pd.DataFrame(columns)


def windowed_mean(values: FloatArray, bars: int) -> FloatArray:
    """The mean of the last `bars` values, each window summed by itself; NaN until there are so many."""
    means = np.full(len(values), np.nan)
    means[bars - 1 :] = np.lib.stride_tricks.sliding_window_view(values, bars).mean(axis=1)
    return means


@pytest.mark.oracle
@pytest.mark.parametrize("interval_ms", [60_000, 300_000, 86_400_000])
@pytest.mark.parametrize("feature", [*FEATURES, "vol"])
def test_feature_equals_pandas_after_warm_up(feature: str, interval_ms: int) -> None:
    frame = market_frame(interval_ms)
    features = build_features(frame.to_numpy(), interval_ms)
    ours = features.vol if feature == "vol" else features.values[:, FEATURES.index(feature)]
    expected = pandas_features(frame)[feature].to_numpy()
    # pandas keeps running sums of prices and squares: its own rounding is about 1e-10 in units of vol.
    np.testing.assert_allclose(ours[WARM_UP - 1 :], expected[WARM_UP - 1 :], rtol=1e-9, atol=1e-9)


@pytest.mark.oracle
def test_rsi_and_macd_equal_talib_after_warm_up() -> None:
    talib = pytest.importorskip("talib", reason="TA-Lib, the oracle of the indicators, is not installed")
    frame = market_frame()
    features = build_features(frame.to_numpy(), 300_000)
    close: FloatArray = frame["close"].to_numpy()  # no NaN in it: one makes TA-Lib's RSI 0 on every later row
    unit = close * features.vol
    macd, signal, _ = talib.MACD(close, 12, 26, 9)
    expected = {"rsi": talib.RSI(close, 14) / 100 - 0.5, "macd": macd / unit, "macd_signal": signal / unit}
    for feature, values in expected.items():
        ours = features.values[:, FEATURES.index(feature)]
        np.testing.assert_allclose(ours[WARM_UP:], values[WARM_UP:], rtol=0, atol=1e-10, err_msg=feature)


def calendar_of(start_ms: FloatArray) -> dict[str, FloatArray]:
    """The calendar features from whole hours and days: 2025-01-01, where the market below begins, was a Wednesday."""
    days = (start_ms - 1_735_689_600_000) / 86_400_000
    turns = {"week": (days + 2) / 7, "day": days}
    waves = {"sin": np.sin, "cos": np.cos}
    return {
        f"{period}_{wave}_{k}": function(2 * np.pi * k * turn)
        for period, turn in turns.items()
        for wave, function in waves.items()
        for k in range(1, 7)
    }


def test_features_equal_their_closed_form_when_the_market_grows_steadily() -> None:
    growth, bars_per_day, bars = 1.0005, 288, 2_600
    close = 100 * growth ** np.arange(bars)
    matrix = np.column_stack(
        [
            1_735_689_600_000 + 300_000.0 * np.arange(bars),
            close / growth,
            close,
            close / growth,
            close,
            np.full(bars, 7.0),
        ]
    )
    vol = np.log(growth)

    def trail(weight: float) -> float:
        """EMA over close: the geometric series weight * sum of ((1 - weight) / growth)^j."""
        return weight / (1 - (1 - weight) / growth)

    of_day = np.arange(bars) % bars_per_day + 1  # bars of the UTC day so far
    mean_over_close = (1 - growth**-of_day) / (1 - 1 / growth) / of_day
    vwap_over_close = mean_over_close * (2 + 1 / growth) / 3
    line = trail(2 / 13) - trail(2 / 27)
    expected = (
        {
            "return_1": 1.0,
            "return_12": np.sqrt(12),
            "volatility": 0.0,
            "volume_ratio": 0.0,
            "rsi": 0.5,
            "macd": line / vol,
            "macd_signal": line * trail(2 / 10) / vol,
            "range": (1 - 1 / growth) / vol,
            "vwap_deviation": np.minimum(-np.log(vwap_over_close[WARM_UP - 1 :]) / vol, 100),
            "log_volume": 0.0,
            "vol_level": np.log(vol / 0.001),
            "range_vol_12": -np.log(2 * np.sqrt(np.log(2))),  # high / low is one bar's growth
            "range_vol_100": -np.log(2 * np.sqrt(np.log(2))),
            "vol_2000": 0.0,
            "volume_level": 0.0,
        }
        | calendar_of(matrix[WARM_UP - 1 :, 0])
    )
    features = build_features(matrix, 300_000)
    np.testing.assert_allclose(features.vol[WARM_UP - 1 :], vol, rtol=1e-12)
    for channel, feature in enumerate(FEATURES):
        ours = features.values[WARM_UP - 1 :, channel]
        np.testing.assert_allclose(ours, expected[feature], rtol=0, atol=1e-9, err_msg=feature)
