"""What a session did, in one SQLite file: written before it counts, read while it runs, replayed afterwards.

    facts       what was agreed at the start, and the summary at the end: JSON by name
    takeovers   which version decides from which bar on, and what its account trades by
    candles     every closed candle that was stepped, those of the warm-up included, and where it came from
    decisions   what each bar of the session led to: features, vol, probabilities, target, and what became of it
    opens       what an account did at a bar's open: quote, funding, fill, and the ledger after it; with orders also
                what the exchange booked amid the bar, in rows of its own
    notes       everything else that a person would ask about: connections, holes, revisions, stops
    orders      each order that was ever to be sent, as far as it is known; none in a session on paper
    executions  what the exchange booked for the account, each once

An account is named by its market's slug, that of a shadow by slug@version.

In WAL mode a reader sees the last commit and blocks nobody. synchronous=FULL: what was committed survives a power cut.
A row of `opens` that traded nothing is committed with the next decision: without it the same ledger comes out again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from storage.schema import CANDLE_COLUMNS, Candles, FloatArray, IntArray, Market, StoreError
from tasks.exchange.private_events import ExecutionNews
from tasks.execution.orders import Execution, Leg, Order, Status
from tasks.execution.paper import Fill, Ledger, Opened, Quote

FORMAT = 2

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
CREATE INDEX IF NOT EXISTS unbooked ON executions (account) WHERE booked_ms IS NULL;
"""


_STAYS = {(0, 0): "stay flat", (1, 1): "stay long", (-1, -1): "stay short"}
_GOES = {0: "close", 1: "go long", -1: "go short"}


class Decision(NamedTuple):
    """What one closed bar led to.

    Attributes:
        start_ms: Open time of the bar.
        version: Which decided.
        values: (F + 4,) features, vol, probabilities, NaN where unknown.
        position: Weight held at the close.
        bars_held: For how many bars.
        target: What the rule says, from that position.
        wanted: What is attempted at the next open: the target, or the position where `cause` forbids it.
        cause: Why the target is not attempted: late, stale, deadline, missed bars, restart, clock, stop; with orders
            halted or unknown; else empty.
        lacks: Why there is no expected return; empty where there is one.
        mu: Expected return of a long position over the horizon; NaN where there is none.
        cost: Of a round trip, share of the price; NaN likewise.
        late_ms: From the bar's close until its step began, on the exchange's clock.
        feed_ms: From the exchange's stamp to receipt; NaN where the two clocks have nothing in common.
        queue_us: From receipt to the beginning of the step.
        step_us: From there until the decision stood.
    """

    start_ms: int
    version: str
    values: FloatArray
    position: int
    bars_held: int
    target: int
    wanted: int
    cause: str
    lacks: str
    mu: float
    cost: float
    late_ms: float
    feed_ms: float
    queue_us: float
    step_us: float

    @property
    def reason(self) -> str:
        """Why the rule says so, one line."""
        if self.lacks:
            return self.lacks
        verb = _STAYS.get((self.position, self.target)) or _GOES[self.target]
        return f"{verb}: mu {1e4 * self.mu:+.1f} bp, round trip {1e4 * self.cost:.1f} bp"


class BarOpen(NamedTuple):
    """What the account did at a bar's open.

    Attributes:
        start_ms: Open time of the bar.
        wanted: What was traded to; with orders what was decided, whatever came of it.
        cause: Why what was decided was not attempted; else empty. With orders: why it was not done as a whole.
        quote: What an order met.
        rate: Sum of the funding rates due.
        late_ms: From the bar's open to the fill, on the exchange's clock.
        opened: Ledger after it, fill, funding.
    """

    start_ms: int
    wanted: int
    cause: str
    quote: Quote
    rate: float
    late_ms: float
    opened: Opened


class BookedExecution(NamedTuple):
    """A row of what the exchange has booked.

    Attributes:
        kind: Trade, Funding, AdlTrade ...
        link_id: Of the order; empty for none of ours.
        side: Buy or Sell.
        time_ms: When, UTC milliseconds.
        fill: Quantity, price, fee.
        booked_ms: The row of `opens` whose ledger holds it; None while none does.
    """

    kind: str
    link_id: str
    side: str
    time_ms: int
    fill: Execution
    booked_ms: int | None

    @property
    def moves(self) -> bool:
        """Whether it changes the position; funding moves cash alone."""
        return self.kind != "Funding"

    @property
    def change(self) -> Decimal:
        """Signed coins."""
        return self.fill.quantity * (self.moves if self.side == "Buy" else -self.moves)

    @property
    def worth(self) -> Decimal:
        """Quote currency that was traded."""
        return self.fill.quantity * self.fill.price * self.moves


