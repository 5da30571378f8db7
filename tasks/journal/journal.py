"""What a session did, in one SQLite file: written before it counts, read while it runs, replayed afterwards.

    facts       what was agreed at the start, and the summary at the end: JSON by name
    takeovers   which version decides from which bar on, and what its account trades by
    candles     every closed candle that was stepped, those of the warm-up included, and where it came from
    decisions   what each bar of the session led to: features, vol, probabilities, target, and what became of it
    opens       what an account did at a bar's open: quote, funding, fill, and the ledger after it; with orders also
                what the exchange booked amid the bar, in rows of its own
    notes       everything else that a person would ask about: connections, holes, revisions, stops
    orders      each order that was ever to be sent, as far as it is known; none in a session on paper
    executions  what the exchange booked for the account, each once; `seals` has a digest of each

An account is named by its market's slug, that of a shadow by slug@version.

In WAL mode a reader sees the last commit and blocks nobody. synchronous=FULL: what was committed survives a power cut.
A row of `opens` that traded nothing is committed with the next decision: without it the same ledger comes out again.
"""

from __future__ import annotations

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
CREATE INDEX IF NOT EXISTS unbooked ON executions (account) WHERE booked_ms IS NULL;
"""
_CANDLE = "INSERT INTO candles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DECISION = "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OPEN = "INSERT INTO opens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ORDER = (  # in its old place where there is one: rows stay in the order in which orders were sent
    "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (link_id) DO UPDATE SET "
    "status = excluded.status, sent_ms = excluded.sent_ms, order_id = excluded.order_id, executed = excluded.executed, "
    "updated_ms = excluded.updated_ms, misses = excluded.misses, why = excluded.why"
)
_EXECUTION = "INSERT OR IGNORE INTO executions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SEAL = "INSERT OR IGNORE INTO seals VALUES (?, ?)"
_BOOKED = "UPDATE executions SET booked_ms = ? WHERE account = ? AND booked_ms IS NULL"
_NOTE = "INSERT INTO notes (at_ms, market, kind, said) VALUES (?, ?, ?, ?)"


class Journal:
    """A session's journal, open for writing, for as long as the `with` block lasts.

    Args:
        path: The file; made if need be.

    Raises:
        StoreError: It can't be made or written, is damaged, or of another format.
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
        """Commit what waits and close the file."""
        with _writing(self.path):
            if self._db.in_transaction:
                self._db.execute("COMMIT")
            self._db.close()

    def agree(self, facts: dict[str, Any]) -> None:
        """Note what the session runs on, or prove that it is what the file says.

        Raises:
            StoreError: The journal is of a session that runs on something else.
        """
        known = self.reader().facts()
        for name, value in facts.items():
            if name in known and known[name] != json.loads(json.dumps(value)):
                raise StoreError(
                    f"the journal {self.path} is of a session with {name}={known[name]!r}, was asked for {value!r}; "
                    "start another session"
                )
        with self._committed():
            for name, value in facts.items():
                self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def summarise(self, numbers: dict[str, Any]) -> None:
        """Note what the session came to, in place of what it had come to before."""
        with self._committed():
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", ("summary", json.dumps(numbers)))

    def takeover(self, market: str, start_ms: int, version: str, rules: FloatArray) -> None:
        """Note which version decides from the bar `start_ms` on, and the rules that its account trades by."""
        with self._committed():
            row = (market, start_ms, version, json.dumps(rules.tolist()))
            self._db.execute("INSERT OR REPLACE INTO takeovers VALUES (?, ?, ?, ?)", row)

    def history(self, market: str, candles: Candles) -> None:
        """Note the candles of a warm-up."""
        rows = zip(*(getattr(candles, name).tolist() for name in ("start_ms", *CANDLE_COLUMNS)), strict=True)
        with self._committed():
            self._db.executemany(_CANDLE, ((market, *_known(row), "warm-up") for row in rows))

    def decided(
        self, market: str, candle: tuple[float, ...], origin: str, decisions: Sequence[tuple[str, Decision]]
    ) -> None:
        """Note a closed candle and what it led to, and wait until it is safe.

        Args:
            market: Slug.
            candle: start_ms, open, high, low, close, volume, turnover.
            origin: stream or rest.
            decisions: What it led to, by the account's name.
        """
        with self._committed():
            self._db.execute(_CANDLE, (market, int(candle[0]), *_known(candle[1:]), origin))
            for name, decision in decisions:
                row = decision._replace(values=decision.values.tobytes())  # type: ignore[arg-type]
                self._db.execute(_DECISION, (name, *_known(row)))

    def opened(self, opens: Sequence[tuple[str, BarOpen]]) -> None:
        """Note what accounts did at an open; waits until it is safe if anything was paid or traded."""
        self._begin()
        for name, bar in opens:
            opened = bar.opened
            paid = _known((bar.rate, bar.late_ms, opened.funding))
            traded = opened.fill or (None,) * len(Fill._fields)
            row = (name, bar.start_ms, bar.wanted, bar.cause, *_known(bar.quote), *paid, *traded, *opened.ledger)
            with _writing(self.path):
                self._db.execute(_OPEN, row)
                self._db.execute(_BOOKED, (bar.start_ms, name))
        if any(bar.opened.fill is not None or bar.opened.funding for _, bar in opens):
            self._commit()

    def order(self, account: str, start_ms: int, order: Order) -> None:
        """Note an order as it is now, and wait until it is safe: before it is sent, and with each thing that is known.

        Args:
            account: Whose.
            start_ms: Open time of the bar that it trades at.
            order: The order.
        """
        leg = order.leg
        row = (
            order.link_id, account, start_ms, leg.side, str(leg.quantity), int(leg.reduces), order.status.value,
            order.sent_ms, order.order_id, str(order.executed), order.updated_ms, order.misses, order.why,
        )  # fmt: skip
        self._begin()
        with _writing(self.path):
            self._db.execute(_ORDER, row)
        self._commit(at_once=order.status is Status.SUBMITTING)

    def execution(self, account: str, start_ms: int, order: Order | None, booked: ExecutionNews) -> None:
        """Note what the exchange has booked, with the order as it is after it, and wait until it is safe."""
        fill = booked.fill
        row = (
            fill.exec_id, account, booked.link_id, booked.kind, booked.side, str(fill.quantity), str(fill.price),
            str(fill.fee), booked.time_ms, None,
        )  # fmt: skip
        self._begin()
        with _writing(self.path):
            self._db.execute(_EXECUTION, row)
            self._db.execute(_SEAL, (fill.exec_id, seal_of(row[:-1])))
        if order is not None:
            self.order(account, start_ms, order)
        else:
            self._commit()

    def note(self, at_ms: int, market: str, kind: str, said: str) -> None:
        """Note something else, in one line."""
        with self._committed():
            self._db.execute(_NOTE, (at_ms, market, kind, said))

    def reader(self) -> JournalReader:
        """Return what reads this journal through the same connection."""
        return JournalReader(self._db)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make what is written in the block safe at its end, all at once; an order that is to be sent does not wait."""
        self._gathers = True
        try:
            yield
        finally:
            self._gathers = False
            if self._db.in_transaction:
                self._commit()

    @contextmanager
    def _committed(self) -> Iterator[None]:
        self._begin()
        with _writing(self.path):
            yield
        self._commit()

    def _begin(self) -> None:
        if not self._db.in_transaction:
            with _writing(self.path):
                self._db.execute("BEGIN IMMEDIATE")

    def _commit(self, *, at_once: bool = False) -> None:
        if self._gathers and not at_once:
            return
        with _writing(self.path):
            self._db.execute("COMMIT")


def _known(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row for SQLite, which has no NaN and no infinity: both are NULL."""
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
