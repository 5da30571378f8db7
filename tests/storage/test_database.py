"""The DuckDB file among other processes, on bad disks, and damaged."""
# ruff: noqa: S603 - every process that is started runs a text of this file

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import duckdb
import numpy as np
import pytest

import storage.database
from storage.database import Database
from storage.schema import StoreBusyError, StoreError

HOLDER = """
import sys, duckdb
con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reading")
print("held", flush=True)
sys.stdin.readline()
"""


class Holder:
    """Another process that has the file open until told to let go."""

    def __init__(self, path, how):
        command = [sys.executable, "-c", HOLDER, str(path), how]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "held\n"

    def let_go(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def path(tmp_path):
    """A database with one run in it."""
    path = tmp_path / "market.duckdb"
    with Database(path).writing() as con:
        con.execute("insert into runs values ('r1', 'ingest', 'bybit', null, now(), null, 'running', '{}')")
    return path


@pytest.fixture
def hold(path):
    holders = []

    def start(how):
        holders.append(Holder(path, how))
        return holders[-1]

    yield start
    for holder in holders:
        holder.let_go()


def count_runs(database):
    with database.reading() as con:
        return con.execute("select count(*) from runs").fetchall()[0][0]


def test_reading_finds_empty_tables_and_makes_no_file_when_there_is_none(tmp_path):
    database = Database(tmp_path / "home" / "market.duckdb")
    assert count_runs(database) == 0
    assert not (tmp_path / "home").exists()


def test_writing_is_undone_when_the_block_raises(path):
    with contextlib.suppress(KeyError), Database(path).writing() as con:
        con.execute("delete from runs")
        raise KeyError
    assert count_runs(Database(path)) == 1


def files_of(folder):
    """Return what lies there, but for the locks between processes."""
    return [file for file in folder.iterdir() if file.suffix not in (".lock", ".queue")]


def test_file_is_created_with_nothing_left_beside_it(path):
    assert files_of(path.parent) == [path]


def test_file_made_by_another_process_meanwhile_is_kept(path):
    Database(path)._create()  # as if `path` had not been there a moment ago
    assert count_runs(Database(path)) == 1
    assert files_of(path.parent) == [path]


def test_anyone_may_open_the_file(path):
    with duckdb.connect(path, read_only=True) as con:
        tables = {name for (name,) in con.execute("show tables").fetchall()}
    assert tables == {"meta", "candles", "funding", "gaps", "rejected", "runs"}


@pytest.mark.parametrize("operation", ["reading", "writing"])
def test_busy_error_names_file_and_holder_when_another_process_writes(path, hold, operation):
    holder = hold("writing")
    text = rf"{path} is held by process {holder.process.pid}, waited 0\.05 s; close what holds it, then run again"
    with pytest.raises(StoreBusyError, match=text), getattr(Database(path, timeout_s=0.05), operation)():
        pass


def test_somebody_who_waits_is_told_for_whom(path, hold, monkeypatch, caplog):
    now = [0.0]  # passes only when someone sleeps

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr("storage.database._SAY_AFTER_S", 0.0)
    monkeypatch.setattr(storage.database, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    holder = hold("writing")
    with pytest.raises(StoreBusyError), Database(path, timeout_s=0.3).reading():
        pass
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is held by process {holder.process.pid}; waiting, 0.3 s at most"
    ]


def test_two_processes_read_at_once(path, hold):
    hold("reading")
    assert count_runs(Database(path, timeout_s=0.05)) == 1


def test_writer_waits_for_a_reader_and_goes_on_when_it_lets_go(path, hold, monkeypatch):
    holder, pauses = hold("reading"), []

    def pause(seconds):
        pauses.append(seconds)
        holder.let_go()

    monkeypatch.setattr(storage.database.time, "sleep", pause)
    with Database(path).writing() as con:
        con.execute("delete from runs")
    assert len(pauses) == 1
    assert 0.01 <= pauses[0] <= 0.06
    assert count_runs(Database(path)) == 0


def test_busy_error_speaks_of_this_process_when_it_holds_the_file_itself(path):
    with (
        duckdb.connect(path),
        pytest.raises(StoreBusyError, match=r"is held by another connection of this process, waited 0\.05 s"),
        Database(path, timeout_s=0.05).reading(),
    ):
        pass


@pytest.mark.parametrize(("held", "reads"), [(fcntl.LOCK_EX, False), (fcntl.LOCK_SH, True)])
def test_next_process_is_let_in_when_the_last_one_has_closed_the_file_altogether(path, held, reads):
    # DuckDB alone lets it in a moment too early, and then loses a commit; readers share their turn, a writer is alone.
    with path.with_name(".market.duckdb.lock").open("a") as lock:
        fcntl.flock(lock, held)
        busy = pytest.raises(
            StoreBusyError, match=r"is held by another process or thread of this project, waited 0\.05 s"
        )
        with busy, Database(path, timeout_s=0.05).writing():
            pass
        with contextlib.nullcontext() if reads else busy, Database(path, timeout_s=0.05).reading():
            pass
    assert count_runs(Database(path)) == 1


def test_nobody_overtakes_who_is_first_in_the_queue(path):
    with path.with_name(".market.duckdb.queue").open("a") as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)
        busy = pytest.raises(StoreBusyError, match="held by another process or thread of this project")
        with busy, Database(path, timeout_s=0.05).reading():
            pass


