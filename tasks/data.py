"""Data tasks: candles and funding into the store, stored candles into an immutable dataset."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.candles import CandleStore
from storage.results import ResultStore
from storage.schema import DatasetRef, Market, QuarantineError
from storage.settings import Settings
from storage.snapshots import load_dataset
from tasks.exchange.connection import ExchangeConfig, connect
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.candle_ingest import CandleReport, ingest
from tasks.ingestion.dataset import make_dataset, stored_markets
from tasks.ingestion.funding import first_hole, ingest_rates
from tasks.ingestion.quality import QualityConfig, stored_quality
from tasks.market.features import halted_bars
from tasks.runs.alerts import raise_alert
from tasks.runs.display import say
from tasks.runs.market_lock import LATER
from tasks.runs.page import show_table
from tasks.runs.progress import progress_of


# The gateway repeats what may be repeated, within its own budget, and the store waits for its file. Beyond that only a
# scheduled run tries again later: nobody is there to do it.
@task(cache_policy=NO_CACHE, **LATER, task_run_name="ingest candles {market.symbol} {market.interval}")
def ingest_candles(exchange: ExchangeConfig, market: Market, bars: BarRange, quality: QualityConfig) -> CandleReport:
    """Fetch every window that the store lacks, keep what is closed and true, and record the rest with its reason."""
    log, settings = get_run_logger(), Settings.from_environment()
    settings.prepare_home()
    with (
        _quarantine_alert(exchange, market),
        connect(exchange, market, on_retry=log.warning, on_note=say, bans=settings.bans) as gateway,
        progress_of(f"ingest {market.slug}") as tell,
    ):
        store = CandleStore(settings.database)
        report = ingest(gateway, store, market, bars, quality, recent=settings.recent, on_progress=tell)
    show_table("ingest", report.source, market, report.table, "What the ingest did")
    log.info(
        f"ingested market={market.slug} source={report.source} inserted={report.inserted} revised={report.revised} "
        f"rejected={report.rejected} missing={report.missing} windows={report.windows} seconds={report.seconds}"
    )
    if report.rejected or report.missing:
        log.warning(
            f"not stored: rejected={report.rejected} missing={report.missing}; the tables rejected and gaps say which"
        )
    return report


@task(cache_policy=NO_CACHE, **LATER, task_run_name="ingest funding {report.market.symbol}")
def ingest_funding(exchange: ExchangeConfig, report: CandleReport) -> int:
    """Store the funding rates of the range that was ingested, and return how many are new. Spot has none."""
    market, settings = report.market, Settings.from_environment()
    store = CandleStore(settings.database)
    if market.category == "spot":
        return 0
    stamps_ms, _ = store.read_funding(report.source, market)
    first_ms = first_hole(stamps_ms, report.first_ms, report.last_ms)
    if first_ms is None:
        return 0
    with connect(exchange, market, on_retry=get_run_logger().warning, bans=settings.bans) as gateway:
        return ingest_rates(gateway, store, market, first_ms, report.last_ms + market.interval_ms)


@task(cache_policy=NO_CACHE, task_run_name="build dataset {market.symbol} {market.interval}")
def build_dataset(exchange: ExchangeConfig, market: Market, bars: BarRange, quality: QualityConfig) -> DatasetRef:
    """Make the stored candles of the range and their features an immutable dataset; errors as in `make_dataset`."""
    settings = Settings.from_environment()
    store = CandleStore(settings.database)
    with _quarantine_alert(exchange, market):
        data, built = make_dataset(store, settings.datasets, exchange.source, market, bars, quality)
    get_run_logger().info(
        f"dataset id={data.id} market={market.slug} source={data.source} bars={len(built.vol)} "
        f"halted={halted_bars(built.vol, built.segment)}"
    )
    return data


def markets_in_store(exchange: ExchangeConfig, like: Market) -> tuple[Market, ...]:
    """Return every market of the source that candles are stored of, delisted or not; see `stored_markets`."""
    return stored_markets(CandleStore(Settings.from_environment().database), exchange.source, like)


@task(cache_policy=NO_CACHE, task_run_name="note quality of {data.market.symbol}")
def note_quality(data: DatasetRef) -> str:
    """Keep what the candle store alone knows of a dataset's bars, for machines that don't reach it; return the key."""
    settings = Settings.from_environment()
    candles = load_dataset(settings.datasets, data).candles
    found = stored_quality(CandleStore(settings.database), data.source, data.market, candles)
    key = ResultStore.key("quality", {"dataset": data.id, "found": found})
    ResultStore(settings.work).save(key, found)
    return key


@contextmanager
def _quarantine_alert(exchange: ExchangeConfig, market: Market) -> Iterator[None]:
    try:
        yield
    except QuarantineError as err:
        raise_alert("quarantine", f"{exchange.source}/{market.slug}", str(err))
        raise
