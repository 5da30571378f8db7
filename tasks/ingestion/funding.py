"""Funding rates from the exchange into the store."""

from __future__ import annotations

import numpy as np

from storage.candles import CandleStore
from storage.schema import FUNDING_STEP_MS, IntArray, Market
from tasks.exchange.gateway import Gateway


def ingest_rates(gateway: Gateway, store: CandleStore, market: Market, first_ms: int, last_ms: int) -> int:
    """Store the funding rates between two times, UTC milliseconds, both inclusive; return how many are new."""
    rates = gateway.funding(market.category, market.symbol, first_ms, last_ms)
    stamps_ms, values = np.array([ms for ms, _ in rates], np.int64), np.array([rate for _, rate in rates])
    return store.upsert_funding(gateway.source, market, stamps_ms, values)


def first_hole(stamps_ms: IntArray, first_ms: int, last_ms: int) -> int | None:
    """Return the start of the first gap in a range's funding stamps, UTC milliseconds; None if there can be no gap.

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
    # Assume that the market goes on at its latest step, which may be shorter than the longest one.
    due = len(inside) >= 2 and last_ms - inside[-1] >= inside[-1] - inside[-2]
    return int(inside[-1]) if due else None
