"""The whole system under load and under kills, for so many seconds; then every invariant is checked and printed.

    python -m tests.soak.run_soak --seconds 600 --seed 1 --kills 24 --port 4260

A real Prefect server, a real worker, DuckDB and the sandbox over real HTTP. Ingest, two retrains that want the same
championship, monitor and evaluation run by their schedules on one store, while another process serves a decision every
second, and processes are killed by a plan drawn from the seed. Nothing is killed in the last quarter, which is what the
guards need to clean up. $DSC_HOME/soak.json keeps the result; the exit status is 1 where anything was violated.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cyclopts
import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException
from prefect.states import Scheduled

from flows.entry.child import ROOT, end_family
from flows.entry.deployments import make_pool
from flows.entry.operation import Operation
from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.schema import OperationError, PipelineError
from storage.settings import Settings
from tasks.runs.alerts import install_alerts
from tasks.runs.stale_runs import START_S
from tests.soak.soak_exchange import MARKET, SOURCE, SoakExchange
from tests.soak.soak_invariants import Decisions, decision_violations, store_violations
from tests.soak.soak_kills import Kill, Killer, PlannedKill, flow_processes, plan
from tests.soak.soak_watch import (
    HOLDING,
    SLACK_S,
    ZOMBIE_WINDOW_S,
    Watch,
    by_deployment,
    deployment_names,
    last_step,
    runs_of,
)

_DEPLOYMENTS = Path(__file__).with_name("soak_deployments.yaml")
_QUIET_SHARE = 0.25
_FIRST_KILL_S = 10.0
_EVALUATE_EVERY_S = 60.0
_FIRST_RUNS_LIMIT_S = 600.0
_LAST_RUNS_LIMIT_S = 420.0
_WAITED = re.compile(r"waited (\d+\.\d) s for ")


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """How long and how hard.

    Attributes:
        seconds: How long schedules run and processes are killed, >= 20.
        seed: Of the kills, of the exchange's holes and of its faults.
        kills: How many.
        port: Of the Prefect server.
    """

    seconds: float = 600.0
    seed: int = 1
    kills: int = 24
    port: int = 4260


class SoakOperation(Operation):
    """An operation with the soak's own deployments."""

    def prepare(self) -> None:
        """Make pool, alerts and the soak's deployments."""
        with self.connected():
            make_pool()
            install_alerts()
        command = [
            sys.executable,
            "-m",
            "prefect",
            "--no-prompt",
            "deploy",
            "--prefect-file",
            str(_DEPLOYMENTS),
            "--all",
        ]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise OperationError(f"prefect deploy failed:\n{done.stdout}{done.stderr}")

    def stop(self) -> None:
        """Stop everything, orphans of killed workers too."""
        for process in flow_processes(self.home).values():
            process.kill()
        super().stop()


