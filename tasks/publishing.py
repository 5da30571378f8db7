"""Publishing tasks: judge a model against the champion, store it as a version, promote it or keep the champion."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from storage.trials import Origin
from storage.whole_file import replace_file
from tasks.champion.judgement import champion_name, count_looks, judge_challenger, judge_new_listing
from tasks.champion.listing_verdict import FEWEST_HELD_OUT
from tasks.champion.manifest import Manifest, read_manifest
from tasks.champion.promotion import Judgement
from tasks.champion.version_hash import version_code, version_hash
from tasks.champion.vol_verdict import judge_vol_forecast
from tasks.exchange.connection import ExchangeConfig
from tasks.ingestion.quality import StoredQuality
from tasks.live.paper_record import paper_records
from tasks.network.export import onnx_graphs
from tasks.network.folding import load_weights
from tasks.reporting.content import library_versions, report_data, side_by_side
from tasks.reporting.panel import read_panel
from tasks.reporting.panel_page import panel_line, panel_table, render_panel
from tasks.reporting.summary import Verdict, summarise, verdict_of
from tasks.runs import cost
from tasks.runs.alerts import raise_alert
from tasks.runs.page import panel_link, put_table, show_result, show_table, show_verdict
from tasks.strategy.backtest_record import backtest_files
from tasks.strategy.findings import Findings, StepKeys
from tasks.strategy.input_importance import measure_importance
from tasks.strategy.leak_suite import leaks_json
from tasks.strategy.leave_one_out import HeldOutMarket, evaluate_held_out, held_out_markets
from tasks.strategy.out_of_sample import judged_folds
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import samples_of_run

_SESSIONS = 5  # on paper, that a report shows


@task(cache_policy=NO_CACHE, task_run_name="judge {data.market.symbol}")
def judge_version(
    data: DatasetRef,
    recipe: Recipe,
    keys: StepKeys,
    origin: Origin,
    second_seed: Sequence[str] = (),
) -> str:
    """Compare the challenger with the champion on bars that neither has seen, and return the key of the judgement.

    Args:
        data: The dataset.
        recipe: How the challenger was made.
        keys: Of what the steps found.
        origin: Who sent the candles.
        second_seed: Keys of the folds of `recipe.second_seed`; none before it is asked for.
    """
    settings = Settings.from_environment()
    work, store = ResultStore(settings.work), ArtifactStore(settings.models)
    findings = Findings.load(settings.work, settings.datasets, keys)
    again = judged_folds(work, findings.evaluation.samples, second_seed)
    return _kept(work, data, judge_challenger(store, recipe, findings, origin, again))


@task(cache_policy=NO_CACHE, task_run_name="judge new listing {data.market.symbol}")
def judge_listed(
    data: DatasetRef,
    recipe: Recipe,
    keys: StepKeys,
    origin: Origin,
    asked: Sequence[HeldOutMarket],
    second_seed: Sequence[HeldOutMarket] = (),
) -> str:
    """Judge the pool's network for a new listing by markets that such networks never saw; return the judgement's key.

    Args:
        data: The listing's dataset.
        recipe: With its pool.
        keys: Of what the steps found, on its own days.
        origin: Who sent the candles.
        asked: The markets, with the keys of the networks that never saw them.
        second_seed: The same of `recipe.second_seed`; none before it is asked for.
    """
    settings = Settings.from_environment()
    work, store = ResultStore(settings.work), ArtifactStore(settings.models)
    findings = Findings.load(settings.work, settings.datasets, keys)
    level = recipe.promotion.alpha(count_looks(store, recipe, findings.evaluation))
    found = evaluate_held_out(work, settings.datasets, asked, origin, level)
    second = evaluate_held_out(work, settings.datasets, second_seed, origin) if second_seed else None
    judgement = judge_new_listing(store, recipe, findings, origin, found, second)
    leads = " ".join(f"{symbol}={lead:+.5f}" for symbol, lead in found.leads.items())
    get_run_logger().info(f"markets that networks never saw: log_loss_skill {leads}")
    return _kept(work, data, judgement)


def markets_to_hold_out(data: DatasetRef, recipe: Recipe) -> tuple[HeldOutMarket, ...]:
    """Return whom the verdict on a new listing is asked of, whose network is still to be trained.

    Nobody where the ordinary rule judges: a market that has bars to learn from, or a champion to beat, or a pool of too
    few.
    """
    settings = Settings.from_environment()
    champion = ArtifactStore(settings.models).champion(data.source, data.market.slug)
    if champion.ref is not None or not samples_of_run(settings.datasets, data, recipe).is_listing:
        return ()
    found = held_out_markets(settings.datasets, data, recipe)
    return found if len(found) >= FEWEST_HELD_OUT else ()


def _kept(work: ResultStore, data: DatasetRef, judgement: Judgement) -> str:
    key = ResultStore.key("judgement", judgement)  # by its content: it belongs to one moment's champion
    work.save(key, judgement)
    get_run_logger().info(
        f"judged key={key} champion={judgement.champion} passed={judgement.passed} failed={list(judgement.failed)}"
        + (" next='second seed'" if judgement.awaits_second_seed else "")
    )
    if not judgement.awaits_second_seed:
        from tasks.reporting.run_page import checklist_rows

        rows, about = checklist_rows(judgement.checks), f"Promotion rule against champion {judgement.champion}"
        show_table("promotion", data.source, data.market, rows, about)
    return key


def asks_for_second_seed(judgement: str) -> bool:
    """Return whether `judge_version` needs the folds of a second seed to come to an end."""
    return ResultStore(Settings.from_environment().work).load(judgement, Judgement).awaits_second_seed


@task(cache_policy=NO_CACHE, task_run_name="publish {data.market.symbol}")
def publish_version(
    exchange: ExchangeConfig,
    data: DatasetRef,
    recipe: Recipe,
    keys: StepKeys,
    judgement: str,
    quality: str,
) -> VersionRef:
    """Store weights, graphs, numbers, predictions, leak report and report page as one immutable version."""
    from tasks.reporting.report import render_report  # Matplotlib: what trains beforehand need not hold it
    from tasks.reporting.run_page import verdict_markdown, version_tables

    settings, now = Settings.from_environment(), datetime.now(UTC)
    work, store = ResultStore(settings.work), ArtifactStore(settings.models)
    findings = Findings.load(settings.work, settings.datasets, keys)
    evaluation = findings.evaluation
    fold = evaluation.folds[-1]
    manifest = Manifest(
        features=FEATURES,
        market=data.market,
        origin=exchange.origin,
        origin_detail=exchange.origin_detail,
        dataset=data.id,
        recipe=recipe.resolved,
        code=version_code(),
        libraries=library_versions(),
        **evaluation.samples.training_end(evaluation.samples.fold(len(evaluation.folds) - 1)),
        class_means=tuple(fold.class_means.tolist()),
        judgement=work.load(judgement, Judgement),
        risk=judge_vol_forecast(findings.risk, recipe.risk),
        summary=summarise(recipe, evaluation, findings.comparison, exchange.origin),
    )
    importance = measure_importance(recipe, evaluation)
    files = {
        "weights.safetensors": fold.weights,
        **onnx_graphs(recipe.network_config, load_weights(fold.weights)),
        "folds.json": json.dumps([fold.facts() for fold in evaluation.folds], indent=1).encode(),
        **backtest_files(evaluation),
        **work.read(keys.comparison),
        **work.read(keys.risk),
        "importance.json": canonical_json(importance),
        "latency.json": canonical_json(findings.speed),
        "leaks.json": leaks_json(findings.leaks),
    }
    hash8 = version_hash(data, recipe, fold.weights)
    ref = VersionRef(source=data.source, name=data.market.slug, version=f"{now:%Y%m%dT%H%M%SZ}-{hash8}")
    spent = cost.so_far()
    files["cost.json"] = canonical_json(spent)
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
    verdict = verdict_of(version, manifest, judged, entry.ref, report, already=already)
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
    raise_alert("rollback", f"{exchange.source}/{market.slug}", f"champion is now {champion_name(entry)}: {reason}")
    get_run_logger().info(f"rolled back market={market.slug} champion={champion_name(entry)} reason={reason!r}")
    return champion_name(entry)


@task(cache_policy=NO_CACHE, task_run_name="champions of {market.symbol}")
def champion_history(exchange: ExchangeConfig, market: Market) -> list[str]:
    """Return every champion there was, oldest first, one line each; the page of the run has the newest first."""
    history = ArtifactStore(Settings.from_environment().models).history(exchange.source, market.slug)
    rows = [
        {"since": entry.at or "the beginning", "champion": champion_name(entry), "why": entry.reason}
        for entry in reversed(history)
    ]
    show_table("champions", exchange.source, market, rows, "Champions, the one in force first")
    return [
        f"{entry.sequence}  {entry.at or 'first':20}  {champion_name(entry):26}  {entry.reason}" for entry in history
    ]
