"""Publishing tasks: judge a model against the champion, store it as a version, promote it or keep the champion."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.artifacts import ArtifactStore, ChampionEntry
from storage.schema import FEATURES, ArtifactError, DatasetRef, Market, VersionRef, content_hash, utc_text
from storage.searches import SearchLog
from storage.settings import Settings
from storage.shared_results import results_at
from storage.trials import TrialLog, sharpe_per_strategy
from storage.workfolder import WorkFolder, canonical_json
from tasks.champion.promotion import Check, Evidence, awaits_second_seed, judge
from tasks.data import StoredQuality, load_quality
from tasks.evaluation import (
    Evaluation,
    Measured,
    Seen,
    backtest_files,
    bars_of,
    decide_span,
    load_evaluation,
    load_measured,
    measure_importance,
    one_after_the_other,
    seen_by,
)
from tasks.exchange.connection import ExchangeConfig
from tasks.execution.comparison import Duel, duel
from tasks.execution.track_record import Deflation, deflate
from tasks.market.features import halted_bars
from tasks.market.samples import Span
from tasks.network.dsc import load_model
from tasks.network.export import load_weights, onnx_graphs
from tasks.network.fit import predict_series
from tasks.reporting.content import report_data, report_versions
from tasks.reporting.evidence import beside_rows
from tasks.reporting.report import render_report
from tasks.reporting.report_data import Cell, Row
from tasks.reporting.report_data import Verdict as ReportVerdict
from tasks.reporting.summary import Summary, summarise, verdict_lines
from tasks.runs.alerts import raise_alert
from tasks.runs.page import show_checklist, show_result, show_table, show_version
from tasks.strategy.contest import Rivals, load_rivals, stored_forecasts
from tasks.strategy.leak_suite import leaks_json, load_leaks
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe, recipe_document, recipe_of
from tasks.training import FoldResult, load_fold

_FEWEST_BARS = 2  # fewer make no return


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How a challenger compared with the champion of that moment.

    Attributes:
        champion: Version of the champion, or "flat".
        sequence: The champion's number in its history: a promotion holds only against this one.
        checks: Every condition of the promotion rule.
        numbers: Metrics of both sides on the same unseen bars.
    """

    champion: str
    sequence: int
    checks: tuple[Check, ...]
    numbers: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the conditions that do not hold, without one that was not run."""
        return tuple(check.name for check in self.checks if check.passed is False)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a retrain came to.

    Attributes:
        version: The version that was stored.
        promoted: Whether it is the champion now.
        champion: The champion now: a version, or "flat".
        report: Where the report lies.
        decision: What was decided and why, one line.
        headline: The same in words for whoever started the run.
        checks: Every condition of the promotion rule; none for a version that was the champion already.
        summary: The version in numbers.
    """

    version: VersionRef
    promoted: bool
    champion: str
    report: str
    decision: str
    headline: str
    checks: tuple[Check, ...]
    summary: Summary

    def text(self, facts: Sequence[tuple[str, str]] = ()) -> str:
        """Return everything that a terminal shows of it, the verdict first and what to do next last.

        Args:
            facts: Further lines at the end, name and value.
        """
        report = self.report if "://" in self.report else Path(self.report).absolute().as_uri()
        rows = [("report", report), ("version", str(self.version)), *facts, ("next", self.summary.next_step)]
        closing = [f"  {name:<7}  {value}" for name, value in rows]
        return "\n".join([*verdict_lines(self.headline, self.checks, self.summary), *closing])


