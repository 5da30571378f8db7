"""Evaluation tasks: how fast a trained model is, whether it saw the future, and what its predictions were worth."""

from collections.abc import Sequence
from itertools import chain

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.results import ResultStore, canonical_json
from storage.schema import DatasetRef
from storage.settings import Settings
from storage.snapshots import load_dataset
from storage.trials import Origin, Trial, TrialLog
from storage.written import or_dash, written
from tasks.ingestion.bar_range import BarRange
from tasks.runs.page import show_table
from tasks.runs.progress import progress_of
from tasks.strategy.backtest_record import trial_key, trial_of
from tasks.strategy.baseline_comparison import (
    compare_with_baselines,
    comparison_files,
    comparison_key,
    joined_forecasts,
)
from tasks.strategy.baseline_folds import BaselineFold, joined_baselines
from tasks.strategy.folds import FoldResult
from tasks.strategy.held_out_volatility import held_out_key, with_held_out
from tasks.strategy.leak_report import CHECKS, LeakReport, leaks_key
from tasks.strategy.leave_one_out import HeldOutMarket
from tasks.strategy.out_of_sample import EvaluationInputs, judged_folds, load_evaluation
from tasks.strategy.recipe import Recipe
from tasks.strategy.risk_rivals import rivals_of_pool
from tasks.strategy.samples import samples_of_run
from tasks.strategy.speed import measure_speed, speed_key
from tasks.strategy.vol_forecast import NETWORK, VolForecastRecord, record_vol_forecasts, vol_forecast_key


@task(cache_policy=NO_CACHE, task_run_name="measure latency {data.market.symbol}")
def measure_latency(data: DatasetRef, recipe: Recipe, fold: str) -> str:
    """Prove that all ways to run a fold's model agree, time it beside its twins, and return the key of the figures.

    Raises:
        ArtifactError: Two ways to run the model disagree.
        DatasetError: No run of bars is long enough to compare them on.
    """
    settings, key = Settings.from_environment(), speed_key(fold)
    work = ResultStore(settings.work)
    if _was_made(work, key):
        return key
    dataset = load_dataset(settings.datasets, data)
    with progress_of("latency") as tell:
        speed = measure_speed(dataset, recipe, work.load(fold, FoldResult).weights, tell)
    work.save(key, speed)
    row = speed.model
    get_run_logger().info(
        f"latency key={key} p50_us={row.p50_us:.2f} p99_us={row.p99_us:.2f} parity={speed.parity:.1e}"
    )
    return key


@task(cache_policy=NO_CACHE, task_run_name="check leaks {data.market.symbol}")
def check_leaks(data: DatasetRef, recipe: Recipe, fold: str) -> str:
    """Look for leaks in features, labels, folds and training of the fold that is published; return the report's key."""
    from tasks.strategy.leak_suite import checks_of_code, leak_checks  # with torch

    settings, log = Settings.from_environment(), get_run_logger()
    work, key = ResultStore(settings.work), leaks_key(data, recipe, fold)
    if _was_made(work, key):
        return key
    samples, checks = samples_of_run(settings.datasets, data, recipe), []
    of_fold = leak_checks(samples, data.market.interval_ms, recipe, work.load(fold, FoldResult))
    with progress_of("leak checks", is_beside=True) as tell:
        for check in chain(of_fold, checks_of_code(work)):
            checks.append(check)
            tell(len(checks) / CHECKS, check.name)
    report = LeakReport(checks=tuple(checks))
    work.save(key, report)
    for check in checks:
        if not check.passed:
            log.warning(f"leak check={check.name!r} found={check.found!r}")
    log.info(f"leak report key={key} checks={len(checks)} failed={list(report.failed)}")
    return key


@task(cache_policy=NO_CACHE, task_run_name="backtest {data.market.symbol}")
def backtest_folds(data: DatasetRef, bars: BarRange, recipe: Recipe, folds: list[str], origin: Origin) -> str:
    """Backtest the folds' predictions of unseen bars net of costs, log the trial, and return the evaluation's key.

    `folds` are keys, oldest first, a refit's last; `bars` was asked for: another first day is another trial.

    Raises:
        LeakError: A test begins before what its training knew ends.
    """
    settings = Settings.from_environment()
    inputs = EvaluationInputs(data=data, recipe=recipe.resolved, folds=tuple(folds))
    key = ResultStore.key("evaluation", inputs)
    ResultStore(settings.work).save(key, {"inputs.json": canonical_json(inputs)})
    evaluation = load_evaluation(settings.work, settings.datasets, key)
    trial = trial_of(trial_key(recipe, folds), data, recipe, evaluation, origin, bars.days)
    TrialLog(settings.models, Trial).append(trial)
    metrics, skill = evaluation.money.model.metrics, evaluation.skill
    get_run_logger().info(
        f"backtest key={key} bars={len(evaluation.unseen)} trades={metrics.num_trades} net={metrics.total_return:+.4f} "
        f"log_loss_skill={skill.log_loss_skill:+.5f} accuracy={skill.accuracy:.4f}"
    )
    return key