class Journal:
    """A session's journal, open for writing, for as long as the `with` block lasts.

    Args:
        path: The file; made if need be.

    Raises:
        StoreError: It can't be made or written, is damaged, or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found == 0:
                self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={FORMAT}; COMMIT;")
            self._db.executescript(_ORDER_TABLES)
        except (sqlite3.Error, OSError) as err:
            raise StoreError(f"the journal {path} can't be written ({err}); free space or set DSC_HOME") from err
        _check_format(path, found or FORMAT)

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
        known = read_facts(self._db)
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
        with self._committed():
            self._db.execute(_ORDER, row)

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
    def _committed(self) -> Iterator[None]:
        self._begin()
        with _writing(self.path):
            yield
        self._commit()

    def _begin(self) -> None:
        if not self._db.in_transaction:
            with _writing(self.path):
                self._db.execute("BEGIN IMMEDIATE")

    def _commit(self) -> None:
        with _writing(self.path):
            self._db.execute("COMMIT")


class JournalReader:
    """Reads a journal, also while a session writes it.

    Args:
        db: An open connection.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @classmethod
    @contextmanager
    def of(cls, path: Path) -> Iterator[JournalReader]:
        """Open a journal for reading for as long as the block lasts.

        Raises:
            StoreError: There is none, or it is damaged or of another format.
        """
        try:
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        except sqlite3.Error as err:
            raise StoreError(f"the journal {path} can't be read ({err})") from err
        try:
            (found,) = db.execute("PRAGMA user_version").fetchone()
            _check_format(path, found)
            yield cls(db)
        except sqlite3.DatabaseError as err:
            raise StoreError(f"the journal {path} can't be read ({err})") from err
        finally:
            db.close()

    def facts(self) -> dict[str, Any]:
        """Return what was agreed, and the summary if it has ended."""
        return read_facts(self._db)

    def markets(self) -> list[str]:
        """Return the slugs of the markets that were stepped."""
        return [slug for (slug,) in self._db.execute("SELECT DISTINCT market FROM candles ORDER BY market")]

    def orders(self, account: str) -> list[tuple[int, Order]]:
        """Return every order of an account with the bar that it trades at, in the order in which they were written."""
        fills: dict[str, list[Execution]] = {}
        for one in self.executions(account):
            fills.setdefault(one.link_id, []).append(one.fill)
        query = "SELECT * FROM orders WHERE account = ? ORDER BY start_ms, rowid"
        found = []
        for link_id, _, start_ms, side, quantity, reduces, status, *rest in self._db.execute(query, (account,)):
            sent_ms, order_id, executed, updated_ms, misses, why = rest
            order = Order(
                link_id=link_id, leg=Leg(side, Decimal(quantity), bool(reduces)), status=Status(status),
                sent_ms=sent_ms, order_id=order_id, executed=Decimal(executed), fills=tuple(fills.get(link_id, ())),
                updated_ms=updated_ms, misses=misses, why=why,
            )  # fmt: skip
            found.append((start_ms, order))
        return found

    def executions(self, account: str) -> list[BookedExecution]:
        """Return what the exchange has booked for an account, oldest first."""
        query = (
            "SELECT kind, link_id, side, time_ms, exec_id, quantity, price, fee, booked_ms FROM executions "
            "WHERE account = ? ORDER BY time_ms, rowid"
        )
        return [
            BookedExecution(kind, link_id, side, time_ms, Execution(exec_id, *map(Decimal, numbers)), booked_ms)
            for kind, link_id, side, time_ms, exec_id, *numbers, booked_ms in self._db.execute(query, (account,))
        ]

    def takeovers(self, market: str) -> list[tuple[int, str, FloatArray]]:
        """Return from which bar on which version decided, and the rules that its account traded by."""
        query = "SELECT start_ms, version, rules FROM takeovers WHERE market = ? ORDER BY start_ms"
        found = self._db.execute(query, (market,))
        return [(start_ms, version, np.array(json.loads(rules), np.float64)) for start_ms, version, rules in found]

    def versions(self) -> set[str]:
        """Return the names of the versions that have decided, those that only watched among them."""
        query = "SELECT version FROM takeovers UNION SELECT version FROM decisions"
        return {name for (name,) in self._db.execute(query) if name}

    def candles(self, market: str, last: int | None = None) -> tuple[Candles, list[str]]:
        """Return the candles that were stepped, oldest first, and where each came from: all, or the `last` ones."""
        query = "SELECT * FROM candles WHERE market = ? ORDER BY start_ms DESC LIMIT ?"
        rows = self._db.execute(query, (market, -1 if last is None else last)).fetchall()[::-1]
        _, starts, *numbers, origins = list(zip(*rows, strict=True)) or [()] * 9
        columns = {name: np.array(column, np.float64) for name, column in zip(CANDLE_COLUMNS, numbers, strict=True)}
        return Candles(start_ms=np.array(starts, np.int64), **columns), list(origins)

    def accounts(self) -> list[str]:
        """Return the names of every account that has decided."""
        return [name for (name,) in self._db.execute("SELECT DISTINCT account FROM decisions ORDER BY account")]

    def decided(self, account: str) -> int:
        """Return how many decisions an account has taken."""
        (count,) = self._db.execute("SELECT count(*) FROM decisions WHERE account = ?", (account,)).fetchone()
        return int(count)

    def decisions(self, account: str, last: int | None = None) -> list[Decision]:
        """Return the decisions, oldest first: all, or the `last` ones."""
        query = "SELECT * FROM decisions WHERE account = ? ORDER BY start_ms DESC LIMIT ?"
        found = [
            Decision(start_ms, version, np.frombuffer(values), *rest[:6], *map(_number, rest[6:]))
            for _, start_ms, version, values, *rest in self._db.execute(query, (account, -1 if last is None else last))
        ]
        return found[::-1]

    def opens(self, account: str, last: int | None = None) -> list[BarOpen]:
        """Return what the account did at each open, oldest first: all, or the `last` ones."""
        query = "SELECT * FROM opens WHERE account = ? ORDER BY start_ms DESC LIMIT ?"
        found = []
        for row in self._db.execute(query, (account, -1 if last is None else last)):
            _, start_ms, wanted, cause, first, bid, ask, rate, late_ms, funding, *rest = row
            quote = Quote(_number(first), np.inf if bid is None else bid, ask)
            fill = None if rest[0] is None else Fill(*rest[:4])
            opened = Opened(Ledger(*rest[4:]), fill, funding)
            found.append(BarOpen(start_ms, wanted, cause, quote, rate, _number(late_ms), opened))
        return found[::-1]

    def fills(self, account: str, last: int | None = None) -> list[tuple[int, float, Fill]]:
        """Return time, first price and fill of each trade, oldest first: of all, or of the `last` ones."""
        query = (
            "SELECT start_ms, first, change, price, fee, slippage FROM opens WHERE account = ? AND change IS NOT NULL "
            "ORDER BY start_ms DESC LIMIT ?"
        )
        found = self._db.execute(query, (account, -1 if last is None else last))
        return [(start_ms, first, Fill(*fill)) for start_ms, first, *fill in found][::-1]

    def turns(self, account: str, since_ms: int) -> list[tuple[int, float, int]]:
        """Return time, price and what was held from then on, of each change of the position since `since_ms`."""
        query = (
            "SELECT start_ms, coalesce(price, first), weight FROM "
            "(SELECT *, lag(weight, 1, 0) OVER (ORDER BY start_ms) AS before FROM opens WHERE account = ?) "
            "WHERE weight != before AND start_ms >= ? ORDER BY start_ms"
        )
        return list(self._db.execute(query, (account, since_ms)))

    def equity(self, market: Market, account: str) -> tuple[IntArray, FloatArray]:
        """Return what an account was worth at each close.

        Returns:
            (T,) open time of each bar that was stepped in the session; (T + 1,) equity, USDT, at the start and at each
            close.
        """
        query = "SELECT start_ms, close FROM candles WHERE market = ? AND origin != 'warm-up' ORDER BY start_ms"
        bars = np.array(self._db.execute(query, (market.slug,)).fetchall(), np.float64).reshape(-1, 2)
        query = "SELECT start_ms, cash, quantity FROM opens WHERE account = ? ORDER BY start_ms"
        capital = float(self.facts()["capital"][account])
        opens = [(-1, capital, 0.0), *self._db.execute(query, (account,)).fetchall()]
        at_ms, cash, quantity = np.array(opens, np.float64).T
        rows = np.searchsorted(at_ms, bars[:, 0] + market.interval_ms) - 1  # the last open before each close
        return bars[:, 0].astype(np.int64), np.append(capital, cash[rows] + quantity[rows] * bars[:, 1])

    def round_trips(self, account: str) -> int:
        """Return how many positions were closed or turned round."""
        query = (
            "SELECT count(*) FROM (SELECT weight, lag(weight, 1, 0) OVER (ORDER BY start_ms) AS before "
            "FROM opens WHERE account = ?) WHERE weight != before AND before != 0"
        )
        (count,) = self._db.execute(query, (account,)).fetchone()
        return int(count)

    def notes(self, kind: str | None = None) -> list[tuple[int, str, str, str]]:
        """Return time, market, kind and text of each note, oldest first: all, or those of one kind."""
        query = "SELECT at_ms, market, kind, said FROM notes WHERE ? IS NULL OR kind = ? ORDER BY id"
        return list(self._db.execute(query, (kind, kind)))


_CANDLE = "INSERT INTO candles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DECISION = "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OPEN = "INSERT INTO opens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ORDER = "INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_EXECUTION = "INSERT OR IGNORE INTO executions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_BOOKED = "UPDATE executions SET booked_ms = ? WHERE account = ? AND booked_ms IS NULL"
_NOTE = "INSERT INTO notes (at_ms, market, kind, said) VALUES (?, ?, ?, ?)"


def read_facts(db: sqlite3.Connection) -> dict[str, Any]:
    """Return the facts of an open journal."""
    return {name: json.loads(value) for name, value in db.execute("SELECT name, value FROM facts")}


def _known(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row for SQLite, which has no NaN and no infinity: both are NULL."""
    return tuple(None if isinstance(value, float) and not np.isfinite(value) else value for value in row)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _check_format(path: Path, found: int) -> None:
    if found != FORMAT:
        raise StoreError(
            f"the journal {path} must be of format {FORMAT}, was {found}; read it with the code that wrote it"
        )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as err:
        raise StoreError(f"the journal {path} can't be written ({err}); free space or set DSC_HOME") from err