def test_threads_take_turns_also_under_another_name_of_the_file(path):
    (path.parent / "link.duckdb").symlink_to(path)
    caught = []

    def second():
        try:
            with Database(path.parent / "link.duckdb", timeout_s=0.05).writing():
                pass
        except StoreBusyError as err:
            caught.append(str(err))

    with Database(path).reading():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "is held by another process or thread of this project, waited 0.05 s" in caught[0]


def damage_header(data):
    return b"not a database" + data[14:]


def damage_block(data):
    return data[:12_288] + bytes(255 - byte for byte in data[12_288:])


def damage_length(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize("damage", [damage_header, damage_block, damage_length, lambda data: b""])
@pytest.mark.parametrize("operation", ["reading", "writing"])
def test_damaged_file_is_refused_with_a_way_out_and_left_as_it_is(path, damage, operation):
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    text = rf"{path}: the file is damaged; move it and its \.wal away and run ingest again \(.+\)"
    with pytest.raises(StoreError, match=text), getattr(Database(path), operation)() as con:
        con.execute("select count(*) from runs").fetchall()
    assert path.read_bytes() == damaged


def test_damage_anywhere_is_refused_or_was_to_nothing_that_is_stored(path):
    with Database(path).writing() as con:
        con.execute(
            "insert into funding select 'bybit', 'linear', 'X', make_timestamp_ms(i), hash(i) from range(50_000) r(i)"
        )
    with Database(path).reading() as con:
        before = con.execute("from funding order by stamp").fetchnumpy()["rate"]
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 65_536):
        path.write_bytes(whole[:place] + bytes(4_096) + whole[place + 4_096 :])
        try:
            with Database(path).reading() as con:
                assert np.array_equal(con.execute("from funding order by stamp").fetchnumpy()["rate"], before)
        except StoreError:
            refused += 1
    assert refused > 3


@pytest.mark.parametrize("wal", [b"", b"no log of any database" * 20])
def test_log_that_cannot_be_read_costs_what_is_in_it_alone(path, wal):
    path.with_name(path.name + ".wal").write_bytes(wal)
    with Database(path).writing() as con:
        assert con.execute("select count(*) from runs").fetchall() == [(1,)]


def test_newer_schema_is_refused(path):
    with duckdb.connect(path) as con:
        con.execute("update meta set value = '2' where name = 'schema_version'")
    text = r"schema version must be 1, was 2; update this program, or move the file away and run ingest again"
    with pytest.raises(StoreError, match=text), Database(path).writing():
        pass


def test_somebody_elses_database_is_refused(tmp_path):
    duckdb.connect(tmp_path / "theirs.duckdb").close()
    text = r"theirs\.duckdb must be a candle store, it is another DuckDB file \(no table meta\)"
    with pytest.raises(StoreError, match=text), Database(tmp_path / "theirs.duckdb").writing():
        pass


def test_mistake_in_a_statement_stays_what_it_is(path):
    with pytest.raises(duckdb.CatalogException, match="nowhere"), Database(path).reading() as con:
        con.execute("select * from nowhere")


@pytest.mark.parametrize("operation", ["reading", "writing"])
def test_folder_that_is_a_file_is_refused_by_name(tmp_path, operation):
    (tmp_path / "file").write_text("")
    database = Database(tmp_path / "file" / "market.duckdb")
    if operation == "reading":  # nothing is there, and nothing is what reading finds
        assert count_runs(database) == 0
    else:
        text = r"file/market\.duckdb: can't be opened; set DSC_HOME to a writable folder \(.*File exists.*\)"
        with pytest.raises(StoreError, match=text), database.writing():
            pass


FILL = """
import json, resource, sys
from pathlib import Path
import numpy as np
from storage.database import Database
from storage.schema import StoreError
database, kept, error = Database(Path(sys.argv[1])), 0, ""
with database.writing():
    pass
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
rng = np.random.default_rng(7)
try:
    for _ in range(40):
        with database.writing() as con:
            con.register("batch", {"stamp": np.arange(20_000), "rate": rng.random(20_000)})
            con.execute("insert into funding select 'bybit', 'linear', 'X', make_timestamp_ms(stamp), rate from batch")
        kept += 20_000
except StoreError as err:
    error = str(err)
with database.reading() as con:
    print(json.dumps([kept, con.execute("select count(*) from funding").fetchall()[0][0], error]))
"""
NAMESPACE = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]


def mountable() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode == 0
    except OSError:
        return False


needs_mount = pytest.mark.skipif(not mountable(), reason="this machine lets no test mount a small file system")


