"""The journal of a session, in one SQLite file: written before each action, read while it runs, replayed afterwards.

    facts       the session's settings from its start, its summary from its end, and until when the exchange told all
                that it booked: JSON by name
    takeovers   which version decides from which bar on, and the rules of its account
    candles     every closed candle that was processed, those of the warm-up included, and its origin
    decisions   the decision at each bar of the session: features, vol, probabilities, target, and what was attempted
    opens       what an account did at a bar's open: quote, funding, fill, and the ledger after it; with orders also
                bookings of the exchange within a bar, in rows of their own
    notes       other events of interest: connections, gaps, revisions, stops
    orders      each order that was to be sent, with its last known state; none in a paper session
    executions  bookings of the exchange for the account, each once; `seals` has a digest of each
    stops       of each order that opens, how far from the price its stop lies; none in older journals

An account is named by its market's slug; a shadow account is named slug@version.

In WAL mode a reader sees the last commit and never blocks the writer. With synchronous=FULL, commits survive a power
cut. A row of `opens` without a trade is committed with the next decision: if it is lost, a restart derives the same
ledger again.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from storage.schema import CANDLE_COLUMNS, Candles, FloatArray, StoreError
from tasks.exchange.private_events import ExecutionNews
from tasks.execution.orders import Order, Status
from tasks.execution.paper import Fill
from tasks.journal.journal_reader import FORMAT, JournalReader, check_format, seal_of
from tasks.journal.journal_rows import BarOpen, Decision

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE takeovers (
    market TEXT, start_ms INTEGER, version TEXT, rules TEXT, PRIMARY KEY (market, start_ms)) STRICT;
CREATE TABLE candles (
    market TEXT, start_ms INTEGER, open REAL, high REAL, low REAL, close REAL, volume REAL, turnover REAL, origin TEXT,
    PRIMARY KEY (market, start_ms)) STRICT, WITHOUT ROWID;
CREATE TABLE decisions (
    account TEXT, start_ms INTEGER, version TEXT, vals BLOB, position INTEGER, bars_held INTEGER, target INTEGER,
    wanted INTEGER, cause TEXT, lacks TEXT, mu REAL, cost REAL, late_ms REAL, feed_ms REAL, queue_us REAL, step_us REAL,
    PRIMARY KEY (account, start_ms)) STRICT, WITHOUT ROWID;
CREATE TABLE opens (
    account TEXT, start_ms INTEGER, wanted INTEGER, cause TEXT, first REAL, bid REAL, ask REAL, rate REAL, late_ms REAL,
    funding REAL, change REAL, price REAL, fee REAL, slippage REAL,
    cash REAL, quantity REAL, weight INTEGER, bars_held INTEGER,
    PRIMARY KEY (account, start_ms)) STRICT, WITHOUT ROWID;
CREATE TABLE notes (id INTEGER PRIMARY KEY, at_ms INTEGER, market TEXT, kind TEXT, said TEXT) STRICT;
"""
_ORDER_TABLES = """
CREATE TABLE IF NOT EXISTS orders (
    link_id TEXT PRIMARY KEY, account TEXT, start_ms INTEGER, side TEXT, quantity TEXT, reduces INTEGER, status TEXT,
    sent_ms INTEGER, order_id TEXT, executed TEXT, updated_ms INTEGER, misses INTEGER, why TEXT) STRICT;
CREATE TABLE IF NOT EXISTS executions (
    exec_id TEXT PRIMARY KEY, account TEXT, link_id TEXT, kind TEXT, side TEXT, quantity TEXT, price TEXT, fee TEXT,
    time_ms INTEGER, booked_ms INTEGER) STRICT;
CREATE TABLE IF NOT EXISTS seals (exec_id TEXT PRIMARY KEY, seal TEXT) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stops (link_id TEXT PRIMARY KEY, share REAL) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS unbooked ON executions (account) WHERE booked_ms IS NULL;
"""
_CANDLE = "INSERT INTO candles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DECISION = "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OPEN = "INSERT INTO opens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ORDER = (  # an update keeps the row's place, so rows stay in the order in which orders were sent
    "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (link_id) DO UPDATE SET "
    "status = excluded.status, sent_ms = excluded.sent_ms, order_id = excluded.order_id, executed = excluded.executed, "
    "updated_ms = excluded.updated_ms, misses = excluded.misses, why = excluded.why"
)
_EXECUTION = "INSERT OR IGNORE INTO executions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SEAL = "INSERT OR IGNORE INTO seals VALUES (?, ?)"
_STOP = "INSERT OR REPLACE INTO stops VALUES (?, ?)"
_BOOKED = "UPDATE executions SET booked_ms = ? WHERE account = ? AND booked_ms IS NULL"
_NOTE = "INSERT INTO notes (at_ms, market, kind, said) VALUES (?, ?, ?, ?)"