@task(cache_policy=NO_CACHE, task_run_name="rate volatility forecasts of {data.market.symbol}")
def rate_vol_forecasts(data: DatasetRef, recipe: Recipe, folds: list[str]) -> str:
    """Rate the folds' volatility forecasts beside EWMA, HAR and LightGBM, and return the record's key."""
    settings, key = Settings.from_environment(), vol_forecast_key(data, recipe, folds)
    work = ResultStore(settings.work)
    if _was_made(work, key):
        return key
    samples = samples_of_run(settings.datasets, data, recipe)
    rivals = rivals_of_pool(settings.datasets, samples, recipe) if samples.is_listing else None
    files = record_vol_forecasts(samples, recipe, judged_folds(work, samples, folds), rivals)
    work.save(key, files)
    scores = VolForecastRecord.of(files).scores
    said = " ".join(f"{one.name!r}={one.qlike:.4f}" for one in scores) or "not forecast"
    get_run_logger().info(f"risk key={key} {said}")
    return key


@task(cache_policy=NO_CACHE, task_run_name="forecast risk of markets never seen")
def rate_held_out_volatility(risk: str, asked: Sequence[HeldOutMarket]) -> str:
    """Put beside a listing's volatility record those of markets that networks never saw, and return the key of all.

    `risk` is the key of its own, from `rate_vol_forecasts`.
    """
    settings, key = Settings.from_environment(), held_out_key(risk, asked)
    work = ResultStore(settings.work)
    if not work.finished(key):
        work.save(key, with_held_out(work, settings.datasets, work.read(risk), asked))
    records = VolForecastRecord.of(work.read(key)).held_out
    r2 = " ".join(f"{symbol}={ours.log_r2:.2f}" for symbol, one in records.items() if (ours := one.named(NETWORK)))
    get_run_logger().info(f"risk of markets that networks never saw key={key} r2 {r2 or 'not forecast'}")
    return key


@task(cache_policy=NO_CACHE, task_run_name="compare baselines of {data.market.symbol}")
def compare_baselines(data: DatasetRef, recipe: Recipe, backtest: str, baselines: list[list[str]]) -> str:
    """Put the model beside its baselines on the bars that none of them had seen, and return the key of the table.

    The keys are of the model's evaluation, from `backtest_folds`, and of what was fitted on each fold.
    """
    settings, key = Settings.from_environment(), comparison_key(recipe, backtest, baselines)
    work = ResultStore(settings.work)
    evaluation = load_evaluation(settings.work, settings.datasets, backtest)
    parts = [
        joined_baselines([work.load(one, BaselineFold).judged(fold) for one in keys])
        for fold, keys in zip(evaluation.samples.folds, baselines, strict=True)
    ]
    forecasts = joined_forecasts(parts)
    found = compare_with_baselines(recipe, evaluation, forecasts, [dict(part.facts) for part in parts])
    work.save(key, comparison_files(found, evaluation, forecasts))
    best = found.better_baseline
    lead = "undefined" if best.lead is None else f"{best.lead:+.5f}"
    get_run_logger().info(
        f"baselines key={key} better={best.name!r} log_loss={best.log_loss:.5f} lead_of_model={lead} "
        f"random_percentile={found.random.percentile:.3f}"
    )
    rows = [
        {
            "": line.name,
            "log-loss": or_dash(line.log_loss, "nat"),
            "net return": written(line.total_return, "signed share"),
        }
        for line in found.table
    ]
    show_table("baselines", data.source, data.market, rows, "The model beside what it must beat, unseen bars")
    return key


def _was_made(work: ResultStore, key: str) -> bool:
    """Return whether a result was made before, which is then said in place of what it came to."""
    if was_made := work.finished(key):
        get_run_logger().info(f"made before key={key}")
    return was_made