def test_full_disk_is_reported_and_what_was_stored_stays(tmp_path):
    path = tmp_path / "market.duckdb"
    command = [sys.executable, "-c", FILL, str(path), "2000000"]
    kept, stored, error = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert f"{path}: the disk is full, nothing of this step was stored; free space and run again (" in error
    assert stored == kept > 0
    with Database(path).writing() as con:  # with space again, the same file goes on
        assert con.execute("select count(*) from funding").fetchall() == [(kept,)]


@needs_mount
def test_full_file_system_is_reported_and_what_was_stored_stays(tmp_path):
    path = tmp_path / "market.duckdb"
    script = f'mount -t tmpfs -o size=2m tmpfs {tmp_path} && "$0" -c "$1" {path}'
    out = subprocess.run([*NAMESPACE, script, sys.executable, FILL], check=True, capture_output=True).stdout
    kept, stored, error = json.loads(out)
    assert "the disk is full, nothing of this step was stored; free space and run again (" in error
    assert "No space left on device" in error
    assert stored == kept > 0


@pytest.mark.parametrize(("call", "code"), [("os.link", errno.EPERM), ("fcntl.flock", errno.ENOLCK)])
def test_disk_without_hard_links_or_locks_is_named(tmp_path, monkeypatch, call, code):
    error = OSError(code, os.strerror(code))
    monkeypatch.setattr(call, lambda *asked: (_ for _ in ()).throw(error))
    said = rf"market.duckdb: its disk knows no locks or no hard links; set DSC_HOME to one that does .*{error.strerror}"
    with pytest.raises(StoreError, match=said), Database(tmp_path / "market.duckdb").writing():
        pytest.fail("it was written")
    assert list(tmp_path.glob(".market.duckdb-*")) == []  # no half-made one


READ_ONLY = """
import sys
from pathlib import Path
from storage.database import Database
from storage.schema import StoreError
for name in ("there", "new"):
    database = Database(Path(sys.argv[1]) / f"{name}.duckdb")
    with database.reading() as con:
        print(con.execute("select count(*) from runs").fetchall())
    try:
        with database.writing():
            print("written")
    except StoreError as err:
        print(err)
"""


@needs_mount
def test_read_only_home_is_read_and_refused_for_writing(path):
    home = path.parent
    path.rename(home / "there.duckdb")
    script = f'mount --bind {home} {home} && mount -o remount,bind,ro {home} && "$0" -c "$1" {home}'
    out = subprocess.run([*NAMESPACE, script, sys.executable, READ_ONLY], check=True, capture_output=True, text=True)
    lines = out.stdout.splitlines()
    assert (lines[0], lines[2]) == ("[(1,)]", "[(0,)]")
    for line, name in ((lines[1], "there"), (lines[3], "new")):
        assert line.startswith(f"{home}/{name}.duckdb: can't be opened; set DSC_HOME to a writable folder (")
        assert "Read-only file system" in line


def test_nothing_of_a_key_repeats_when_two_processes_create_and_write_at_once(tmp_path):
    path = tmp_path / "home" / "market.duckdb"
    script = """
import sys
from pathlib import Path
from storage.database import Database
for i in range(15):
    with Database(Path(sys.argv[1])).writing() as con:
        (row,) = con.execute("select count(*) from runs").fetchall()
        con.execute("insert into runs values ($1, 'k', 'bybit', null, now(), null, 's', '{}')", [str(row[0])])
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    with Database(path).reading() as con:
        ids = con.execute("select run_id from runs").fetchnumpy()["run_id"]
    assert sorted(ids.astype(int)) == np.arange(30).tolist()


@pytest.mark.promise(19)
@pytest.mark.parametrize(
    ("forgery", "message"),
    [
        (
            "drop table candles; create view candles as select * from read_csv('/etc/passwd')",
            "table candles must have category varchar, it has not; move the file away and run ingest again",
        ),
        (
            "drop table meta; create view meta as select i as name, '1' as value from range(1000000000000) t(i)",
            r"another DuckDB file \(no table meta\)",
        ),
        ("alter table funding alter rate type varchar", "table funding must have rate double, it has not"),
    ],
)
def test_view_or_other_table_under_the_name_of_ours_is_refused_before_it_is_asked(path, forgery, message):
    with duckdb.connect(path) as con:
        con.execute(forgery)
    with pytest.raises(StoreError, match=message), Database(path).reading():
        pass


@pytest.mark.promise(19)
def test_no_statement_reads_another_file(path):
    with pytest.raises(StoreError, match="Permission Error"), Database(path).reading() as con:
        con.execute("select * from read_csv('/etc/passwd')")


@pytest.mark.promise(19)
def test_file_that_somebody_else_has_changed_is_looked_at_again(path):
    with Database(path).reading():
        pass
    with duckdb.connect(path) as con:
        con.execute("alter table candles drop turnover")
    with pytest.raises(StoreError, match="table candles must have turnover double"), Database(path).writing():
        pass
