"""From stored candles to a judged version: dataset, folds, baselines, latency, leaks, publish, promote or keep."""

from collections.abc import Sequence
from dataclasses import replace

from prefect import flow
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from flows.entry.command_line import run_by_hand
from flows.entry.form import form
from flows.entry.parameters import Bars, Exchange, HowMade, OneMarket, Quality
from storage.pruning import PruneRule
from storage.schema import DatasetRef, Market, PipelineError, one_line
from storage.trials import Origin
from tasks.data import build_dataset, markets_in_store, note_quality
from tasks.evaluation import (
    backtest_folds,
    check_leaks,
    compare_baselines,
    measure_latency,
    rate_held_out_volatility,
    rate_vol_forecasts,
)
from tasks.exchange.connection import ExchangeConfig
from tasks.fan_out import distinct
from tasks.housekeeping import prune_home
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.quality import QualityConfig
from tasks.judging import asks_for_second_seed, judge_listed, judge_version, markets_to_hold_out
from tasks.publishing import promote_or_keep, publish_version
from tasks.reporting.summary import Verdict
from tasks.runs.cost import METER
from tasks.runs.display import parts_of, plan, stage
from tasks.runs.market_lock import one_retrain_at_a_time
from tasks.runs.memory import give_back_large_blocks
from tasks.strategy.findings import StepKeys
from tasks.strategy.leave_one_out import HeldOutMarket
from tasks.strategy.recipe import Recipe
from tasks.training import fold_count, prepare_fold, train_baselines, train_fold, train_twin

STAGES = ("dataset", "networks", "baselines and leaks", "latency", "backtest", "judge", "publish")

LIBRARIES = ("torch", "pandera.backends.pandas.builtin_checks", "sklearn.linear_model", "lightgbm")
"""What a retrain imports late, for a command that ends early does without, and needs until its networks are trained.

What is needed afterwards, to export and to draw, would only be in memory while that is scarce.
"""


@flow(name="retrain", flow_run_name="retrain {market} {exchange.exchange} {bars.text}")
@form
def retrain(
    *,
    market: OneMarket = Market(),
    exchange: Exchange = ExchangeConfig(),
    bars: Bars = BarRange(),
    quality: Quality = QualityConfig(),
    recipe: HowMade = Recipe(),
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
            recipe = pooled(exchange, [market], bars, quality, recipe, [data])
        verdict = judged_version(exchange, data, bars, note_quality(data), recipe)
        prune_home(PruneRule())
        return verdict


def pooled(
    exchange: ExchangeConfig,
    markets: Sequence[Market],
    bars: BarRange,
    quality: QualityConfig,
    recipe: Recipe,
    built: Sequence[DatasetRef],
) -> Recipe:
    """Return the recipe with a dataset for every market of its pool: one that is built, or one of stored candles.

    Who is in a pool is said before it is known how a market fared: one that was delisted, and can't be brought up to
    date any more, teaches with what is stored of it.

    Raises:
        ConfigError: A symbol is none, or named twice.
        DatasetError, QuarantineError, CandleGapError: Of a market that the recipe names nothing usable is stored.
    """
    of = {data.market: data for data in built}
    if recipe.pool not in (("yes",), ("stored",)):
        for one in (named := distinct(markets[0], recipe.pool)):
            of[one] = of[one] if one in of else build_dataset(exchange, one, bars, quality)
        return recipe.pooled_on([of[one] for one in named])
    for one in markets if recipe.pool == ("yes",) else markets_in_store(exchange, markets[0]):
        if one not in of:
            try:
                of[one] = build_dataset(exchange, one, bars, quality)
            except PipelineError as err:  # nothing stored, or too much of it bad: whatever it is, it is this market's
                get_run_logger().warning(f"{one} is not in the pool: {one_line(err)}")
    return recipe.pooled_on([*of.values()])


def trained(data: DatasetRef, recipe: Recipe) -> tuple[list[str], list[str], list[list[str]], str]:
    """Return keys: of what each fold's networks start from, of each network, of what was fitted against each, of leaks.

    What is no network of a fold's, the trees above all, is made in a second thread beside them, whom it teaches.
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
            give_back_large_blocks()
        checking = beside.submit(check_leaks, {"data": data, "recipe": recipe, "fold": models[-1]})
        for index in parts_of("baselines and leaks", walked):
            twin = [train_twin(data, recipe, index, starts[index])] if recipe.baselines.twin else []
            rivals.append([fitting[index].result(), *twin])
            give_back_large_blocks()
        leaks = checking.result()
    return starts, models, rivals, leaks


def judged_on_held_out(
    data: DatasetRef, recipe: Recipe, keys: StepKeys, origin: Origin, to_ask: Sequence[HeldOutMarket]
) -> tuple[str, StepKeys]:
    """Return the key of the judgement on a new listing, by networks of the pool that did not see the market they judge.

    And with it what the steps found, the volatility record with what these networks forecast of it.

    They are trained once for a pool, by whichever listing asks first.
    """

    def trained_held_out(what: str, *, second: bool) -> list[HeldOutMarket]:
        asked = []
        for number in parts_of("judge", len(to_ask), what):
            one = to_ask[number]
            own = replace(one, recipe=one.recipe.second_seed) if second else one
            newest = fold_count(one.data, own.recipe) - 1
            start = prepare_fold(one.data, own.recipe, newest)
            asked.append(replace(own, fold=train_fold(one.data, own.recipe, newest, start)))
        return asked

    asked = trained_held_out("never seen,", second=False)
    keys = replace(keys, risk=rate_held_out_volatility(keys.risk, asked))
    judgement = judge_listed(data, recipe, keys, origin, asked)
    if asks_for_second_seed(judgement):
        judgement = judge_listed(data, recipe, keys, origin, asked, trained_held_out("second seed,", second=True))
    return judgement, keys


def judged_version(exchange: ExchangeConfig, data: DatasetRef, bars: BarRange, quality: str, recipe: Recipe) -> Verdict:
    """Return the verdict on a model made now; needs nothing but the place of datasets, finished steps and versions."""
    give_back_large_blocks()
    recipe = recipe.charged(data.market, is_made_up=exchange.origin == "synthetic")
    METER.begin(STAGES[1:])
    starts, models, rivals, leaks = trained(data, recipe)
    give_back_large_blocks()
    stage("latency")
    latency = measure_latency(data, recipe, models[-1])
    stage("backtest")
    backtest = backtest_folds(data, bars, recipe, models, exchange.origin)
    comparison = compare_baselines(data, recipe, backtest, rivals)
    risk = rate_vol_forecasts(data, recipe, models)
    stage("judge")
    keys = StepKeys(evaluation=backtest, speed=latency, leaks=leaks, comparison=comparison, risk=risk)
    if to_ask := markets_to_hold_out(data, recipe):
        judgement, keys = judged_on_held_out(data, recipe, keys, exchange.origin, to_ask)
    else:
        judgement = judge_version(data, recipe, keys, exchange.origin)
        if asks_for_second_seed(judgement):
            again = [
                train_fold(data, recipe.second_seed, index, starts[index])
                for index in parts_of("judge", fold_count(data, recipe), "second seed,")
            ]
            judgement = judge_version(data, recipe, keys, exchange.origin, again)
    stage("publish")
    version = publish_version(exchange, data, recipe, keys, judgement, quality)
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
        libraries=LIBRARIES,
    )
