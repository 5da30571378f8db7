"""The DuckDB file: created atomically, opened briefly, with a bounded wait for other processes.

DuckDB allows one writing process or several reading ones, and refuses others immediately. So every operation opens its
own connection, keeps it for milliseconds, and waits for its turn. Users may open the file with their own tools; while
they hold it, this project waits, and after `timeout_s` raises an error that names the process.

Processes and threads of this project also take turns by lock files of their own, `.<name>.lock` and `.<name>.queue`
beside the database. DuckDB 2.0.0 admits the next process before the previous one has closed the file completely: about
once in a hundred turns of busy processes, one opened the file in its state before the other's commit, and its own
commit then silently replaced that one. It also lets two connections of one process merge the same new key at the same
time, and stores both rows.
"""

import contextlib
import fcntl
import logging
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from uuid import uuid4

import duckdb

from storage.schema import StoreBusyError, StoreError, one_line

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1

# No primary key: its index makes the file 2.6 times as large and loading three times as slow. The writers keep keys
# unique. Times are UTC in plain TIMESTAMP; a TIMESTAMPTZ would be read in the time zone of the machine that opens it.
_MARKET = "source varchar not null, category varchar not null, symbol varchar not null"
_TABLES = f"""
    create table meta (name varchar not null, value varchar not null);
    insert into meta values ('schema_version', '{SCHEMA_VERSION}');
    create table candles (
        {_MARKET}, interval varchar not null, start_time timestamp not null,
        open double not null, high double not null, low double not null, close double not null,
        volume double not null, turnover double
    );
    create table funding ({_MARKET}, stamp timestamp not null, rate double not null);
    create table gaps ({_MARKET}, interval varchar not null, start_time timestamp not null, reason varchar not null);
    create table rejected (
        {_MARKET}, interval varchar not null, start_time timestamp,
        raw varchar not null, reason varchar not null, seen_at timestamp not null
    );
    create table runs (
        run_id varchar not null, kind varchar not null, source varchar not null, market varchar,
        started_at timestamp not null, ended_at timestamp, status varchar not null, detail varchar not null
    );
"""  # noqa: S608 - built from the constants above

_COLUMNS = {
    (table, *column.upper().split()[:2])
    for table, columns in re.findall(r"create table (\w+) \((.*?)\)", _TABLES, re.DOTALL)
    for column in columns.split(",")
}
_COLUMNS_OF_TABLES = """
    select t.table_name, upper(column_name), data_type from duckdb_columns() join duckdb_tables() t using (table_oid)
"""
_LOOKED_AT: dict[Path, tuple[int, ...] | None] = {}  # state of files already checked: a check takes half a turn's time

_SAY_AFTER_S = 3.0  # wait before a warning: turns take milliseconds, so another tool probably keeps the file open
_LONG_TURN_S = 1.0  # longest wait for turns of this project that is not logged
_RETRY_S = (0.01, 0.06)  # random, so that two waiting processes do not stay in step
_TURN_S = (0.002, 0.01)  # requesting a lock costs a microsecond, trying to open the file a millisecond
_HOLDER_PID = re.compile(r"PID ([0-9]+)")
_MISTAKES = (duckdb.ProgrammingError, duckdb.IntegrityError, duckdb.DataError, duckdb.NotSupportedError)
_ADVICE = (  # texts to look for in the cause; what they mean and what to do
    (
        ("No space left", "File too large", "Disk quota exceeded"),
        "the disk is full, nothing of this step was stored; free space and run again",
    ),
    (
        (
            "Permission denied",
            "Read-only file system",
            "Not a directory",
            "Is a directory",
            "No such file",
            "File exists",
        ),
        "can't be opened; set DSC_HOME to a writable folder",
    ),
    (
        ("No locks available", "not supported", "not implemented", "Operation not permitted"),
        "its disk knows no locks or no hard links; set DSC_HOME to one that does",
    ),
    (
        ("orrupt", "not a valid DuckDB database", "Could not read enough bytes", "Failure while replaying WAL"),
        "the file is damaged; move it and its .wal away and run ingest again",
    ),
)


