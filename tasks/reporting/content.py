"""What the report of a version says, taken from the results of every room."""

import logging
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version as library_version

import numpy as np

from storage.artifacts import ArtifactStore
from storage.schema import CLASSES, ArtifactError, FloatArray, VersionRef, utc_text
from storage.written import Cell, Row
from tasks.champion.manifest import Manifest, read_manifest
from tasks.execution.importance import Importance
from tasks.ingestion.quality import StoredQuality
from tasks.market.features import halted_bars
from tasks.market.walk_forward import folds_table
from tasks.reporting.evidence import compared_rows, cost_points, fold_rows, version_cells
from tasks.reporting.report_data import Equity, ReportData
from tasks.runs.cost import Cost
from tasks.strategy.baseline_comparison import BaselineComparison, stored_forecasts, traded_by_rule
from tasks.strategy.findings import Findings
from tasks.strategy.out_of_sample import Evaluation
from tasks.strategy.recipe import Recipe

_LOG = logging.getLogger(__name__)
_LIBRARIES = ("prefect", "torch", "numpy", "pandas", "pandera", "duckdb", "pybit", "numba", "onnx", "onnxruntime")


def report_data(
    ref: VersionRef,
    created: datetime,
    manifest: Manifest,
    findings: Findings,
    forecasts: bytes,
    importance: Sequence[Importance],
    beside: Sequence[Row],
    quality: StoredQuality,
    spent: Cost,
    paper: Sequence[Row] = (),
) -> ReportData:
    """Return everything that the report on one version shows.

    `forecasts` are the baselines' as `comparison_files` wrote them, `beside` is from `side_by_side`, `created` is
    aware.
    """
    evaluation, comparison, baselines = findings.evaluation, findings.comparison, stored_forecasts(forecasts)
    money, samples = evaluation.money, evaluation.samples
    return ReportData(
        ref=ref,
        created=created.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        manifest=manifest,
        equity=_equity(manifest.recipe, evaluation, comparison, baselines),
        metrics={side.name: side.metrics for side in (money.model, money.buy_and_hold, money.flat)},
        costs=cost_points(money, manifest.recipe.costs),
        delays=tuple(side.metrics for side in money.by_delay),
        comparison=comparison,
        vol_record=findings.risk,
        record=evaluation.record,
        slices=evaluation.slices,
        skill=evaluation.skill,
        fold_scores=tuple(fold_rows(evaluation, comparison.better_baseline.name, baselines)),
        importance=tuple(importance),
        beside=tuple(beside),
        class_mix=_class_mix(evaluation),
        speed=findings.speed,
        data_quality=tuple(_quality(evaluation, quality)),
        folds=tuple(folds_table(samples.folds, samples.dataset.candles.start_ms)),
        training=evaluation.folds,
        spent=spent,
        paper=tuple(paper),
    )


def library_versions() -> dict[str, str]:
    """Return the version of Python and of each library that shaped the result."""
    return {"python": platform.python_version(), **{name: library_version(name) for name in _LIBRARIES}}


def _equity(
    recipe: Recipe,
    evaluation: Evaluation,
    comparison: BaselineComparison,
    forecasts: Mapping[str, FloatArray],
) -> Equity:
    """Return the account beside LightGBM's, the better baseline's, where that is another, and holding."""
    money, samples = evaluation.money, evaluation.samples
    names = dict.fromkeys(name for name in ("LightGBM", comparison.better_baseline.name) if name in forecasts)
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


def side_by_side(store: ArtifactStore, ref: VersionRef, manifest: Manifest, files: Mapping[str, bytes]) -> list[Row]:
    """Return this version beside the champion, or where that is flat, beside the newest one before; or nothing."""
    others = [one for one in store.versions(ref.source, ref.name) if one.hash8 != ref.hash8]
    champion = manifest.judgement.champion
    other = next((one for one in others if one.version == champion), others[-1] if others else None)
    if other is None:
        return []
    try:
        theirs = version_cells(read_manifest(store, other), lambda file: store.read(other, file))
    except ArtifactError as err:  # damaged: nothing that this version needs
        _LOG.warning(f"version {other} can't be shown beside this one: {err}")
        return []
    role = "champion" if other.version == champion else "the one before"
    return list(compared_rows(f"{role}, {other.version}", version_cells(manifest, files.__getitem__), theirs))


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
