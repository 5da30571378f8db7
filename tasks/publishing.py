"""Publishing tasks: a judged model becomes a version, is promoted or not; which version was the champion when."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.artifacts import ArtifactStore
from storage.results import ResultStore, canonical_json
from storage.schema import FEATURES, DatasetRef, Market, PipelineError, Source, VersionRef, one_line
from storage.settings import Settings
from storage.whole_file import replace_file
from tasks.champion.manifest import Manifest, read_manifest
from tasks.champion.promotion import Judgement
from tasks.champion.version_hash import version_code, version_hash
from tasks.champion.vol_verdict import judge_vol_forecast
from tasks.exchange.connection import ExchangeConfig
from tasks.ingestion.quality import StoredQuality
from tasks.network.export import onnx_graphs
from tasks.network.folding import load_weights
from tasks.reporting.content import library_versions, report_data, side_by_side
from tasks.reporting.panel import read_panel
from tasks.reporting.panel_page import panel_line, panel_table, render_panel
from tasks.reporting.paper_record import paper_records
from tasks.reporting.summary import Verdict, summarise
from tasks.runs.alerts import raise_alert
from tasks.runs.cost import METER
from tasks.runs.page import panel_link, put_table, show_result, show_table, show_verdict
from tasks.strategy.backtest_record import backtest_files
from tasks.strategy.findings import Findings, StepKeys
from tasks.strategy.input_importance import measure_importance
from tasks.strategy.leak_report import leaks_json
from tasks.strategy.recipe import Recipe

_SESSIONS = 5  # on paper, that a report shows


@task(cache_policy=NO_CACHE, task_run_name="publish {data.market.symbol}")
def publish_version(
    exchange: ExchangeConfig,
    data: DatasetRef,
    recipe: Recipe,
    keys: StepKeys,
    judgement: str,
    quality: str,
) -> VersionRef:
    """Store weights, graphs, numbers, predictions, leak report and report page as one immutable version.

    `judgement` and `quality` are keys; a version that is stored already keeps its own judgement.

    Raises:
        ArtifactError: The store refuses; no version is visible then.
    """
    from tasks.reporting.report import render_report  # Matplotlib: what trains beforehand need not hold it
    from tasks.reporting.run_page import verdict_markdown, version_tables

    settings, now = Settings.from_environment(), datetime.now(UTC)
    work, store = ResultStore(settings.work), ArtifactStore(settings.models)
    findings = Findings.load(settings.work, settings.datasets, keys)
    importance = measure_importance(recipe, findings.evaluation)
    manifest = _manifest(exchange, data, recipe, findings, work.load(judgement, Judgement))
    files = _files(recipe, findings) | work.read(keys.comparison) | work.read(keys.risk)
    spent = METER.so_far()
    files |= {"importance.json": canonical_json(importance), "cost.json": canonical_json(spent)}
    hash8 = version_hash(data, recipe, files["weights.safetensors"])
    ref = VersionRef(source=data.source, name=data.market.slug, version=f"{now:%Y%m%dT%H%M%SZ}-{hash8}")
    beside = side_by_side(store, ref, manifest, files)
    report = report_data(
        ref, now, manifest, findings, files["baselines.parquet"], importance, beside,
        work.load(quality, StoredQuality), spent,
        [one.row() for one in paper_records(settings.home, data.source, data.market, most=_SESSIONS)],
    )  # fmt: skip
    files["report.html"] = render_report(report).encode()
    store.prune_unfinished(data.source, data.market.slug, now - timedelta(days=1))  # what killed runs left behind
    version = store.publish(data.source, data.market.slug, hash8, files, manifest.document(), now)
    for key, rows, about in version_tables(report):
        show_table(key, data.source, data.market, rows, about)
    location = store.location(version, "report.html")
    shown = replace(report, ref=version)  # one that was there already keeps its name
    show_verdict(data.source, data.market, version, verdict_markdown(shown), location)
    get_run_logger().info(f"published version={version} files={len(files)}")
    return version


def _manifest(
    exchange: ExchangeConfig, data: DatasetRef, recipe: Recipe, findings: Findings, judgement: Judgement
) -> Manifest:
    """Return what a version says of itself; the published weights are those of the last fold, or of the refit."""
    evaluation = findings.evaluation
    published = evaluation.samples.fold(len(evaluation.folds) - 1)
    means = evaluation.folds[-1].class_means
    return Manifest(
        features=FEATURES,
        market=data.market,
        origin=exchange.origin,
        origin_detail=exchange.origin_detail,
        dataset=data.id,
        recipe=recipe.resolved,
        code=version_code(),
        libraries=library_versions(),
        **evaluation.samples.training_end(published),
        class_means=tuple(means.tolist()),
        judgement=judgement,
        risk=judge_vol_forecast(findings.risk, recipe.risk),
        summary=summarise(recipe, evaluation, findings.comparison, exchange.origin),
    )


def _files(recipe: Recipe, findings: Findings) -> dict[str, bytes]:
    """Return the model in both formats, and what its steps found of it."""
    evaluation = findings.evaluation
    weights = evaluation.folds[-1].weights
    return {
        "weights.safetensors": weights,
        **onnx_graphs(recipe.network_config, load_weights(weights)),
        "folds.json": json.dumps([fold.facts() for fold in evaluation.folds], indent=1).encode(),
        **backtest_files(evaluation),
        "latency.json": canonical_json(findings.speed),
        "leaks.json": leaks_json(findings.leaks),
    }


@task(cache_policy=NO_CACHE, task_run_name="promote or keep {version.name}")
def promote_or_keep(version: VersionRef, judgement: str) -> Verdict:
    """Make the version champion if it passed every condition and the champion is still the one it was compared with."""
    settings = Settings.from_environment()
    store, judged = ArtifactStore(settings.models), ResultStore(settings.work).load(judgement, Judgement)
    entry = store.champion(version.source, version.name)
    already = entry.ref == version
    if judged.passed and not already:
        evidence, now = {"beaten": judged.champion, **asdict(judged.numbers)}, datetime.now(UTC)
        entry = store.promote(version.source, version.name, version, evidence, expected=judged.sequence, now=now)
    report, manifest = store.location(version, "report.html"), read_manifest(store, version)
    verdict = Verdict(
        version=version, manifest=manifest, judged=judged, champion=entry.champion, report=report, already=already
    )
    if verdict.promoted and not already:
        said = f"{version.version} {verdict.decision}; report: {report}"
        raise_alert("promotion", f"{version.source}/{version.name}", said)
    how = "promoted" if verdict.promoted else "kept"
    get_run_logger().info(f"{how} version={version} champion={verdict.champion}")
    show_result(version.source, manifest.market, verdict.rows())
    return verdict


@task(cache_policy=NO_CACHE, task_run_name="all markets of {source}")
def show_panel(source: Source) -> str:
    """Set the newest version of each market of a source beside the others, on a page in the home and in the Prefect UI.

    Returns:
        Where the page lies; empty where it can't be written, which the run's log says: its versions are stored.
    """
    settings = Settings.from_environment()
    place = settings.home / f"markets-{source.replace(':', '-')}.html"
    try:
        store = ArtifactStore(settings.models)
        panel = read_panel(store, source, datetime.now(UTC))
        settings.prepare_home()
        replace_file(place, render_panel(panel, link=partial(_report_address, store)).encode())
    except (OSError, PipelineError) as err:
        get_run_logger().warning(f"the page of all markets could not be written ({one_line(err)}); run it again")
        return ""
    about = f"{panel_line(panel)}; {panel_link(source) or place}"
    put_table(f"all-markets-{source}".replace(":", "-"), panel_table(panel), about)
    get_run_logger().info(f"compared {panel_line(panel)} page={place}")
    return str(place)


def _report_address(store: ArtifactStore, ref: VersionRef) -> str:
    location = store.location(ref, "report.html")
    return location if "://" in location else Path(location).absolute().as_uri()


@task(cache_policy=NO_CACHE, task_run_name="roll back {market.symbol}")
def roll_back(exchange: ExchangeConfig, market: Market, reason: str) -> str:
    """Put the champion before the present one in force again, and return its name.

    Raises:
        ArtifactError: The champion is flat, the first one, or the one before is damaged.
    """
    store = ArtifactStore(Settings.from_environment().models)
    entry = store.rollback(exchange.source, market.slug, reason, datetime.now(UTC))
    raise_alert("rollback", f"{exchange.source}/{market.slug}", f"champion is now {entry.champion}: {reason}")
    get_run_logger().info(f"rolled back market={market.slug} champion={entry.champion} reason={reason!r}")
    return entry.champion


@task(cache_policy=NO_CACHE, task_run_name="champions of {market.symbol}")
def champion_history(exchange: ExchangeConfig, market: Market) -> list[str]:
    """Return every champion there was, oldest first, one line each; the page of the run has the newest first."""
    history = ArtifactStore(Settings.from_environment().models).history(exchange.source, market.slug)
    rows = [
        {"since": entry.at or "the beginning", "champion": entry.champion, "why": entry.reason}
        for entry in reversed(history)
    ]
    show_table("champions", exchange.source, market, rows, "Champions, the one in force first")
    return [f"{entry.sequence}  {entry.at or 'first':20}  {entry.champion:26}  {entry.reason}" for entry in history]
