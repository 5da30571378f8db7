"""The main job: bring a market up to date, then retrain its model and judge it; or do so for many markets."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.entry.command_line import run_by_hand
from flows.entry.form import form
from flows.entry.parameters import Bars, Exchange, HowMade, OneMarket, Quality, Symbols, run_name
from flows.ingest import ingest
from flows.retrain import LIBRARIES, STAGES, judged_version, pooled, retrain
from storage.pruning import PruneRule
from storage.schema import DatasetRef, Market
from tasks.data import build_dataset, note_quality
from tasks.exchange.connection import ExchangeConfig
from tasks.fan_out import Outcome, Outcomes, alone_on_equal_code, distinct, run_each
from tasks.housekeeping import prune_home
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.quality import QualityConfig
from tasks.publishing import show_panel
from tasks.reporting.summary import Verdict
from tasks.runs.display import doing, plan, say, stage
from tasks.runs.market_lock import one_retrain_at_a_time
from tasks.runs.memory import give_back_large_blocks
from tasks.strategy.provenance import project_hash
from tasks.strategy.recipe import Recipe


@flow(name="pipeline", flow_run_name=run_name("pipeline"))
@form
def pipeline(
    *,
    market: OneMarket = Market(),
    symbols: Symbols = (),
    exchange: Exchange = ExchangeConfig(),
    bars: Bars = BarRange(),
    quality: Quality = QualityConfig(),
    recipe: HowMade = Recipe(),
) -> Verdict | Outcomes:
    """Ingest a market, then train, measure, backtest and publish its model, and promote it or keep the champion.

    Args:
        market: Symbol, category and interval.
        symbols: Many markets instead of one, a symbol each, on a command line with commas; category and interval are
            the market's. They are ingested one by one, then retrained one task each, on the Dask cluster of
            DSC_DASK_ADDRESS if set.
        exchange: Where candles come from.
        bars: First and last day; the default is all there is.
        quality: How many bad rows are too many.
        recipe: Labels, folds, network, training, costs and decision rule.
    """
    give_back_large_blocks()
    if symbols:
        return _each_of(distinct(market, symbols), exchange, bars, quality, recipe)
    plan(("ingest", *STAGES))
    ingest(market=market, exchange=exchange, bars=bars, quality=quality)
    return retrain(market=market, exchange=exchange, bars=bars, quality=quality, recipe=recipe)


def _each_of(
    markets: Sequence[Market], exchange: ExchangeConfig, bars: BarRange, quality: QualityConfig, recipe: Recipe
) -> Outcomes:
    """Prepare the datasets here, where the one DuckDB file is; train wherever there is a worker; stop for no market."""
    plan(("ingest", "markets"))
    if note := exchange.same_candles(markets):
        say(f"! {note}")
    ended: dict[Market, Outcome] = {}
    calls: dict[Market, dict[str, Any]] = {}

    def end(market: Market, how: Verdict | BaseException) -> None:
        ended[market] = Outcome.of(market, how)
        say(ended[market].line)

    with ExitStack() as turns:
        for number, market in enumerate(markets):
            stage("ingest", number, len(markets), str(market))
            try:
                ingest(market=market, exchange=exchange, bars=bars, quality=quality)
                turns.enter_context(one_retrain_at_a_time(exchange.source, market))
                data = build_dataset(exchange, market, bars, quality)
                references = {"data": data, "bars": bars, "quality": note_quality(data)}
            except Exception as err:  # whatever it is, it is this market's alone
                end(market, err)
            else:
                calls[market] = {"exchange": exchange, **references, "code": project_hash()}
        if recipe.pool:
            recipe = pooled(exchange, markets, bars, quality, recipe, [call["data"] for call in calls.values()])
        unprepared = len(ended)
        asked = [(market, call | {"recipe": recipe}) for market, call in calls.items()]
        alone = 1 if recipe.pool else 0  # the first market of a pool trains the network, which the others find
        stage("markets", 0, len(calls))
        for some in (asked[:alone], asked[alone:]):
            for market, how in run_each(retrain_market, dict(some)):
                end(market, how)
                stage("markets", len(ended) - unprepared, len(calls))
    prune_home(PruneRule())
    outcomes = Outcomes(each=tuple(ended[market] for market in markets), panel=show_panel(exchange.source))
    outcomes.show()
    outcomes.require_all()
    return outcomes


# Here and not in tasks/: it is a part of the flow, sent away whole. Whoever loses a worker runs it again; what is
# finished is found by its key. Dask sends this text by value, so all it says is whom to call.
@task(cache_policy=NO_CACHE, task_run_name="retrain {data.market.symbol} {data.market.interval}")
def retrain_market(
    exchange: ExchangeConfig, data: DatasetRef, bars: BarRange, quality: str, recipe: Recipe, code: str
) -> Verdict:
    """Take one market from its dataset to a verdict, with the code that the flow has."""
    with alone_on_equal_code(code):
        doing(str(data.market))
        return judged_version(exchange, data, bars, quality, recipe)


if __name__ == "__main__":
    run_by_hand(
        pipeline,
        (
            "flows.pipeline --exchange bybit --symbol BTCUSDT --start 2025-01-01",
            "flows.pipeline --exchange bybit --symbols BTCUSDT,SOLUSDT --pool yes",
        ),
        summary=lambda result, facts: result.text(facts),
        libraries=LIBRARIES,
    )