class Soak:
    """One soak.

    Args:
        config: How long and how hard.
        settings: Where everything lies; the folder must be new.
    """

    def __init__(self, config: SoakConfig, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._began = time.monotonic()
        self.kills: list[Kill] = []
        self.revived = 0
        self._storm_at = 0.0

    def run(self) -> dict[str, Any]:
        """Run, check, and return the result as plain JSON."""
        config, log = self._config, self._settings.home / "decisions.jsonl"
        with SoakExchange(config.seed) as exchange:
            environment = {"SOAK_URL": exchange.sandbox.url}
            with SoakOperation(port=config.port, environment=environment) as operation:
                self._wait_for(operation, {"ingest": 1, "retrain": 1}, _FIRST_RUNS_LIMIT_S, time.time())
                with Watch(operation) as watch, _deciding(operation, log):
                    down = self._storm(operation)
                    exchange.stop_clock()
                    self._say("the clock stands still; the next scheduled runs must finish the work")
                    unfinished = self._finish(operation)
                    self._settle(operation)
                    runs, by_name, steps, slots = self._report(operation)
                    time.sleep(2.0)  # the last champion decides once more
                crashed_alive = len(watch.crashed_alive)
            violations = dict(store_violations(self._settings, exchange))
            decisions = Decisions.of(log)
            entry = ArtifactStore(self._settings.models).champion(SOURCE, MARKET.slug)
            violations["a decision every second, and no error"] = decision_violations(
                decisions, entry.ref.version if entry.ref else None
            )
            violations["the next scheduled runs finish the work"] = unfinished
            violations |= self._run_violations(runs, watch, slots, down)
            return self._result(exchange, by_name, steps, violations, decisions) | {
                "longest_zombie_s": round(watch.longest_zombie_s, 1),
                "longest_zombie_while_server_up_s": round(watch.longest_known_s, 1),
                "longest_slot_leak_s": round(watch.longest_leak_s, 1),
                "crashed_while_alive": crashed_alive,
            }

    def _storm(self, operation: SoakOperation) -> list[tuple[float, float]]:
        """Kill by the plan, evaluate now and then, and return when the server was away."""
        config, killer = self._config, Killer(operation, self._config.seed)
        planned = plan(config.seed, config.kills, _FIRST_KILL_S, config.seconds * (1 - _QUIET_SHARE))
        began = self._began = time.monotonic()
        self._storm_at = time.time()
        evaluated, told = 0.0, 0.0
        while (now := time.monotonic() - began) < config.seconds or planned:
            while planned and planned[0].at_s <= now:
                self._kill(killer, planned.pop(0))
            self.revived += killer.revive_workers()
            operation.look_after_runs()
            if now - evaluated > _EVALUATE_EVERY_S:
                evaluated = now
                self._evaluate(operation)
            if now - told > 30.0:
                told = now
                self._say(self._progress())
            time.sleep(0.5)
        return killer.down

    def _kill(self, killer: Killer, planned: PlannedKill) -> None:
        done = killer.carry_out(planned.kind, round(time.monotonic() - self._began, 1))
        self.kills.append(done)
        hit = f", hit {len(done.hit)} flow runs" if done.hit else ""
        gone = f", gone after {done.gone_s:.1f} s" if done.gone_s is not None else ""
        self._say(f"kill {len(self.kills)} of {self._config.kills}: {done.kind}{hit}{gone}")

    def _evaluate(self, operation: SoakOperation) -> None:
        versions = ArtifactStore(self._settings.models).versions(SOURCE, MARKET.slug)
        try:
            with operation.connected(), get_client(sync_client=True) as client:
                deployment = client.read_deployment_by_name("evaluate/soak")
                client.create_flow_run_from_deployment(
                    deployment.id, parameters={"version": str(versions[-1])}, state=Scheduled()
                )
        except (httpx.HTTPError, PrefectException, RuntimeError) as err:
            self._say(f"no evaluation was started: {type(err).__name__}")

    def _wait_for(self, operation: SoakOperation, wanted: dict[str, int], limit_s: float, since: float) -> None:
        """Wait until so many runs of each flow that began after `since` have completed."""
        killer, deadline, left = Killer(operation, 0), time.monotonic() + limit_s, wanted
        while time.monotonic() < deadline:
            self.revived += killer.revive_workers()
            operation.look_after_runs()
            try:
                with operation.connected(), get_client(sync_client=True) as client:
                    done = runs_of(client, StateType.COMPLETED)
            except (httpx.HTTPError, PrefectException, RuntimeError):
                done = []
            found = Counter(
                run.name.split()[0] for run in done if run.start_time and run.start_time.timestamp() >= since
            )
            left = {flow: count for flow, count in wanted.items() if found[flow] < count}
            if not left:
                return
            time.sleep(2.0)
        raise OperationError(f"after {limit_s:g} s these had not completed often enough: {left}; see {operation.logs}")

    def _finish(self, operation: SoakOperation) -> list[str]:
        """Wait for the runs that no more kill disturbs, and say which did not come."""
        try:
            self._wait_for(operation, {"ingest": 1, "retrain": 1}, _LAST_RUNS_LIMIT_S, time.time())
        except OperationError as err:
            return [str(err)]
        return []

    def _settle(self, operation: SoakOperation) -> None:
        """Stop the schedules, the monitor's last: it ends what died without a word; and let what runs end."""
        deadline = time.monotonic() + START_S + SLACK_S
        with operation.connected(), get_client(sync_client=True) as client:
            names = deployment_names(client)
            for deployment, name in names.items():
                if not name.startswith("monitor"):
                    client.pause_deployment(deployment)
            for last in (False, True):
                while time.monotonic() < deadline and any(
                    last or not names[run.deployment_id].startswith("monitor") for run in runs_of(client, *HOLDING)
                ):
                    operation.look_after_runs()
                    time.sleep(1.0)
                for deployment in names:
                    client.pause_deployment(deployment)

    def _report(self, operation: SoakOperation) -> tuple[list[FlowRun], dict[str, dict[str, int]], dict[str, int], int]:
        """Return every run, how they ended, where the kills hit, and how many slots are still taken."""
        with operation.connected(), get_client(sync_client=True) as client:
            runs, names = runs_of(client), deployment_names(client)
            flows = {run.id: names[run.deployment_id] for run in runs}
            hit = [run for kill in self.kills for run in kill.hit]
            steps = Counter(f"{flows.get(run, '?')}: {last_step(client, run)}" for run in hit)
            limits = [one.global_concurrency_limit for one in client.read_deployments()]
        slots = sum(limit.active_slots for limit in limits if limit)
        return runs, by_deployment(runs, names), dict(steps.most_common()), slots

    def _run_violations(
        self, runs: list[FlowRun], watch: Watch, slots: int, down: list[tuple[float, float]]
    ) -> dict[str, list[str]]:
        limit_s = ZOMBIE_WINDOW_S + SLACK_S
        failed = [
            run
            for run in runs
            if run.state_type == StateType.FAILED
            and not _without_server(run, down)
            and run.start_time
            and run.start_time.timestamp() > self._storm_at  # before it there were no candles to train on
        ]
        open_ = [run for run in runs if run.state and not run.state.is_final()]
        slow = [kill for kill in self.kills if kill.gone_s is not None and kill.gone_s > 30.0]
        return {
            "no run failed by itself": [f"{run.name}: {run.state.message}" for run in failed if run.state],
            "no run is RUNNING without a process for longer than the window of a server that is up": [
                *(f"{run.name} is {run.state_name}" for run in open_),
                *([f"{watch.longest_known_s:.0f} s"] if watch.longest_known_s > limit_s else []),
            ],
            "no slot is taken by nobody": [
                *([f"{slots} at the end"] if slots else []),
                *([f"{watch.longest_leak_s:.0f} s"] if watch.longest_leak_s > limit_s else []),
            ],
            "a cancelled run is gone within 30 s": [f"{kill.gone_s:.0f} s" for kill in slow],
        }

    def _result(
        self,
        exchange: SoakExchange,
        runs: dict[str, dict[str, int]],
        steps: dict[str, int],
        violations: dict[str, list[str]],
        decisions: Decisions,
    ) -> dict[str, Any]:
        models = ArtifactStore(self._settings.models)
        logs = "\n".join(path.read_text(errors="replace") for path in (self._settings.home / "logs").glob("*.log"))
        waits = [float(wait) for wait in _WAITED.findall(logs)]
        return {
            "config": asdict(self._config),
            "kills": dict(Counter(kill.kind for kill in self.kills)),
            "kills_hit": steps,
            "cancelled_gone_after_s": [round(kill.gone_s, 1) for kill in self.kills if kill.gone_s is not None],
            "workers_that_ended_by_themselves": self.revived,
            "rules": {rule: found or "kept" for rule, found in violations.items()},
            "violations": sum(len(found) for found in violations.values()),
            "rows": len(CandleStore(self._settings.database).read(SOURCE, MARKET)),
            "bars_served": len(exchange.served()),
            "requests": len(exchange.sandbox.requests),
            "versions": len(models.versions(SOURCE, MARKET.slug)),
            "champions": len(models.history(SOURCE, MARKET.slug)) - 1,
            "runs": runs,
            "decisions": asdict(decisions),
            "waits_over_1_s": len(waits),
            "longest_wait_s": max(waits, default=1.0),
        }

    def _progress(self) -> str:
        models = ArtifactStore(self._settings.models)
        history, versions = models.history(SOURCE, MARKET.slug), models.versions(SOURCE, MARKET.slug)
        return f"{len(versions)} versions, {len(history) - 1} champions"

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.0f} s  {text}", flush=True)


