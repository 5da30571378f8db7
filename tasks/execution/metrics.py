"""Metrics of a backtest. Each metric is one function: array in, number out, None where it is not defined.

Equity is E_0 at the start and E_1 .. E_T at the closes, net of all costs. Returns are taken over every bar or day, also
those without a position. The main ratios use UTC days and sqrt(365), since returns of neighbouring bars are correlated
and crypto markets never close; per-bar ratios are given too. An undefined ratio is None, because 0 would be a claim and
NaN or inf break comparisons.
"""

import math
from dataclasses import dataclass

import numpy as np

from storage.schema import DAY_MS, FloatArray, IntArray
from tasks.execution.backtest import BacktestResult
from tasks.execution.trades import Trades

DAYS_PER_YEAR = 365
_FEWEST_DAYS_FOR_A_YEAR = 90  # a few weeks extrapolated to a year mean nothing
_BP = 1e4
_ROUNDING = 1e-12  # of the largest return: equal numbers rarely have a standard deviation of exactly 0


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """A backtest in numbers; None where undefined. Keys of the source text keep their names.

    Attributes:
        total_return: Net, share of the capital.
        sharpe_ratio, sortino_ratio: From UTC days, annualised with sqrt(365).
        max_drawdown: Share of the highest equity so far, the start included.
        max_drawdown_bars: Longest run of bars below an earlier high.
        num_trades: Round trips.
        win_rate: Share of trades with net profit > 0.
        profit_factor: Sum of wins over sum of losses; None without losses.
        expectancy_bp: Mean over trades of net profit over entry notional, basis points.
        turnover_per_day: Traded notional over equity at the last close, summed, per day.
        exposure: Share of bars with a position.
        mean_weight: Mean over bars of |position value| over equity.
        gross_return: Before fees, slippage and funding, share of the capital.
        fees_paid, slippage_paid, funding_paid: USDT; funding is negative where received.
        cost_drag: Fees, slippage and funding, share of the capital.
        cost_share_of_gross: The same, share of the gross profit; None where that is not positive.
        break_even_cost_per_side: Fee and slippage per fill, share of notional, at which the net profit is 0.
        sharpe_per_bar, sortino_per_bar: From bars, annualised with sqrt(bars per year).
        cagr, calmar: None under 90 days.
        days: Bars traded, in days.
    """

    total_return: float
    sharpe_ratio: float | None
    sortino_ratio: float | None
    max_drawdown: float
    max_drawdown_bars: int
    num_trades: int
    win_rate: float | None
    profit_factor: float | None
    expectancy_bp: float | None
    mean_hold_bars: float | None
    turnover_per_day: float
    exposure: float
    mean_weight: float
    gross_return: float
    fees_paid: float
    slippage_paid: float
    funding_paid: float
    cost_drag: float
    cost_share_of_gross: float | None
    break_even_cost_per_side: float | None
    sharpe_per_bar: float | None
    sortino_per_bar: float | None
    cagr: float | None
    calmar: float | None
    days: float


def summarize(result: BacktestResult, bars_per_year: float) -> Metrics:
    """Return every metric of a backtest; a year has 365 days."""
    equity, trades, capital = result.equity, result.trades, float(result.equity[0])
    returns, daily = bar_returns(equity), daily_returns(equity, result.bars.start_ms)
    days = len(returns) / bars_per_year * DAYS_PER_YEAR
    paid = result.fees_paid + result.slippage_paid + result.funding_paid
    drawdown = max_drawdown(equity)
    growth = cagr(equity, bars_per_year)
    return Metrics(
        total_return=total_return(equity),
        sharpe_ratio=sharpe_ratio(daily, DAYS_PER_YEAR),
        sortino_ratio=sortino_ratio(daily, DAYS_PER_YEAR),
        max_drawdown=drawdown,
        max_drawdown_bars=max_drawdown_bars(equity),
        num_trades=len(trades),
        win_rate=win_rate(trades),
        profit_factor=profit_factor(trades),
        expectancy_bp=expectancy_bp(trades),
        mean_hold_bars=float(trades.bars.mean()) if len(trades) else None,
        turnover_per_day=float(_over_equity(result.traded, equity[:-1]).sum()) / days,
        exposure=float(np.count_nonzero(result.quantity)) / len(returns),
        mean_weight=float(_over_equity(np.abs(result.quantity) * result.bars.close, equity[1:]).mean()),
        gross_return=result.gross_profit / capital,
        fees_paid=result.fees_paid,
        slippage_paid=result.slippage_paid,
        funding_paid=result.funding_paid,
        cost_drag=paid / capital,
        cost_share_of_gross=paid / result.gross_profit if result.gross_profit > 0.0 else None,
        break_even_cost_per_side=break_even_cost_per_side(result),
        sharpe_per_bar=sharpe_ratio(returns, bars_per_year),
        sortino_per_bar=sortino_ratio(returns, bars_per_year),
        cagr=growth,
        calmar=growth / drawdown if growth is not None and drawdown > 0.0 else None,
        days=days,
    )


