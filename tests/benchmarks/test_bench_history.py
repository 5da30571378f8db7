"""Rows 9 and 10: features and backtest of a million bars."""

import numpy as np
import pandas as pd
import pytest

from storage.schema import DAY_MS, MONDAY_MS
from tasks.execution.accounting import Bars, Costs
from tasks.execution.backtest import BacktestConfig, run_backtest
from tasks.market.features import WARM_UP, build_features
from tasks.market.synthetic import SyntheticMarket, generate

BARS = 1_000_000
STEP_MS = 300_000


@pytest.fixture(scope="module")
def candles():
    return generate(SyntheticMarket(bars=BARS))


def pandas_features(frame: pd.DataFrame) -> pd.DataFrame:
    """The features as a careful pandas user writes them: column by column, no apply, no Python loop."""
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


def test_features_are_faster_than_pandas(race, ledger, compare, side, candles):
    matrix = candles.matrix()
    frame = pd.DataFrame(matrix, columns=["start_ms", "open", "high", "low", "close", "volume"])
    frame["start_ms"] = candles.start_ms
    ours, theirs = build_features(matrix, STEP_MS).values, pandas_features(frame).to_numpy()
    # The same function but for rounding: pandas' running sums over a million bars, and prices that have moved far.
    np.testing.assert_allclose(ours[2 * WARM_UP :], theirs[2 * WARM_UP :], rtol=0, atol=1e-6)

    times = race(
        {"features": side(lambda: build_features(matrix, STEP_MS)), "pandas": side(lambda: pandas_features(frame))},
        rounds=9,
    )

    beside = {"one bar of live history, us": times.median_us("features") / BARS}
    ledger.enter(
        compare(
            9,
            "features_vs_pandas",
            times,
            "pandas",
            "features",
            "35 features, 1,000,000 bars",
            at_least=3,
            beside=beside,
        )
    )


@pytest.mark.filterwarnings("ignore:DatetimeIndex.dayofweek is deprecated")  # vectorbt's annualisation
def test_backtest_is_faster_than_vectorbt_and_equal(race, ledger, compare, side, candles):
    vectorbt = pytest.importorskip("vectorbt", reason="vectorbt is the alternative of this row; it is not installed")
    rng = np.random.default_rng(3)
    drawn, switched = rng.integers(-1, 2, BARS), rng.random(BARS) < 0.01
    target = drawn[np.maximum.accumulate(np.where(switched, np.arange(BARS), 0))]
    target[-3:] = 0  # vectorbt closes no last position
    bars = Bars.of(candles, STEP_MS)
    funded = Bars.of(candles, STEP_MS, (candles.start_ms[::96], np.full(len(candles.start_ms[::96]), 1e-6)))
    config = BacktestConfig(initial_capital=1e8, fixed_coins=1.0)

    def ours(market: Bars = bars):
        costs = Costs(commission=0.001, slippage=0.0002, funding=market is funded)
        return run_backtest(market, target, costs, config, trained_until_ms=None, label_span_ms=0).equity

    wanted = np.concatenate([[0], target[:-1]])
    size = np.where(np.diff(wanted, prepend=0) != 0, wanted.astype(float), np.nan)

    def theirs():
        portfolio = vectorbt.Portfolio.from_orders(
            close=bars.close, size=size, size_type="targetamount", price=bars.open, fees=0.001, slippage=0.0002,
            init_cash=1e8, freq="5min",
        )  # fmt: skip
        return portfolio.value()

    np.testing.assert_allclose(ours()[1:], theirs(), rtol=1e-9)

    times = race(
        {"backtest": side(ours), "vectorbt": side(theirs), "with funding": side(lambda: ours(funded))}, rounds=11
    )

    beside = {"funding adds, ms": (times.median_us("with funding") - times.median_us("backtest")) / 1000}
    ledger.enter(
        compare(10, "backtest_vs_vectorbt", times, "vectorbt", "backtest", "1,000,000 bars", at_least=3, beside=beside)
    )
