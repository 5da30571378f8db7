"""Judging tasks: a model against the champion of the moment, or a new listing's by markets that it never saw."""

import time
from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.artifacts import ArtifactStore
from storage.results import ResultStore
from storage.schema import DatasetRef
from storage.settings import Settings
from storage.trials import Origin
from tasks.champion.judgement import judge_challenger, judge_new_listing
from tasks.champion.listing_verdict import FEWEST_HELD_OUT
from tasks.champion.looks import count_looks, record_look
from tasks.champion.promotion import Judgement
from tasks.runs.page import show_table
from tasks.strategy.findings import Findings, StepKeys
from tasks.strategy.leave_one_out import HeldOutMarket, evaluate_held_out, held_out_markets
from tasks.strategy.out_of_sample import judged_folds
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import samples_of_run


@task(cache_policy=NO_CACHE, task_run_name="judge {data.market.symbol}")
def judge_version(
    data: DatasetRef,
    recipe: Recipe,
    keys: StepKeys,
    origin: Origin,
    second_seed: Sequence[str] = (),
) -> str:
    """Compare the challenger with the champion on bars that neither has seen, and return the key of the judgement.

    `second_seed` are the keys of the folds of `recipe.second_seed`; none before it is asked for.
    """
    settings = Settings.from_environment()
    work, store = ResultStore(settings.work), ArtifactStore(settings.models)
    findings = Findings.load(settings.work, settings.datasets, keys)
    again = judged_folds(work, findings.evaluation.samples, second_seed)
    judgement = judge_challenger(store, recipe, findings, origin, _now_ms(), again)
    record_look(store, recipe, findings.evaluation, origin, judgement.champion)
    return _kept(work, data, judgement)


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

    `asked` has the keys of those networks; `second_seed` the same of `recipe.second_seed`, none before it is asked for.
    """
    settings = Settings.from_environment()
    work, store = ResultStore(settings.work), ArtifactStore(settings.models)
    findings = Findings.load(settings.work, settings.datasets, keys)
    level = recipe.promotion.alpha(count_looks(store, recipe, findings.evaluation))
    found = evaluate_held_out(work, settings.datasets, asked, origin, level)
    second = evaluate_held_out(work, settings.datasets, second_seed, origin) if second_seed else None
    judgement = judge_new_listing(store, recipe, findings, origin, _now_ms(), found, second)
    record_look(store, recipe, findings.evaluation, origin, judgement.champion)
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
    found = tuple(held_out_markets(settings.datasets, data, recipe))
    return found if len(found) >= FEWEST_HELD_OUT else ()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


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
