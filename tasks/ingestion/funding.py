"""Funding rates from the exchange into the store."""

import numpy as np

from storage.candles import CandleStore
from storage.schema import IntArray, Market
from tasks.exchange.gateway import Gateway
from tasks.market.settlements import missing_settlements


def ingest_rates(gateway: Gateway, store: CandleStore, market: Market, first_ms: int, last_ms: int) -> int:
    """Store the funding rates between two times, UTC milliseconds, both inclusive; return how many are new."""
    rates = gateway.funding(market.category, market.symbol, first_ms, last_ms)
    stamps_ms, values = np.array([ms for ms, _ in rates], np.int64), np.array([rate for _, rate in rates])
    return store.upsert_funding(gateway.source, market, stamps_ms, values)


def first_hole(stamps_ms: IntArray, first_ms: int, last_ms: int) -> int | None:
    """Return the start of the first gap in a range's funding stamps, UTC milliseconds; None if nothing is missing.

    The stamps (n,) increase; `last_ms` is inclusive.
    """
    begins, missing = missing_settlements(stamps_ms, first_ms, last_ms)
    return int(begins[np.argmax(missing > 0)]) if missing.any() else None
