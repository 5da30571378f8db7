"""Limits on missing and rejected candles, and quality figures of a dataset's bars that only the store has."""

from dataclasses import dataclass
from typing import Annotated

from storage.bounds import Checked, Share
from storage.candles import CandleStore
from storage.schema import CandleGapError, Candles, Market, QuarantineError, Source, Title, Window, utc_text


@dataclass(frozen=True, kw_only=True)
class QualityConfig(Checked):
    """Limits of data quality beyond which a run stops.

    Attributes:
        quarantine_limit: Largest share of bars that may be missing because their rows were rejected, 0 to 1; more stops
            the run.
        gap_limit: Largest share of bars that may be missing for any reason, 0 to 1; more stops the run.
        recheck_gaps: Whether to fetch bars again that were recorded as missing.
    """

    quarantine_limit: Annotated[Share, Title("Share of bad rows, at most")] = 0.01
    gap_limit: Annotated[Share, Title("Share of missing bars, at most")] = 0.1
    recheck_gaps: Annotated[bool, Title("Ask again for missing bars")] = False


@dataclass(frozen=True, kw_only=True)
class StoredQuality:
    """Quality figures of a dataset's bars that only the candle store has.

    Attributes:
        gaps: Number of runs of bars that are recorded as missing.
        longest_gap: Bars in the longest of them.
        quarantined: Bars that are missing because their rows were rejected.
    """

    gaps: int
    longest_gap: int
    quarantined: int


def stored_quality(store: CandleStore, source: Source, market: Market, candles: Candles) -> StoredQuality:
    """Return the quality figures of the bars from the first of these candles to the last."""
    ends = int(candles.start_ms[0]), int(candles.start_ms[-1])
    gaps = store.gaps(source, market, *ends)
    return StoredQuality(
        gaps=len(gaps),
        longest_gap=max((gap.bars for gap in gaps), default=0),
        quarantined=store.quarantined_bars(source, market, *ends),
    )


def refuse_bad_data(store: CandleStore, source: Source, market: Market, span: Window, quality: QualityConfig) -> None:
    """Stop if too many bars of a range are missing or were rejected, in this or an earlier run.

    Raises:
        QuarantineError: Too many bars are missing because their rows were rejected.
        CandleGapError: Too many bars are missing for any reason.
    """
    bars = span.bars(market.interval_ms)
    quarantined = store.quarantined_bars(source, market, span.first_ms, span.last_ms)
    if quarantined > quality.quarantine_limit * bars:
        why = store.commonest_reason(source, market, span.first_ms, span.last_ms)
        raise QuarantineError(
            f"{quarantined} of {bars} rows broke the candle contract ({quarantined / bars:.2%}), at most "
            f"{quality.quarantine_limit:.2%} may, most of them: {why}; the table rejected has the reasons, a higher "
            "limit goes on without them"
        )
    missing = bars - store.count(source, market, span.first_ms, span.last_ms)
    if missing > quality.gap_limit * bars:
        first, last = utc_text(span.first_ms), utc_text(span.last_ms)
        raise CandleGapError(
            f"{market}: {missing:,} of {bars:,} bars are missing ({missing / bars:.2%}) from {first} to {last}, "
            f"at most {quality.gap_limit:.2%} may; run ingest again (recheck_gaps asks for recorded gaps too), "
            "choose another start, or raise gap_limit to go on without them"
        )
