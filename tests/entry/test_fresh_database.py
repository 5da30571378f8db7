"""A server in a fresh home begins with the database that the installation has kept."""

import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.entry import fresh_database, operation, server
from flows.entry.first_start import import_modules
from flows.entry.fresh_database import give_database, keep_database
from flows.entry.operation import Operation


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """A database whose only row still stands in its log, kept while a server has it open."""
    folder, kept = tmp_path / "installed", tmp_path / "share" / "prefect.db"
    folder.mkdir()
    monkeypatch.setattr(fresh_database, "KEPT", kept)
    with closing(sqlite3.connect(folder / "prefect.db")) as database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table migrated (version)")
        database.execute("insert into migrated values ('newest')")
        database.commit()
        keep_database(folder)
    return kept


@pytest.fixture
def folder(tmp_path) -> Path:
    """A PREFECT_HOME without a database."""
    made = tmp_path / "prefect"
    made.mkdir()
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_kept_is_whole_and_given_to_a_home_without_a_database(kept, folder):
    give_database({"PREFECT_HOME": str(folder)})
    assert list(contents(folder)) == ["prefect.db"]
    with closing(sqlite3.connect(folder / "prefect.db")) as database:
        assert database.execute("select version from migrated").fetchall() == [("newest",)]
    assert list(contents(kept.parent)) == ["prefect.db"]


@pytest.mark.parametrize("name", ["prefect.db", "prefect.db-wal"])
def test_database_that_is_there_or_has_left_its_log_is_left_alone(kept, folder, name):
    (folder / name).write_bytes(b"of a home in use")
    give_database({"PREFECT_HOME": str(folder)})
    assert contents(folder) == {name: b"of a home in use"}


@pytest.mark.parametrize("name", ["PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL"])
def test_server_with_a_database_elsewhere_is_given_none(kept, folder, name):
    give_database({"PREFECT_HOME": str(folder), name: "postgresql+asyncpg://127.0.0.1/prefect"})
    assert contents(folder) == {}


def test_server_makes_its_own_where_nothing_was_kept(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(fresh_database, "KEPT", tmp_path / "nothing")
    give_database({"PREFECT_HOME": str(folder)})
    assert contents(folder) == {}


@pytest.mark.parametrize(
    "start", [lambda home: server.server_at_hand(home).__enter__(), lambda home: Operation(port=0).start_server()]
)
def test_temporary_server_and_operation_start_with_what_was_kept(kept, home, monkeypatch, start):
    def started(listening, environment, log):
        raise InterruptedError(*contents(Path(environment["PREFECT_HOME"])))

    (home / "prefect").mkdir(parents=True)
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    for module in (server, operation):
        monkeypatch.setattr(module, "start_server", started)
    nowhere = temporary_settings(restore_defaults={PREFECT_API_URL})  # though other tests here have a server
    with nowhere, pytest.raises(InterruptedError, match=r"^prefect\.db$"):
        start(home)


def test_libraries_are_imported_while_the_server_of_a_run_starts(home, tmp_path, monkeypatch):
    (tmp_path / "imported_late.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imported_late", raising=False)  # by this test before, in the same process
    monkeypatch.setattr(server, "start_server", lambda *given: order.append("imported_late" in sys.modules))
    monkeypatch.setattr(server, "wait_until_up", lambda *given: order.append("imported_late" in sys.modules))
    monkeypatch.setattr(server, "end_family", lambda *given: None)
    monkeypatch.setenv("PREFECT_HOME", str(home))
    order = []
    with temporary_settings(restore_defaults={PREFECT_API_URL}), server.server_at_hand(home, ["imported_late"]):
        assert order == [False, True]


def test_flows_load_no_library_that_is_imported_late():
    deployed = "ingest, retrain, pipeline, rollback, trade, monitor, evaluate"
    script = f"import sys; from flows import {deployed}; print(sys.modules.keys() & pipeline.LIBRARIES)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603
    assert found.stdout == "set()\n"


def test_installation_keeps_what_its_server_made(folder, tmp_path, monkeypatch):
    @contextmanager
    def served(home, libraries):
        with closing(sqlite3.connect(folder / "prefect.db")) as database:
            yield database.execute("create table migrated (version)")

    monkeypatch.setenv("DSC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_HOME", str(folder))
    monkeypatch.setattr(server, "server_at_hand", served)
    monkeypatch.setattr(fresh_database, "KEPT", tmp_path / "kept")
    import_modules()
    with closing(sqlite3.connect(tmp_path / "kept")) as database:
        assert database.execute("select name from sqlite_master").fetchall() == [("migrated",)]
