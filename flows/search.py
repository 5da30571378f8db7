"""The search for a network: variations of a base, walked forward and ranked by log-loss; publishes nothing."""

from typing import Annotated

from cyclopts import Parameter
from prefect import flow

from flows.entry.command_line import run_by_hand
from flows.entry.parameters import Bars, Exchange, HowMade, OneMarket, Quality
from storage.schema import Market
from tasks.data import build_dataset
from tasks.exchange.connection import ExchangeConfig
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.quality import QualityConfig
from tasks.network_search import rank_networks, try_network
from tasks.runs.display import end_stage, parts_of, plan, stage
from tasks.strategy.candidates import SearchSpace
from tasks.strategy.recipe import Recipe


@flow(name="search", flow_run_name="search {market.symbol} {market.interval} {exchange.exchange}")
def search(
    *,
    market: OneMarket = Market(),
    exchange: Exchange = ExchangeConfig(),
    bars: Bars = BarRange(),
    quality: Quality = QualityConfig(),
    recipe: HowMade = Recipe(),
    space: Annotated[SearchSpace, Parameter(name="*")] = SearchSpace(),
) -> str:
    """Train networks around the recipe's on stored candles and print them by log-loss on bars that they had not seen.

    Args:
        market: Symbol, category and interval.
        exchange: Names the source of the candles; nothing is fetched.
        bars: Which stored bars are used; end them where the test of a later evaluation begins.
        quality: How many bad rows are too many.
        recipe: Labels, folds, training and the base network.
        space: What is varied.
    """
    plan(("dataset", "networks"))
    stage("dataset")
    data = build_dataset(exchange, market, bars, quality)
    recipe = recipe.charged(market, is_made_up=exchange.origin == "synthetic")
    networks = space.networks(recipe.network_config)
    longest = max(networks, key=lambda network: network.context)
    tried: list[list[str]] = [[] for _ in networks]
    for training in parts_of("networks", len(networks) * len(space.seeds)):
        number, seed = divmod(training, len(space.seeds))
        key = try_network(data, recipe, networks[number], space.seeds[seed], longest, exchange.origin)
        tried[number].append(key)
    end_stage()
    table = rank_networks(data, networks, tried)
    print(table)
    return table


if __name__ == "__main__":
    run_by_hand(
        search,
        (
            "flows.search --exchange bybit --symbol BTCUSDT --end 2025-08-10",
            "flows.search --windows 16 --windows 64 --end 2025-08-10",
        ),
    )