def bar_returns(equity: FloatArray) -> FloatArray:
    """Return E_t / E_{t-1} - 1 over every bar, (T,) from (T + 1,); 0 after ruin."""
    return _over_equity(np.diff(equity), equity[:-1])


def daily_returns(equity: FloatArray, start_ms: IntArray) -> FloatArray:
    """Return the return of every UTC day from the first bar's to the last bar's.

    A bar belongs to the day in which it opens. A day without a bar returns 0, so that a year always has 365 days.

    Args:
        equity: (T + 1,) at the start, then at each close.
        start_ms: (T,) open time of each bar, UTC milliseconds, increasing.

    Returns:
        (D,) simple returns.
    """
    day = start_ms // DAY_MS
    # Bars opened by the end of each day: the index of that day's last equity.
    closed = np.searchsorted(day, np.arange(day[0], day[-1] + 1), side="right")
    return bar_returns(equity[np.concatenate([[0], closed])])


def total_return(equity: FloatArray) -> float:
    """Return E_T / E_0 - 1."""
    return float(equity[-1] / equity[0] - 1.0)


def sharpe_ratio(returns: FloatArray, periods_per_year: float) -> float | None:
    """Return sqrt(periods per year) * mean / standard deviation (n - 1); None for fewer than two or equal returns.

    No risk-free rate is subtracted: the account holds USDT, which pays no interest.
    """
    if len(returns) < 2:
        return None
    spread = float(returns.std(ddof=1))
    if spread <= _ROUNDING * float(np.abs(returns).max()):
        return None
    return math.sqrt(periods_per_year) * float(returns.mean()) / spread


def sortino_ratio(returns: FloatArray, periods_per_year: float) -> float | None:
    """Return sqrt(periods per year) * mean / RMS of the losses over ALL periods; None without a loss.

    Sortino, Price 1994, target 0. The source text uses the standard deviation of the negative returns alone, which is a
    different number: it is 0 for equal losses.
    """
    if len(returns) < 2:
        return None
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2)))
    return math.sqrt(periods_per_year) * float(returns.mean()) / downside if downside > 0.0 else None


def max_drawdown(equity: FloatArray) -> float:
    """Return the largest fall from a high, the start included, as a share of it; 0 if equity never fell."""
    return float(np.max(1.0 - equity / np.maximum.accumulate(equity)))


def max_drawdown_bars(equity: FloatArray) -> int:
    """Return the longest run of bars below an earlier high."""
    at_high = np.flatnonzero(equity >= np.maximum.accumulate(equity))
    return int(np.diff(np.append(at_high, len(equity))).max()) - 1


def cagr(equity: FloatArray, bars_per_year: float) -> float | None:
    """Return the yearly growth rate (E_T / E_0)^(bars per year / T) - 1; None under 90 days."""
    years = (len(equity) - 1) / bars_per_year
    if years * DAYS_PER_YEAR < _FEWEST_DAYS_FOR_A_YEAR:
        return None
    return float((equity[-1] / equity[0]) ** (1.0 / years) - 1.0)


def win_rate(trades: Trades) -> float | None:
    """Return the share of trades with net profit > 0; None without trades."""
    return float(np.mean(trades.net > 0.0)) if len(trades) else None


def profit_factor(trades: Trades) -> float | None:
    """Return net wins over net losses; None without losses."""
    net = trades.net
    lost = -float(net[net < 0.0].sum())
    return float(net[net > 0.0].sum()) / lost if lost > 0.0 else None


def expectancy_bp(trades: Trades) -> float | None:
    """Return the mean net profit per trade over its entry notional, basis points; None without trades."""
    return float(np.mean(trades.net / trades.entry_notional)) * _BP if len(trades) else None


def break_even_cost_per_side(result: BacktestResult) -> float | None:
    """Return (gross profit - funding) / traded notional: the cost per fill at which net profit is 0; None if no fill.

    Funding is subtracted because it does not depend on the cost of a fill.
    """
    traded = float(result.traded.sum())
    return (result.gross_profit - result.funding_paid) / traded if traded > 0.0 else None


def _over_equity(amount: FloatArray, equity: FloatArray) -> FloatArray:
    """Return amount / equity, 0 where the account is ruined."""
    return np.divide(amount, equity, out=np.zeros(len(equity)), where=equity > 0.0)
