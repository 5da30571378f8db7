"""Rows 9 and 10: features and backtest of a million bars."""

import numpy as np
import pandas as pd
import pytest

from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, run_backtest
from tasks.execution.bars import Bars
from tasks.market.features import WARM_UP, build_features
from tasks.market.synthetic import SyntheticMarket, generate
from tests.benchmarks.pandas_features import pandas_features

BARS = 1_000_000
STEP_MS = 300_000


@pytest.fixture(scope="module")
def candles():
    return generate(SyntheticMarket(bars=BARS))


def test_features_are_faster_than_pandas(race, ledger, compare, line, side, candles):
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

    work = "35 features, 1,000,000 bars"
    ledger.enter(
        compare(9, "features_vs_pandas", times, "pandas", "features", work, at_least=3),
        line(number=9, key="features_bar_us", value=times.median_us("features") / BARS, work=work),
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
