"""The report's charts: measured values in, figures out. `canvas.py` says how they look and turns them into bytes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeGuard

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from storage.schema import CLASSES, DAY_MS, FloatArray, IntArray
from tasks.reporting.canvas import (
    CLASS_COLOURS,
    DASHES,
    DOTS,
    INK,
    MODEL,
    MUTED,
    NARROW,
    NOTHING,
    PART_COLOURS,
    RIVAL,
    WIDE,
    add_axes,
    add_legend,
    as_dates,
    label_axes,
    new_figure,
    plain_text,
    use_dates,
)
from tasks.reporting.report_data import (
    Cell,
    ClassMix,
    CostPoint,
    Coverage,
    Equity,
    Latency,
    Reliability,
    RivalLine,
    Row,
    StepTimes,
    TrainingCurve,
)

MOST_POINTS = 2_000

_HEAT = LinearSegmentedColormap.from_list("heat", ["#f6f8fb", MODEL])


def downsample(values: FloatArray, most: int = MOST_POINTS) -> IntArray:
    """Choose points that draw like the whole series: first, last, and each bucket's lowest and highest.

    Args:
        values: (T,) may hold NaN, which is never an extreme.
        most: Most points to keep, >= 4.
    Returns:
        (n,) increasing indices, n <= most.
    """
    if len(values) <= most:
        return np.arange(len(values))
    buckets = np.array_split(np.arange(len(values)), (most - 2) // 2)
    keep = {0, len(values) - 1}
    for bucket in buckets:
        part = values[bucket]
        if np.isfinite(part).any():
            keep.update((int(bucket[np.nanargmin(part)]), int(bucket[np.nanargmax(part)])))
        else:
            keep.add(int(bucket[0]))  # the gap stays a gap
    return np.array(sorted(keep), np.int64)


def drawdown(equity: FloatArray, initial: float) -> FloatArray:
    """Return how far each value lies below the highest so far, the start included: (T,) shares, 0 or negative."""
    return equity / np.maximum.accumulate(np.fmax(equity, initial)) - 1.0


def equity_figure(equity: Equity, label: str, width: int = WIDE) -> Figure:
    """Account value above, drawdown below, against buying and holding and doing nothing."""
    height = 430 if width > NARROW else 400
    figure = new_figure(width, height, "Equity and drawdown on unseen bars, net of costs", label)
    value = add_axes(figure, (70, 166, width - 86, height - 236))
    below = add_axes(figure, (70, 46, width - 86, 96))
    most = min(MOST_POINTS, 2 * width)
    sides = (("buy and hold", equity.buy_and_hold, RIVAL, 1.1), ("this model", equity.model, MODEL, 1.6))
    for name, series, colour, weight in sides:
        finite = _finite(series)
        _draw_series(value, equity.time_ms, finite, most, colour=colour, weight=weight, name=name)
        lost = 100.0 * drawdown(finite, equity.initial)
        _draw_series(below, equity.time_ms, lost, most, colour=colour, weight=weight - 0.2, name=name)
        if series is equity.model:
            rows = downsample(lost, most)
            below.fill_between(as_dates(equity.time_ms[rows]), lost[rows], 0.0, color=colour, alpha=0.12, linewidth=0)
    value.axhline(equity.initial, color=NOTHING, linewidth=1.1, linestyle=DASHES, label="flat (no position)")
    for start in equity.block_starts_ms[1:]:
        for axes in (value, below):
            axes.axvline(start / DAY_MS, color=MUTED, linewidth=0.7, linestyle=DOTS)
    label_axes(value, "", "equity (quote currency)")
    value.yaxis.set_major_formatter(FuncFormatter(lambda amount, _: f"{amount:,.0f}"))
    value.tick_params(labelbottom=False)
    label_axes(below, "time (UTC)", "drawdown (%)")
    below.yaxis.set_major_locator(MaxNLocator(4))
    for axes in (value, below):
        use_dates(axes, equity.time_ms, width)
    add_legend(value, order=(1, 0, 2))
    return figure


def cost_figure(costs: Sequence[CostPoint], break_even_bp: float | None, label: str) -> Figure:
    """What is left at other costs, decided again at each and as the same positions re-priced."""
    figure = new_figure(NARROW, 300, "Net result at other costs", label)
    axes = add_axes(figure, (58, 44, NARROW - 74, 184))
    points = sorted(costs, key=lambda point: point.cost_bp)
    x = [point.cost_bp for point in points]
    lines = ([point.total_return for point in points], [point.repriced_return for point in points])
    y, repriced = ([100.0 * value if is_number(value) else np.nan for value in line] for line in lines)
    axes.axhline(0.0, color=NOTHING, linewidth=1.1, linestyle=DASHES, label="flat")
    axes.plot(x, repriced, color=MODEL, linewidth=1.1, linestyle=DOTS, label="same positions")
    axes.plot(x, y, color=MODEL, linewidth=1.6, marker="o", markersize=4, label="decided again")
    for place, point in enumerate(points):
        if point.assumed:
            axes.plot(x[place], y[place], "o", markersize=10, markerfacecolor="none", color=INK, label="assumed here")
    if is_number(break_even_bp) and x and min(x) <= break_even_bp <= max(x):
        axes.axvline(break_even_bp, color=RIVAL, linewidth=1.1, label=f"break-even {break_even_bp:.2f} bp")
    label_axes(axes, "fee and slippage per side (bp)", "total return (%)")
    add_legend(axes, columns=2)
    return figure


def training_figure(curves: Sequence[TrainingCurve], label: str, width: int = WIDE) -> Figure:
    """Loss of every fold's training, of each member in one frame; the kept weights are marked."""
    folds = {number: [curve for curve in curves if curve.fold == number] for number in sorted({c.fold for c in curves})}
    columns = min(len(folds), 4 if width > NARROW else 2)
    rows = -(-len(folds) // columns)
    height = 84 + 168 * rows
    figure = new_figure(width, height, "Training, fold by fold", label)
    low, high = _common_range(curves)
    cell = (width - 60) / columns
    for place, (number, members) in enumerate(folds.items()):
        row, column = divmod(place, columns)
        axes = add_axes(figure, (52 + column * cell, height - 84 - 168 * (row + 1) + 44, cell - 14, 112))
        thick = 1.6 if len(members) == 1 else 1.1
        for i, curve in enumerate(members):
            of_all = [None if i else name for name in ("training", "validation", "class shares alone", "kept weights")]
            axes.plot(curve.step, curve.train_loss, color=NOTHING, linewidth=thick - 0.5, label=of_all[0])
            axes.plot(curve.step, curve.validation_loss, color=MODEL, linewidth=thick, label=of_all[1])
            if is_number(curve.prior_loss):
                axes.axhline(curve.prior_loss, color=RIVAL, linewidth=1.1, linestyle=DASHES, label=of_all[2])
            kept = np.flatnonzero(curve.step == curve.best_step)
            at = curve.step[kept], curve.validation_loss[kept]
            axes.plot(*at, "o", color=MODEL, markersize=3.4 + thick, label=of_all[3])
        axes.set_title(f"fold {number}", loc="left", fontsize=10, color=INK, pad=4)
        axes.set_ylim(low, high)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        label_axes(axes, "steps" if row == rows - 1 else "", "loss (nat)" if column == 0 else "")
        if column:
            axes.tick_params(labelleft=False)
        if place == 0:
            add_legend(axes, columns=4 if width > NARROW else 2, lift=18)
    return figure


def fold_figure(rows: Sequence[Row], label: str, width: int = WIDE) -> Figure | None:
    """When each fold trains, validates and tests; None where the rows do not say."""
    try:
        parts = [(str(row["fold"]), str(row["part"]), _day(row["first"]), _day(row["last"])) for row in rows]
    except (KeyError, ValueError):
        return None
    folds = list(dict.fromkeys(fold for fold, *_ in parts))
    height = 100 + 24 * len(folds)
    figure = new_figure(width, height, "Walk-forward folds", label)
    axes = add_axes(figure, (58, 44, width - 74, height - 112), grid="x")
    for part, colour in PART_COLOURS.items():
        bars = [(folds.index(fold), first, last) for fold, name, first, last in parts if name == part]
        for place, first, last in bars[:1]:
            axes.barh(place, last - first, left=first, height=0.6, color=colour, label=part)
        for place, first, last in bars[1:]:
            axes.barh(place, last - first, left=first, height=0.6, color=colour)
    axes.set_yticks(range(len(folds)), [plain_text(f"fold {fold}", 12) for fold in folds])
    axes.invert_yaxis()
    times = np.array([min(first for *_, first, _ in parts), max(last for *_, last in parts)]) * DAY_MS
    use_dates(axes, times.astype(np.int64), width)
    label_axes(axes, "time (UTC)", "")
    add_legend(axes)
    return figure


def _common_range(curves: Sequence[TrainingCurve]) -> tuple[float, float]:
    """Return y limits that hold every loss, so that folds can be compared by eye."""
    priors = [curve.prior_loss for curve in curves if is_number(curve.prior_loss)]
    losses = np.concatenate([*(c.train_loss for c in curves), *(c.validation_loss for c in curves), np.array(priors)])
    losses = losses[np.isfinite(losses)]
    if not len(losses):
        return 0.0, 1.0
    margin = max(0.06 * float(np.ptp(losses)), 1e-6)
    return float(losses.min()) - margin, float(losses.max()) + margin


def class_figure(mixes: Sequence[ClassMix], label: str) -> Figure:
    """Share of each class per part of the data."""
    height = 104 + 30 * len(mixes)
    figure = new_figure(NARROW, height, "Class mix", label)
    axes = add_axes(figure, (104, 40, NARROW - 120, height - 112), grid="x")
    shares = np.array([np.divide(mix.counts, max(sum(mix.counts), 1)) for mix in mixes]) * 100.0
    places = np.arange(len(mixes))[::-1]
    left = np.zeros(len(mixes))
    for column, name in enumerate(CLASSES):
        width = shares[:, column]
        axes.barh(places, width, left=left, height=0.66, color=CLASS_COLOURS[name], label=name)
        for place, start, share in zip(places, left, width, strict=True):
            if share >= 9.0:  # narrower than its own text
                colour = INK if name == "hold" else "white"
                axes.text(
                    start + share / 2, place, f"{share:.0f} %", ha="center", va="center", fontsize=9, color=colour
                )
        left = left + width
    axes.set_xlim(0, 100)
    axes.set_yticks(places, [plain_text(mix.part, 17) for mix in mixes])
    label_axes(axes, "share of labels (%)", "")
    add_legend(axes, columns=3)
    return figure


def confusion_figure(confusion: IntArray, label: str) -> Figure:
    """True class against predicted class, as shares of each row."""
    figure = new_figure(NARROW, 320, "Predicted against true class", label)
    axes = add_axes(figure, (72, 48, NARROW - 88, 216), grid="")
    totals = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shares = confusion / totals
    axes.pcolormesh(shares[::-1], cmap=_HEAT, vmin=0.0, vmax=1.0, edgecolors="white", linewidth=2)
    size = len(confusion)
    for row in range(size):
        for column in range(size):
            share, colour = shares[row, column], "white" if shares[row, column] > 0.55 else INK
            middle = (column + 0.5, size - row - 0.5)
            axes.text(*middle, f"{100 * share:.0f} %", ha="center", va="bottom", fontsize=12, color=colour)
            axes.text(*middle, f"{confusion[row, column]:,}", ha="center", va="top", fontsize=9, color=colour)
    axes.set_xticks(np.arange(size) + 0.5, CLASSES[:size])
    axes.set_yticks(np.arange(size) + 0.5, CLASSES[:size][::-1])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    label_axes(axes, "predicted class (shares of each row)", "true class")
    return figure


def reliability_figure(reliability: Reliability, label: str) -> Figure:
    """Confidence against the share that was right."""
    figure = new_figure(NARROW, 320, "Calibration on unseen bars", label)
    axes = add_axes(figure, (58, 102, NARROW - 74, 156))
    bars = add_axes(figure, (58, 46, NARROW - 74, 34), grid="")
    used = (reliability.count > 0) & np.isfinite(reliability.confidence) & np.isfinite(reliability.accuracy)
    x, y, count = (100.0 * reliability.confidence[used], 100.0 * reliability.accuracy[used], reliability.count[used])
    low, high = (float(min(x.min(), y.min())), float(max(x.max(), y.max()))) if len(x) else (0.0, 100.0)
    margin = max(0.08 * (high - low), 1.0)
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color=NOTHING, linewidth=1.1, linestyle=DASHES, label="as right as confident")
    axes.plot(x, y, color=MODEL, linewidth=1.4, marker="o", markersize=4, label="this model")
    axes.set_ylim(ends)
    axes.tick_params(labelbottom=False)
    bars.bar(x, count, width=0.012 * (ends[1] - ends[0]), color=NOTHING)
    bars.set_yticks([])
    bars.spines["left"].set_visible(False)
    for panel in (axes, bars):
        panel.set_xlim(ends)
        panel.xaxis.set_major_locator(MaxNLocator(6))
    label_axes(axes, "", "share right (%)")
    label_axes(bars, "mean confidence of the bin (%); bars: labels", "")
    add_legend(axes, columns=2)
    return figure