@contextmanager
def _deciding(operation: SoakOperation, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.soak.soak_decider", str(log)]
    with (operation.logs / "decider.log").open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=operation.environment, stdout=out, stderr=out)  # noqa: S603 - ours
        try:
            yield
        finally:
            end_family(process)


def _without_server(run: FlowRun, down: list[tuple[float, float]]) -> bool:
    """Whether a run lost its server: it can't say what it does, and the next one does it."""
    if run.start_time is None or run.end_time is None:
        return False
    return any(run.start_time.timestamp() < until and run.end_time.timestamp() > since for since, until in down)


def soak(config: SoakConfig, home: Path) -> int:
    """Run a soak in a folder of its own, print and keep the result, and return the exit status.

    Args:
        config: How long and how hard.
        home: Gets soak.json, and soak/ with everything else; that of an earlier soak goes.
    """
    folder = home.absolute() / "soak"
    shutil.rmtree(folder, ignore_errors=True)
    os.environ |= {"DSC_HOME": str(folder), "PREFECT_HOME": str(folder / "prefect")}
    os.environ.pop("DSC_ARTIFACT_URL", None)  # never anybody's versions
    result = Soak(config, Settings.from_environment()).run()
    (home / "soak.json").write_text(json.dumps(result, indent=1, default=str))
    for rule, found in result["rules"].items():
        print(f"  kept    {rule}" if found == "kept" else f"  BROKEN  {rule}: {'; '.join(found)}")
    print(f"{sum(result['kills'].values())} kills, {result['violations']} violations; {home / 'soak.json'}")
    return 1 if result["violations"] else 0


def main(*, seconds: float = 600.0, seed: int = 1, kills: int = 24, port: int = 4260) -> int:
    """Run a soak and return the exit status.

    Args:
        seconds: How long schedules run and processes are killed.
        seed: Of the kills, of the exchange's holes and of its faults.
        kills: How many.
        port: Of the Prefect server.
    """
    config = SoakConfig(seconds=seconds, seed=seed, kills=kills, port=port)
    try:
        return soak(config, Settings.from_environment().home)
    except PipelineError as err:
        sys.exit(f"{type(err).__name__}: {err}")


if __name__ == "__main__":
    app = cyclopts.App(result_action="return_value")
    app.default(main)
    sys.exit(app())
