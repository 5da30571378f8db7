"""Data tasks: candles and funding into the store, stored candles into an immutable dataset."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.candles import CandleStore, Page
from storage.contracts import enforce_quarantine_share, split_candles, validate_features
from storage.recent import RECENT_BARS, write_recent
from storage.results import ResultStore
from storage.schema import (
    DAY_MS,
    CandleGapError,
    Candles,
    ConfigError,
    DatasetError,
    DatasetRef,
    FloatArray,
    Instrument,
    IntArray,
    Market,
    QuarantineError,
    Source,
    Window,
    content_hash,
    utc_text,
)
from storage.settings import Settings
from storage.snapshots import load_dataset, write_dataset
from tasks.exchange.connection import ExchangeConfig, connect
from tasks.exchange.gateway import Gateway
from tasks.exchange.pages import FetchedWindow
from tasks.market import features
from tasks.runs.alerts import raise_alert
from tasks.runs.market_lock import LATER
from tasks.runs.page import show_table
from tasks.runs.progress import ProgressReport

WINDOW_BARS = 1_000  # the most rows that Bybit returns for one request
FUNDING_STEP_MS = DAY_MS // 3  # no market pays less often than every 8 hours; many pay more often


@dataclass(frozen=True, kw_only=True)
class BarRange:
    """Which bars.

    Attributes:
        start: First bar, UTC; None for the first that exists.
        end: End of the range, UTC, exclusive; None for the last closed bar.
        days: Only the last so many days up to the end, in place of a start; a schedule's range moves with it.
    """

    start: datetime | None = None
    end: datetime | None = None
    days: float | None = None

    def __post_init__(self) -> None:
        if self.days is not None and not 0 < self.days < 1e5:
            raise ConfigError(f"days must be > 0 and < 100000, was {self.days!r}")
        if self.days is not None and self.start is not None:
            raise ConfigError(f"a range has a start or a number of days, had both: start={self.start} days={self.days}")
        if self.start_ms is not None and self.end_ms is not None and self.start_ms >= self.end_ms:
            start, end = utc_text(self.start_ms), utc_text(self.end_ms)
            raise ConfigError(f"start must be before end, was start={start} end={end}")

    @property
    def start_ms(self) -> int | None:
        """The start in UTC milliseconds; a time without zone is UTC."""
        return _utc_ms(self.start)

    @property
    def end_ms(self) -> int | None:
        """The end in UTC milliseconds; a time without zone is UTC."""
        return _utc_ms(self.end)

    @property
    def text(self) -> str:
        """The range in a few words, as the name of a run has it."""
        if self.days is not None:
            return f"last {self.days:g} days" + (f" to {self.end:%Y-%m-%d}" if self.end else "")
        start, end = (f"{moment:%Y-%m-%d}" if moment else "" for moment in (self.start, self.end))
        return f"from {start or 'the listing'} {f'to {end}' if end else 'on'}"

    def first_wanted_ms(self, end_ms: int) -> int:
        """Return where the range starts when it ends at `end_ms`, UTC milliseconds; 0 for the first bar there is."""
        return self.start_ms or 0 if self.days is None else end_ms - int(self.days * DAY_MS)


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """When data is too bad to go on with.

    Attributes:
        quarantine_limit: Largest share of rows that may break the contract, 0 to 1; more stops the run.
        gap_limit: Largest share of bars that may be missing for whatever reason, 0 to 1; more stops the run.
        recheck_gaps: Ask again for bars that were recorded as missing.
    """

    quarantine_limit: float = 0.01
    gap_limit: float = 0.1
    recheck_gaps: bool = False

    def __post_init__(self) -> None:
        for name in ("quarantine_limit", "gap_limit"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in 0..1, was {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class CandleReport:
    """What an ingest did.

    Attributes:
        source, market: What was brought up to date.
        first_ms, last_ms: First and last bar of the range, open times, UTC milliseconds.
        bars: Bars that the range holds on the interval grid.
        inserted, revised: Rows that are new, and rows that the exchange changed since.
        rejected: Rows that broke the contract.
        missing: Bars that the windows asked for lacked.
        windows: Windows asked for; the newest two always are.
        seconds: Wall time.
    """

    source: Source
    market: Market
    first_ms: int
    last_ms: int
    bars: int
    inserted: int
    revised: int
    rejected: int
    missing: int
    windows: int
    seconds: float

    @property
    def line(self) -> str:
        """What a terminal shows of it."""
        span = f"{self.bars:,} bars, {utc_text(self.first_ms)} to {utc_text(self.last_ms)}"
        counts = {"new": self.inserted, "revised": self.revised, "rejected": self.rejected, "missing": self.missing}
        return f"{self.market}: {span}; " + ", ".join(f"{count:,} {name}" for name, count in counts.items())


@dataclass(frozen=True, kw_only=True)
class StoredQuality:
    """What the candle store knows of the bars of a dataset, and the dataset does not.

    Attributes:
        gaps: Runs of bars that are recorded as missing.
        longest_gap: Bars in the longest of them.
        quarantined: Bars that are missing because their rows were rejected.
    """

    gaps: int
    longest_gap: int
    quarantined: int


# The gateway repeats what may be repeated, within its own budget, and the store waits for its file. Beyond that only a
# scheduled run tries again later: nobody is there to do it.
@task(cache_policy=NO_CACHE, **LATER, task_run_name="ingest candles {market.symbol} {market.interval}")
def ingest_candles(exchange: ExchangeConfig, market: Market, bars: BarRange, quality: QualityConfig) -> CandleReport:
    """Fetch every window that the store lacks, keep what is closed and true, and record the rest with its reason."""
    log, began = get_run_logger(), time.monotonic()
    settings = Settings.from_environment()
    settings.prepare_home()
    store = CandleStore(settings.database)
    with connect(exchange, market, on_retry=log.warning) as gateway:
        now_ms = gateway.server_time_ms()
        span = closed_span(market, bars, gateway.instrument(market), now_ms)
        windows = windows_to_ask(gateway, store, market, span, quality)
        run_id = store.start_run("ingest", gateway.source, market, now_ms)
        status = "failed"
        try:
            counts = _ingest_windows(gateway, store, market, windows, now_ms)
            first_ms = span.last_ms - (RECENT_BARS - 1) * market.interval_ms
            write_recent(settings.recent, gateway.source, market, store.read(gateway.source, market, first_ms))
            refuse_bad_data(store, gateway.source, market, span, quality)
            status = "completed"
        finally:
            store.finish_run(run_id, status, now_ms + int((time.monotonic() - began) * 1000))
    report = CandleReport(
        source=exchange.source,
        market=market,
        first_ms=span.first_ms,
        last_ms=span.last_ms,
        bars=span.bars(market.interval_ms),
        windows=len(windows),
        seconds=round(time.monotonic() - began, 3),
        **counts,
    )
    counted = ("first_ms", "last_ms", "bars", "inserted", "revised", "rejected", "missing", "windows", "seconds")
    found = {name: getattr(report, name) for name in counted}
    found |= {name: utc_text(found[name]) for name in ("first_ms", "last_ms")}
    rows = [{"what": name.replace("_ms", " bar"), "found": value} for name, value in found.items()]
    show_table("ingest", report.source, market, rows, "What the ingest did")
    log.info(
        f"ingested market={market.slug} source={report.source} inserted={report.inserted} revised={report.revised} "
        f"rejected={report.rejected} missing={report.missing} windows={report.windows} seconds={report.seconds}"
    )
    if report.rejected or report.missing:
        log.warning(
            f"not stored: rejected={report.rejected} missing={report.missing}; the tables rejected and gaps say which"
        )
    return report


def windows_to_ask(
    gateway: Gateway, store: CandleStore, market: Market, span: Window, quality: QualityConfig
) -> list[Window]:
    """Return what the store lacks, and always the newest two windows: a bar may come late, or be revised."""
    first_ms, last_ms = span.first_ms, span.last_ms
    lacking = store.missing_windows(
        gateway.source, market, first_ms, last_ms, WINDOW_BARS, recheck_gaps=quality.recheck_gaps
    )
    newest = gateway.windows(market, first_ms, last_ms, WINDOW_BARS)[-2:]
    return [window for window in lacking if window not in newest] + newest


def closed_span(market: Market, bars: BarRange, instrument: Instrument, now_ms: int) -> Window:
    """Return the bars of the range that have closed.

    Args:
        market: Symbol, category and interval.
        bars: The range asked for.
        instrument: Knows when trading began.
        now_ms: The exchange's clock, UTC milliseconds.

    Raises:
        ConfigError: The range starts before the listing, or holds no closed bar; or nothing says where it starts.
    """
    if not instrument.launch_ms and bars.start_ms is None and bars.days is None:
        raise ConfigError(
            f"Bybit does not say when {market.symbol} {market.category} began; give its first day as start"
        )
    launch_ms = market.ceil(instrument.launch_ms)
    last_ms = market.floor(now_ms) - market.interval_ms
    if bars.end_ms is not None:
        last_ms = min(last_ms, market.ceil(bars.end_ms) - market.interval_ms)
    first_ms = market.ceil(bars.first_wanted_ms(last_ms + market.interval_ms))
    if bars.start_ms is None:
        first_ms = max(first_ms, launch_ms)
    if first_ms < launch_ms:
        raise ConfigError(
            f"start must not be before the listing, {market.symbol} was listed {utc_text(launch_ms)}, "
            f"start was {utc_text(first_ms)}; use start={utc_text(launch_ms)[:10]} or a later day, or leave it out"
        )
    if last_ms < first_ms:
        raise ConfigError(
            f"the range must hold a closed bar; {market.symbol} has them from {utc_text(launch_ms)} to "
            f"{utc_text(market.floor(now_ms))}, asked for {utc_text(first_ms)} to "
            f"{utc_text(last_ms + market.interval_ms)}"
        )
    return Window(first_ms=first_ms, last_ms=last_ms)


def _ingest_windows(
    gateway: Gateway, store: CandleStore, market: Market, windows: list[Window], now_ms: int
) -> dict[str, int]:
    counts = {"inserted": 0, "revised": 0, "rejected": 0, "missing": 0}
    wanted, seen = sum(window.bars(market.interval_ms) for window in windows), 0
    with ProgressReport(f"ingest {market.slug}") as progress:
        for fetched in gateway.fetch_batches(market, windows, now_ms):
            for done in store.commit_windows(gateway.source, market, judge_windows(fetched, market, now_ms), now_ms):
                for name, count in zip(counts, (done.inserted, done.revised, done.rejected, done.gaps), strict=True):
                    counts[name] += count
            seen += sum(window.window.bars(market.interval_ms) for window in fetched)
            progress.update(seen / wanted, f"{seen:,} bars")
    return counts


def judge_windows(fetched: Sequence[FetchedWindow], market: Market, now_ms: int) -> list[Page]:
    """Return the windows with every row judged by the candle contract, all in one look: pandera costs by the look."""
    good, broken = split_candles(Candles.join([one.candles for one in fetched]), market, now_ms=now_ms)
    pages = []
    for one in fetched:
        first_ms, last_ms = one.window.first_ms, one.window.last_ms
        inside = (good.start_ms >= first_ms) & (good.start_ms <= last_ms)
        rows = (row for row in broken if row.start_ms is not None and first_ms <= row.start_ms <= last_ms)
        pages.append(Page(window=one.window, candles=good[inside], rejected=(*one.rejected, *rows)))
    return pages


def refuse_bad_data(store: CandleStore, source: Source, market: Market, span: Window, quality: QualityConfig) -> None:
    """Stop when too many bars of a range are missing, or broke the contract, whichever run saw them.

    Raises:
        QuarantineError: Too many are missing because their rows broke the contract.
        CandleGapError: Too many are missing for whatever reason.
    """
    bars = span.bars(market.interval_ms)
    quarantined = store.quarantined_bars(source, market, span.first_ms, span.last_ms)
    try:
        enforce_quarantine_share(quarantined, bars, quality.quarantine_limit)
    except QuarantineError as err:
        raise_alert("quarantine", f"{source}/{market.slug}", str(err))
        raise
    missing = bars - store.count(source, market, span.first_ms, span.last_ms)
    if missing > quality.gap_limit * bars:
        first, last = utc_text(span.first_ms), utc_text(span.last_ms)
        raise CandleGapError(
            f"{market}: {missing:,} of {bars:,} bars are missing ({missing / bars:.2%}) from {first} to {last}, "
            f"at most {quality.gap_limit:.2%} may; run ingest again (recheck_gaps asks for recorded gaps too), "
            "choose another start, or raise gap_limit to go on without them"
        )


@task(cache_policy=NO_CACHE, **LATER, task_run_name="ingest funding {report.market.symbol}")
def ingest_funding(exchange: ExchangeConfig, report: CandleReport) -> int:
    """Store the funding rates of the range that was ingested, and return how many are new. Spot has none."""
    market, source = report.market, report.source
    if market.category == "spot":
        return 0
    store = CandleStore(Settings.from_environment().database)
    stamps, _ = store.read_funding(source, market)
    first_ms = first_hole(stamps, report.first_ms, report.last_ms)
    if first_ms is None:
        return 0
    with connect(exchange, market, on_retry=get_run_logger().warning) as gateway:
        rates = gateway.funding(market.category, market.symbol, first_ms, report.last_ms + market.interval_ms)
    return store.upsert_funding(
        source, market, np.array([ms for ms, _ in rates], np.int64), np.array([rate for _, rate in rates])
    )


def first_hole(stamps_ms: IntArray, first_ms: int, last_ms: int) -> int | None:
    """Return from where on funding stamps are missing in a range, UTC milliseconds; None where none can be.

    Args:
        stamps_ms: (n,) stored stamps, increasing.
        first_ms: Start of the range.
        last_ms: Its end, inclusive.
    """
    inside = stamps_ms[(stamps_ms >= first_ms) & (stamps_ms <= last_ms)]
    ends = np.concatenate([[first_ms], inside, [last_ms + 1]])
    holes = np.flatnonzero(np.diff(ends) > FUNDING_STEP_MS)
    if len(holes):
        return int(ends[holes[0]])
    # A market that pays more often does so until it says otherwise: its newest stamps are due sooner.
    due = len(inside) >= 2 and last_ms - inside[-1] >= inside[-1] - inside[-2]
    return int(inside[-1]) if due else None


@task(cache_policy=NO_CACHE, task_run_name="build dataset {market.symbol} {market.interval}")
def build_dataset(exchange: ExchangeConfig, market: Market, bars: BarRange, quality: QualityConfig) -> DatasetRef:
    """Make the stored candles of the range and their features an immutable dataset.

    Raises:
        ConfigError: The market is inverse.
        DatasetError: The store has no such candles, or too few to warm the features up.
        QuarantineError: Too many bars of the range are missing because their rows were rejected.
        CandleGapError: Too many are missing for whatever reason.
    """
    if market.category == "inverse":
        raise ConfigError(f"{market} pays in coin, and the accounting is in quote currency; use linear or spot")
    settings = Settings.from_environment()
    store = CandleStore(settings.database)
    end_ms = None if bars.end_ms is None else bars.end_ms - 1
    candles = store.read(exchange.source, market, bars.start_ms, end_ms)
    if bars.days is not None and len(candles):
        candles = candles[candles.start_ms >= bars.first_wanted_ms(int(candles.start_ms[-1]) + market.interval_ms)]
    if len(candles) <= features.WARM_UP:
        raise DatasetError(
            f"a dataset needs more than {features.WARM_UP:,} bars to warm its features up, {market} from "
            f"{exchange.source} has {len(candles):,} stored; ingest more history or use a shorter interval"
        )
    span = Window(first_ms=int(candles.start_ms[0]), last_ms=int(candles.start_ms[-1]))
    refuse_bad_data(store, exchange.source, market, span, quality)
    built = features.build_features(candles.matrix(), market.interval_ms)
    validate_features(built.values, built.vol, candles.start_ms, market.interval_ms)
    reference = write_dataset(
        settings.datasets,
        source=exchange.source,
        market=market,
        candles=candles,
        features=built.values,
        vol=built.vol,
        segment=built.segment,
        funding=_within(*store.read_funding(exchange.source, market), candles),
        code_hash=content_hash([Path(features.__file__).read_bytes()]),
    )
    get_run_logger().info(
        f"dataset id={reference.id} market={market.slug} source={reference.source} bars={len(candles)} "
        f"halted={features.halted_bars(built.vol, built.segment)}"
    )
    return reference


@task(cache_policy=NO_CACHE, task_run_name="note quality of {data.market.symbol}")
def note_quality(data: DatasetRef) -> str:
    """Keep what the candle store alone knows of a dataset's bars, for machines that don't reach it; return the key."""
    settings = Settings.from_environment()
    candles, store = load_dataset(settings.datasets, data).candles, CandleStore(settings.database)
    first_ms, last_ms = int(candles.start_ms[0]), int(candles.start_ms[-1])
    gaps = store.gaps(data.source, data.market, first_ms, last_ms)
    quality = StoredQuality(
        gaps=len(gaps),
        longest_gap=max((gap.bars for gap in gaps), default=0),
        quarantined=store.quarantined_bars(data.source, data.market, first_ms, last_ms),
    )
    key = ResultStore.key("quality", {"dataset": data.id, "found": quality})
    ResultStore(settings.work).save(key, quality)
    return key


def load_quality(work: ResultStore, key: str) -> StoredQuality:
    """Return what `note_quality` left under `key`."""
    return work.load(key, StoredQuality)


def _within(stamps_ms: IntArray, rates: FloatArray, candles: Candles) -> tuple[IntArray, FloatArray]:
    inside = (stamps_ms >= candles.start_ms[0]) & (stamps_ms <= candles.start_ms[-1])
    return stamps_ms[inside], rates[inside]


def _utc_ms(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
