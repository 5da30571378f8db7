"""Candles, funding, gaps, rejected rows and runs, in one DuckDB file that other tools can open too."""
# ruff: noqa: S608 - statements are built from constants; every value is passed as a parameter

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np

from storage.commit import SPAN, CheckedWindow, WindowReport, commit, require_storable, series_of
from storage.database import Database, transaction
from storage.schema import (
    CANDLE_COLUMNS,
    END_OF_TIME_MS,
    WINDOW_BARS,
    CandleError,
    Candles,
    Category,
    FloatArray,
    IntArray,
    Market,
    Source,
    StoreError,
    Window,
    parse_source,
)

_GAP_RUNS = f"""
    select min(epoch_ms(start_time)), max(epoch_ms(start_time)), count(*), reason
    from (
        select start_time, reason,
            epoch_ms(start_time) - $step * row_number() over (partition by reason order by start_time) as run
        from gaps where {SPAN}
    )
    group by run, reason order by 1
"""
_BY_WINDOW = f"select (epoch_ms(start_time) - $origin) // $length, count(*) from {{table}} where {SPAN} group by 1"
_COVERAGE = """
    select source, category, symbol, interval,
        sum(bars)::bigint, min(first_ms), max(last_ms), sum(gaps)::bigint, sum(rejected)::bigint
    from (
        select source, category, symbol, interval, count(*) as bars, epoch_ms(min(start_time)) as first_ms,
            epoch_ms(max(start_time)) as last_ms, 0 as gaps, 0 as rejected
        from candles group by all
        union all
        select source, category, symbol, interval, 0, null, null, count(*), 0 from gaps group by all
        union all
        select source, category, symbol, interval, 0, null, null, 0, count(*) from rejected group by all
    )
    group by source, category, symbol, interval order by source, category, symbol, interval
"""
_FUNDING_SERIES = "source = $source and category = $category and symbol = $symbol"
_MERGE_FUNDING = """
    merge into funding as old
    using (
        select $source as source, $category as category, $symbol as symbol, make_timestamp_ms(stamp_ms) as stamp, rate
        from batch
    ) as new
    on old.source = new.source and old.category = new.category and old.symbol = new.symbol and old.stamp = new.stamp
    when matched and old.rate is distinct from new.rate then update set rate = new.rate
    when not matched then insert
"""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Consecutive missing bars of the same reason; first and last open time, both inclusive, UTC milliseconds."""

    first_ms: int
    last_ms: int
    bars: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Counts of the stored rows of one market and source; the times are None if no candle is stored."""

    source: Source
    market: Market
    bars: int
    first_ms: int | None
    last_ms: int | None
    gaps: int
    rejected: int


@dataclass(frozen=True)
class FlowRun:
    """One ingest of a market.

    Attributes:
        market: The market's slug.
        status: "running" until the flow records how it ended, and for ever if it was killed.
    """

    source: Source
    market: str
    started_ms: int
    status: str


