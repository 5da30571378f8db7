"""Reads the journal of a session, also while the session writes it; `journal.py` describes its tables."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np

from storage.schema import CANDLE_COLUMNS, Candles, FloatArray, IntArray, Market, StoreError
from tasks.execution.orders import Execution, Leg, Order, Status
from tasks.execution.paper import Fill, Ledger, Opened, Quote
from tasks.journal.journal_rows import BarOpen, BookedExecution, Decision

FORMAT = 2

_ALL = -1  # as a LIMIT of SQLite
_PRICES = ("open", "high", "low", "close")
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _read(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a method raise StoreError if the data that it reads is malformed."""

    @wraps(method)
    def reading(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(*args, **kwargs)
        except (sqlite3.Error, LookupError, ValueError, TypeError, ArithmeticError) as err:
            said = f"the journal is damaged ({method.__name__}: {type(err).__name__}: {err}); start another session"
            raise StoreError(said) from err

    return reading


class JournalReader:
    """Reads a journal, also while a session writes it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @classmethod
    @contextmanager
    def of(cls, path: Path) -> Iterator[Self]:
        """Open a journal for reading while the block runs; all reads see the state at the first one.

        Raises:
            StoreError: It does not exist, is damaged, or is of another format.
        """
        try:
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        except sqlite3.Error as err:
            raise StoreError(f"the journal {path} can't be read ({err})") from err
        try:
            db.execute("BEGIN")  # all reads see one state
            (found,) = db.execute("PRAGMA user_version").fetchone()
            check_format(path, found)
            yield cls(db)
        except sqlite3.DatabaseError as err:
            raise StoreError(f"the journal {path} can't be read ({err})") from err
        finally:
            db.close()

    @_read
    def facts(self) -> dict[str, Any]:
        """Return the session's settings, and its summary if it has ended."""
        return {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM facts")}

    @_read
    def told_ms(self, account: str) -> int | None:
        """Return until when the exchange has told all that it booked for an account; None where nobody knows."""
        found = self._db.execute("SELECT value FROM facts WHERE name = ?", (f"told_ms {account}",)).fetchone()
        return int(json.loads(found[0])) if found else None

    @_read
    def markets(self) -> list[str]:
        """Return the slugs of the markets that have candles."""
        return [slug for (slug,) in self._db.execute("SELECT DISTINCT market FROM candles ORDER BY market")]

    @_read
    def orders(self, account: str) -> list[tuple[int, Order]]:
        """Return every order of an account with the open time of its bar, in the order in which they were sent."""
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

    @_read
    def stop_share(self, account: str) -> float | None:
        """Return how far from the price the stop of the last order to open lies, share of the price; None: not told.

        An older journal does not tell it.
        """
        query = (
            "SELECT share FROM orders LEFT JOIN stops USING (link_id) WHERE account = ? AND NOT reduces "
            "ORDER BY start_ms DESC, orders.rowid DESC LIMIT 1"
        )
        (share,) = self._db.execute(query, (account,)).fetchone() or (None,)
        return None if share is None else float(share)

    @_read
    def executions(self, account: str) -> list[BookedExecution]:
        """Return the exchange's bookings for an account, oldest first."""
        query = (
            "SELECT kind, link_id, side, time_ms, exec_id, quantity, price, fee, booked_ms FROM executions "
            "WHERE account = ? ORDER BY time_ms, rowid"
        )
        return [
            BookedExecution(kind, link_id, side, time_ms, Execution(exec_id, *map(Decimal, numbers)), booked_ms)
            for kind, link_id, side, time_ms, exec_id, *numbers, booked_ms in self._db.execute(query, (account,))
        ]

    @_read
    def has_execution(self, account: str, exec_id: str) -> bool:
        """Return whether a booking of the exchange's for an account is there."""
        query = "SELECT 1 FROM executions WHERE exec_id = ? AND account = ?"
        return self._db.execute(query, (exec_id, account)).fetchone() is not None

    @_read
    def unsealed(self, account: str) -> list[str]:
        """Return the ids of executions that were changed after they were written; empty for a journal without seals."""
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'seals'").fetchone():
            return []
        query = "SELECT executions.*, seal FROM executions LEFT JOIN seals USING (exec_id) WHERE account = ?"
        return [row[0] for *row, _, seal in self._db.execute(query, (account,)) if seal_of(tuple(row)) != seal]

    @_read
    def takeovers(self, market: str) -> list[tuple[int, str, FloatArray]]:
        """Return the first bar (open time), the version and the account rules of each takeover, oldest first."""
        query = "SELECT start_ms, version, rules FROM takeovers WHERE market = ? ORDER BY start_ms"
        found = self._db.execute(query, (market,))
        return [(start_ms, version, np.array(json.loads(rules), np.float64)) for start_ms, version, rules in found]

    @_read
    def versions(self) -> set[str]:
        """Return the names of the versions that have decided, shadows included."""
        query = "SELECT version FROM takeovers UNION SELECT version FROM decisions"
        return {name for (name,) in self._db.execute(query) if name}

    @_read
    def candles(self, market: str, last: int = _ALL) -> tuple[Candles, list[str]]:
        """Return the candles, oldest first, and the origin of each: all, or the `last` ones."""
        query = "SELECT * FROM candles WHERE market = ? ORDER BY start_ms DESC LIMIT ?"
        rows = self._db.execute(query, (market, last)).fetchall()[::-1]
        _, starts, *numbers, origins = list(zip(*rows, strict=True)) or [()] * 9
        columns = {name: np.array(column, np.float64) for name, column in zip(CANDLE_COLUMNS, numbers, strict=True)}
        if not all((columns[name] > 0).all() for name in _PRICES):
            raise ValueError("a price must be > 0")
        return Candles(start_ms=np.array(starts, np.int64), **columns), list(origins)

    @_read
    def accounts(self) -> list[str]:
        """Return the names of every account that has decided."""
        return [name for (name,) in self._db.execute("SELECT DISTINCT account FROM decisions ORDER BY account")]

    @_read
    def decided(self, account: str) -> int:
        """Return the number of decisions of an account."""
        (count,) = self._db.execute("SELECT count(*) FROM decisions WHERE account = ?", (account,)).fetchone()
        return int(count)

    @_read
    def decisions(self, account: str, last: int = _ALL) -> list[Decision]:
        """Return the decisions, oldest first: all, or the `last` ones."""
        query = "SELECT * FROM decisions WHERE account = ? ORDER BY start_ms DESC LIMIT ?"
        found = [
            Decision(start_ms, version, np.frombuffer(values), *rest[:6], *map(_number, rest[6:]))
            for _, start_ms, version, values, *rest in self._db.execute(query, (account, last))
        ]
        return found[::-1]

    @_read
    def opens(self, account: str, last: int = _ALL) -> list[BarOpen]:
        """Return what the account did at each open, oldest first: all, or the `last` ones."""
        query = "SELECT * FROM opens WHERE account = ? ORDER BY start_ms DESC LIMIT ?"
        found = []
        for row in self._db.execute(query, (account, last)):
            _, start_ms, wanted, cause, first, bid, ask, rate, late_ms, funding, *rest = row
            quote = Quote(_number(first), np.inf if bid is None else bid, ask)
            fill = None if rest[0] is None else Fill(*rest[:4])
            opened = Opened(Ledger(*rest[4:]), fill, funding)
            found.append(BarOpen(start_ms, wanted, cause, quote, rate, _number(late_ms), opened))
        return found[::-1]

    @_read
    def fills(self, account: str, last: int = _ALL) -> list[tuple[int, float, Fill]]:
        """Return open time, first price and fill of each trade, oldest first: of all, or of the `last` ones."""
        query = (
            "SELECT start_ms, first, change, price, fee, slippage FROM opens WHERE account = ? AND change IS NOT NULL "
            "ORDER BY start_ms DESC LIMIT ?"
        )
        found = self._db.execute(query, (account, last))
        return [(start_ms, first, Fill(*fill)) for start_ms, first, *fill in found][::-1]

    @_read
    def turns(self, account: str, since_ms: int) -> list[tuple[int, float, int]]:
        """Return open time, price and new side of each change of the position since `since_ms`."""
        query = (
            "SELECT start_ms, coalesce(price, first), weight FROM "
            "(SELECT *, lag(weight, 1, 0) OVER (ORDER BY start_ms) AS before FROM opens WHERE account = ?) "
            "WHERE weight != before AND start_ms >= ? ORDER BY start_ms"
        )
        return list(self._db.execute(query, (account, since_ms)))

    @_read
    def equity(self, market: Market, account: str) -> tuple[IntArray, FloatArray]:
        """Return an account's equity at each close.

        Returns:
            (T,) open time of each bar of the session, without the warm-up; (T + 1,) equity, USDT, at the start and at
            each close.
        """
        query = "SELECT start_ms, close FROM candles WHERE market = ? AND origin != 'warm-up' ORDER BY start_ms"
        bars = np.array(self._db.execute(query, (market.slug,)).fetchall(), np.float64).reshape(-1, 2)
        query = "SELECT start_ms, cash, quantity FROM opens WHERE account = ? ORDER BY start_ms"
        capital = float(self.facts()["capital"][account])
        opens = [(-1, capital, 0.0), *self._db.execute(query, (account,)).fetchall()]
        at_ms, cash, quantity = np.array(opens, np.float64).T
        rows = np.searchsorted(at_ms, bars[:, 0] + market.interval_ms) - 1  # the last open before each close
        return bars[:, 0].astype(np.int64), np.append(capital, cash[rows] + quantity[rows] * bars[:, 1])

    @_read
    def round_trips(self, account: str) -> int:
        """Return how many positions were closed or flipped."""
        query = (
            "SELECT count(*) FROM (SELECT weight, lag(weight, 1, 0) OVER (ORDER BY start_ms) AS before "
            "FROM opens WHERE account = ?) WHERE weight != before AND before != 0"
        )
        (count,) = self._db.execute(query, (account,)).fetchone()
        return int(count)

    @_read
    def notes(self, kind: str | None = None) -> list[tuple[int, str, str, str]]:
        """Return time, market, kind and text of each note, oldest first: all, or those of one kind."""
        query = "SELECT at_ms, market, kind, said FROM notes WHERE ? IS NULL OR kind = ? ORDER BY id"
        return list(self._db.execute(query, (kind, kind)))


def seal_of(execution: tuple[Any, ...]) -> str:
    """Return the digest of a row of executions without its last column, `booked_ms`."""
    return hashlib.sha256(json.dumps(execution).encode()).hexdigest()[:16]


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def check_format(path: Path, found: int) -> None:
    """Raise StoreError unless a journal is of the present format."""
    if found != FORMAT:
        raise StoreError(
            f"the journal {path} must be of format {FORMAT}, was {found}; read it with the code that wrote it"
        )
