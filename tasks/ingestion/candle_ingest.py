"""Candles from the exchange into the store: missing windows are fetched, checked, and committed one by one."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.candles import CandleStore
from storage.commit import CheckedWindow
from storage.contracts import split_candles
from storage.recent import RECENT_BARS, write_recent
from storage.schema import Candles, Market, Source, Window, utc_text
from tasks.exchange.gateway import Gateway
from tasks.exchange.pages import FetchedWindow
from tasks.ingestion.bar_range import BarRange, closed_span, refuse_end_of_market
from tasks.ingestion.quality import QualityConfig, refuse_bad_data


@dataclass(frozen=True, kw_only=True)
class CandleReport:
    """Result of an ingest.

    Attributes:
        source, market: Source and market that were updated.
        first_ms, last_ms: First and last bar of the range, open times, UTC milliseconds.
        bars: Bars in the range on the interval grid.
        inserted, revised: New rows, and rows whose values the exchange has changed.
        missing: Bars missing in the fetched windows.
        windows: Windows fetched; the newest two always are.
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
        """Summary for a terminal."""
        span = f"{self.bars:,} bars, {utc_text(self.first_ms)} to {utc_text(self.last_ms)}"
        counts = {"new": self.inserted, "revised": self.revised, "rejected": self.rejected, "missing": self.missing}
        return f"{self.market}: {span}; " + ", ".join(f"{count:,} {name}" for name, count in counts.items())

    @property
    def table(self) -> list[dict[str, str | int | float]]:
        """Table for the page of a run."""
        facts = {"first bar": utc_text(self.first_ms), "last bar": utc_text(self.last_ms)}
        counted = ("bars", "inserted", "revised", "rejected", "missing", "windows", "seconds")
        facts |= {name: getattr(self, name) for name in counted}
        return [{"what": what, "found": found} for what, found in facts.items()]


def ingest(
    gateway: Gateway,
    store: CandleStore,
    market: Market,
    bars: BarRange,
    quality: QualityConfig,
    *,
    recent: Path,
    on_progress: Callable[[float, str], object],
) -> CandleReport:
    """Fetch every window of a range that the store lacks, store closed and valid candles, and record the rest.

    The store's table of runs gets a row, and `recent`, the folder of the newest candles of each market, is updated.
    `on_progress` is called with the share of the bars fetched so far, 0 to 1, and a text.

    Raises:
        ConfigError: The range starts before the listing, ends after the last candle of a market that no longer trades,
            or contains no closed bar.
        QuarantineError: Too many bars of the range are missing because their rows were rejected; valid candles are
            stored.
        CandleGapError: Too many bars are missing for any reason; valid candles are stored.
    """
    began, source = time.monotonic(), gateway.source
    now_ms = gateway.server_time_ms()
    instrument = gateway.instrument(market)
    span = closed_span(market, bars, instrument, now_ms)
    if instrument.status != "Trading":
        refuse_end_of_market(market, span, instrument, gateway.newest_candle_ms(market, now_ms))
    windows = windows_to_ask(store, source, market, span, quality)
    run_id = store.start_run(source, market, now_ms)
    status = "failed"
    try:
        counts = _ingest_windows(gateway, store, market, windows, now_ms, on_progress)
        first_ms = span.last_ms - (RECENT_BARS - 1) * market.interval_ms
        write_recent(recent, source, market, store.read(source, market, first_ms))
        refuse_bad_data(store, source, market, span, quality)
        status = "completed"
    finally:
        store.finish_run(run_id, status, now_ms + int((time.monotonic() - began) * 1000))
    return CandleReport(
        source=source,
        market=market,
        first_ms=span.first_ms,
        last_ms=span.last_ms,
        bars=span.bars(market.interval_ms),
        windows=len(windows),
        seconds=round(time.monotonic() - began, 3),
        **counts,
    )


def windows_to_ask(
    store: CandleStore, source: Source, market: Market, span: Window, quality: QualityConfig
) -> list[Window]:
    """Return the incomplete windows, and always the newest two, whose bars may come late or be revised."""
    ends = span.first_ms, span.last_ms
    lacking = store.missing_windows(source, market, *ends, recheck_gaps=quality.recheck_gaps)
    newest = Window.cover(market, *ends)[-2:]
    return [window for window in lacking if window not in newest] + newest


def judge_windows(fetched: Sequence[FetchedWindow], market: Market, now_ms: int) -> list[CheckedWindow]:
    """Return the windows checked by the candle contract; one check for all, as pandera has a fixed cost per call."""
    good, broken = split_candles(Candles.join([one.candles for one in fetched]), market, now_ms=now_ms)
    pages = []
    for one in fetched:
        first_ms, last_ms = one.window.first_ms, one.window.last_ms
        inside = (good.start_ms >= first_ms) & (good.start_ms <= last_ms)
        rows = (row for row in broken if row.start_ms is not None and first_ms <= row.start_ms <= last_ms)
        pages.append(CheckedWindow(window=one.window, candles=good[inside], rejected=(*one.rejected, *rows)))
    return pages


def _ingest_windows(
    gateway: Gateway,
    store: CandleStore,
    market: Market,
    windows: Sequence[Window],
    now_ms: int,
    on_progress: Callable[[float, str], object],
) -> dict[str, int]:
    counts = {"inserted": 0, "revised": 0, "rejected": 0, "missing": 0}
    wanted, seen = sum(window.bars(market.interval_ms) for window in windows), 0
    for fetched in gateway.fetch_batches(market, windows, now_ms):
        for done in store.commit_windows(gateway.source, market, judge_windows(fetched, market, now_ms), now_ms):
            for name, count in zip(counts, (done.inserted, done.revised, done.rejected, done.gaps), strict=True):
                counts[name] += count
        seen += sum(one.window.bars(market.interval_ms) for one in fetched)
        on_progress(seen / wanted, f"{seen:,} bars")
    return counts