@task(cache_policy=NO_CACHE, task_run_name="judge {data.market.symbol}")
def judge_version(
    data: DatasetRef,
    recipe: Recipe,
    backtest: str,
    latency: str,
    leaks: str,
    rivals: str,
    second_seed: Sequence[str] = (),
) -> str:
    """Compare the challenger with the champion on bars that neither has seen, and return the key of the judgement.

    Args:
        data: The dataset.
        recipe: How the challenger was made.
        backtest: Key of its evaluation, from `backtest_folds`.
        latency: Key of its timing.
        leaks: Key of its leak report.
        rivals: Key of the table of its baselines.
        second_seed: Keys of the folds of `recipe.second_seed`; none before it is asked for.
    """
    settings = Settings.from_environment()
    beside, _ = load_rivals(rivals)
    evaluation = load_evaluation(backtest)
    measured = load_measured(latency)
    store = ArtifactStore(settings.artifact_url)
    entry = store.champion(data.source, data.market.slug)
    name = _champion_name(entry)
    fought = _duel(data, recipe, evaluation, store, entry, [load_fold(fold) for fold in second_seed])
    tried = np.array(sharpe_per_strategy(TrialLog(settings.artifact_url).trials(data.source, data.market.slug)))
    searched = SearchLog(settings.artifact_url).count(data.source, data.market.slug)
    trades, others = evaluation.money.model.metrics.num_trades, recipe.promotion.other_trials + searched
    luck = deflate(evaluation.daily_returns, tried, others, trades=trades)
    hash8 = version_hash(data, recipe, evaluation.folds[-1].weights)
    looks = 1 + sum(one.made > entry.at and one.hash8 != hash8 for one in store.versions(data.source, data.market.slug))
    facts = _Beside(rivals=beside, luck=luck, leaks=load_leaks(leaks).failed, looks=looks)
    judgement = Judgement(
        champion=name,
        sequence=entry.sequence,
        checks=judge(_evidence(name, fought, evaluation, measured, facts), recipe.promotion),
        numbers={
            "champion": {"version": name} | (asdict(fought.champion.metrics) if fought else {}),
            "challenger": asdict(fought.challenger.metrics) if fought else {"days": 0.0},
            "baselines": [asdict(line) for line in beside.table],
            "random": asdict(beside.random),
            "luck": asdict(luck),
            "second_seed": asdict(fought.second.metrics) if fought and fought.second else None,
        },
    )
    document = canonical_json(judgement)
    key = WorkFolder.key("judgement", document.decode())  # by its content: it belongs to one moment's champion
    results_at(settings.work).save(key, {"judgement.json": document})
    get_run_logger().info(
        f"judged key={key} champion={name} passed={judgement.passed} failed={list(judgement.failed)}"
        + (" next='second seed'" if awaits_second_seed(judgement.checks) else "")
    )
    if not awaits_second_seed(judgement.checks):
        show_checklist(data.source, data.market, judgement.checks, name)
    return key


def asks_for_second_seed(judgement: str) -> bool:
    """Return whether `judge_version` needs the folds of a second seed to come to an end."""
    return awaits_second_seed(load_judgement(judgement).checks)


def _duel(
    data: DatasetRef,
    recipe: Recipe,
    evaluation: Evaluation,
    store: ArtifactStore,
    entry: ChampionEntry,
    second_seed: Sequence[FoldResult],
) -> Duel | None:
    """Run challenger, champion and second seed on the bars that none had seen; None where there are none."""
    samples, span = evaluation.samples, evaluation.unseen
    seen = seen_by(data, recipe, samples, samples.folds[0])
    champion = np.zeros(len(span), np.int8)  # flat
    if entry.ref is not None:
        try:
            artifact = store.load(entry.ref, source=data.source)
            theirs, facts = recipe_of(artifact.manifest["recipe"]), artifact.manifest["model"]
        except ArtifactError as err:
            raise ArtifactError(f"the champion can't be compared with: {err}; roll it back (flows.rollback)") from err
        seen = Seen(trained_until_ms=facts["trained_until_ms"], label_span_ms=facts["label_span_ms"])
        seen_ms = seen["trained_until_ms"] + seen["label_span_ms"]
        unseen_from = np.searchsorted(samples.dataset.candles.start_ms, seen_ms, side="right")
        span = Span(start=max(int(unseen_from), span.start), stop=span.stop)
        if len(span) < _FEWEST_BARS:
            return None
        model = load_model(theirs.network_config, load_weights(artifact.files["weights.safetensors"]))
        probabilities = predict_series(model, samples.dataset.features, samples.dataset.segment)[span.rows]
        champion = decide_span(samples, theirs, span, probabilities, np.array(facts["class_means"]))

    def decided(folds: Sequence[FoldResult]) -> NDArray[np.int8]:
        # From flat, as the champion: a position that was opened before the span would be one side's alone.
        probabilities, class_means, model = one_after_the_other(folds)
        ours = slice(span.start - evaluation.unseen.start, None)
        return decide_span(samples, recipe, span, probabilities[ours], class_means, model[ours])

    return duel(
        bars_of(data, samples, span),
        decided(evaluation.folds),
        champion,
        recipe.costs,
        recipe.backtest,
        second=decided(second_seed) if second_seed else None,
        cost_stress=recipe.promotion.cost_stress,
        bars_per_year=data.market.bars_per_year,
        horizon=recipe.labels.horizon,
        **seen,
    )


@dataclass(frozen=True, kw_only=True)
class _Beside:
    """What is known of a challenger beside its own backtest."""

    rivals: Rivals
    luck: Deflation
    leaks: tuple[str, ...]
    looks: int


