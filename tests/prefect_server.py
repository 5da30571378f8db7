"""The Prefect server of the tests of flows: one for all processes of a run, whose start and upkeep cost the most."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import certifi
import pytest
from prefect.context import _temporary_global_settings_context, get_settings_context
from prefect.events.worker import EventsWorker
from prefect.settings import (
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_LOGGING_TO_API_ENABLED,
    get_current_settings,
    temporary_settings,
)

from flows.entry.fresh_database import give_database

_AUTHORITY = "authority.pem"


@contextmanager
def started(folder: Path) -> Iterator[None]:
    """Run flows against a server that this process starts and stops, its database in `folder`."""
    from prefect.testing import utilities  # with the whole server: who shares one does without

    give_database({"PREFECT_HOME": str(folder)})  # which no test is about, and each server would make anew
    with suppress(FileNotFoundError):
        (folder / "prefect.db").rename(folder / "prefect-test.db")
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    (folder / _AUTHORITY).write_text(first + end)
    # As `prefect server start --no-services` has it: no test asks this server for a schedule, an event or a task's run,
    # and it would work four times as long.
    without_services = "PREFECT__SERVER_WEBSERVER_ONLY"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilities, "mkdtemp", lambda: str(folder))
        patch.setenv(without_services, "1")
        with utilities.prefect_test_harness(server_startup_timeout=300), temporary_settings(_of_clients(folder)):
            patch.delenv(without_services)  # of this server alone
            yield


@contextmanager
def shared(folder: Path, results: Path) -> Iterator[None]:
    """Run flows against the one server of all processes that share `folder`, with results of their own.

    Who needs it first starts it, and stops it when nobody else has it any more.
    """
    address = folder / "address"
    with (folder / "turn").open("a") as turn, (folder / "users").open("a") as users, ExitStack() as stack:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)  # let go of by a process that dies, too
        is_first = not address.exists()
        if is_first:
            stack.enter_context(started(folder))
            address.write_text(get_current_settings().api.url or "")
        else:
            stack.enter_context(temporary_settings({PREFECT_API_URL: address.read_text()}))
            stack.enter_context(_temporary_global_settings_context(get_settings_context()))
            stack.enter_context(temporary_settings(_of_clients(folder)))
            stack.callback(EventsWorker.drain_all)
        fcntl.flock(turn, fcntl.LOCK_UN)
        with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: results}):
            yield
        while is_first and not _is_alone(turn, users):
            time.sleep(0.1)
        if is_first:
            address.unlink()


def _is_alone(turn: IO[str], users: IO[str]) -> bool:
    """Return whether nobody else has the server; then nobody comes before the turn is let go of."""
    fcntl.flock(turn, fcntl.LOCK_EX)
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(turn, fcntl.LOCK_UN)
        return False
    return True


def _of_clients(folder: Path) -> dict[Any, Any]:
    """Return settings that leave out what costs each flow more than its test."""
    return {
        PREFECT_API_SSL_CERT_FILE: str(folder / _AUTHORITY),  # each client would read 150 in 25 ms, and needs none
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # the engine waits a second for it at the end of every flow
        PREFECT_LOGGING_TO_API_ENABLED: False,  # a copy of each line that no test reads
    }
