"""From stored candles to a judged version: dataset, folds, baselines, latency, leaks, publish, promote or keep."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from prefect import flow

from flows.entry.command_line import run_by_hand
from flows.entry.form import Folded, form
from storage.pruning import PruneRule
from storage.schema import DatasetRef, Market
from tasks.data import build_dataset, note_quality
from tasks.evaluation import backtest_folds, check_leaks, compare_baselines, measure_latency
from tasks.exchange.connection import ExchangeConfig
from tasks.housekeeping import prune_home
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.quality import QualityConfig
from tasks.publishing import asks_for_second_seed, judge_version, promote_or_keep, publish_version
from tasks.reporting.summary import Verdict
from tasks.runs.display import parts_of, plan, stage
from tasks.runs.market_lock import one_retrain_at_a_time
from tasks.strategy.recipe import Recipe
from tasks.training import train_baselines, train_fold

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
        verdict = judged_version(exchange, data, note_quality(data), recipe)
        prune_home(PruneRule())
        return verdict


def judged_version(exchange: ExchangeConfig, data: DatasetRef, quality: str, recipe: Recipe) -> Verdict:
    """Return the verdict on a model made now; needs nothing but the place of datasets, finished steps and versions.

    Args:
        exchange: Named in the version; nothing is fetched.
        data: The dataset.
        quality: Key of what the candle store knows of its bars.
        recipe: Labels, folds, network, training, costs and decision rule.
    """
    models = [train_fold(data, recipe, index) for index in parts_of("networks", recipe.models)]
    baselines = [train_baselines(data, recipe, index) for index in parts_of("baselines", recipe.folds.folds)]
    stage("latency")
    latency = measure_latency(data, recipe, models[-1])
    stage("leak checks")
    leaks = check_leaks(data, recipe, models[-1])
    stage("backtest")
    backtest = backtest_folds(data, recipe, models)
    contest = compare_baselines(data, recipe, backtest, baselines)
    stage("judge")
    judgement = judge_version(data, recipe, backtest, latency, leaks, contest)
    if asks_for_second_seed(judgement):
        again = [
            train_fold(data, recipe.second_seed, index)
            for index in parts_of("judge", recipe.folds.folds, "second seed,")
        ]
        judgement = judge_version(data, recipe, backtest, latency, leaks, contest, again)
    stage("publish")
    version = publish_version(exchange, data, recipe, backtest, latency, leaks, contest, judgement, quality)
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
