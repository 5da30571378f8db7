"""prefect.yaml: every deployment names a flow that exists, parameters that it takes, schedules that can be changed."""

import asyncio
import importlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.server.schemas.schedules import CronSchedule as ServerCron

from flows.entry.deployments import MAIN_JOB, DeploymentSet, deployment_names, pause_others
from storage.schema import ConfigError
from tasks.exchange.connection import ExchangeConfig

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def names(deployment: dict) -> str:
    return f"{deployment['entrypoint']}/{deployment['name']}"


def test_ingest_retrain_and_pipeline_are_deployed():
    flows = {deployment["entrypoint"] for deployment in DEPLOYMENTS}
    assert flows >= {"flows.ingest.ingest", "flows.retrain.retrain", "flows.pipeline.pipeline"}
    assert len({names(deployment) for deployment in DEPLOYMENTS}) == len(DEPLOYMENTS)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=names)
def test_name_is_shown_whole_in_the_uis_list_and_belongs_to_a_world_or_to_both(deployment):
    name = deployment["name"]
    assert re.fullmatch(r"[a-z-]{1,19}", name)  # a longer one was cut off in the list, looked at in a browser
    deployed = [world for world in get_args(DeploymentSet) if name in deployment_names(world)]
    assert deployed == (
        [tag for tag in deployment["tags"] if tag in get_args(DeploymentSet)] or list(get_args(DeploymentSet))
    )


def test_main_job_is_deployed_in_every_world():
    flow, _, name = MAIN_JOB.partition("/")
    found = {one["name"] for one in DEPLOYMENTS if one["entrypoint"].endswith(f".{flow}")}
    assert found == {f"{name}-{world}" for world in get_args(DeploymentSet)}


def test_what_another_world_or_an_earlier_name_left_on_the_server_fires_no_more(prefect_api):
    ours = ("daily-model-sandbox", "hourly-health-check", "daily-model-bybit", "an-earlier-sandbox", "sandbox")
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("left-behind")
        for name in ours:
            client.create_deployment(flow_id=flow, name=name, entrypoint="flows.pipeline.pipeline")
        client.create_deployment(flow_id=flow, name="somebody-elses", entrypoint="theirs.flow")
        pause_others("sandbox")
        paused = {found.name for found in client.read_deployments() if found.flow_id == flow and found.paused}
    assert paused == {"daily-model-bybit", "an-earlier-sandbox", "sandbox"}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=names)
def test_deployment_names_a_flow_and_parameters_that_it_takes(deployment):
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    needed = dict.fromkeys(flow.parameters.required, "")  # asked of whoever starts the run
    validated = flow.validate_parameters(needed | deployment.get("parameters", {}))
    for key, given in deployment.get("parameters", {}).items():
        if not isinstance(given, dict):
            assert validated[key] == given
            continue
        for field, value in given.items():
            taken = getattr(validated[key], field)
            if isinstance(value, dict):
                assert {name: getattr(taken, name) for name in value} == value
            else:
                assert str(taken)[:10] == str(value)[:10]


@pytest.mark.parametrize(
    "deployment", [one for one in DEPLOYMENTS if one["entrypoint"] == "flows.trade.trade"], ids=names
)
def test_deployed_session_is_held_with_its_parameters_as_they_stand(deployment, monkeypatch):
    module = importlib.import_module("flows.trade")
    held = []
    monkeypatch.setattr(module, "lacks_a_version", lambda exchange, market: False)
    monkeypatch.setattr(
        module, "hold_session", lambda plan: held.append(plan) or SimpleNamespace(name="x", text=lambda: "")
    )
    module.trade.fn(**module.trade.validate_parameters(deployment["parameters"]))
    (plan,) = held
    assert str(plan.markets[0].symbol) == deployment["parameters"]["market"]["symbol"]
    assert plan.mode == "paper"


def test_session_on_a_sandbox_that_moves_with_real_time_is_refused_before_anything_is_trained(monkeypatch):
    module = importlib.import_module("flows.trade")
    monkeypatch.setattr(module, "lacks_a_version", lambda exchange, market: pytest.fail("the refusal comes first"))
    with pytest.raises(ConfigError, match="goes by the time of its bars; leave out live"):
        module.trade.fn(exchange=ExchangeConfig(live=True), version="newest")


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=names)
def test_deployment_never_overlaps_itself_and_its_schedules_have_slugs(deployment):
    assert deployment["concurrency_limit"]["limit"] == 1
    assert deployment["description"]
    for schedule in deployment.get("schedules", []):
        assert schedule["slug"]
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=names)
def test_scheduled_runs_that_were_missed_are_dropped_and_a_dead_workers_slot_is_freed_in_two_minutes(deployment):
    # Seen on a real server: after two minutes without a worker, ENQUEUE ran ten missed runs one after the other.
    limit = deployment["concurrency_limit"]
    assert limit["collision_strategy"] == ("CANCEL_NEW" if deployment.get("schedules") else "ENQUEUE")
    assert limit["grace_period_seconds"] == 120


@pytest.mark.parametrize("deployment", [one for one in DEPLOYMENTS if one.get("schedules")], ids=names)
def test_schedule_fires_as_often_on_the_days_when_clocks_change(deployment):
    (schedule,) = deployment["schedules"]
    cron = ServerCron(cron=schedule["cron"], timezone=schedule["timezone"])

    def fires(day: datetime) -> int:
        dates = asyncio.run(cron.get_dates(n=400, start=day))
        return sum(date < day + timedelta(days=1) for date in dates)

    ordinary, changes = datetime(2026, 1, 14, tzinfo=UTC), ((3, 8), (3, 29), (10, 25), (11, 1))
    assert {fires(datetime(2026, month, day, tzinfo=UTC)) for month, day in changes} == {fires(ordinary)}


def test_no_deployment_names_a_folder_of_a_machine():
    text = (ROOT / "prefect.yaml").read_text()
    assert str(ROOT) not in text
    assert "/home/" not in text
