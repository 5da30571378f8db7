"""Runs that the server believes in and no process works on any more: found by looking, whichever events were lost.

Prefect's open-source server cleans up nothing: a run whose processes were all killed stays "Running" for ever and keeps
its concurrency slot. Whoever runs the server (`flows.entry.operation`) looks at what is open every half minute and ends
what shows no sign of life, so every process that runs a flow must beat as often (`flows/entry/environment.py` sets it).
Every monitor run looks too, with more patience, for servers that others started. An automation of the server would
write to its database for every event of every run, which SQLite does not bear.
"""

from datetime import UTC, datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.filters import EventFilter
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Crashed

HEARTBEAT_S = 30  # the shortest that Prefect takes
START_S = 300  # a worker starts a process within seconds; a busy machine has needed half a minute
ZOMBIE_S = 3 * HEARTBEAT_S  # two beats may be lost
_OPEN = ("PENDING", "RUNNING", "CANCELLING")
_PATIENT_S = START_S  # longer than any heartbeat's interval, Prefect's default of 180 s included


@task(cache_policy=NO_CACHE, task_run_name="end stale runs")
def end_stale_runs() -> list[str]:
    """End what has stopped without a word, and return the names."""
    with get_client(sync_client=True) as client:
        ended = crash_stale_runs(client, datetime.now(UTC), _PATIENT_S)
    for name in ended:
        get_run_logger().warning(f"stale run ended name={name!r}")
    return ended


def crash_stale_runs(client: SyncPrefectClient, now: datetime, silent_s: float = ZOMBIE_S) -> list[str]:
    """Mark every open run as crashed that shows no sign of life, one being cancelled as cancelled; return their names.

    Args:
        now: The time, aware. Before it the server must have been up for `silent_s`: it hears no beat while it is down.
        silent_s: How long a run that has begun may be silent; one that has not may take START_S for it.
    """
    chosen = FlowRunFilter.model_validate({"state": {"type": {"any_": list(_OPEN)}}})
    ended = []
    for run in client.read_flow_runs(flow_run_filter=chosen):
        limit_s = START_S if run.state_type == StateType.PENDING else silent_s
        since = now - timedelta(seconds=limit_s)
        if run.state is not None and run.state.timestamp < since and not _beats(client, run, since, now):
            over = Cancelled if run.state_type == StateType.CANCELLING else Crashed  # the server takes no other
            client.set_flow_run_state(run.id, over(message=f"no sign of life for {limit_s} s"))
            ended.append(run.name)
    return ended


def _beats(client: SyncPrefectClient, run: FlowRun, since: datetime, now: datetime) -> bool:
    """Whether a heartbeat of a run came between two times; one that has not begun has none."""
    if run.state_type == StateType.PENDING:
        return False
    beats = EventFilter.model_validate(
        {
            "occurred": {"since": since, "until": now},
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        }
    )
    return bool(client.read_events(beats, limit=1).events)
