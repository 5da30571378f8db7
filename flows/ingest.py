"""Bring a market up to its last closed candle."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from prefect import flow

from flows.command_line import run_by_hand
from flows.form import form
from storage.schema import Market
from tasks.connection import ExchangeConfig
from tasks.data import BarRange, CandleReport, QualityConfig, ingest_candles, ingest_funding


@flow(name="ingest", flow_run_name="ingest {market} {exchange.exchange} {bars.text}")
@form
def ingest(
    *,
    market: Annotated[Market, Parameter(name="*")] = Market(),
    exchange: Annotated[ExchangeConfig, Parameter(name="*")] = ExchangeConfig(),
    bars: Annotated[BarRange, Parameter(name="*")] = BarRange(),
    quality: Annotated[QualityConfig, Parameter(name="*")] = QualityConfig(),
) -> CandleReport:
    """Fetch what the store lacks of a market, up to the last closed candle, and its funding.

    Args:
        market: Symbol, category and interval.
        exchange: Where candles come from.
        bars: First and last day; the default is all there is.
        quality: How many bad rows are too many.
    """
    report = ingest_candles(exchange, market, bars, quality)
    ingest_funding(exchange, report)
    return report


if __name__ == "__main__":
    run_by_hand(ingest)
