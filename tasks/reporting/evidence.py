"""What the report says of evidence: skill and track record with their intervals, costs, folds, another version."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from storage.schema import BUY, CLASSES, HOLD, SELL, FloatArray, utc_text
from storage.written import Cell, Row, written
from tasks.champion import promotion
from tasks.champion.manifest import Manifest
from tasks.execution.accounting import Costs
from tasks.execution.comparison import COST_FACTORS, COSTS_PER_SIDE, Comparison
from tasks.execution.comparison_rows import common_labels
from tasks.execution.metrics import Metrics, total_return
from tasks.execution.skill import Skill, log_losses
from tasks.execution.track_record import DeflatedSharpe, TrackRecord
from tasks.reporting.report_data import CostPoint, Measure, ReportData
from tasks.strategy.baseline_comparison import BaselineComparison
from tasks.strategy.out_of_sample import Evaluation
from tasks.strategy.speed import speed_of


def highlights(data: ReportData) -> tuple[Measure, ...]:
    """Return the few numbers of the head line."""
    ours, held, skill, record = data.metrics["model"], data.metrics["buy and hold"], data.skill, data.record
    best = data.comparison.best_baseline
    theirs, holding = (written(side.total_return, "signed share") for side in (best, held))
    traded = f"{ours.num_trades:,} trade{'' if ours.num_trades == 1 else 's'} in {ours.days:.0f} unseen days"
    return (
        Measure(
            name="Net return", value=ours.total_return, style="signed share",
            note=f"{best.name} {theirs}, buy and hold {holding}; {traded}",
        ),
        Measure(
            name="Sharpe ratio, daily", value=record.sharpe_ratio, low=record.low, high=record.high,
            note=record.caveat or "95 % interval by stationary bootstrap", doubtful=bool(record.caveat),
        ),
        Measure.around(
            "Lead over the best baseline", best.lead, best.lead_error, "signed nat",
            f"log-loss, over {best.name}; {p_text(best.p_value)}",
        ),
        Measure(
            name="Direction right", value=skill.direction_accuracy, style="share",
            note=f"of {skill.moves:,} moves; mean edge {_edge_text(skill)}; log-loss of the side against "
            f"{_reference(skill)}: {p_text(skill.direction_p_value)}",
        ),
    )  # fmt: skip


def skill_measures(skill: Skill) -> tuple[Measure, ...]:
    """Return how good the predictions were."""
    low, high = skill.edge_interval_bp or (None, None)
    perfect = f"a perfectly calibrated model would show {written(skill.perfect_calibration_error, 'share')}"
    return (
        Measure(name="Log-loss", value=skill.log_loss, style="nat", note=f"prior {skill.prior_log_loss:.5f} nat"),
        Measure(
            name="Log-loss lead over the prior", value=skill.log_loss_skill, style="signed nat",
            note=p_text(skill.p_value),
        ),
        Measure.around(
            "Direction lead over the better of prior and 50:50, per move", skill.direction_skill,
            skill.direction_error, "signed nat", direction_line(skill),
        ),
        Measure(
            name="Mean edge of a move, before costs", value=skill.edge_bp, style="bp", low=low, high=high,
            note="return until the horizon on the side that the model names",
        ),
        Measure.around(
            "Accuracy", skill.accuracy, skill.accuracy_error, "share",
            f"always the majority class: {written(skill.majority_accuracy, 'share')}",
        ),
        Measure(name="Macro F1", value=skill.macro_f1),
        *(
            Measure(name=f"AUC, {name} against the rest", value=area, style="chance", note="0.5 is chance")
            for name, area in zip(CLASSES, skill.auc, strict=True)
        ),
        Measure(name="Brier score", value=skill.brier, note="0 is perfect, 2 is worst"),
        Measure(name="Calibration error (ECE)", value=skill.calibration_error, style="share", note=perfect),
        Measure(
            name="Labels", value=float(skill.samples), style="count",
            note=f"{skill.effective_samples:,.0f} that do not overlap",
        ),
    )  # fmt: skip


def cost_points(money: Comparison, costs: Costs) -> tuple[CostPoint, ...]:
    """Return the model at every cost, cheapest first: multiples of the assumed one, and what others pay."""
    fees = zip(COSTS_PER_SIDE, money.redecided_by_fee, money.by_fee, strict=True)
    swept = zip(COST_FACTORS, money.redecided_by_costs, money.by_costs, strict=True)
    points = {per_side: sides for per_side, *sides in fees}
    points |= {costs.per_side * factor: sides for factor, *sides in swept}
    return tuple(
        CostPoint(per_side, decided.metrics, repriced.metrics, per_side == costs.per_side)
        for per_side, (decided, repriced) in sorted(points.items())
    )


def trials_text(luck: DeflatedSharpe, others: int) -> str:
    """Return how many strategies were tried, and what they are.

    `others` of them were looked at before, when the default preset was chosen.
    """
    return f"{luck.trials:,} trials: {luck.trials - others:,} of this market here, {others:,} behind the default preset"


def record_measures(record: TrackRecord, luck: DeflatedSharpe, others: int) -> tuple[Measure, ...]:
    """Return what the daily returns prove, alone and among all trials, `others` of which were looked at before."""
    needed = "undefined" if record.days_needed is None else f"{record.days_needed:,.0f}"
    tried = f"the best of {luck.trials} worthless ones with their spread of {luck.spread:.2f} would show"
    return (
        Measure(
            name="Sharpe ratio, √365", value=record.sharpe_ratio, low=record.low, high=record.high,
            note=f"{record.days} UTC days, begun ones counted" + (f"; {record.caveat}" if record.caveat else ""),
        ),
        Measure(name="Sharpe ratio, Lo's correction", value=record.sharpe_lo, note=_lo_text(record)),
        Measure(
            name="Probabilistic Sharpe ratio", value=record.probabilistic, style="chance",
            note=f"chance that the true ratio is above 0; days that would prove it at 5 %: {needed}",
        ),
        Measure(name="Sharpe ratio of luck", value=luck.expected_best, note=tried),
        Measure(
            name="Deflated Sharpe ratio", value=luck.deflated, style="chance",
            note=f"chance that the true ratio is above that; {trials_text(luck, others)}",
        ),
    )  # fmt: skip


def _lo_text(record: TrackRecord) -> str:
    if record.sharpe_ratio is not None and record.sharpe_lo is None:
        return "too few days, or days that offset each other: their autocorrelation leaves no variance over a year"
    return "autocorrelation taken in"


def direction_line(skill: Skill) -> str:
    """Return in one line whether the side of what moved was forecast."""
    if skill.direction_accuracy is None:
        return "undefined: nothing moved"
    lead = skill.direction_skill or 0.0
    return (
        f"{written(skill.direction_accuracy, 'share')} of {skill.moves:,} moves right, mean edge {_edge_text(skill)}; "
        f"log-loss of the side {abs(lead):.5f} nat {'better' if lead > 0 else 'worse'} than "
        f"{_reference(skill)} ({p_text(skill.direction_p_value)})"
    )


def _reference(skill: Skill) -> str:
    return "the prior" if skill.direction_reference == "prior" else skill.direction_reference


def _edge_text(skill: Skill) -> str:
    return skill.edge_text.replace("-", "\N{MINUS SIGN}")


def fold_rows(evaluation: Evaluation, baseline: str, forecasts: Mapping[str, FloatArray]) -> Iterator[Row]:
    """Return skill and money of each fold's unseen block, the oldest first."""
    samples, money, first = evaluation.samples, evaluation.money.model.result, evaluation.unseen.start
    for number, (fold, result) in enumerate(zip(samples.folds, evaluation.folds, strict=False), 1):
        rows = slice(fold.test.start - first, fold.test.stop - first)
        ours, theirs = evaluation.probabilities[rows], forecasts[baseline][rows]
        classes = samples.labels.classes[fold.test.rows]
        known = common_labels(classes, {"model": ours, baseline: theirs})
        labels, shown = classes[known], ours[known]
        prior = np.tile(result.prior, (len(labels), 1))
        loss, of_prior, of_baseline = (float(log_losses(p, labels).mean()) for p in (shown, prior, theirs[known]))
        moved = labels != HOLD
        right = (shown[moved, BUY] > shown[moved, SELL]) == (labels[moved] == BUY)
        entered = money.trades.entry_bar
        yield {
            "fold": number,
            "from": utc_text(int(samples.dataset.candles.start_ms[fold.test.start]))[:10],
            "bars": len(fold.test),
            "log-loss": written(loss, "nat"),
            "lead over the prior": written(of_prior - loss, "signed nat"),
            f"over {baseline}": written(of_baseline - loss, "signed nat"),
            "direction right": written(float(right.mean()) if len(right) else None, "share"),
            "net return": written(total_return(money.equity[rows.start : rows.stop + 1]), "signed share"),
            "round trips": int(((entered >= rows.start) & (entered < rows.stop)).sum()),
        }


