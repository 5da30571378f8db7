"""The track record as people read it: months, worst drawdowns, a rolling Sharpe ratio. Taken from the equity alone."""

from collections.abc import Mapping

import numpy as np

from storage.schema import DAY_MS, FloatArray, IntArray, utc_text
from storage.written import Row
from tasks.execution.metrics import DAYS_PER_YEAR, daily_returns, sharpe_ratio
from tasks.execution.trades import EXITS
from tasks.reporting.report_data import Equity

WINDOWS = (90, 30)
"""Days of a rolling Sharpe ratio: the first of which the record holds two."""
FEWEST_MOVED = 5
"""Days of a window on which the account must have moved: one alone makes sqrt(365 / window), whatever it earned."""


def day_starts(equity: Equity) -> IntArray:
    """Return (D,) the UTC days from the first bar's to the last bar's, milliseconds."""
    first, last = equity.candles.start_ms[[0, -1]] // DAY_MS
    return np.arange(first, last + 1) * DAY_MS


def days_of(equity: Equity, series: FloatArray) -> FloatArray:
    """Return (D,) the return of each UTC day of one of the series of `equity`."""
    return daily_returns(series, equity.candles.start_ms)


Months = Mapping[int, Mapping[str, FloatArray]]
"""Year -> series -> (13,) net return of the twelve months and of the year; NaN for a month without days."""


def monthly_returns(equity: Equity) -> Months:
    """Return the net return of every month of every series."""
    months = day_starts(equity).astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    table: dict[int, dict[str, FloatArray]] = {}
    for name, series in equity.series.items():
        growth = 1.0 + days_of(equity, series)
        for year in np.unique(months // 12):
            row = np.full(13, np.nan)
            for month in np.unique(months[months // 12 == year]):
                row[month % 12] = growth[months == month].prod() - 1.0
            row[12] = growth[months // 12 == year].prod() - 1.0
            table.setdefault(1970 + int(year), {})[name] = row
    return table


def used_months(table: Months) -> list[int]:
    """Return the months, from 0, of which any year has days."""
    rows = [row[:12] for sides in table.values() for row in sides.values()]
    return np.flatnonzero(np.isfinite(rows).any(axis=0)).tolist()


def largest_month(table: Months) -> float:
    """Return the largest gain or loss of a month, share: what the table's colours are scaled by."""
    return max(float(np.nanmax(np.abs(row[:12]))) for sides in table.values() for row in sides.values())


def rolling_sharpe(daily: FloatArray) -> tuple[int, FloatArray] | None:
    """Return the window in days and (D - window + 1,) the annualised Sharpe ratio of each; None on too few days.

    A window in which the account moved on fewer than `FEWEST_MOVED` days has no ratio: NaN.
    """
    window = next((days for days in WINDOWS if len(daily) >= 2 * days), None)
    if window is None:
        return None
    parts = np.lib.stride_tricks.sliding_window_view(daily, window)
    ratios = [sharpe_ratio(part, DAYS_PER_YEAR) if np.count_nonzero(part) >= FEWEST_MOVED else None for part in parts]
    return window, np.array([np.nan if ratio is None else ratio for ratio in ratios])


def drawdown(equity: FloatArray) -> FloatArray:
    """Return how far each value lies below the highest so far: (T,) shares, 0 or negative."""
    return equity / np.fmax.accumulate(equity) - 1.0


def worst_drawdowns(equity: Equity, most: int = 5) -> list[Row]:
    """Return the model's deepest falls from a high, the deepest first: from when, how deep, when it was made good."""
    depth, time_ms = drawdown(equity.model), equity.time_ms
    below = np.concatenate([depth < 0.0, [False]])  # the start is a high
    starts = np.flatnonzero(~below[:-1] & below[1:])  # the high itself, then bars below it
    ends = np.flatnonzero(below[:-1] & ~below[1:]) + 1
    rows: list[Row] = []
    for start, end in zip(starts, ends, strict=True):
        lowest = start + int(np.nanargmin(depth[start:end]))
        open_still = end == len(depth)
        until = time_ms[end - 1 if open_still else end]
        rows.append(
            {
                "fall": float(depth[lowest]),
                "high": _day(time_ms[start]),
                "lowest": _day(time_ms[lowest]),
                "made good": "not yet" if open_still else _day(until),
                "days": round(float(until - time_ms[start]) / DAY_MS, 1),
            }
        )
    return sorted(rows, key=lambda row: float(row["fall"] or 0.0))[:most]


def trade_rows(equity: Equity, most: int = 20) -> list[Row]:
    """Return the newest round trips of the model, the oldest of them first."""
    trades, start_ms = equity.trades, equity.candles.start_ms
    return [
        {
            "entered": utc_text(int(start_ms[trades.entry_bar[i]])),
            "side": "long" if trades.side[i] > 0 else "short",
            "bars": int(trades.bars[i]),
            "entry": round(float(trades.entry_price[i]), 4),
            "exit": round(float(trades.exit_price[i]), 4),
            "gross": round(float(trades.gross[i]), 2),
            "fees": round(float(trades.fees[i]), 2),
            "slippage": round(float(trades.slippage[i]), 2),
            "funding": round(float(trades.funding[i]), 2),
            "net": round(float(trades.net[i]), 2),
            "ended by": EXITS[trades.exit[i]],
        }
        for i in range(max(len(trades) - most, 0), len(trades))
    ]


def _day(time_ms: int) -> str:
    return utc_text(int(time_ms))[:10]
