"""Runs that nobody works on any more, on a real server: ended by looking; those that have just begun stay.

The server of these tests stores no events; that a heartbeat counts is tested on a whole system, in tests/e2e.
"""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Pending, Running

import flows.entry.operation
from flows.entry.operation import Operation
from tasks.runs.stale_runs import START_S, ZOMBIE_S, crash_stale_runs
from tests.prefect_server import started

LATER = timedelta(seconds=START_S + 60)


@flow
def nothing() -> None:
    """A flow to have runs of."""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a server that has no runs of other tests, which would be ended too."""
    with started(tmp_path_factory.mktemp("prefect")), get_client(sync_client=True) as found:
        yield found


@pytest.mark.parametrize(
    ("state", "window_s", "end"),
    [(Pending, START_S, "Crashed"), (Running, ZOMBIE_S, "Crashed"), (Cancelling, ZOMBIE_S, "Cancelled")],
)
def test_open_run_without_a_sign_of_life_is_ended_once_the_window_has_passed(client, state, window_s, end):
    run = client.create_flow_run(nothing, state=Pending())
    if state is not Pending:
        client.set_flow_run_state(run.id, state())
    began = client.read_flow_run(run.id).state.timestamp
    assert run.name not in crash_stale_runs(client, began + timedelta(seconds=window_s - 1))
    assert run.name in crash_stale_runs(client, began + timedelta(seconds=window_s + 1))
    after = client.read_flow_run(run.id).state
    assert (after.name, after.message) == (end, f"no sign of life for {window_s} s")
    assert run.name not in crash_stale_runs(client, began + LATER)


def test_operation_ends_silent_runs_but_not_before_its_server_has_listened_for_the_window(client, home, monkeypatch):
    operation = Operation()
    operation.api_url = get_current_settings().api.url  # of the server that runs already
    run = client.create_flow_run(nothing, state=Pending())
    client.set_flow_run_state(run.id, Running())
    later = datetime.now(UTC) + timedelta(seconds=ZOMBIE_S + 5)
    monkeypatch.setattr(flows.entry.operation, "datetime", SimpleNamespace(now=lambda zone: later))
    monkeypatch.setattr(
        flows.entry.operation, "_LOOK_S", 300.0
    )  # a server that is slow to answer is not what is tested
    operation.look_after_runs()
    assert client.read_flow_run(run.id).state_name == "Running"
    monkeypatch.setattr(operation, "_look_at", 0.0)
    operation.look_after_runs()
    assert client.read_flow_run(run.id).state_name == "Crashed"
