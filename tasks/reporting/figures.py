"""The report's charts: measured values in, figures out. `canvas.py` says how they look and turns them into bytes."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeGuard, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from storage.schema import DAY_MS, FloatArray, IntArray
from storage.written import Cell, Row
from tasks.execution.comparison_rows import ComparisonRow
from tasks.execution.importance import Importance
from tasks.execution.skill import Skill
from tasks.network.training_record import Progress
from tasks.reporting.canvas import (
    ACCENT,
    DASHES,
    DOTS,
    INK,
    MODEL,
    MUTED,
    NARROW,
    NOTHING,
    PAPER,
    PART_COLOURS,
    SECOND,
    WIDE,
    add_axes,
    add_legend,
    as_dates,
    label_axes,
    new_figure,
    plain_text,
    use_dates,
)
from tasks.reporting.report_data import CostPoint, Equity
from tasks.reporting.track import day_starts, days_of, drawdown, rolling_sharpe
from tasks.strategy.folds import FoldResult
from tasks.strategy.speed import Speed

MOST_POINTS = 2_000

_Series = TypeVar("_Series")


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


def draw_equity(equity: Equity, label: str, width: int = WIDE) -> Figure:
    """Account value above, on a logarithmic axis, drawdown below; beside the baselines, holding and doing nothing."""
    height, legend = (310, 22) if width > NARROW else (350, 52)
    figure = new_figure(width, height, "Equity and drawdown on unseen bars, net of costs", label)
    most_money = max(float(np.nanmax(series)) for series in equity.series.values())
    left = max(70, 28 + 6.2 * len(f"{most_money:,.0f}"))  # the name of the axis stands beside its longest number
    value = add_axes(figure, (left, 124, width - left - 16, height - 160 - legend))
    below = add_axes(figure, (left, 40, width - left - 16, 70))
    most = min(MOST_POINTS, 2 * width)
    for colour, (name, series) in reversed(_coloured(equity.series)):  # the model on top
        ours = colour == MODEL
        finite = np.where(np.isfinite(series) & (series > 0.0), series, np.nan)  # a ruin has no logarithm
        _draw_series(
            value, equity.time_ms, finite, most, colour=colour, weight=1.6 if ours else 1.1, name=plain_text(name, 30)
        )
        lost = 100.0 * drawdown(finite)
        _draw_series(below, equity.time_ms, lost, most, colour=colour, weight=1.4 if ours else 0.9, name=name)
        if ours:
            rows = downsample(lost, most)
            below.fill_between(as_dates(equity.time_ms[rows]), lost[rows], 0.0, color=colour, alpha=0.12, linewidth=0)
    value.axhline(
        equity.initial, color=MUTED, linewidth=1.1, linestyle=DASHES, label=f"flat, {equity.initial:,.0f} at the start"
    )
    for start in equity.block_starts_ms[1:]:
        for axes in (value, below):
            axes.axvline(start / DAY_MS, color=MUTED, linewidth=0.7, linestyle=DOTS)
    label_axes(value, "", "equity (log)")
    _use_logarithm(value)
    value.tick_params(labelbottom=False)
    label_axes(below, "time (UTC)", "drawdown (%)")
    below.yaxis.set_major_locator(MaxNLocator(3))
    for axes in (value, below):
        use_dates(axes, equity.time_ms, width)
    lines = len(equity.series)
    add_legend(value, order=(*reversed(range(lines)), lines), columns=5 if width > NARROW else 2, lift=2)
    return figure


def draw_rolling(equity: Equity, label: str, width: int = WIDE) -> Figure | None:
    """The Sharpe ratio of the days up to each day; None on too few days."""
    drawn = {name: rolling_sharpe(days_of(equity, series)) for name, series in equity.series.items()}
    ours = drawn["this model"]
    if ours is None:
        return None
    figure = new_figure(width, 240, f"Sharpe ratio of the last {ours[0]} days", label)
    axes = add_axes(figure, (58, 44, width - 74, 124))
    days = day_starts(equity)[ours[0] - 1 :]
    axes.axhline(0.0, color=MUTED, linewidth=1.1, linestyle=DASHES)
    for colour, (name, rolled) in reversed(_coloured(drawn)):
        if rolled is not None:
            axes.plot(
                as_dates(days),
                rolled[1],
                color=colour,
                linewidth=1.6 if colour == MODEL else 1.1,
                label=plain_text(name, 30) + ("" if np.isfinite(rolled[1]).any() else ": no ratio"),
            )
    use_dates(axes, days, width)
    label_axes(axes, "time (UTC)", "annualised, √365")
    add_legend(axes, order=range(len(drawn))[::-1], columns=4 if width > NARROW else 2)
    return figure


def _coloured(series: Mapping[str, _Series]) -> list[tuple[str, tuple[str, _Series]]]:
    """Return the colour of every account with its name and values: the model, the baselines, holding."""
    return list(zip((*(MODEL, ACCENT, SECOND)[: len(series) - 1], NOTHING), series.items(), strict=True))


def draw_distribution(values: FloatArray, title: str, unit: str, label: str) -> Figure:
    """How often a day or a trade ended where: a histogram with its mean; what lies outside is put into the end bins."""
    figure = new_figure(NARROW, 280, title, label)
    axes = add_axes(figure, (58, 44, NARROW - 74, 164), grid="y")
    low, high = np.percentile(values, (0.5, 99.5))
    reach = max(abs(low), abs(high), 1e-9)
    counts, edges = np.histogram(np.clip(values, -reach, reach), bins=31, range=(-reach, reach))
    axes.stairs(counts, edges, fill=True, color=MODEL, alpha=0.55)
    axes.axvline(0.0, color=MUTED, linewidth=1.1, linestyle=DASHES)
    mean = float(values.mean())
    axes.axvline(mean, color=ACCENT, linewidth=1.4, label=f"mean {mean:+.3g} {unit}")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    label_axes(axes, f"net result ({unit})", "how many")
    add_legend(axes)
    return figure


def draw_cost(costs: Sequence[CostPoint], break_even: float | None, label: str) -> Figure:
    """What is left at other costs, decided again at each and as the same positions re-priced."""
    figure = new_figure(NARROW, 300, "Net result at other costs", label)
    axes = add_axes(figure, (58, 44, NARROW - 74, 184))
    x = [1e4 * point.per_side for point in costs]
    y = [100.0 * point.decided.total_return for point in costs]
    repriced = [100.0 * point.repriced.total_return for point in costs]
    axes.axhline(0.0, color=NOTHING, linewidth=1.1, linestyle=DASHES, label="flat")
    axes.plot(x, repriced, color=MODEL, linewidth=1.1, linestyle=DOTS, label="same positions")
    axes.plot(x, y, color=MODEL, linewidth=1.6, marker="o", markersize=4, label="decided again")
    for place, point in enumerate(costs):
        if point.assumed:
            axes.plot(x[place], y[place], "o", markersize=10, markerfacecolor="none", color=INK, label="assumed here")
    if break_even is not None and x[0] <= 1e4 * break_even <= x[-1]:
        axes.axvline(1e4 * break_even, color=ACCENT, linewidth=1.1, label=f"break-even {1e4 * break_even:.2f} bp")
    label_axes(axes, "fee and slippage per side (bp)", "total return (%)")
    add_legend(axes, columns=2)
    return figure


def draw_training(folds: Sequence[FoldResult], label: str, width: int = WIDE) -> Figure:
    """Loss of every fold's training, of each member in one frame; the kept weights are marked."""
    columns = min(len(folds), 4 if width > NARROW else 2)
    rows = -(-len(folds) // columns)
    height = 84 + 168 * rows
    figure = new_figure(width, height, "Training, fold by fold", label)
    low, high = _common_range(folds)
    cell = (width - 60) / columns
    for place, fold in enumerate(folds):
        row, column = divmod(place, columns)
        axes = add_axes(figure, (52 + column * cell, height - 84 - 168 * (row + 1) + 44, cell - 14, 112))
        thick = 1.6 if len(fold.best_steps) == 1 else 1.1
        for member, best_step in enumerate(fold.best_steps):
            of_all = [None if member else name for name in ("training", "validation", "kept weights")]
            points = [point for point in fold.history if point.member == member]
            steps = np.array([point.step for point in points])
            losses = np.array([point.validation_loss for point in points])
            axes.plot(steps, _train_losses(points), color=NOTHING, linewidth=thick - 0.5, label=of_all[0])
            axes.plot(steps, losses, color=MODEL, linewidth=thick, label=of_all[1])
            kept = steps == best_step
            axes.plot(steps[kept], losses[kept], "o", color=MODEL, markersize=3.4 + thick, label=of_all[2])
        axes.set_title(f"fold {place + 1}", loc="left", fontsize=10, color=INK, pad=4)
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


def draw_fold(rows: Sequence[Row], label: str, width: int = WIDE) -> Figure | None:
    """When each fold trains, validates and tests; None where the rows do not say."""
    try:
        parts = [(str(row["fold"]), str(row["part"]), _day(row["first"]), _day(row["last"])) for row in rows]
    except (KeyError, ValueError):
        parts = []
    if not parts:
        return None
    folds = list(dict.fromkeys(fold for fold, *_ in parts))
    height = 100 + 24 * len(folds)
    figure = new_figure(width, height, "Walk-forward folds", label)
    axes = add_axes(figure, (58, 44, width - 74, height - 112), grid="x")
    for part, colour in PART_COLOURS.items():
        bars = [(folds.index(fold), last - first, first) for fold, name, first, last in parts if name == part]
        if not bars:  # a new listing has nothing to learn from
            continue
        places, lengths, starts = zip(*bars, strict=True)
        axes.barh(places, lengths, left=starts, height=0.6, color=colour, label=part)
    axes.set_yticks(range(len(folds)), [plain_text(f"fold {fold}", 12) for fold in folds])
    axes.invert_yaxis()
    times = np.array([min(first for *_, first, _ in parts), max(last for *_, last in parts)]) * DAY_MS
    use_dates(axes, times.astype(np.int64), width)
    label_axes(axes, "time (UTC)", "")
    add_legend(axes)
    return figure


def _train_losses(points: Sequence[Progress]) -> list[float]:
    return [np.nan if point.train_loss is None else point.train_loss for point in points]


def _common_range(folds: Sequence[FoldResult]) -> tuple[float, float]:
    """Return y limits that hold every loss, so that folds can be compared by eye."""
    points = [point for fold in folds for point in fold.history]
    losses = np.array([*_train_losses(points), *(point.validation_loss for point in points)])
    losses = losses[np.isfinite(losses)]
    margin = max(0.06 * float(np.ptp(losses)), 1e-6)
    return float(losses.min()) - margin, float(losses.max()) + margin


def draw_reliability(skill: Skill, label: str) -> Figure:
    """Confidence against the share that was right."""
    figure = new_figure(NARROW, 320, "Calibration on unseen bars", label)
    axes = add_axes(figure, (58, 102, NARROW - 74, 156))
    bars = add_axes(figure, (58, 46, NARROW - 74, 34), grid="")
    x, y, count = skill.reliability.T * np.array([[100.0], [100.0], [1.0]])
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
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


def draw_coverage(skill: Skill, label: str) -> Figure:
    """Accuracy on the most confident share of the bars, with its 95 % interval."""
    figure = new_figure(NARROW, 320, "Accuracy by confidence", label)
    axes = add_axes(figure, (58, 52, NARROW - 74, 206))
    x, y, reach = skill.coverage.T * np.array([[100.0], [100.0], [196.0]])
    axes.fill_between(x, y - reach, y + reach, color=MODEL, alpha=0.15, linewidth=0, label="95 %")
    axes.plot(x, y, color=MODEL, linewidth=1.4, marker="o", markersize=4, label="this model")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(x, [f"{share:g}" for share in x])
    label_axes(axes, "most confident share of the bars (%)", "share right (%)")
    add_legend(axes, columns=2)
    return figure


def draw_step(speed: Speed, label: str, width: int = WIDE) -> Figure:
    """How often one prediction took how long: both axes logarithmic, so that the rare slow ones show."""
    figure = new_figure(width, 240, "One prediction of this model", label)
    axes = add_axes(figure, (58, 44, width - 74, 130), grid="y")
    axes.stairs(speed.calls, speed.edges_us, fill=True, color=MODEL, alpha=0.55)
    row = speed.model
    for percentile, us, style in (("median", row.p50_us, DASHES), ("99th percentile", row.p99_us, DOTS)):
        axes.axvline(us, color=INK, linewidth=1.1, linestyle=style, label=f"{percentile} {us:,.1f} µs")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.7, 2.0 * max(*speed.calls, 1))
    axes.set_xlim(speed.edges_us[0], speed.edges_us[-1])
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    label_axes(axes, "microseconds, logarithmic", "calls, logarithmic")
    add_legend(axes, columns=2)
    return figure


