"""From stored candles to a judged version: dataset, folds, baselines, latency, leaks, publish, promote or keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter
from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.entry.command_line import run_by_hand
from flows.entry.form import Folded, form
from storage.pruning import PruneRule
from storage.schema import DatasetRef, Market
from tasks.data import build_dataset, note_quality
from tasks.evaluation import backtest_folds, check_leaks, compare_baselines, foresee_risk, measure_latency
from tasks.exchange.connection import ExchangeConfig
from tasks.fan_out import distinct
from tasks.housekeeping import prune_home
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.quality import QualityConfig
from tasks.publishing import asks_for_second_seed, judge_version, promote_or_keep, publish_version
from tasks.reporting.summary import Verdict
from tasks.runs import cost
from tasks.runs.display import parts_of, plan, stage
from tasks.runs.market_lock import one_retrain_at_a_time
from tasks.runs.memory import give_back_large_blocks
from tasks.strategy.recipe import Recipe
from tasks.training import fold_count, prepare_fold, train_baselines, train_fold, train_twin

STAGES = ("dataset", "networks", "baselines", "latency", "leak checks", "backtest", "judge", "publish")


@flow(name="retrain", flow_run_name="retrain {market} {exchange.exchange} {bars.text}")
@form
def retrain(
    *,
    market: Annotated[Market, Parameter(name="*")] = Market(),
    exchange: Annotated[ExchangeConfig, Parameter(name="*")] = ExchangeConfig(),
    bars: Annotated[BarRange, Parameter(name="*")] = BarRange(),
    quality: Annotated[QualityConfig, Parameter(name="*"), Folded] = QualityConfig(),
    recipe: Annotated[Recipe, Parameter(name="*"), Folded] = Recipe(),
) -> Verdict:
    """Train, measure, backtest and publish a model on stored candles, then promote it or keep the champion.

    Args:
        market: Symbol, category and interval.
        exchange: Names the source of the candles; nothing is fetched.
        bars: Which stored bars are used; the default is all of them.
        quality: How many bad rows are too many.
        recipe: Labels, folds, network, training, costs and decision rule.
    """
    plan(STAGES)
    with one_retrain_at_a_time(exchange.source, market):
        stage("dataset")
        data = build_dataset(exchange, market, bars, quality)
        if recipe.pool:
            recipe = pooled(exchange, market, bars, quality, recipe, [data])
        verdict = judged_version(exchange, data, bars, note_quality(data), recipe)
        prune_home(PruneRule())
        return verdict


def pooled(
    exchange: ExchangeConfig,
    market: Market,
    bars: BarRange,
    quality: QualityConfig,
    recipe: Recipe,
    built: Sequence[DatasetRef],
) -> Recipe:
    """Return the recipe with a dataset for every market of its pool: one that is built, or one of stored candles.

    Args:
        exchange: Names the source.
        market: Category and interval.
        bars: The range of each.
        quality: How many bad rows are too many.
        recipe: Names the pool; "yes" is all that is built.
        built: The datasets that there are.

    Raises:
        ConfigError: A symbol is none, or named twice.
    """
    if recipe.pool == ("yes",):
        return recipe.pooled_on(built)
    of = {data.market: data for data in built}
    markets = distinct(market, recipe.pool)
    return recipe.pooled_on([of[one] if one in of else build_dataset(exchange, one, bars, quality) for one in markets])


def trained(data: DatasetRef, recipe: Recipe) -> tuple[list[str], list[str], list[list[str]]]:
    """Return keys: of what each fold's networks start from, of each network, and of what was fitted against each.

    What knows no torch, the trees above all, is done in a second thread beside the networks, which it teaches.
    """
    of, walked = {"data": data, "recipe": recipe}, fold_count(data, recipe)
    fitted = walked + recipe.refit
    second: ThreadPoolTaskRunner[str] = ThreadPoolTaskRunner(max_workers=1)
    with second as beside:
        preparing = [beside.submit(prepare_fold, of | {"index": index}) for index in range(fitted)]
        fitting = [beside.submit(train_baselines, of | {"index": index}) for index in range(walked)]
        starts, models, rivals = [], [], []
        for index in parts_of("networks", fitted):
            starts.append(preparing[index].result())
            models.append(train_fold(data, recipe, index, starts[index]))
        for index in parts_of("baselines", walked):
            twin = [train_twin(data, recipe, index, starts[index])] if recipe.baselines.twin else []
            rivals.append([fitting[index].result(), *twin])
    return starts, models, rivals


def judged_version(exchange: ExchangeConfig, data: DatasetRef, bars: BarRange, quality: str, recipe: Recipe) -> Verdict:
    """Return the verdict on a model made now; needs nothing but the place of datasets, finished steps and versions.

    Args:
        exchange: Named in the version; nothing is fetched.
        data: The dataset.
        bars: The range that was asked for.
        quality: Key of what the candle store knows of its bars.
        recipe: Labels, folds, network, training, costs and decision rule.
    """
    give_back_large_blocks()
    recipe = recipe.charged(data.market, is_made_up=exchange.origin == "synthetic")
    cost.measure(STAGES[1:])
    starts, models, rivals = trained(data, recipe)
    give_back_large_blocks()
    stage("latency")
    latency = measure_latency(data, recipe, models[-1])
    stage("leak checks")
    leaks = check_leaks(data, recipe, models[-1])
    stage("backtest")
    backtest = backtest_folds(data, bars, recipe, models)
    contest = compare_baselines(data, recipe, backtest, rivals)
    risk = foresee_risk(data, recipe, models)
    stage("judge")
    judgement = judge_version(data, recipe, backtest, latency, leaks, contest, risk)
    if asks_for_second_seed(judgement):
        again = [
            train_fold(data, recipe.second_seed, index, starts[index])
            for index in parts_of("judge", fold_count(data, recipe), "second seed,")
        ]
        judgement = judge_version(data, recipe, backtest, latency, leaks, contest, risk, again)
    stage("publish")
    version = publish_version(exchange, data, recipe, backtest, latency, leaks, contest, risk, judgement, quality)
    verdict = promote_or_keep(version, judgement)
    stage("publish", 1)
    return verdict


if __name__ == "__main__":
    run_by_hand(
        retrain,
        (
            "flows.retrain --exchange bybit --symbol BTCUSDT --days 365",
            "flows.retrain --preset source --labels.horizon 4",
        ),
        summary=lambda verdict, facts: verdict.text(facts),
    )
