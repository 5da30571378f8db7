"""The chart to look into: price with trades, equity and drawdown over one time axis, drawn by plotly.js in the page.

The library comes out of its wheel and is deflated: 4.8 MB are 2 MB then in base64, and every version keeps its report.
A page runs no script but this one and ours, each named by its hash in the page's policy.
"""

import base64
import math
import zlib
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

from storage.schema import FloatArray
from tasks.execution.trades import Trades
from tasks.reporting.report_data import Equity
from tasks.reporting.templating import script_hash
from tasks.reporting.track import drawdown

MOST_BARS = 2_400
"""Candles that the chart holds: two for each point of a wide screen, so that the first zoom still shows more."""

MOST_TRADES = 2_000
"""Round trips that the chart marks, the newest."""


@lru_cache(maxsize=1)
def library() -> tuple[str, str]:
    """Return plotly.js, deflated, in base64, and the hash by which a policy names it."""
    source = resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return base64.b64encode(zlib.compress(source, 9)).decode(), script_hash(source)


def explorer_data(equity: Equity) -> dict[str, Any]:
    """Return what the chart draws, as JSON: neighbouring bars become one candle, and no high, low or fall is lost."""
    candles, bars = equity.candles, len(equity.candles)
    first = np.arange(0, bars, -(-bars // MOST_BARS))
    last = np.append(first[1:], bars) - 1
    series = {
        name: {
            "equity": _rounded(values[last + 1]),
            "drawdown": _rounded(100.0 * np.fmin.reduceat(drawdown(values)[1:], first)),
        }
        for name, values in equity.series.items()
    }
    return {
        "time": candles.start_ms[first].tolist(),
        "open": _rounded(candles.open[first]),
        "high": _rounded(np.maximum.reduceat(candles.high, first)),
        "low": _rounded(np.minimum.reduceat(candles.low, first)),
        "close": _rounded(candles.close[last]),
        "series": series,
        "folds": list(equity.block_starts_ms[1:]),
        "trades": _marks(equity, equity.trades),
    }


def _marks(equity: Equity, trades: Trades) -> list[list[int | float | None]]:
    """Return the newest round trips as side, time and price of entry and exit, and net result."""
    newest = slice(max(len(trades) - MOST_TRADES, 0), None)
    start_ms = equity.candles.start_ms
    entered = start_ms[trades.entry_bar[newest]]
    left = start_ms[trades.exit_bar[newest]] + equity.interval_ms * trades.at_close[newest]
    columns = (
        trades.side[newest].tolist(),
        entered.tolist(),
        _rounded(trades.entry_price[newest]),
        left.tolist(),
        _rounded(trades.exit_price[newest]),
        _rounded(trades.net[newest]),
    )
    return [list(row) for row in zip(*columns, strict=True)]


def _rounded(values: FloatArray) -> list[float | None]:
    """Return values with six digits, more than a screen has; JSON has no infinity and no NaN."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]
