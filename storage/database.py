"""The DuckDB file: made whole, opened briefly, waited for a bounded time.

DuckDB lets one process write, or several read, and refuses whoever comes second at once. So every operation opens its
own connection, keeps it for milliseconds, and waits its turn. Anyone may open the file with their own tools; while they
hold it, this project waits, then says who holds it.

Processes and threads of this project take turns by locks of their own as well, `.<name>.lock` and `.queue` beside the
file. DuckDB 2.0.0 lets the next process in before the last one has closed the file altogether: of some hundred turns
between busy processes, one opened the file as it was before the other's commit, and its own commit then replaced that
one, without an error. And it lets two connections of one process merge the same new key at once, and stores both rows.
"""

from __future__ import annotations

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

# No primary key: its index costs 2.6 times the file and three times the load time. Whoever writes keeps keys unique.
# Times are UTC in plain TIMESTAMP; a TIMESTAMPTZ would be read in the time zone of whichever machine opens the file.
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
_LOOKED_AT: dict[Path, tuple[int, ...] | None] = {}  # files as this process left them: to look costs half a turn

_SAY_AFTER_S = 3.0  # of waiting: turns are milliseconds, so somebody has opened the file and gone to lunch
_LONG_TURN_S = 1.0  # the longest wait for turns of this project that is not worth a line
_RETRY_S = (0.01, 0.06)  # random, so that two waiting processes do not stay in step
_TURN_S = (0.002, 0.01)  # asking the kernel for a lock costs a microsecond, trying to open the file a millisecond
_HOLDER_PID = re.compile(r"PID ([0-9]+)")
_MISTAKES = (duckdb.ProgrammingError, duckdb.IntegrityError, duckdb.DataError, duckdb.NotSupportedError)
_ADVICE = (  # signs in the cause, what they mean, the way out
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
    """One DuckDB file, opened anew for every operation.

    Args:
        path: The file; made on first writing, with its folder.
        timeout_s: How long to wait for others to let go of the file, seconds.
    """

    def __init__(self, path: Path, timeout_s: float = 60.0) -> None:
        self.path = path
        self.timeout_s = timeout_s

    @contextlib.contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection that sees one committed state; a file that does not exist yet reads as empty tables.

        Raises:
            StoreBusyError: Another process held the file for `timeout_s`.
            StoreError: The file is corrupt, unreadable, not ours, or of a newer schema.
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
        """Yield a connection in a transaction: committed at the end of the block, undone by any exception or kill.

        Raises:
            StoreBusyError: Another process held the file for `timeout_s`.
            StoreError: As in `reading`; or the folder is not writable, or the disk is full.
        """
        with self.writer() as con, transaction(con):
            yield con

    @contextlib.contextmanager
    def writer(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection for several transactions in a row: opening and closing the file costs as much as two.

        Everybody else waits meanwhile, so nothing slow may happen inside. Raises what `writing` raises.
        """
        if not self._exists():
            self._create()
        with self._connected(read_only=False) as con:
            yield con

    def _exists(self) -> bool:
        try:
            return self.path.exists()
        except OSError as err:  # a folder on the way may not be entered: that is not the same as "not there"
            raise self._error(str(err)) from err

    def _create(self) -> None:
        """Make the file under another name and link it into place: a kill leaves no half-made database behind."""
        draft = self.path.with_name(f".{self.path.name}-{uuid4().hex}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._explained(), contextlib.closing(duckdb.connect(draft)) as con:
                con.execute(_TABLES)
            with contextlib.suppress(FileExistsError):  # another process made it first, and may have written already
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
        """Hold the lock among processes and threads until the file is closed: readers share it, a writer is alone."""
        path = self.path.resolve()
        with contextlib.ExitStack() as files:
            try:
                queue, lock = (
                    files.enter_context(path.with_name(f".{path.name}.{name}").open("a")) for name in ("queue", "lock")
                )
            except OSError:  # nobody writes in a folder that takes no file
                yield
                return
            began = time.monotonic()
            # Whoever is first in the queue waits for the file alone, so that a busy process cannot come back before it,
            # nor a stream of readers keep a writer out.
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
                # No statement of ours reads another file, nor may one that somebody put into this one.
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
        """Refuse a file in which one of our tables is missing, another one, or a view, which may be endless."""
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
        """Turn DuckDB's own trouble into a StoreError with a way out; mistakes in a statement stay what they are."""
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
    """Commit at the end of the block; after an exception, closing the connection undoes what was done."""
    con.begin()
    yield
    con.commit()


def _holder(err: duckdb.Error) -> str | None:
    """Return who has the file open; None where `err` is about something else."""
    if "different configuration" in str(err):  # a connection of this process that the store did not open
        return "another connection of this process"
    if "Could not set lock on file" not in str(err):
        return None
    pid = _HOLDER_PID.search(str(err))
    return f"process {pid[1]}" if pid else "another process"
