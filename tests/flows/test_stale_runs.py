"""Runs that nobody works on any more, on a real server: ended by looking; those that have just begun stay.

The server of these tests stores no events; that a heartbeat counts is tested on a whole system, in tests/e2e.
"""

from datetime import UTC, datetime, timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Pending, Running

from tasks.alerts import START_S, start_guard, zombie_guard
from tasks.stale_runs import crash_stale_runs

LATER = timedelta(seconds=START_S + 60)


@flow
def nothing() -> None:
    """A flow to have runs of."""


@pytest.fixture
def client(prefect_api):
    with get_client(sync_client=True) as found:
        yield found


@pytest.mark.parametrize("state", [Pending, Running])
def test_open_run_without_a_sign_of_life_is_ended_once_the_window_has_passed(client, state):
    run = client.create_flow_run(nothing, state=Pending())
    if state is Running:
        client.set_flow_run_state(run.id, Running())
    now = datetime.now(UTC)
    assert run.name not in crash_stale_runs(client, now)
    assert run.name in crash_stale_runs(client, now + LATER)
    after = client.read_flow_run(run.id).state
    assert (after.name, after.message) == ("Crashed", "no sign of life for 300 s")
    assert run.name not in crash_stale_runs(client, now + LATER)


def test_guards_cover_every_state_in_which_a_killed_run_can_be_left():
    covered = {
        event.removeprefix("prefect.flow-run.")
        for one in (zombie_guard(), start_guard())
        for event in one.trigger.after
    }
    assert covered == {"Running", "Cancelling", "heartbeat", "Submitting", "Pending", "InfrastructurePending"}
    assert "prefect.flow-run.TimedOut" in zombie_guard().trigger.expect  # over, though it has a name of its own
