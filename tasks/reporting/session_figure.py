"""The picture of a session's page: its market with what was traded, and its account beside what was expected of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from storage.schema import DAY_MS, Candles, FloatArray, IntArray
from tasks.reporting.canvas import (
    ACCENT,
    DASHES,
    MODEL,
    MUTED,
    NOTHING,
    SECOND,
    add_axes,
    add_legend,
    as_dates,
    label_axes,
    new_figure,
    use_dates,
)
from tasks.reporting.figures import downsample

FEWEST_DAYS = 20
"""Unseen days that a backtest must have before anything is expected of a day."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """What there is to draw.

    Attributes:
        candles: The newest ones.
        trades: Time, price, and -1, 0 or 1 for what was held from then on, of each change of the position among them.
        start_ms: (T,) open time of each bar of the session.
        equity: (T + 1,) USDT, at the start and at each close.
        daily: (D,) what the version's backtest returned on each unseen day.
    """

    candles: Candles
    interval_ms: int
    trades: Sequence[tuple[int, float, int]]
    start_ms: IntArray
    equity: FloatArray
    daily: FloatArray


def session_figure(drawn: Drawn, label: str, width: int) -> Figure:
    """Price and trades of the newest bars on the left, the account since the start on the right."""
    figure = new_figure(width, 300, "The newest bars, and the account since the start", label)
    half = (width - 160) / 2
    market = add_axes(figure, (70, 44, half, 190))
    account = add_axes(figure, (70 + half + 74, 44, half, 190))
    _draw_market(market, drawn)
    _draw_account(account, drawn)
    for axes in (market, account):
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        add_legend(axes, columns=3, lift=4)
    return figure


def expected_band(capital: float, daily: FloatArray, days: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the account that a backtest's days would have led to: lower edge, middle, upper edge.

    Days are taken as independent and alike, so the band is two standard deviations of their sum wide on each side.

    Args:
        capital: USDT at the start.
        daily: (D,) simple returns.
        days: (n,) days since the start.
    """
    growth = np.log1p(daily)
    middle, spread = growth.mean() * days, 2.0 * growth.std(ddof=1) * np.sqrt(days)
    low, mid, high = (capital * np.exp(middle + sign * spread) for sign in (-1.0, 0.0, 1.0))
    return low, mid, high


def _draw_market(axes: Axes, drawn: Drawn) -> None:
    time_ms = drawn.candles.start_ms + drawn.interval_ms
    axes.plot(as_dates(time_ms), drawn.candles.close, color=NOTHING, linewidth=1.2)
    marks = {1: ("^", SECOND, "long"), -1: ("v", ACCENT, "short"), 0: ("o", MUTED, "flat")}
    for side, (mark, colour, name) in marks.items():
        here = [(at_ms / DAY_MS, price) for at_ms, price, to in drawn.trades if to == side]
        if here:
            axes.plot(*zip(*here, strict=True), mark, color=colour, markersize=5, label=name)
    use_dates(axes, time_ms, 0)
    label_axes(axes, "time (UTC)", "price (USDT)")


def _draw_account(axes: Axes, drawn: Drawn) -> None:
    time_ms = np.concatenate([drawn.start_ms[:1], drawn.start_ms + drawn.interval_ms])
    rows, capital = downsample(drawn.equity), float(drawn.equity[0])
    axes.axhline(capital, color=MUTED, linewidth=1.0, linestyle=DASHES)
    if len(drawn.daily) >= FEWEST_DAYS:
        days = np.linspace(0.0, (time_ms[-1] - time_ms[0]) / DAY_MS, 100)
        low, middle, high = expected_band(capital, drawn.daily, days)
        x = time_ms[0] / DAY_MS + days
        axes.fill_between(x, low, high, color=MODEL, alpha=0.12, linewidth=0, label="expected, ± 2 sd")
        axes.plot(x, middle, color=MODEL, linewidth=1.0, linestyle=DASHES)
    axes.plot(as_dates(time_ms[rows]), drawn.equity[rows], color=MODEL, linewidth=1.6, label="equity")
    use_dates(axes, time_ms, 0)
    label_axes(axes, "time (UTC)", "equity (USDT)")
