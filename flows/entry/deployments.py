"""What the Prefect server of an operation is given: the work pool, and the deployments of prefect.yaml."""

import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.entry.child import ROOT, child_command
from storage.schema import OperationError

POOL = "local"

DeploymentSet = Literal["sandbox", "bybit"]
"""Ends of the names of those deployments of prefect.yaml that belong to one source of candles, not to both."""

MAIN_JOB = "pipeline/daily-model"


def pool_template() -> dict[str, Any]:
    """Return how the work pool starts a flow run: by one command, ending with its worker, whatever a run asks for."""
    variables = {"type": "object", "properties": {}, "additionalProperties": False}
    return {"job_configuration": {"command": shlex.join(child_command("prefect.engine"))}, "variables": variables}


def make_pool() -> None:
    """Make the work pool where it is missing, and bring it up to date."""
    template = pool_template()
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        else:
            client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))


def end_lost_runs() -> None:
    """Mark as crashed what an earlier worker took and never started; one that did start is looked after."""
    with get_client(sync_client=True) as client:
        pending = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING]))
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=pending)):
            client.set_flow_run_state(run.id, Crashed(message="its worker stopped before the run began"), force=True)


def deployment_names(deployment_set: DeploymentSet) -> tuple[str, ...]:
    """Return the names of the deployments of prefect.yaml that belong to a world, or to both."""
    others = tuple(f"-{other}" for other in get_args(DeploymentSet) if other != deployment_set)
    with (ROOT / "prefect.yaml").open() as file:
        names = [str(one["name"]) for one in yaml.safe_load(file)["deployments"]]
    return tuple(name for name in names if not name.endswith(others))


def pause_others(deployment_set: DeploymentSet) -> None:
    """Pause our deployments of another world or an earlier name: what was deployed once stays on the server."""
    wanted = deployment_names(deployment_set)
    with get_client(sync_client=True) as client:
        for found in client.read_deployments():
            if (found.entrypoint or "").startswith("flows.") and found.name not in wanted:
                client.pause_deployment(found.id)


def deploy(deployment_set: DeploymentSet, environment: Mapping[str, str]) -> None:
    """Make the deployments of a world on the server that the environment names, or bring them up to date.

    Raises:
        OperationError: Prefect could not.
    """
    names = [text for name in deployment_names(deployment_set) for text in ("--name", name)]
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise OperationError(f"prefect deploy failed:\n{done.stdout}{done.stderr}")
