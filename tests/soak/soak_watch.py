"""Looks at the server every few seconds: runs without a process, slots without a run, and what became of every run."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from types import TracebackType
from typing import Self
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException

from flows.entry.operation import Operation
from tasks.runs.stale_runs import HEARTBEAT_S
from tests.soak.soak_kills import flow_processes

LOOK_EVERY_S = 3.0
ZOMBIE_WINDOW_S = 3 * HEARTBEAT_S
SLACK_S = 60.0  # the guard looks every few seconds, needs its server, and this machine may be busy
_ALIVE = (StateType.RUNNING, StateType.CANCELLING)
HOLDING = (*_ALIVE, StateType.PENDING)
_PAGE = 200


class Watch:
    """Watches for as long as the `with` block lasts.

    Args:
        operation: Whose server and processes.

    Attributes:
        longest_zombie_s: Longest time for which a run was RUNNING without a process, seconds.
        longest_known_s: The same, counted from the server's last start: while it is down it hears nobody.
        longest_leak_s: Longest time for which a slot was taken by no run, seconds.
        crashed_alive: Runs that were marked as crashed while their process went on.
    """

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self.longest_zombie_s = self.longest_known_s = 0.0
        self.longest_leak_s = 0.0
        self.crashed_alive: set[UUID] = set()
        self._dead_since: dict[UUID, float] = {}
        self._leaked_since: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="soak watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def look(self, client: SyncPrefectClient) -> None:
        """Look once."""
        held = runs_of(client, *HOLDING)  # before the processes: one that ends in between is no zombie for long
        alive, now = flow_processes(self._operation.home), time.monotonic()
        dead = {run.id for run in held if run.state_type in _ALIVE and run.id not in alive}
        self._dead_since = {run: self._dead_since.get(run, now) for run in dead}
        up_since, ages = self._operation.up_since, self._dead_since.values()
        self.longest_zombie_s = max([self.longest_zombie_s, *(now - since for since in ages)])
        self.longest_known_s = max([self.longest_known_s, *(now - max(since, up_since) for since in ages)])
        active = Counter(run.deployment_id for run in held)
        leaked = set()
        for deployment in client.read_deployments():
            limit = deployment.global_concurrency_limit
            if limit is not None and limit.active_slots > active[deployment.id]:
                leaked.add(str(deployment.id))
        self._leaked_since = {one: self._leaked_since.get(one, now) for one in leaked}
        self.longest_leak_s = max([self.longest_leak_s, *(now - since for since in self._leaked_since.values())])
        if alive:
            crashed = client.read_flow_runs(
                flow_run_filter=FlowRunFilter.model_validate(
                    {"id": {"any_": list(alive)}, "state": {"type": {"any_": ["CRASHED"]}}}
                )
            )
            self.crashed_alive |= {run.id for run in crashed if run.id in flow_processes(self._operation.home)}

    def _run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            try:
                with self._operation.connected(), get_client(sync_client=True) as client:
                    self.look(client)
            except (httpx.HTTPError, PrefectException, RuntimeError):  # the server has just been killed
                continue


def runs_of(client: SyncPrefectClient, *states: StateType) -> list[FlowRun]:
    """Return every run of a deployment that is in one of the states; none: every one that ever started or ended."""
    wanted = states or (*HOLDING, StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
    chosen = FlowRunFilter.model_validate({"state": {"type": {"any_": list(wanted)}}})
    runs: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(flow_run_filter=chosen, limit=_PAGE, offset=len(runs))
        runs += page
        if len(page) < _PAGE:
            return [run for run in runs if run.deployment_id is not None]


def last_step(client: SyncPrefectClient, run: UUID) -> str:
    """Return the name of the last task that a run began."""
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run]}}),
        task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"not_any_": ["SCHEDULED"]}}}),
    )
    begun = [task for task in tasks if task.start_time is not None]
    return max(begun, key=lambda task: task.start_time).name if begun else "before its first task"


def by_deployment(runs: list[FlowRun], names: dict[UUID, str]) -> dict[str, dict[str, int]]:
    """Return how many runs of each deployment ended in each state."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        found[names.get(run.deployment_id, "?")][run.state_name or "?"] += 1
    return {name: dict(states) for name, states in sorted(found.items())}


def deployment_names(client: SyncPrefectClient) -> dict[UUID, str]:
    """Return flow and name of every deployment."""
    flows = {flow.id: flow.name for flow in client.read_flows()}
    return {one.id: f"{flows[one.flow_id]}/{one.name}" for one in client.read_deployments()}