def draw_comparison(lines: Sequence[ComparisonRow], label: str, width: int = WIDE) -> Figure | None:
    """The model's log-loss lead over every forecaster, with its 95 % interval; None where there is no lead to draw."""
    leads = [
        (line.name, line.lead, 1.96 * line.lead_error if is_number(line.lead_error) else 0.0)
        for line in lines
        if is_number(line.lead)
    ]
    unit = "thousandths of a nat; right of the line the model is better; bars: 95 %"
    return _forest(leads, "The model's lead in log-loss", unit, label, width, ("the model is better", "worse"))


def draw_importance(found: Sequence[Importance], label: str, width: int = WIDE) -> Figure | None:
    """How much worse the forecast gets without each input, with the spread over permutations."""
    losses = [(one.name, one.loss, one.spread) for one in found]
    unit = "log-loss gained by permuting it, thousandths of a nat; bars: spread over permutations"
    return _forest(losses, "What each input is worth", unit, label, width, ("it helps", "it does not"))


def _forest(
    rows: Sequence[tuple[str, float, float]], title: str, unit: str, label: str, width: int, sides: tuple[str, str]
) -> Figure | None:
    """One number a line, in thousandths, with what lies to both sides of it; None without lines.

    `sides` is what a number right of the line says, and what one left of it does.
    """
    if not rows:
        return None
    height = 112 + 22 * len(rows)
    figure = new_figure(width, height, title, label)
    left = 190 if width > NARROW else 140
    axes = add_axes(figure, (left, 48, width - left - 90, height - 112), grid="x")
    places = range(len(rows))[::-1]
    axes.axvline(0.0, color=NOTHING, linewidth=1.1, linestyle=DASHES)
    for place, (_, value, reach) in zip(places, rows, strict=True):
        colour, side = (MODEL, sides[0]) if value > 0 else (ACCENT, sides[1])
        axes.plot(
            (1e3 * (value - reach), 1e3 * (value + reach)), (place, place), color=colour, linewidth=2.4, alpha=0.35
        )
        axes.plot(1e3 * value, place, "o", color=colour, markersize=6, label=side)
        right = axes.annotate(
            f"{1e3 * value:+.2f}".replace("-", "\N{MINUS SIGN}"),
            (1e3 * (value + reach), place),
            (8, 0),
            textcoords="offset points",
        )
        right.set(fontsize=9, color=INK, va="center")
        right.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 1.0})  # over the line, where they meet
    axes.set_yticks(places, [plain_text(name, 28) for name, *_ in rows], fontsize=9.5 if width > NARROW else 8)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    names = axes.get_legend_handles_labels()[1]
    add_legend(axes, order=[names.index(side) for side in sides if side in names])
    label_axes(axes, unit if width > NARROW else unit.partition(";")[0], "")
    return figure


def _use_logarithm(axes: Axes) -> None:
    """Scale by ratios; ticks at 1, 2, 5 where the range is wide, at round steps where it is not."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if high > 6 * low else MaxNLocator(5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda amount, _: f"{amount:,.0f}"))


def _draw_series(
    axes: Axes, time_ms: IntArray, values: FloatArray, most: int, *, colour: str, weight: float, name: str
) -> None:
    rows = downsample(values, most)
    axes.plot(as_dates(time_ms[rows]), values[rows], color=colour, linewidth=weight, label=name)


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether a value can be drawn or written: neither None nor NaN nor infinite."""
    return value is not None and bool(np.isfinite(value))


def _day(moment: Cell) -> float:
    """Return ISO text as matplotlib's date."""
    return datetime.fromisoformat(str(moment)).timestamp() * 1_000 / DAY_MS


def _thousands(value: float, _: object) -> str:
    return f"{value / 1_000:g}k" if abs(value) >= 1_000 else f"{value:g}"
