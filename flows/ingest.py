"""Bring a market, or many, up to the last closed candle."""

from prefect import flow
from prefect.logging import get_run_logger

from flows.entry.command_line import Facts, run_by_hand
from flows.entry.form import form
from flows.entry.parameters import Bars, Exchange, OneMarket, Quality, Symbols, run_name
from storage.schema import Market
from tasks.data import ingest_candles, ingest_funding
from tasks.exchange.connection import ExchangeConfig
from tasks.fan_out import distinct, error_line, refuse_failures
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.candle_ingest import CandleReport
from tasks.ingestion.quality import QualityConfig
from tasks.runs.display import plan, stage


@flow(name="ingest", flow_run_name=run_name("ingest"))
@form
def ingest(
    *,
    market: OneMarket = Market(),
    symbols: Symbols = (),
    exchange: Exchange = ExchangeConfig(),
    bars: Bars = BarRange(),
    quality: Quality = QualityConfig(),
) -> CandleReport | tuple[CandleReport, ...]:
    """Fetch what the store lacks of a market, up to the last closed candle, and its funding.

    Args:
        market: Symbol, category and interval.
        symbols: Many markets instead of one, a symbol each, on a command line with commas; one is done after the other,
            category and interval are the market's.
        exchange: Where candles come from.
        bars: First and last day; the default is all there is.
        quality: How many bad rows are too many.
    """
    plan(("ingest",))
    if not symbols:
        stage("ingest")
        return _ingested(exchange, market, bars, quality)
    reports, failed, log = [], [], get_run_logger()
    for number, one in enumerate(distinct(market, symbols)):
        stage("ingest", number, len(symbols), str(one))
        try:
            reports.append(_ingested(exchange, one, bars, quality))
        except Exception as err:  # whatever it is, it is this market's alone
            failed.append(f"{one} ({error_line(err)})")
            log.error(f"ingest of {failed[-1]} failed; going on with the others")
    refuse_failures(failed, len(symbols))
    return tuple(reports)


def _ingested(exchange: ExchangeConfig, market: Market, bars: BarRange, quality: QualityConfig) -> CandleReport:
    report = ingest_candles(exchange, market, bars, quality)
    ingest_funding(exchange, report)
    return report


def _stored(reports: CandleReport | tuple[CandleReport, ...], facts: Facts) -> str:
    lines = [report.line for report in (reports if isinstance(reports, tuple) else (reports,))]
    return "\n".join([*lines, *(f"  {name:<7}  {value}" for name, value in facts)])


if __name__ == "__main__":
    run_by_hand(
        ingest,
        (
            "flows.ingest --exchange bybit --symbol BTCUSDT --start 2025-01-01",
            "flows.ingest --exchange bybit --symbols BTCUSDT,ETHUSDT --days 30",
        ),
        summary=_stored,
    )
