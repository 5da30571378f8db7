"""Results by calendar year and by the state of the market; a description only, nothing is selected by them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from storage.schema import DAY_MS, BoolArray, FloatArray, IntArray
from tasks.execution.backtest import BacktestResult
from tasks.execution.metrics import DAYS_PER_YEAR, daily_returns, sharpe_ratio

_REGIMES = ("calm third of the days", "middle third of the days", "lively third of the days")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Result of a subset of the UTC days.

    Attributes:
        total_return: Their compounded net return.
        sharpe_ratio: Of these days, annualised with sqrt(365); None where undefined.
        held_return: Compounded return of buy-and-hold on them.
        num_trades: Round trips that began on them.
    """

    name: str
    days: int
    total_return: float
    sharpe_ratio: float | None
    held_return: float
    num_trades: int


def slices(result: BacktestResult, held: BacktestResult, vol: FloatArray) -> tuple[Slice, ...]:
    """Return the result by year, by thirds of volatility, and by whether the market rose or fell that day.

    `held` is buy-and-hold on the same bars; a day's volatility is the mean over its bars of `vol`, (T,), NaN where
    unknown.
    """
    start_ms = result.bars.start_ms
    own, market = daily_returns(result.equity, start_ms), daily_returns(held.equity, start_ms)
    first = int(start_ms[0] // DAY_MS)
    entries = start_ms[result.trades.entry_bar] // DAY_MS - first
    trades = np.bincount(entries.astype(np.int64), minlength=len(own))
    return tuple(
        Slice(
            name=name,
            days=int(chosen.sum()),
            total_return=float(np.prod(1.0 + own[chosen]) - 1.0),
            sharpe_ratio=sharpe_ratio(own[chosen], DAYS_PER_YEAR),
            held_return=float(np.prod(1.0 + market[chosen]) - 1.0),
            num_trades=int(trades[chosen].sum()),
        )
        for name, chosen in _parts(first, market, _daily_mean(vol, start_ms // DAY_MS - first, len(own)))
        if chosen.any()
    )


def _parts(first: int, market: FloatArray, vol: FloatArray) -> Iterator[tuple[str, BoolArray]]:
    years = np.array([datetime.fromtimestamp((first + day) * 86_400, UTC).year for day in range(len(market))])
    for year in np.unique(years):
        yield str(year), years == year
    known = np.isfinite(vol)
    if known.any():
        low, high = np.quantile(vol[known], (1 / 3, 2 / 3))
        third = np.where(known, (vol > low).astype(int) + (vol > high), -1)
        for place, name in enumerate(_REGIMES):
            yield name, third == place
    yield "days on which holding gained", market > 0.0
    yield "days on which holding lost", market < 0.0


def _daily_mean(values: FloatArray, day: IntArray, days: int) -> FloatArray:
    known = np.isfinite(values)
    counts = np.bincount(day[known], minlength=days)
    sums = np.bincount(day[known], values[known], minlength=days)
    mean: FloatArray = np.divide(sums, counts, out=np.full(days, np.nan), where=counts > 0)
    return mean