class Database:
    """One DuckDB file, opened anew for every operation; the first write creates it, with its folder.

    Other processes get up to `timeout_s` seconds to close it.
    """

    def __init__(self, path: Path, timeout_s: float = 60.0) -> None:
        self.path = path
        self.timeout_s = timeout_s

    @contextlib.contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection that sees one committed state; a file that does not exist yet reads as empty tables.

        Raises:
            StoreBusyError: Another process held the file for `timeout_s`.
            StoreError: The file is corrupt, unreadable, not a candle store, or of another schema version.
        """
        if self._exists():
            with self._connected(read_only=True) as con:
                yield con
        else:
            with contextlib.closing(duckdb.connect(":memory:")) as con:
                con.execute(_TABLES)
                yield con

    @contextlib.contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection in a transaction: committed at the end of the block, rolled back by any exception or kill.

        Raises:
            StoreBusyError: Another process held the file for `timeout_s`.
            StoreError: As in `reading`; or the folder is not writable, or the disk is full.
        """
        with self.writer() as con, transaction(con):
            yield con

    @contextlib.contextmanager
    def writer(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection for several transactions: opening and closing the file takes as long as two of them.

        All other processes wait meanwhile, so nothing slow may happen inside. Raises what `writing` raises.
        """
        if not self._exists():
            self._create()
        with self._connected(read_only=False) as con:
            yield con

    def _exists(self) -> bool:
        try:
            return self.path.exists()
        except OSError as err:  # a folder on the path may not be entered; that does not mean that the file is missing
            raise self._error(str(err)) from err

    def _create(self) -> None:
        """Create the file under another name and link it into place, so that a kill leaves no unfinished database."""
        draft = self.path.with_name(f".{self.path.name}-{uuid4().hex}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._explained(), contextlib.closing(duckdb.connect(draft)) as con:
                con.execute(_TABLES)
            with contextlib.suppress(FileExistsError):  # another process created it first
                os.link(draft, self.path)
        except OSError as err:
            raise self._error(str(err)) from err
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()

    @contextlib.contextmanager
    def _connected(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        deadline = time.monotonic() + self.timeout_s
        with self._turn(read_only, deadline), self._explained():
            with contextlib.closing(self._connect(read_only, deadline)) as con:
                self._check_tables(con)
                yield con
            _LOOKED_AT[self.path] = self._as_it_is()

    @contextlib.contextmanager
    def _turn(self, read_only: bool, deadline: float) -> Iterator[None]:
        """Hold the lock until the file is closed: readers share it, a writer holds it exclusively."""
        path = self.path.resolve()
        with contextlib.ExitStack() as files:
            try:
                queue, lock = (
                    files.enter_context(path.with_name(f".{path.name}.{name}").open("a")) for name in ("queue", "lock")
                )
            except OSError:  # the folder is read-only, so nobody writes there
                yield
                return
            began = time.monotonic()
            # Only the first in the queue waits for the lock itself, so that neither a busy process nor a stream of
            # readers can overtake a waiting writer.
            self._take(queue, fcntl.LOCK_EX, deadline)
            self._take(lock, fcntl.LOCK_SH if read_only else fcntl.LOCK_EX, deadline)
            fcntl.flock(queue, fcntl.LOCK_UN)
            if (waited_s := time.monotonic() - began) > _LONG_TURN_S:
                log.warning("waited %.1f s for %s, behind others of this project", waited_s, self.path.name)
            yield

    def _take(self, file: IO[str], how: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise self._busy("another process or thread of this project") from None
                time.sleep(random.uniform(*_TURN_S))
            except OSError as err:
                raise self._error(str(err)) from err
            else:
                return

    def _connect(self, read_only: bool, deadline: float) -> duckdb.DuckDBPyConnection:
        say_at = time.monotonic() + _SAY_AFTER_S
        while True:
            try:
                # Our statements read no other file, and a view that somebody put into this file must not either.
                return duckdb.connect(self.path, read_only=read_only, config={"enable_external_access": "false"})
            except (duckdb.IOException, duckdb.ConnectionException) as err:
                holder = _holder(err)
                if holder is None:
                    raise
                if time.monotonic() > deadline:
                    raise self._busy(holder) from err
                if time.monotonic() > say_at:
                    log.warning("%s is held by %s; waiting, %g s at most", self.path, holder, self.timeout_s)
                    say_at = deadline
            time.sleep(random.uniform(*_RETRY_S))

    def _check_tables(self, con: duckdb.DuckDBPyConnection) -> None:
        """Refuse a file in which one of our tables is missing, has other columns, or is a view."""
        found = self._as_it_is()
        is_known = found is not None and found == _LOOKED_AT.get(self.path)
        lacking = set() if is_known else _COLUMNS - set(con.execute(_COLUMNS_OF_TABLES).fetchall())
        if any(table == "meta" for table, _, _ in lacking):
            raise StoreError(f"{self.path} must be a candle store, it is another DuckDB file (no table meta)")
        rows = con.execute("select value from meta where name = 'schema_version'").fetchall()
        version = one_line(rows[0][0]) if rows else "none"
        if version != str(SCHEMA_VERSION):
            raise StoreError(
                f"{self.path}: schema version must be {SCHEMA_VERSION}, was {version}; "
                "update this program, or move the file away and run ingest again"
            )
        if lacking:
            table, column, kind = min(lacking)
            raise StoreError(
                f"{self.path}: table {table} must have {column.lower()} {kind.lower()}, it has not; move the file away "
                "and run ingest again"
            )

    def _as_it_is(self) -> tuple[int, ...] | None:
        with contextlib.suppress(OSError):
            found = self.path.stat()
            return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        return None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn DuckDB's operational errors into a StoreError that says what to do; errors in statements pass."""
        try:
            yield
        except _MISTAKES:
            raise
        except duckdb.Error as err:
            raise self._error(one_line(err, 400)) from err

    def _error(self, cause: str) -> StoreError:
        advice = (text for signs, text in _ADVICE if any(sign in cause for sign in signs))
        return StoreError(f"{self.path}: {next(advice, 'DuckDB failed')} ({cause})")

    def _busy(self, holder: str) -> StoreBusyError:
        return StoreBusyError(
            f"{self.path} is held by {holder}, waited {self.timeout_s:g} s; close what holds it, then run again"
        )


@contextlib.contextmanager
def transaction(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commit at the end of the block; after an exception, closing the connection rolls back."""
    con.begin()
    yield
    con.commit()


def _holder(err: duckdb.Error) -> str | None:
    """Return which process has the file open; None if `err` has another cause."""
    if "different configuration" in str(err):  # a connection of this process that the store did not open
        return "another connection of this process"
    if "Could not set lock on file" not in str(err):
        return None
    pid = _HOLDER_PID.search(str(err))
    return f"process {pid[1]}" if pid else "another process"
