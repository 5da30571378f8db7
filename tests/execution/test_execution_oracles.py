"""The accounting core against two backtesters that share no line with it: 5,000 bars, 0.1 % a fill at the next open."""

from types import ModuleType

import numba
import numpy as np
import pandas as pd
import pytest

from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, run_backtest

pytestmark = pytest.mark.oracle

BARS = 5_000
RTOL = 1e-9  # both sides add up about 10,000 float64 numbers; a forgotten fee is 1e-6


def market(random_market, switch):
    """Bars and targets that end flat, since neither library closes a last position as we do."""
    bars, target = random_market(BARS, seed=17, switch=switch)
    target[-3:] = 0
    return bars, target


def ours(bars, target, costs, config):
    return run_backtest(bars, target, costs, config, trained_until_ms=None, label_span_ms=0)


@pytest.fixture(scope="module")
def vectorbt() -> ModuleType:
    """The library, not compiled: for as few bars that would take longer than they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba.config, "DISABLE_JIT", True)
        return pytest.importorskip("vectorbt", reason="vectorbt is an optional oracle: pip install '.[oracles]'")


@pytest.mark.promise(11)
@pytest.mark.parametrize("slippage", [0.0, 0.0002])
@pytest.mark.parametrize("switch", [1.0, 0.01], ids=["iid", "sticky"])
@pytest.mark.parametrize("fraction", [None, 0.95], ids=["one coin", "0.95 of equity"])
def test_equity_equals_vectorbt_in_every_bar(vectorbt, random_market, fraction, switch, slippage):
    bars, target = market(random_market, switch)
    capital = 1e8 if fraction is None else 1e5
    config = BacktestConfig(
        initial_capital=capital, position_fraction=fraction or 0.95, fixed_coins=1.0 if fraction is None else None
    )
    result = ours(bars, target, Costs(commission=0.001, slippage=slippage), config)

    wanted = np.concatenate([[0], target[:-1]])  # decided at the close before
    changed = np.diff(wanted, prepend=0) != 0
    portfolio = vectorbt.Portfolio.from_orders(
        close=bars.close,
        size=np.where(changed, wanted * (fraction or 1.0), np.nan),
        size_type="targetamount" if fraction is None else "targetpercent",
        price=bars.open,
        fees=0.001,
        slippage=slippage,
        init_cash=capital,
        freq="5min",
    )
    np.testing.assert_allclose(result.equity[1:], portfolio.value(), rtol=RTOL)
    assert result.fees_paid == pytest.approx(float(portfolio.orders.records["fees"].sum()), rel=RTOL)
    assert len(result.trades) == len(portfolio.trades.records)
    by_exit = portfolio.trades.records.sort_values("exit_idx")
    # vectorbt's profit is at filled prices, so slippage is in it.
    np.testing.assert_allclose(result.trades.net, by_exit["pnl"], rtol=1e-6, atol=1e-9 * capital)


@pytest.mark.promise(11)
@pytest.mark.filterwarnings("ignore:DatetimeIndex.dayofweek is deprecated")  # its annualisation, under pandas 3.1
@pytest.mark.parametrize("switch", [1.0, 0.01], ids=["iid", "sticky"])
def test_equity_equals_backtesting_py_when_one_coin_is_traded(random_market, switch):
    library = pytest.importorskip(
        "backtesting", reason="backtesting.py is an optional oracle: pip install '.[oracles]'"
    )
    bars, target = market(random_market, switch)
    target[0] = 0  # it never evaluates bar 0

    class Follow(library.Strategy):
        def init(self):
            pass

        def next(self):
            wanted = int(target[len(self.data) - 1])
            change = wanted - int(self.position.size)
            if change:
                (self.buy if change > 0 else self.sell)(size=abs(change))

    frame = pd.DataFrame(
        {
            "Open": bars.open,
            "High": np.maximum(bars.open, bars.close),
            "Low": np.minimum(bars.open, bars.close),
            "Close": bars.close,
        },
        index=pd.to_datetime(bars.start_ms, unit="ms"),
    )
    backtest = library.Backtest(frame, Follow, cash=1e8, commission=0.001, trade_on_close=False, hedging=False)
    stats = backtest.run()
    config = BacktestConfig(initial_capital=1e8, fixed_coins=1.0)
    result = ours(bars, target, Costs(commission=0.001, slippage=0.0), config)
    np.testing.assert_allclose(result.equity[1:], stats["_equity_curve"]["Equity"], rtol=RTOL)
    assert len(result.trades) == stats["# Trades"]
