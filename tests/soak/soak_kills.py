"""What the soak kills, and when: a plan drawn from a seed, carried out on the processes of one home."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psutil
from prefect.client.orchestration import get_client
from prefect.states import Cancelling

from flows.entry.operation import Operation

WEIGHTS: Mapping[str, int] = {
    "flow": 10,
    "worker": 4,
    "worker and flows": 4,
    "server": 4,
    "everything": 2,
    "cancel": 3,
}
"""Kinds of kills; "cancel" is what the UI's button does, all others are SIGKILL."""

_WAIT_FOR_VICTIM_S = 30.0
_DOWN_S = (0.5, 4.0)  # until a killed worker or server is started again, as a supervisor does
_CANCEL_LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class PlannedKill:
    """One kill.

    Attributes:
        at_s: Seconds since the start.
        kind: One of `WEIGHTS`.
    """

    at_s: float
    kind: str


@dataclass(kw_only=True)
class Kill:
    """A kill that was carried out.

    Attributes:
        at_s: Seconds since the start.
        kind: One of `WEIGHTS`.
        hit: Flow runs whose processes it ended; for a lone worker or server, none.
        gone_s: For a cancel: seconds until the process was gone.
    """

    at_s: float
    kind: str
    hit: list[UUID] = field(default_factory=list)
    gone_s: float | None = None


def plan(seed: int, count: int, first_s: float, last_s: float) -> list[PlannedKill]:
    """Return `count` kills between two times; the same seed gives the same plan. Every kind comes if `count` allows."""
    rng = random.Random(seed)
    kinds = list(WEIGHTS)[:count] + rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=max(0, count - len(WEIGHTS)))
    rng.shuffle(kinds)
    step = (last_s - first_s) / count
    return [PlannedKill(at_s=first_s + (i + rng.random()) * step, kind=kind) for i, kind in enumerate(kinds)]


def flow_processes(home: Path) -> dict[UUID, psutil.Process]:
    """Return the processes of flow runs of this home, by run."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ValueError, KeyError):
            if "prefect.engine" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                environment = process.environ()
                if environment.get("DSC_HOME") == str(home):
                    found[UUID(environment["PREFECT__FLOW_RUN_ID"])] = process
    return found


class Killer:
    """Carries kills out and starts again what a supervisor would.

    Args:
        operation: Server and workers.
        seed: Of the choice among what runs.
    """

    def __init__(self, operation: Operation, seed: int) -> None:
        self._operation = operation
        self._rng = random.Random(seed)
        self.down: list[tuple[float, float]] = []
        """When the server was away, Unix seconds."""

    def carry_out(self, kind: str, at_s: float) -> Kill:
        """Kill, and start again what has to be there."""
        done = Kill(at_s=at_s, kind=kind)
        if kind in ("flow", "cancel"):
            victim = self._victim()
            if victim is not None:
                done.hit = [victim[0]]
                if kind == "cancel":
                    done.gone_s = self._cancel(*victim)
                else:
                    _kill(victim[1])
            return done
        server, workers = kind in ("server", "everything"), kind != "server"
        down_at = time.time()
        if workers:
            for worker in self._operation.workers.values():
                _kill(psutil.Process(worker.pid))
                worker.wait()
        if kind in ("worker and flows", "everything"):
            running = flow_processes(self._operation.home)
            done.hit = list(running)
            for process in running.values():
                _kill(process)
        if server and self._operation.server is not None:
            _kill(psutil.Process(self._operation.server.pid))
            self._operation.server.wait()
        time.sleep(self._rng.uniform(*_DOWN_S))
        if server:
            self._operation.start_server()
            self.down.append((down_at, time.time()))
        self.revive_workers()
        return done

    def revive_workers(self) -> int:
        """Start again the workers that have ended, and return how many had."""
        ended = [name for name, worker in self._operation.workers.items() if worker.poll() is not None]
        for name in ended:
            self._operation.start_worker(name)
        return len(ended)

    def _victim(self) -> tuple[UUID, psutil.Process] | None:
        """Return a running flow, the longest-running one more often than not: that is the retrain."""
        deadline = time.monotonic() + _WAIT_FOR_VICTIM_S
        while time.monotonic() < deadline:
            running = sorted(flow_processes(self._operation.home).items(), key=lambda one: one[1].create_time())
            if running:
                return running[0] if self._rng.random() < 0.6 else self._rng.choice(running)
            time.sleep(0.2)
        return None

    def _cancel(self, run_id: UUID, process: psutil.Process) -> float:
        """Do what the UI's button does, and return how long the process went on."""
        began = time.monotonic()
        with self._operation.connected(), get_client(sync_client=True) as client:
            client.set_flow_run_state(run_id, Cancelling())
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(_CANCEL_LIMIT_S)
        return time.monotonic() - began


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