def coverage_figure(coverage: Coverage, label: str) -> Figure:
    """Accuracy on the most confident share of the bars, with its 95 % interval."""
    figure = new_figure(NARROW, 320, "Accuracy by confidence", label)
    axes = add_axes(figure, (58, 52, NARROW - 74, 206))
    x, y, reach = 100.0 * coverage.share, 100.0 * coverage.accuracy, 196.0 * coverage.error
    axes.fill_between(x, y - reach, y + reach, color=MODEL, alpha=0.15, linewidth=0, label="95 %")
    axes.plot(x, y, color=MODEL, linewidth=1.4, marker="o", markersize=4, label="this model")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(x, [f"{share:g}" for share in x])
    label_axes(axes, "most confident share of the bars (%)", "share right (%)")
    add_legend(axes, columns=2)
    return figure


def latency_figure(rows: Sequence[Latency], label: str, width: int = WIDE) -> Figure | None:
    """Median to 99th percentile of every network and runtime, on a logarithmic axis; None where nothing was timed."""
    timed = [(row, row.p50_us, row.p99_us) for row in rows if is_number(row.p50_us) and is_number(row.p99_us)]
    if not timed:
        return None
    height = 116 + 24 * len(timed)
    figure = new_figure(width, height, "Time per prediction, one thread", label)
    left = 210 if width > NARROW else 156
    axes = add_axes(figure, (left, 44, width - left - 80, height - 122), grid="x")
    places = range(len(timed))[::-1]
    for place, (_, p50, p99) in zip(places, timed, strict=True):
        axes.plot((p50, p99), (place, place), color=MODEL, linewidth=2.4, alpha=0.35, solid_capstyle="butt")
        axes.plot(p50, place, "o", color=MODEL, markersize=6, label=None if place else "median")
        axes.plot(p99, place, "|", color=MODEL, markersize=9, label=None if place else "99th percentile")
        right = axes.annotate(f"{p50:,.1f} µs", (p99, place), (8, 0), textcoords="offset points", va="center")
        right.set(fontsize=9, color=INK)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda microseconds, _: f"{microseconds:,g}"))
    names = [plain_text(f"{row.name}, {row.runtime}", 40 if width > NARROW else 30) for row, _, _ in timed]
    axes.set_yticks(places, names, fontsize=9.5 if width > NARROW else 8)
    axes.set_ylim(-0.6, len(timed) - 0.4)
    label_axes(axes, "microseconds, logarithmic", "")
    add_legend(axes, columns=2)
    return figure


