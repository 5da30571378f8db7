"""prefect.yaml: every deployment names a flow that exists, parameters that it takes, schedules that can be changed."""

import importlib
from pathlib import Path

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def names(deployment: dict) -> str:
    return f"{deployment['entrypoint']}/{deployment['name']}"


def test_ingest_retrain_and_pipeline_are_deployed():
    flows = {deployment["entrypoint"] for deployment in DEPLOYMENTS}
    assert flows >= {"flows.ingest.ingest", "flows.retrain.retrain", "flows.pipeline.pipeline"}
    assert len({names(deployment) for deployment in DEPLOYMENTS}) == len(DEPLOYMENTS)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=names)
def test_deployment_names_a_flow_and_parameters_that_it_takes(deployment):
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    needed = dict.fromkeys(flow.parameters.required, "")  # asked of whoever starts the run
    validated = flow.validate_parameters(needed | deployment.get("parameters", {}))
    for key, given in deployment.get("parameters", {}).items():
        for field, value in given.items():
            taken = getattr(validated[key], field)
            if isinstance(value, dict):
                assert {name: getattr(taken, name) for name in value} == value
            else:
                assert str(taken)[:10] == str(value)[:10]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=names)
def test_deployment_never_overlaps_itself_and_its_schedules_have_slugs(deployment):
    assert deployment["concurrency_limit"]["limit"] == 1
    assert deployment["description"]
    for schedule in deployment.get("schedules", []):
        assert schedule["slug"]
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


def test_no_deployment_names_a_folder_of_a_machine():
    text = (ROOT / "prefect.yaml").read_text()
    assert str(ROOT) not in text
    assert "/home/" not in text
