"""The main job: bring a market up to date, then retrain its model and judge it."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from prefect import flow

from flows.command_line import run_by_hand
from flows.form import form
from flows.ingest import ingest
from flows.retrain import retrain
from storage.schema import Market
from tasks.connection import ExchangeConfig
from tasks.data import BarRange, QualityConfig
from tasks.publishing import Verdict
from tasks.recipe import Recipe


@flow(name="pipeline", flow_run_name="pipeline {market} {exchange.exchange} {bars.text}")
@form
def pipeline(
    *,
    market: Annotated[Market, Parameter(name="*")] = Market(),
    exchange: Annotated[ExchangeConfig, Parameter(name="*")] = ExchangeConfig(),
    bars: Annotated[BarRange, Parameter(name="*")] = BarRange(),
    quality: Annotated[QualityConfig, Parameter(name="*")] = QualityConfig(),
    recipe: Annotated[Recipe, Parameter(name="*")] = Recipe(),
) -> Verdict:
    """Ingest a market, then train, measure, backtest and publish its model, and promote it or keep the champion.

    Args:
        market: Symbol, category and interval.
        exchange: Where candles come from.
        bars: First and last day; the default is all there is.
        quality: How many bad rows are too many.
        recipe: Labels, folds, network, training, costs and decision rule.
    """
    ingest(market=market, exchange=exchange, bars=bars, quality=quality)
    verdict = retrain(market=market, exchange=exchange, bars=bars, quality=quality, recipe=recipe)
    print(verdict.table())
    return verdict


if __name__ == "__main__":
    run_by_hand(pipeline)