def _evidence(
    champion: str, fought: Duel | None, evaluation: Evaluation, measured: Measured, beside: _Beside
) -> Evidence:
    best = beside.rivals.better_baseline
    ours, theirs, stressed = (
        (fought.challenger.metrics, fought.champion.metrics, fought.stressed.metrics) if fought else (None, None, None)
    )
    # Where there is nothing to compare on, NaN fails every condition about money.
    return Evidence(
        champion=champion,
        days=ours.days if ours else 0.0,
        trades=ours.num_trades if ours else 0,
        skill=evaluation.skill,
        net_return=ours.total_return if ours else math.nan,
        stressed_return=stressed.total_return if stressed else math.nan,
        champion_return=theirs.total_return if theirs else math.nan,
        p_value=fought.advantage.p_value if fought and fought.advantage else None,
        drawdown=ours.max_drawdown if ours else math.nan,
        champion_drawdown=theirs.max_drawdown if theirs else math.nan,
        latency_p99_us=measured.p99_us,
        parity=measured.parity,
        baseline=best.name,
        baseline_lead=math.nan if best.lead is None else best.lead,
        deflated_sharpe=beside.luck.deflated,
        trials=beside.luck.trials,
        looks=beside.looks,
        leaks=beside.leaks,
        second_seed_return=fought.second.metrics.total_return if fought and fought.second else None,
    )


@task(cache_policy=NO_CACHE, task_run_name="publish {data.market.symbol}")
def publish_version(
    exchange: ExchangeConfig,
    data: DatasetRef,
    recipe: Recipe,
    backtest: str,
    latency: str,
    leaks: str,
    rivals: str,
    judgement: str,
    quality: str,
) -> VersionRef:
    """Store weights, graphs, numbers, predictions, leak report and report page as one immutable version."""
    settings, now = Settings.from_environment(), datetime.now(UTC)
    evaluation = load_evaluation(backtest)
    measured, judged, fold = load_measured(latency), load_judgement(judgement), evaluation.folds[-1]
    beside, rival_files = load_rivals(rivals)
    hash8 = version_hash(data, recipe, fold.weights)
    provenance = {
        "dataset": data.id,
        "code": version_code()[:16],
        "seed": recipe.fit_config.seed,
        **measured.machine,
    }
    manifest = {
        "features": list(FEATURES),
        "recipe": recipe_document(recipe),
        "market": asdict(data.market),
        "dataset": data.id,
        "code": version_code(),
        "seed": recipe.fit_config.seed,
        "versions": report_versions(),
        "metrics": asdict(evaluation.money.model.metrics),
        "exchange": {"origin_detail": exchange.origin_detail, "exchange": exchange.exchange},
        "model": {
            **seen_by(data, recipe, evaluation.samples, evaluation.samples.fold(recipe.models - 1)),
            "class_means": fold.class_means.tolist(),
        },
        "latency": asdict(measured),
        "judgement": json.loads(canonical_json(judged)),
    }
    verdict = ReportVerdict(
        decision="promoted" if judged.passed else "kept",
        champion=judged.champion,
        conditions=judged.checks,
    )
    store, importance = ArtifactStore(settings.artifact_url), measure_importance(recipe, evaluation)
    other = _side_by_side(store, data, hash8, judged.champion, manifest | {"skill": vars(evaluation.skill)})
    report = report_data(
        data, recipe, exchange, evaluation, measured, beside, stored_forecasts(rival_files["baselines.parquet"]),
        Deflation(**judged.numbers["luck"]), importance, verdict, other,
        _quality(data, evaluation, load_quality(quality)), f"{now:%Y%m%dT%H%M%SZ}-{hash8}", now, provenance,
    )  # fmt: skip
    manifest["summary"] = asdict(summarise(report, evaluation, beside))
    files = {
        "weights.safetensors": fold.weights,
        **onnx_graphs(recipe.network_config, load_weights(fold.weights)),
        "folds.json": json.dumps([fold.facts() for fold in evaluation.folds], indent=1).encode(),
        **backtest_files(evaluation),
        **rival_files,
        "importance.json": canonical_json(importance),
        "leaks.json": leaks_json(load_leaks(leaks)),
        "report.html": render_report(report).encode(),
    }
    store.prune_unfinished(data.source, data.market.slug, now - timedelta(days=1))  # what killed runs left behind
    version = store.publish(data.source, data.market.slug, hash8, files, manifest, now)
    show_version(report, version, store.location(version, "report.html"))
    get_run_logger().info(f"published version={version} files={len(files)}")
    return version


