"""What lies in a candle store, as tests look at it."""

from storage.candles import CandleStore
from storage.commit import SERIES, series_of
from storage.schema import CANDLE_COLUMNS, Market, RejectedRow, Source, content_hash


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
