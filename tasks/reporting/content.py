"""What the report of a version says: the results of every room as the report's plain values."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from typing import Any

import numpy as np

from storage.artifacts import ArtifactStore
from storage.schema import CLASSES, FUNDING_STEP_MS, ArtifactError, DatasetRef, FloatArray, utc_text
from tasks.exchange.connection import ExchangeConfig
from tasks.execution.comparison import DELAYS
from tasks.execution.importance import Importance
from tasks.execution.track_record import Deflation
from tasks.ingestion.quality import StoredQuality
from tasks.market.features import halted_bars
from tasks.market.samples import folds_table
from tasks.network.architecture import macs_per_bar, macs_per_window, parameters
from tasks.reporting.evidence import (
    area_measures,
    baseline_lead,
    beside_rows,
    cost_points,
    direction_measures,
    flat_cells,
    fold_rows,
    p_text,
    random_note,
    record_measures,
    slice_rows,
)
from tasks.reporting.headline import headline_rows
from tasks.reporting.markup import written
from tasks.reporting.report_data import (
    Cell,
    Decision,
    Equity,
    Latency,
    Measure,
    Origin,
    ReportData,
    Row,
    StepTimes,
    TrainingCurve,
)
from tasks.strategy.contest import Contest, stored_forecasts, traded_by_rule
from tasks.strategy.out_of_sample import Evaluation
from tasks.strategy.recipe import Recipe
from tasks.strategy.speed import Speed

_BP = 1e4
_LOG = logging.getLogger(__name__)
_LIBRARIES = ("prefect", "torch", "numpy", "pandas", "pandera", "duckdb", "pybit", "numba", "onnx", "onnxruntime")


def report_data(
    recipe: Recipe,
    exchange: ExchangeConfig,
    evaluation: Evaluation,
    measured: Speed,
    contest: Contest,
    forecasts: bytes,
    luck: Deflation,
    importance: Sequence[Importance],
    verdict: Decision,
    beside: Sequence[Row],
    quality: StoredQuality,
    version: str,
    created: datetime,
    provenance: Row,
) -> ReportData:
    """Return everything that the report on one version shows.

    Args:
        recipe: How the model was made.
        exchange: Where the candles came from.
        evaluation: What the folds' predictions were worth.
        measured: How fast the model is.
        contest: What it had to beat.
        forecasts: The baselines' probabilities on the unseen bars, as `contest_files` wrote them.
        luck: How it stands among all trials.
        importance: What each input is worth.
        verdict: What was decided.
        beside: This version and the one before.
        quality: What the store knows of the candles.
        version: Name of the version.
        created: When it was made, aware.
        provenance: Hashes, seed, machine.
    """
    money, skill, data = evaluation.money, evaluation.skill, evaluation.samples.dataset.ref
    baselines = stored_forecasts(forecasts)
    origin: Origin = "exchange"
    if exchange.exchange == "sandbox":
        origin = "replayed" if exchange.candles else "synthetic"
    return ReportData(
        market=data.market,
        source=data.source,
        origin=origin,
        origin_detail=exchange.origin_detail,
        version=version,
        created=created.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        verdict=verdict,
        warnings=_warnings(evaluation, recipe),
        highlights=_highlights(evaluation, contest),
        equity=_equity(recipe, evaluation, contest, baselines),
        metrics={side.name: asdict(side.metrics) for side in (money.model, money.buy_and_hold, money.flat)},
        costs=cost_points(evaluation, recipe),
        break_even_bp=_times(money.model.metrics.break_even_cost_per_side, _BP),
        stress=tuple(
            {
                "fill": ("at the next open", "one bar later", "two bars later")[delay],
                "total return, net": written(side.metrics.total_return, "signed share"),
                "Sharpe ratio, daily": written(side.metrics.sharpe_ratio, "ratio"),
                "round trips": side.metrics.num_trades,
            }
            for delay, side in zip(DELAYS, money.by_delay, strict=True)
        ),
        contenders=contest.table,
        random_note=random_note(contest),
        headline=headline_rows(recipe, evaluation, measured, contest),
        record=record_measures(evaluation, luck),
        slices=tuple(slice_rows(evaluation)),
        skill=_skill(evaluation),
        forecast=skill,
        fold_scores=tuple(fold_rows(evaluation, contest.better_baseline.name, baselines)),
        importance=tuple(importance),
        beside=tuple(beside),
        class_mix=_class_mix(evaluation),
        latency=tuple(_latency(measured, recipe)),
        step_times=StepTimes(
            edges_us=np.array(measured.edges_us),
            calls=np.array(measured.calls, np.int64),
            p50_us=measured.p50_us,
            p99_us=measured.p99_us,
        ),
        data_quality=tuple(_quality(evaluation, quality)),
        folds=tuple(folds_table(evaluation.samples.folds, evaluation.samples.dataset.candles.start_ms)),
        training=tuple(_curves(evaluation)),
        config={name: flat_cells(_plain(part)) for name, part in recipe.parts().items()},
        versions=report_versions(),
        provenance=provenance,
    )


def report_versions() -> dict[str, str]:
    """Return the version of Python and of each library that shaped the result."""
    return {"python": platform.python_version(), **{name: library_version(name) for name in _LIBRARIES}}


def _warnings(evaluation: Evaluation, recipe: Recipe) -> tuple[str, ...]:
    free = recipe.costs.free_costs()
    said = [f"No {' and no '.join(free)} is charged: the result is not net of costs."] if free else []
    unpaid = _share_without_funding(evaluation) if recipe.costs.funding else 0.0
    if unpaid:
        said.append(
            f"No funding rates are known for {unpaid:.1%} of the unseen time, so none was paid or received in it."
        )
    if recipe.refit:
        said.append(
            "The published weights were refit up to the last bar; the verdict belongs to the recipe, not to them."
        )
    return tuple(said)


def _share_without_funding(evaluation: Evaluation) -> float:
    """Return the share of the unseen time that no funding stamp can account for; spot pays none."""
    dataset, unseen = evaluation.samples.dataset, evaluation.unseen
    if dataset.ref.market.category == "spot":
        return 0.0
    first_ms, last_ms = dataset.candles.start_ms[[unseen.start, unseen.stop - 1]]
    inside = dataset.funding_ms[(dataset.funding_ms >= first_ms) & (dataset.funding_ms <= last_ms)]
    steps = np.diff(np.concatenate([[first_ms], inside, [last_ms]]))
    return float(np.maximum(steps - FUNDING_STEP_MS, 0).sum() / max(last_ms - first_ms, 1))


def _highlights(evaluation: Evaluation, contest: Contest) -> tuple[Measure, ...]:
    metrics, held, skill = evaluation.money.model.metrics, evaluation.money.buy_and_hold.metrics, evaluation.skill
    best = contest.best_baseline
    theirs, holding = (written(side.total_return, "signed share") for side in (best, held))
    traded = f"{metrics.num_trades:,} trade{'' if metrics.num_trades == 1 else 's'} in {metrics.days:.0f} unseen days"
    return (
        Measure(
            name="Net return",
            value=metrics.total_return,
            style="signed share",
            note=f"{best.name} {theirs}, buy and hold {holding}; {traded}",
        ),
        _sharpe(evaluation),
        baseline_lead(contest),
        Measure(
            name="Direction right",
            value=skill.direction_accuracy,
            style="share",
            note=f"of {skill.moves:,} moves; mean edge {skill.edge_text}; {p_text(skill.direction_p_value)}",
        ),
    )


def _sharpe(evaluation: Evaluation) -> Measure:
    record = evaluation.record
    return Measure(
        name="Sharpe ratio, daily",
        value=record.sharpe_ratio,
        low=record.low,
        high=record.high,
        note=record.caveat or "95 % interval by stationary bootstrap",
        doubtful=bool(record.caveat),
    )


def _skill(evaluation: Evaluation) -> tuple[Measure, ...]:
    skill = evaluation.skill
    spread = 1.96 * skill.accuracy_error
    majority = f"always the majority class: {skill.majority_accuracy:.2%}"
    perfect = f"a perfectly calibrated model would show {skill.perfect_calibration_error:.2%}"
    apart = f"{skill.effective_samples:,.0f} that do not overlap"
    low, high = skill.accuracy - spread, skill.accuracy + spread
    return (
        Measure(name="Log-loss", value=skill.log_loss, style="nat", note=f"prior {skill.prior_log_loss:.5f} nat"),
        Measure(
            name="Log-loss lead over the prior",
            value=skill.log_loss_skill,
            style="signed nat",
            note=p_text(skill.p_value),
        ),
        *direction_measures(skill),
        Measure(name="Accuracy", value=skill.accuracy, style="share", low=low, high=high, note=majority),
        Measure(name="Macro F1", value=skill.macro_f1),
        *area_measures(evaluation),
        Measure(name="Brier score", value=skill.brier, note="0 is perfect, 2 is worst"),
        Measure(name="Calibration error (ECE)", value=skill.calibration_error, style="share", note=perfect),
        Measure(name="Labels", value=float(skill.samples), style="count", note=apart),
    )


def _equity(
    recipe: Recipe,
    evaluation: Evaluation,
    contest: Contest,
    forecasts: Mapping[str, FloatArray],
) -> Equity:
    """Return the account beside LightGBM's, the better baseline's, where that is another, and holding."""
    money, samples = evaluation.money, evaluation.samples
    names = dict.fromkeys(name for name in ("LightGBM", contest.better_baseline.name) if name in forecasts)
    return Equity(
        candles=samples.dataset.candles[evaluation.unseen.rows],
        interval_ms=samples.dataset.ref.market.interval_ms,
        model=money.model.result.equity,
        buy_and_hold=money.buy_and_hold.result.equity,
        baselines={name: traded_by_rule(recipe, evaluation, forecasts[name]).equity for name in names},
        trades=money.model.result.trades,
        block_starts_ms=tuple(int(samples.dataset.candles.start_ms[fold.test.start]) for fold in samples.folds),
    )


def _class_mix(evaluation: Evaluation) -> dict[str, tuple[int, ...]]:
    labels, last = evaluation.samples.labels.classes, evaluation.samples.folds[-1]
    parts = {"train, last fold": labels[last.train.rows], "unseen": labels[evaluation.unseen.rows]}
    counted = {part: np.bincount(of[of >= 0], minlength=len(CLASSES)) for part, of in parts.items()}
    counted["predicted"] = evaluation.skill.confusion.sum(axis=0)
    return {part: tuple(counts.tolist()) for part, counts in counted.items()}


def _curves(evaluation: Evaluation) -> Iterator[TrainingCurve]:
    for number, fold in enumerate(evaluation.folds, 1):
        for member, best_step in enumerate(fold.best_steps):
            points = [point for point in fold.history if point.get("member", 0) == member]
            losses = [np.nan if point["train_loss"] is None else point["train_loss"] for point in points]
            yield TrainingCurve(
                fold=number,
                step=np.array([point["step"] for point in points], np.int64),
                train_loss=np.array(losses),
                validation_loss=np.array([point["validation_loss"] for point in points]),
                best_step=best_step,
            )


def _latency(measured: Speed, recipe: Recipe) -> Iterator[Latency]:
    config = recipe.network_config
    macs = macs_per_bar if measured.runtime == "engine" else macs_per_window
    yield Latency(
        name="this model",
        runtime=measured.runtime,
        parameters=parameters(config),
        macs=macs(config),
        p50_us=measured.p50_us,
        p95_us=measured.p95_us,
        p99_us=measured.p99_us,
    )
    for row in measured.rows:
        yield Latency(**{name: row[name] for name in Latency.__dataclass_fields__})


def _plain(config: Any) -> Mapping[str, Any]:
    return asdict(config) if is_dataclass(config) and not isinstance(config, type) else config


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def side_by_side(
    store: ArtifactStore, data: DatasetRef, hash8: str, champion: str, ours: Mapping[str, Any]
) -> list[Row]:
    """Return this version beside the champion, or where that is flat, beside the newest one before; or nothing."""
    others = [one for one in store.versions(data.source, data.market.slug) if one.hash8 != hash8]
    other = next((one for one in others if one.version == champion), others[-1] if others else None)
    if other is None:
        return []
    role = "champion" if other.version == champion else "the one before"
    try:
        theirs = store.manifest(other) | {"skill": json.loads(store.read(other, "backtest.json"))["skill"]}
    except ArtifactError as err:  # damaged: nothing that this version needs
        _LOG.warning(f"version {other} can't be shown beside this one: {err}")
        return []
    return list(beside_rows(f"{role}, {other.version}", ours, theirs))


def _quality(evaluation: Evaluation, stored: StoredQuality) -> list[Row]:
    dataset = evaluation.samples.dataset
    candles = dataset.candles
    first_ms, last_ms = int(candles.start_ms[0]), int(candles.start_ms[-1])
    expected = (last_ms - first_ms) // dataset.ref.market.interval_ms + 1
    ready = np.isfinite(dataset.features).all(axis=1)
    rows: list[tuple[str, Cell]] = [
        ("first bar", utc_text(first_ms)),
        ("last bar", utc_text(last_ms)),
        ("bars on the grid", expected),
        ("candles stored", len(candles)),
        ("bars missing", expected - len(candles)),
        ("gaps recorded", stored.gaps),
        ("longest gap, bars", stored.longest_gap),
        ("bars missing because their rows were rejected", stored.quarantined),
        ("bars with features", int(ready.sum())),
        ("bars left out, the market had halted", halted_bars(dataset.vol, dataset.segment)),
        ("funding stamps", len(dataset.funding_ms)),
    ]
    return [{"what": what, "found": found} for what, found in rows]