@task(cache_policy=NO_CACHE, task_run_name="promote or keep {version.name}")
def promote_or_keep(version: VersionRef, judgement: str) -> Verdict:
    """Make the version champion if it passed every condition and the champion is still the one it was compared with."""
    store, judged = ArtifactStore(Settings.from_environment().artifact_url), load_judgement(judgement)
    entry = store.champion(version.source, version.name)
    already = entry.ref == version
    if judged.passed and not already:
        entry = store.promote(
            version.source, version.name, version, judged.numbers, expected=judged.sequence, now=datetime.now(UTC)
        )
    promoted = entry.ref == version
    decision = (
        "champion already" if already
        else f"promoted over {judged.champion}" if promoted
        else f"kept {judged.champion}; failed: {', '.join(judged.failed)}"
    )  # fmt: skip
    report = store.location(version, "report.html")
    if promoted and not already:
        raise_alert("promotion", f"{version.source}/{version.name}", f"{version.version} {decision}; report: {report}")
    get_run_logger().info(f"{'promoted' if promoted else 'kept'} version={version} champion={_champion_name(entry)}")
    headline = (
        "PROMOTED - it has been the champion already." if already
        else "PROMOTED - it is the champion now." if promoted
        else "NOT PROMOTED - no position is taken." if entry.ref is None
        else f"NOT PROMOTED - the champion stays {_champion_name(entry)}."
    )  # fmt: skip
    manifest = store.manifest(version)
    summary = Summary.of(manifest["summary"])
    result = [("decision", decision), *summary.of_the_model(), ("version", str(version)), ("report", report)]
    show_result(version.source, Market(**manifest["market"]), result)
    return Verdict(
        version=version,
        promoted=promoted,
        champion=_champion_name(entry),
        report=report,
        decision=decision,
        headline=headline,
        checks=() if already else judged.checks,
        summary=summary,
    )


@task(cache_policy=NO_CACHE, task_run_name="roll back {market.symbol}")
def roll_back(exchange: ExchangeConfig, market: Market, reason: str) -> str:
    """Put the champion before the present one in force again, and return its name.

    Raises:
        ArtifactError: The champion is flat, the first one, or the one before is damaged.
    """
    store = ArtifactStore(Settings.from_environment().artifact_url)
    entry = store.rollback(exchange.source, market.slug, reason, datetime.now(UTC))
    raise_alert("rollback", f"{exchange.source}/{market.slug}", f"champion is now {_champion_name(entry)}: {reason}")
    get_run_logger().info(f"rolled back market={market.slug} champion={_champion_name(entry)} reason={reason!r}")
    return _champion_name(entry)


@task(cache_policy=NO_CACHE, task_run_name="champions of {market.symbol}")
def champion_history(exchange: ExchangeConfig, market: Market) -> list[str]:
    """Return every champion there was, oldest first, one line each; the page of the run has the newest first."""
    history = ArtifactStore(Settings.from_environment().artifact_url).history(exchange.source, market.slug)
    rows = [
        {"since": entry.at or "the beginning", "champion": _champion_name(entry), "why": entry.reason}
        for entry in reversed(history)
    ]
    show_table("champions", exchange.source, market, rows, "Champions, the one in force first")
    return [
        f"{entry.sequence}  {entry.at or 'first':20}  {_champion_name(entry):26}  {entry.reason}" for entry in history
    ]


def version_hash(data: DatasetRef, recipe: Recipe, weights: bytes) -> str:
    """Return the version's 8 hex digits: of weights, recipe (with its seed), dataset and code; of no clock or path."""
    document = canonical_json({"recipe": recipe_document(recipe), "dataset": data.id, "code": version_code()})
    return content_hash([weights, document])[:8]


def version_code() -> str:
    """Return the hash of the code behind a version: of its weights, evaluation, baselines and leak report."""
    return code_behind("tasks.evaluation", "tasks.strategy.contest", "tasks.strategy.leak_suite")


def load_judgement(key: str) -> Judgement:
    """Return the judgement that `judge_version` left under `key`."""
    document = json.loads(results_at(Settings.from_environment().work).read(key, "judgement.json"))
    return Judgement(**document | {"checks": tuple(Check(**check) for check in document["checks"])})


def _champion_name(entry: ChampionEntry) -> str:
    return entry.ref.version if entry.ref else "flat"


def _side_by_side(
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
        get_run_logger().warning(f"version {other} can't be shown beside this one: {err}")
        return []
    return list(beside_rows(f"{role}, {other.version}", ours, theirs))


def _quality(data: DatasetRef, evaluation: Evaluation, stored: StoredQuality) -> list[Row]:
    dataset = evaluation.samples.dataset
    candles = dataset.candles
    first_ms, last_ms = int(candles.start_ms[0]), int(candles.start_ms[-1])
    expected = (last_ms - first_ms) // data.market.interval_ms + 1
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
