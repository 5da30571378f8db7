"""What the report says of evidence: baselines, track record, costs, and the parts of the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from storage.schema import BUY, CLASSES, HOLD, SELL, FloatArray, utc_text
from tasks.execution.comparison import COST_FACTORS, COSTS_PER_SIDE
from tasks.execution.contenders import common_labels
from tasks.execution.metrics import total_return
from tasks.execution.skill import Skill, log_losses
from tasks.execution.track_record import Deflation
from tasks.reporting.markup import written
from tasks.reporting.report_data import Cell, CostPoint, Measure, Row, Style
from tasks.strategy.contest import Contest
from tasks.strategy.out_of_sample import Evaluation
from tasks.strategy.recipe import Recipe

_BP = 1e4


def baseline_lead(contest: Contest) -> Measure:
    """Return the model's lead over the best baseline."""
    best = contest.best_baseline
    spread = None if best.lead is None or best.lead_error is None else 1.96 * best.lead_error
    return Measure(
        name="Lead over the best baseline",
        value=best.lead,
        style="signed nat",
        low=None if best.lead is None or spread is None else best.lead - spread,
        high=None if best.lead is None or spread is None else best.lead + spread,
        note=f"log-loss, over {best.name}; {p_text(best.p_value)}",
    )


def cost_points(evaluation: Evaluation, recipe: Recipe) -> tuple[CostPoint, ...]:
    """Return the model at every cost, cheapest first: multiples of the assumed one, and what others pay."""
    money, assumed = evaluation.money, recipe.costs.per_side
    fees = zip(COSTS_PER_SIDE, money.redecided_by_fee, money.by_fee, strict=True)
    swept = zip(COST_FACTORS, money.redecided_by_costs, money.by_costs, strict=True)
    points = {per_side: sides for per_side, *sides in fees}
    points |= {assumed * factor: sides for factor, *sides in swept}
    return tuple(
        CostPoint(
            cost_bp=round(per_side * _BP, 4),
            total_return=decided.metrics.total_return,
            sharpe_ratio=decided.metrics.sharpe_ratio,
            num_trades=decided.metrics.num_trades,
            repriced_return=repriced.metrics.total_return,
            assumed=per_side == assumed,
        )
        for per_side, (decided, repriced) in sorted(points.items())
    )


def record_measures(evaluation: Evaluation, luck: Deflation) -> tuple[Measure, ...]:
    """Return what the daily returns prove, alone and among all trials."""
    record = evaluation.record
    needed = "undefined" if record.days_needed is None else f"{record.days_needed:,.0f}"
    tried = f"the best of {luck.trials} worthless ones with their spread of {luck.spread:.2f} would show"
    return (
        Measure(
            name="Sharpe ratio, √365", value=record.sharpe_ratio, low=record.low, high=record.high,
            note=f"{record.days} UTC days" + (f"; {record.caveat}" if record.caveat else ""),
        ),
        Measure(name="Sharpe ratio, Lo's correction", value=record.sharpe_lo, note="autocorrelation taken in"),
        Measure(
            name="Probabilistic Sharpe ratio", value=record.probabilistic, style="chance",
            note=f"chance that the true ratio is above 0; days that would prove it at 5 %: {needed}",
        ),
        Measure(name="Sharpe ratio of luck", value=luck.expected_best, note=tried),
        Measure(
            name="Deflated Sharpe ratio", value=luck.deflated, style="chance",
            note=f"chance that the true ratio is above that; trials run: {luck.trials}",
        ),
    )  # fmt: skip


def slice_rows(evaluation: Evaluation) -> Iterator[Row]:
    """Return the result by year and by state of the market."""
    for part in evaluation.slices:
        yield {
            "days": part.name,
            "number": part.days,
            "net return": written(part.total_return, "signed share"),
            "Sharpe ratio": written(part.sharpe_ratio, "ratio"),
            "buy and hold": written(part.held_return, "signed share"),
            "round trips": part.num_trades,
        }