class Journal:
    """A session's journal, open for writing, for as long as the `with` block lasts.

    Args:
        path: The file; created if needed.

    Raises:
        StoreError: It can't be created or written, is damaged, or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._gathers = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found == 0:
                self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={FORMAT}; COMMIT;")
            check_format(path, found or FORMAT)
            self._db.executescript(_ORDER_TABLES)
        except (sqlite3.Error, OSError) as err:
            raise _unwritable(path, err) from err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit pending rows and close the file."""
        with _writing(self.path):
            if self._db.in_transaction:
                self._db.execute("COMMIT")
            self._db.close()

    def agree(self, facts: dict[str, Any]) -> None:
        """Store the session's settings; for an existing journal, check that they are equal.

        Raises:
            StoreError: The journal is of a session with other settings.
        """
        known = self.reader().facts()
        for name, value in facts.items():
            if name in known and known[name] != json.loads(json.dumps(value)):
                raise StoreError(
                    f"the journal {self.path} is of a session with {name}={known[name]!r}, was asked for {value!r}; "
                    "start another session"
                )
        with self._written():
            for name, value in facts.items():
                self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def summarise(self, numbers: dict[str, Any]) -> None:
        """Store the session's summary; replaces an earlier one."""
        self._replace_fact("summary", numbers)

    def told(self, account: str, time_ms: int) -> None:
        """Record until when the exchange has told all that it booked for an account, UTC milliseconds."""
        self._replace_fact(f"told_ms {account}", time_ms)

    def _replace_fact(self, name: str, value: Any) -> None:
        with self._written():
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def takeover(self, market: str, start_ms: int, version: str, rules: FloatArray) -> None:
        """Record which version decides from the bar `start_ms` on, and the rules of its account.

        Args:
            market: Slug.
            start_ms: Open time of the first bar that it decides at, UTC milliseconds.
            version: Its name; empty for none.
            rules: (RULES,) from `account_rules`.
        """
        with self._written():
            row = (market, start_ms, version, json.dumps(rules.tolist()))
            self._db.execute("INSERT OR REPLACE INTO takeovers VALUES (?, ?, ?, ?)", row)

    def history(self, market: str, candles: Candles) -> None:
        """Record the candles of a warm-up."""
        rows = zip(*(getattr(candles, name).tolist() for name in ("start_ms", *CANDLE_COLUMNS)), strict=True)
        with self._written():
            self._db.executemany(_CANDLE, ((market, *_known(row), "warm-up") for row in rows))

    def decided(
        self, market: str, candle: tuple[float, ...], origin: str, decisions: Sequence[tuple[str, Decision]]
    ) -> None:
        """Record and commit a closed candle and the decisions at it.

        Args:
            market: Slug.
            candle: start_ms, open, high, low, close, volume, turnover.
            origin: stream or rest.
        """
        with self._written():
            self._db.execute(_CANDLE, (market, int(candle[0]), *_known(candle[1:]), origin))
            for name, decision in decisions:
                row = decision._replace(values=decision.values.tobytes())  # type: ignore[arg-type]
                self._db.execute(_DECISION, (name, *_known(row)))

    def opened(self, opens: Sequence[tuple[str, BarOpen]]) -> None:
        """Record what accounts did at an open; commits at once if anything was paid or traded."""
        with self._written(commit=any(bar.opened.fill is not None or bar.opened.funding for _, bar in opens)):
            for name, bar in opens:
                opened = bar.opened
                paid = _known((bar.rate, bar.late_ms, opened.funding))
                traded = opened.fill or (None,) * len(Fill._fields)
                row = (name, bar.start_ms, bar.wanted, bar.cause, *_known(bar.quote), *paid, *traded, *opened.ledger)
                self._db.execute(_OPEN, row)
                self._db.execute(_BOOKED, (bar.start_ms, name))

    def order(self, account: str, start_ms: int, order: Order, stop_share: float | None = None) -> None:
        """Record and commit the present state of an order; called before it is sent and after each event.

        Args:
            start_ms: Open time of the bar at whose open it trades, UTC milliseconds.
            stop_share: How far from the price the stop lies that goes with it, share of the price; None where that is
                recorded already, or nothing goes with it.
        """
        leg = order.leg
        row = (
            order.link_id, account, start_ms, leg.side, str(leg.quantity), int(leg.reduces), order.status.value,
            order.sent_ms, order.order_id, str(order.executed), order.updated_ms, order.misses, order.why,
        )  # fmt: skip
        with self._written(at_once=order.status is Status.SUBMITTING):
            self._db.execute(_ORDER, row)
            if stop_share is not None:
                self._db.execute(_STOP, (order.link_id, stop_share))

    def execution(self, account: str, start_ms: int, order: Order | None, booked: ExecutionNews) -> None:
        """Record and commit a booking of the exchange, with the state of its order after it.

        Args:
            start_ms: Open time of the bar of its order; -1 for none.
            order: Its order after it; None for one that is not the session's.
        """
        fill = booked.fill
        row = (
            fill.exec_id, account, booked.link_id, booked.kind, booked.side, str(fill.quantity), str(fill.price),
            str(fill.fee), booked.time_ms, None,
        )  # fmt: skip
        with self._written(commit=order is None):
            self._db.execute(_EXECUTION, row)
            self._db.execute(_SEAL, (fill.exec_id, seal_of(row[:-1])))
        if order is not None:
            self.order(account, start_ms, order)

    def note(self, at_ms: int, market: str, kind: str, said: str) -> None:
        """Record another event, in one line.

        Args:
            at_ms: UTC milliseconds on the exchange's clock, as far as known.
            market: Slug.
            kind: One or two words, by which a replay looks for it.
        """
        with self._written():
            self._db.execute(_NOTE, (at_ms, market, kind, said))

    def reader(self) -> JournalReader:
        """Return a reader on the same connection."""
        return JournalReader(self._db)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Commit all rows of the block together at its end; an order that is about to be sent is committed at once."""
        self._gathers = True
        try:
            yield
        finally:
            self._gathers = False
            if self._db.in_transaction:
                with _writing(self.path):
                    self._db.execute("COMMIT")

    @contextmanager
    def _written(self, *, commit: bool = True, at_once: bool = False) -> Iterator[None]:
        """Write the block's rows; commit them unless rows of the same transaction follow, or in any case `at_once`."""
        with _writing(self.path):
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            yield
            if at_once or (commit and not self._gathers):
                self._db.execute("COMMIT")


def _known(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row for SQLite, with NULL for NaN and infinity."""
    return tuple(None if isinstance(value, float) and not np.isfinite(value) else value for value in row)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as err:
        raise _unwritable(path, err) from err


def _unwritable(path: Path, err: sqlite3.Error | OSError) -> StoreError:
    if getattr(err, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):  # extended ones, too
        return StoreError(
            f"the journal {path} is locked: another program is writing to it; end that (`fuser {path}` names it) and "
            "start the session again"
        )
    return StoreError(f"the journal {path} can't be written ({err}); free space or set DSC_HOME")