def step_figure(times: StepTimes, label: str, width: int = WIDE) -> Figure:
    """How often one prediction took how long: both axes logarithmic, so that the rare slow ones show."""
    figure = new_figure(width, 240, "One prediction of this model", label)
    axes = add_axes(figure, (58, 44, width - 74, 130), grid="y")
    axes.stairs(times.calls, times.edges_us, fill=True, color=MODEL, alpha=0.55)
    for percentile, us, style in (("median", times.p50_us, DASHES), ("99th percentile", times.p99_us, DOTS)):
        axes.axvline(us, color=INK, linewidth=1.1, linestyle=style, label=f"{percentile} {us:,.1f} µs")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.7, 2.0 * max(int(times.calls.max()), 1))
    axes.set_xlim(times.edges_us[0], times.edges_us[-1])
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    label_axes(axes, "microseconds, logarithmic", "calls, logarithmic")
    add_legend(axes, columns=2)
    return figure


def rivals_figure(lines: Sequence[RivalLine], label: str, width: int = WIDE) -> Figure | None:
    """The model's log-loss lead over every forecaster, with its 95 % interval; None where there is no lead to draw."""
    drawn = [(line.name, line.lead, line.lead_error) for line in lines]
    shown = [(name, lead, error) for name, lead, error in drawn if is_number(lead)]
    if not shown:
        return None
    height = 112 + 26 * len(shown)
    figure = new_figure(width, height, "The model's lead in log-loss", label)
    left = 190 if width > NARROW else 140
    axes = add_axes(figure, (left, 48, width - left - 90, height - 112), grid="x")
    places = range(len(shown))[::-1]
    axes.axvline(0.0, color=NOTHING, linewidth=1.1, linestyle=DASHES)
    for place, (_, lead, error) in zip(places, shown, strict=True):
        colour, reach = MODEL if lead > 0 else RIVAL, 1.96 * error if is_number(error) else 0.0
        axes.plot((1e3 * (lead - reach), 1e3 * (lead + reach)), (place, place), color=colour, linewidth=2.4, alpha=0.35)
        axes.plot(1e3 * lead, place, "o", color=colour, markersize=6)
        right = axes.annotate(f"{1e3 * lead:+.2f}", (1e3 * (lead + reach), place), (8, 0), textcoords="offset points")
        right.set(fontsize=9, color=INK, va="center")
    axes.set_yticks(places, [plain_text(name, 28) for name, _, _ in shown], fontsize=9.5 if width > NARROW else 8)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    label_axes(axes, "thousandths of a nat; right of the line the model is better; bars: 95 %", "")
    return figure


def _draw_series(
    axes: Axes, time_ms: IntArray, values: FloatArray, most: int, *, colour: str, weight: float, name: str
) -> None:
    rows = downsample(values, most)
    axes.plot(as_dates(time_ms[rows]), values[rows], color=colour, linewidth=weight, label=name)


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, np.nan)


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether a value can be drawn or written: neither None nor NaN nor infinite."""
    return value is not None and bool(np.isfinite(value))


def _day(moment: Cell) -> float:
    """Return ISO text as matplotlib's date."""
    return datetime.fromisoformat(str(moment)).timestamp() * 1_000 / DAY_MS


def _thousands(value: float, _: object) -> str:
    return f"{value / 1_000:g}k" if abs(value) >= 1_000 else f"{value:g}"