def area_measures(evaluation: Evaluation) -> Iterator[Measure]:
    """Return the one-vs-rest area under the ROC curve of each class."""
    for name, area in zip(CLASSES, evaluation.skill.auc, strict=True):
        yield Measure(name=f"AUC, {name} against the rest", value=area, style="chance", note="0.5 is chance")


def direction_line(skill: Skill) -> str:
    """Return in one line whether the side of what moved was foreseen."""
    if skill.direction_accuracy is None:
        return "undefined: nothing moved"
    lead, rival = skill.direction_skill or 0.0, skill.direction_reference
    return (
        f"{skill.direction_accuracy:.2%} of {skill.moves:,} moves right, mean edge {skill.edge_text}; log-loss of the "
        f"side {abs(lead):.5f} nat {'better' if lead > 0 else 'worse'} than "
        f"{'the prior' if rival == 'prior' else rival} ({p_text(skill.direction_p_value)})"
    )


def direction_measures(skill: Skill) -> Iterator[Measure]:
    """Return the lead in foreseeing the side of a move, and what a move earned on the side that was named."""
    lead, error = skill.direction_skill, skill.direction_error
    spread = None if lead is None or error is None else 1.96 * error
    yield Measure(
        name="Direction lead over the better of prior and 50:50, per move",
        value=lead,
        style="signed nat",
        low=None if lead is None or spread is None else lead - spread,
        high=None if lead is None or spread is None else lead + spread,
        note=direction_line(skill),
    )
    low, high = skill.edge_interval_bp or (None, None)
    yield Measure(
        name="Mean edge of a move, before costs", value=skill.edge_bp, style="bp", low=low, high=high,
        note="return until the horizon on the side that the model names",
    )  # fmt: skip


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


_BESIDE: tuple[tuple[str, str, str, Style], ...] = (
    ("metrics", "days", "unseen days", "count"),
    ("metrics", "total_return", "net return", "signed share"),
    ("metrics", "sharpe_ratio", "Sharpe ratio", "ratio"),
    ("metrics", "max_drawdown", "largest drawdown", "share"),
    ("metrics", "num_trades", "round trips", "count"),
    ("skill", "log_loss", "log-loss", "nat"),
    ("skill", "prior_log_loss", "log-loss of the prior", "nat"),
    ("skill", "direction_accuracy", "direction right", "share"),
    ("latency", "p99_us", "latency p99 per bar", "us"),
)


def beside_rows(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Row]:
    """Return two versions line by line.

    Args:
        name: Of the other column.
        ours: Manifest of this one, with the "skill" of its backtest.
        theirs: The same of the other.
    """
    for part, key, what, style in _BESIDE:
        yield {
            "": what,
            "this version": written(ours[part].get(key), style),
            name: written(theirs.get(part, {}).get(key), style),
        }
    for key, what in (("dataset", "dataset"), ("code", "code")):
        yield {"": what, "this version": ours[key][:16], name: theirs[key][:16]}
    one, other = (flat_cells(side["recipe"]) for side in (ours, theirs))
    for key in sorted(one | other):
        if one.get(key) != other.get(key):
            yield {"": key, "this version": one.get(key, "not there"), name: other.get(key, "not there")}


def flat_cells(values: Mapping[str, Any], prefix: str = "") -> dict[str, Cell]:
    """Return nested parameters side by side: {"a": {"b": 1}} -> {"a.b": 1}."""
    cells: dict[str, Cell] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            cells |= flat_cells(value, f"{prefix}{name}.")
        else:
            cells[f"{prefix}{name}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return cells


def random_note(contest: Contest) -> str:
    """Return what random timings say."""
    drawn = contest.random
    return (
        f"Of {drawn.draws:,} random timings of the model's own positions, with its exposure and turnover, "
        f"{drawn.percentile:.1%} ended below the model; 95 % of them ended between {drawn.low:+.1%} and "
        f"{drawn.high:+.1%}."
    )


def p_text(p_value: float | None) -> str:
    """Return the p-value of a Diebold-Mariano test in words."""
    return "no test: the two never differ" if p_value is None else f"{_shown(p_value)}, Diebold-Mariano"


def _shown(p_value: float) -> str:
    return f"p = {p_value:.3f}" if p_value >= 0.0005 else "p < 0.001"
