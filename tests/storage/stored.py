"""What lies in a candle store, as tests put it there and look at it."""

from collections.abc import Sequence

from storage.candles import CandleStore
from storage.commit import SERIES, CheckedWindow, WindowReport, series_of
from storage.schema import CANDLE_COLUMNS, Candles, Market, RejectedRow, Source, Window, content_hash


def commit_window(
    store: CandleStore,
    source: Source,
    market: Market,
    window: Window,
    candles: Candles,
    rejected: Sequence[RejectedRow],
    now_ms: int,
) -> WindowReport:
    """Store one window; see `CandleStore.commit_windows`."""
    page = CheckedWindow(window=window, candles=candles, rejected=rejected)
    return store.commit_windows(source, market, [page], now_ms)[0]


def table_hash(store: CandleStore, source: Source, market: Market) -> str:
    """Return the SHA-256 of the stored candles' columns, in hexadecimal."""
    candles = store.read(source, market)
    return content_hash(getattr(candles, name).tobytes() for name in ("start_ms", *CANDLE_COLUMNS))


def rejected_rows(store: CandleStore, source: Source, market: Market) -> list[RejectedRow]:
    """Return the quarantined rows by time, those without a readable time first."""
    statement = f"""
        select epoch_ms(start_time), raw, reason from rejected where {SERIES}
        order by start_time nulls first, raw, reason
    """  # noqa: S608 - put together from constants
    with store._database.reading() as con:
        rows = con.execute(statement, series_of(source, market)).fetchall()
    return [RejectedRow(start_ms=start_ms, raw=raw, reason=reason) for start_ms, raw, reason in rows]