Cells = dict[str, Cell]


def version_cells(manifest: Manifest, read: Callable[[str], bytes]) -> tuple[Cells, Cells]:
    """Return what versions are compared by: results with dataset and code, and every parameter of the recipe.

    `read` returns one of its files.
    """
    backtest = json.loads(read("backtest.json"))
    metrics, skill = Metrics(**backtest["metrics"]["model"]), backtest["skill"]
    results: Cells = {
        "unseen days": written(metrics.days, "count"),
        "net return": written(metrics.total_return, "signed share"),
        "Sharpe ratio": written(metrics.sharpe_ratio, "ratio"),
        "largest drawdown": written(metrics.max_drawdown, "share"),
        "round trips": written(metrics.num_trades, "count"),
        "log-loss": written(skill["log_loss"], "nat"),
        "log-loss of the prior": written(skill["prior_log_loss"], "nat"),
        "direction right": written(skill["direction_accuracy"], "share"),
        "latency p99 per bar": written(speed_of(read("latency.json")).model.p99_us, "us"),
        "dataset": manifest.dataset[:16],
        "code": manifest.code[:16],
    }
    return results, flat_cells(asdict(manifest.recipe))


def compared_rows(name: str, ours: tuple[Cells, Cells], theirs: tuple[Cells, Cells]) -> Iterator[Row]:
    """Return two versions line by line, of the parameters those that differ; `name` is the other's column."""
    (results, parameters), (other_results, other_parameters) = ours, theirs
    for what, found in results.items():
        yield {"": what, "this version": found, name: other_results[what]}
    for what in sorted(parameters):
        if parameters[what] != other_parameters[what]:
            yield {"": what, "this version": parameters[what], name: other_parameters[what]}


def flat_cells(values: Mapping[str, Any], prefix: str = "") -> dict[str, Cell]:
    """Return nested parameters side by side: {"a": {"b": 1}} -> {"a.b": 1}."""
    cells: dict[str, Cell] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            cells |= flat_cells(value, f"{prefix}{name}.")
        elif value is None:
            cells[f"{prefix}{name}"] = "not set"
        else:
            cells[f"{prefix}{name}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return cells


def random_note(comparison: BaselineComparison) -> str:
    """Return what random timings say."""
    drawn = comparison.random
    return (
        f"Of {drawn.draws:,} random timings of the model's own positions, with its exposure and turnover, "
        f"{written(drawn.percentile, 'share')} ended below the model; 95 % of them ended between "
        f"{written(drawn.low, 'signed share')} and {written(drawn.high, 'signed share')}."
    )


def p_text(p_value: float | None) -> str:
    """Return the p-value of a Diebold-Mariano test in words."""
    return "no test: the two never differ" if p_value is None else f"{promotion.p_text(p_value)}, Diebold-Mariano"
