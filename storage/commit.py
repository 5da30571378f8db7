"""Stores one window of candles in one transaction: candles, rejected rows and gaps together, or nothing.

Afterwards every closed bar of the window is either in `candles` or in `gaps`, never in both.
"""
# ruff: noqa: S608 - statements are built from this file's constants; every value is passed as a parameter

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from storage.schema import (
    CANDLE_COLUMNS,
    END_OF_TIME_MS,
    CandleError,
    Candles,
    ConfigError,
    Market,
    RejectedRow,
    Source,
    StoreError,
    Window,
    parse_source,
    utc_text,
)

REJECTED = "rejected"
MISSING = "missing"
"""Reason of a gap: the bar's row was rejected, or no row came."""

SERIES = "source = $source and category = $category and symbol = $symbol and interval = $interval"
"""SQL condition: rows of one source, market and interval."""
SPAN = f"{SERIES} and start_time between make_timestamp_ms($first_ms) and make_timestamp_ms($last_ms)"
"""SQL condition: SERIES within a range of open times, both inclusive."""

_KEY = ("source", "category", "symbol", "interval", "start_time")
_KEY_VALUES = "$source as source, $category as category, $symbol as symbol, $interval as interval"
_KNOWN = f"""
    select epoch_ms(start_time) as ms, false as is_gap from candles where {SPAN}
    union all select epoch_ms(start_time), true from gaps where {SPAN}
"""
_NEW = f"select {_KEY_VALUES}, make_timestamp_ms(start_ms) as start_time, {', '.join(CANDLE_COLUMNS)} from batch"
_INSERT = f"insert into candles {_NEW}"
_MERGE = f"""
    merge into candles as old
    using ({_NEW}) as new
    on {" and ".join(f"old.{name} = new.{name}" for name in _KEY)}
    when matched and ({" or ".join(f"old.{name} is distinct from new.{name}" for name in CANDLE_COLUMNS)})
        then update set {", ".join(f"{name} = new.{name}" for name in CANDLE_COLUMNS)}
    when not matched then insert
"""
_QUARANTINE = f"""
    insert into rejected
    select distinct {_KEY_VALUES}, make_timestamp_ms(new.start_ms), new.raw, new.reason, make_timestamp_ms($now_ms)
    from (select unnest($start_ms) as start_ms, unnest($raw) as raw, unnest($reason) as reason) as new
    where not exists (
        from rejected
        where {SERIES} and start_time is not distinct from make_timestamp_ms(new.start_ms)
            and raw = new.raw and reason = new.reason
    )
"""
_NOTE_GAPS = f"""
    insert into gaps
    select {_KEY_VALUES}, make_timestamp_ms(start_ms), if(came, '{REJECTED}', '{MISSING}') from absent
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedWindow:
    """The fetched rows of one window, checked.

    Attributes:
        window: The bars that were requested, on the interval grid.
        candles: Valid rows of the window, as `split_candles` returns them.
    """

    window: Window
    candles: Candles
    rejected: Sequence[RejectedRow]


@dataclass(frozen=True, kw_only=True)
class WindowReport:
    """Counts of one commit.

    Attributes:
        inserted, revised: Candles that were new, and that replaced other values.
        rejected: Rows of this commit that broke the candle contract.
        gaps: Closed bars of the window that are not stored, for any reason.
    """

    inserted: int
    revised: int
    rejected: int
    gaps: int


def series_of(source: Source, market: Market) -> dict[str, Any]:
    """Return the parameters of SERIES.

    Raises:
        ConfigError: `source` is not a valid source.
    """
    return {
        "source": parse_source(source),
        "category": market.category,
        "symbol": market.symbol,
        "interval": market.interval,
    }


def commit(
    con: duckdb.DuckDBPyConnection, source: Source, market: Market, page: CheckedWindow, now_ms: int
) -> WindowReport:
    """Write a window inside the transaction of `con`; arguments as in `CandleStore.commit_windows`."""
    series, window, candles, rejected = series_of(source, market), page.window, page.candles, page.rejected
    span = series | {"first_ms": window.first_ms, "last_ms": window.last_ms}
    known = con.execute(_KNOWN, span).fetchnumpy()
    bars, is_gap = np.asarray(known["ms"]), np.asarray(known["is_gap"], np.bool_)
    stored, had_gaps = bars[~is_gap], is_gap.any()
    before = len(stored)
    # Adding 0.0 turns -0.0 into 0.0: DuckDB treats them as equal, and a hash of the table must not depend on the sign.
    values = {name: getattr(candles, name) + 0.0 for name in CANDLE_COLUMNS}
    con.register("batch", {"start_ms": candles.start_ms, **values})  # NaN, an unknown turnover, arrives as NULL
    statement = _MERGE if before else _INSERT  # the merge's join with all stored rows takes five times as long
    (touched,) = con.execute(statement, series).fetchall()[0]
    stored = np.union1d(stored, candles.start_ms)
    # There is no unique index, so uniqueness is checked here, just before the commit.
    if con.execute(f"select count(*) from candles where {SPAN}", span).fetchall() != [(len(stored),)]:
        raise StoreError(f"{market}: start_time must be unique, it is repeated after {utc_text(window.first_ms)}")
    if rejected:
        con.execute(_QUARANTINE, series | _quarantine_columns(rejected) | {"now_ms": now_ms})
    missing = np.setdiff1d(window.closed(market, now_ms), stored, assume_unique=True)
    if had_gaps:
        con.execute(f"delete from gaps where {SPAN}", span)
    if len(missing):
        came = np.isin(missing, [row.start_ms for row in rejected if row.start_ms is not None])
        con.register("absent", {"start_ms": missing, "came": came})
        con.execute(_NOTE_GAPS, series)
    inserted = len(stored) - before
    return WindowReport(
        inserted=inserted,
        revised=touched - inserted,
        rejected=len(rejected),
        gaps=len(missing),
    )


def require_storable(page: CheckedWindow, market: Market, now_ms: int) -> None:
    """Refuse candles that `split_candles` would have rejected; this is the last check before they are stored.

    Raises:
        ConfigError: The window is not on the interval grid.
        CandleError: A candle is repeated, out of order, off the grid, outside the window, not closed or not finite.
    """
    window, candles = page.window, page.candles
    if window.first_ms > window.last_ms or any(market.floor(ms) != ms for ms in (window.first_ms, window.last_ms)):
        raise ConfigError(f"{market}: a window must lie on the interval grid, first <= last, was {window}")
    start, step = candles.start_ms, market.interval_ms
    rules = {
        "later than the one before": np.diff(start, prepend=start[:1] - 1) > 0,
        "on the interval grid": (start - window.first_ms) % step == 0,
        "inside its window": (start >= window.first_ms) & (start <= window.last_ms),
        "closed": start + step <= now_ms,
        **{f"finite in {name}": np.isfinite(getattr(candles, name)) for name in CANDLE_COLUMNS if name != "turnover"},
        "finite in turnover, or NaN": ~np.isinf(candles.turnover),
    }
    for rule, kept in rules.items():
        if not kept.all():
            when = utc_text(int(start[np.argmin(kept)]))
            raise CandleError(
                f"{market}: a stored candle must be {rule}, that of {when} is not; use split_candles first"
            )


def _quarantine_columns(rejected: Sequence[RejectedRow]) -> dict[str, list[Any]]:
    """Return the rows as columns that DuckDB accepts: it refuses times beyond the calendar and lone surrogates."""
    times = [row.start_ms for row in rejected]
    return {
        "start_ms": [ms if ms is not None and 0 <= ms <= END_OF_TIME_MS else None for ms in times],
        "raw": [row.raw.encode("utf-8", "replace").decode() for row in rejected],
        "reason": [row.reason for row in rejected],
    }