class CandleStore:
    """The store; holds no connection between calls.

    Every method may raise StoreBusyError (another process held the file for a minute) and StoreError (the file is
    corrupt, unreadable, of a newer schema, or can't be written). A file that does not exist reads as empty; the first
    write creates it.
    """

    def __init__(self, path: Path | str) -> None:
        self._database = Database(Path(path), timeout_s=60.0)

    def commit_windows(
        self, source: Source, market: Market, pages: Sequence[CheckedWindow], now_ms: int
    ) -> list[WindowReport]:
        """Store windows, each in a transaction of its own; storing the same again changes nothing.

        New values replace those of a stored candle; a gap that is now filled is removed. Bars that have not closed at
        `now_ms`, the exchange's time, do not count as gaps. If the process is killed, the windows committed so far are
        complete. If one window breaks a rule, none is stored.

        Raises:
            ConfigError: A window is not on the interval grid.
            CandleError: A candle is repeated, out of order, off the grid, outside its window, not closed or not finite.
        """
        for page in pages:
            require_storable(page, market, now_ms)
        reports = []
        with self._database.writer() as con:
            for page in pages:
                with transaction(con):
                    reports.append(commit(con, source, market, page, now_ms))
        return reports

    def missing_windows(
        self,
        source: Source,
        market: Market,
        first_ms: int,
        last_ms: int,
        bars: int = WINDOW_BARS,
        recheck_gaps: bool = False,
    ) -> list[Window]:
        """Return the windows of a range (`Window.cover`) that must still be fetched, oldest first.

        A window is complete if every bar is stored or a recorded gap; with `recheck_gaps`, if every bar is stored. A
        window without any stored bar is never complete, since the gap may come from an outage of the exchange's API.
        """
        windows = Window.cover(market, first_ms, last_ms, bars)
        if not windows:
            return []
        # All windows but the first and last are equally long, so a bar's window is counted from the end of the first.
        step, length = market.interval_ms, bars * market.interval_ms
        values = _span_of(source, market, windows[0].first_ms, windows[-1].last_ms)
        values |= {"origin": windows[0].last_ms + step - length, "length": length}
        with self._database.reading() as con:
            stored, gaps = (
                dict(con.execute(_BY_WINDOW.format(table=table), values).fetchall()) for table in ("candles", "gaps")
            )
        lacking = []
        for place, window in enumerate(windows):
            known = stored.get(place, 0)
            if known and not recheck_gaps:
                known += gaps.get(place, 0)
            if known < window.bars(step):
                lacking.append(window)
        return lacking

    def read(self, source: Source, market: Market, first_ms: int | None = None, last_ms: int | None = None) -> Candles:
        """Return the stored candles between two open times (both inclusive), oldest first."""
        statement = f"""
            select epoch_ms(start_time) as start_ms, {", ".join(CANDLE_COLUMNS)}
            from candles where {SPAN} order by start_time
        """
        with self._database.reading() as con:
            columns = con.execute(statement, _span_of(source, market, first_ms, last_ms)).fetchnumpy()
        floats = {name: np.ma.filled(columns[name], np.nan) for name in CANDLE_COLUMNS}
        return Candles(start_ms=np.asarray(columns["start_ms"]), **floats)

    def gaps(
        self, source: Source, market: Market, first_ms: int | None = None, last_ms: int | None = None
    ) -> list[Gap]:
        """Return the recorded gaps between two open times (both inclusive) as runs of bars, oldest first."""
        values = _span_of(source, market, first_ms, last_ms) | {"step": market.interval_ms}
        with self._database.reading() as con:
            rows = con.execute(_GAP_RUNS, values).fetchall()
        return [Gap(first_ms=first, last_ms=last, bars=bars, reason=reason) for first, last, bars, reason in rows]

    def count(self, source: Source, market: Market, first_ms: int, last_ms: int) -> int:
        """Return how many candles are stored between two open times (both inclusive)."""
        statement = f"select count(*) from candles where {SPAN}"
        return self._count(statement, _span_of(source, market, first_ms, last_ms))

    def quarantined_bars(self, source: Source, market: Market, first_ms: int, last_ms: int) -> int:
        """Return the number of bars between two open times (both inclusive) whose rows were all rejected."""
        statement = f"""
            select count(*) from (
                select start_time from rejected where {SPAN} except select start_time from candles where {SPAN}
            )
        """
        return self._count(statement, _span_of(source, market, first_ms, last_ms))

    def commonest_reason(self, source: Source, market: Market, first_ms: int, last_ms: int) -> str:
        """Return the most common reason for rejecting rows between two open times (both inclusive); empty if none."""
        statement = f"select reason from rejected where {SPAN} group by reason order by count(*) desc, reason limit 1"
        with self._database.reading() as con:
            rows = con.execute(statement, _span_of(source, market, first_ms, last_ms)).fetchall()
        return str(rows[0][0]) if rows else ""

    def _count(self, statement: str, values: dict[str, Any]) -> int:
        with self._database.reading() as con:
            return int(con.execute(statement, values).fetchall()[0][0])

    def coverage(self) -> list[Coverage]:
        """Return one row for each source and market that has candles, gaps or rejected rows."""
        with self._database.reading() as con:
            rows = con.execute(_COVERAGE).fetchall()
        return [
            Coverage(
                source=parse_source(source),
                market=Market(symbol=symbol, category=cast(Category, category), interval=interval),
                bars=bars,
                first_ms=first_ms,
                last_ms=last_ms,
                gaps=gaps,
                rejected=rejected,
            )
            for source, category, symbol, interval, bars, first_ms, last_ms, gaps, rejected in rows
        ]

    def upsert_funding(self, source: Source, market: Market, stamps_ms: IntArray, rates: FloatArray) -> int:
        """Store funding rates by stamp and return how many were new or changed.

        Args:
            market: Their market; its interval does not matter.
            stamps_ms: (n,) time of payment, UTC milliseconds, strictly increasing.
            rates: (n,) share of the position's value that longs pay to shorts.

        Raises:
            CandleError: The stamps are not strictly increasing, or a rate is not finite.
        """
        if len(stamps_ms) != len(rates) or np.any(np.diff(stamps_ms) <= 0) or not np.isfinite(rates).all():
            raise CandleError(f"{market}: funding must be one finite rate a stamp, stamps strictly increasing")
        with self._database.writing() as con:
            con.register("batch", {"stamp_ms": stamps_ms, "rate": rates + 0.0})  # -0.0 is 0.0, as in candles
            return int(con.execute(_MERGE_FUNDING, _funding_series_of(source, market)).fetchall()[0][0])

    def read_funding(self, source: Source, market: Market) -> tuple[IntArray, FloatArray]:
        """Return the funding stamps (n,), UTC milliseconds, and the rates (n,), oldest first.

        Stamps are stored as received and returned rounded down to the minute, since some are a few milliseconds late.
        """
        minute = "epoch_ms(date_trunc('minute', stamp)) as stamp_ms"
        statement = f"select {minute}, rate from funding where {_FUNDING_SERIES} order by stamp"
        with self._database.reading() as con:
            columns = con.execute(statement, _funding_series_of(source, market)).fetchnumpy()
        return np.asarray(columns["stamp_ms"]), np.asarray(columns["rate"])

    def start_run(self, source: Source, market: Market, now_ms: int) -> str:
        """Record that an ingest has started, and return the run's id."""
        run_id = uuid4().hex
        with self._database.writing() as con:
            con.execute(
                "insert into runs values ($1, 'ingest', $2, $3, make_timestamp_ms($4), null, 'running', '{}')",
                [run_id, parse_source(source), market.slug, now_ms],
            )
        return run_id

    def finish_run(self, run_id: str, status: str, now_ms: int) -> None:
        """Record how a run ended.

        Raises:
            StoreError: No such run was started.
        """
        statement = "update runs set ended_at = make_timestamp_ms($2), status = $3 where run_id = $1"
        with self._database.writing() as con:
            (changed,) = con.execute(statement, [run_id, now_ms, status]).fetchall()[0]
        if not changed:
            raise StoreError(f"a run must be started before it can finish, {run_id!r} was not")

    def latest_runs(self) -> list[FlowRun]:
        """Return the latest run of each source and market, newest first."""
        statement = """
            select source, market, epoch_ms(started_at) as started_ms, status from runs
            qualify row_number() over (partition by source, market order by started_at desc) = 1
            order by started_at desc
        """
        with self._database.reading() as con:
            rows = con.execute(statement).fetchall()
        return [FlowRun(*row) for row in rows]


def _span_of(source: Source, market: Market, first_ms: int | None, last_ms: int | None) -> dict[str, Any]:
    first = 0 if first_ms is None else first_ms
    last = END_OF_TIME_MS if last_ms is None else last_ms
    return series_of(source, market) | {"first_ms": first, "last_ms": last}


def _funding_series_of(source: Source, market: Market) -> dict[str, Any]:
    return {"source": parse_source(source), "category": market.category, "symbol": market.symbol}
