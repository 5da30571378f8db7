"""Starting the system: what is refused, with which words, and which settings every process gets."""

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect.server.events.jinja_filters import all_filters
from prefect.server.schemas.core import FlowRun
from prefect.server.schemas.states import State
from prefect.server.utilities.user_templates import register_user_template_filters, render_user_template
from prefect.settings import PREFECT_UI_URL, temporary_settings
from prefect.workers.process import ProcessJobConfiguration

from flows.entry import operation
from flows.entry.deployments import pool_template
from flows.entry.environment import client_environment
from flows.entry.operation import Operation
from flows.entry.server import bound_socket
from storage.schema import ConfigError, StoreBusyError, StoreError
from tasks.runs.alerts import KINDS, alert_automations
from tasks.runs.stale_runs import HEARTBEAT_S, ZOMBIE_S

HOLD = """
import sys
from pathlib import Path
from flows.entry.server import sole_server
with sole_server(Path(sys.argv[1]), "http://127.0.0.1:4200"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_taken_port_is_refused_with_the_way_out():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        other.listen()
        with pytest.raises(ConfigError, match=rf"port {port} of 127\.0\.0\.1 must be free .* or set PORT"):
            bound_socket("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65_536])
def test_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigError, match=f"port must be 0 to 65535, was {port}; set PORT"):
        bound_socket("127.0.0.1", port)


def test_home_without_room_is_refused_before_anything_starts(home, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1_500_000))
    with pytest.raises(StoreError, match=r"DSC_HOME must have 64 MB free, .* has 1\.5; free space or set DSC_HOME"):
        Operation()


def test_second_server_on_one_home_is_refused_with_the_first_ones_address(home, monkeypatch):
    folder = home / "prefect"
    monkeypatch.setenv("PREFECT_HOME", str(folder))
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:  # noqa: S603
        assert first.stdout.readline() == "held\n"
        said = rf"the server of .*prefect must be one at a time, process {first.pid} \(http://127\.0\.0\.1:4200\) holds"
        with pytest.raises(StoreBusyError, match=said), Operation(port=1):
            pytest.fail("two servers on one database")
        first.kill()


def test_unknown_exchange_is_refused(home):
    with pytest.raises(ConfigError, match="exchange must be one of sandbox bybit, was 'bybt'"):
        Operation(exchange="bybt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_operation_that_is_told_to_end_stops_what_it_started_and_says_so(monkeypatch, capsys, home, number):
    class Told(Operation):
        """One that starts nothing, and is told to end."""

        def __enter__(self):
            return self

        def wait(self):
            signal.raise_signal(number)

        def stop(self):
            print("what it started is stopped")

    monkeypatch.setattr(operation, "Operation", Told)
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's background jobs inherit it
        operation.operate(join="http://127.0.0.1:9/api")
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "joining: http://127.0.0.1:9/deployments"
    assert said[-3:] == ["Ctrl-C stops everything", "what it started is stopped", "stopped"]


def test_every_process_beats_three_times_before_it_counts_as_stale(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    environment = client_environment(tmp_path, "http://127.0.0.1:4200/api", "dsc:x")
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert environment["PREFECT_SERVER_EPHEMERAL_ENABLED"] == "false"
    beat_s = int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert beat_s == HEARTBEAT_S
    assert 3 * beat_s == ZOMBIE_S
    assert Path(environment["DSC_HOME"]).is_absolute()


def test_worker_looks_for_runs_every_two_seconds_unless_its_user_said_otherwise(tmp_path, monkeypatch):
    def looks() -> str:
        return client_environment(tmp_path, "http://127.0.0.1:4200/api", "dsc:x")["PREFECT_WORKER_QUERY_SECONDS"]

    monkeypatch.delenv("PREFECT_WORKER_QUERY_SECONDS", raising=False)
    assert looks() == "2"
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "30")
    assert looks() == "30"


def test_alerts_are_told_once_an_event_and_only_of_what_is_raised():
    block = "00000000-0000-0000-0000-000000000001"
    automations = {automation.name: automation for automation in alert_automations(block)}
    assert len(automations) == 2 + len(KINDS)
    assert automations["alert-drift"].trigger.expect == {"dsc.drift"}
    assert all(automation.trigger.threshold == 1 for automation in automations.values())


@pytest.mark.parametrize(("deployment", "named"), [({"name": "daily-model"}, "daily-model"), (None, "no deployment")])
def test_alert_of_a_failed_run_names_its_flow_its_deployment_and_its_page(deployment, named):
    (failed, *_) = alert_automations("00000000-0000-0000-0000-000000000001")
    run = FlowRun(
        id=UUID(int=1), flow_id=UUID(int=2), name="magenta-kelpie",
        state=State(type="FAILED", name="Failed", message="start must be before end"),
    )  # fmt: skip
    register_user_template_filters(all_filters)
    objects = {"flow_run": run, "flow": {"name": "pipeline"}, "deployment": deployment}
    with temporary_settings({PREFECT_UI_URL: "http://127.0.0.1:4200"}):
        text = asyncio.run(render_user_template(failed.actions[0].body, objects))
    assert text == (
        f"pipeline of {named}, run magenta-kelpie, is Failed: start must be before end "
        f"http://127.0.0.1:4200/runs/flow-run/{UUID(int=1)}"
    )


@pytest.mark.promise(18)
@pytest.mark.parametrize(
    "variables",
    [
        {"command": "touch /tmp/entered"},
        {"working_dir": "/"},
        {"env": {"PYTHONPATH": "/srv/theirs"}},  # another way to run other code
        {"env.LD_PRELOAD": "/srv/theirs.so"},
        {"name": "{{ ctx.flow.name }}", "labels": {"a": "b"}, "stream_output": False},
    ],
)
def test_deployment_that_carries_overrides_starts_its_runs_like_any_other(variables):
    # Prefect's server looks at what a run asks for, and not at what a deployment is changed to.
    def configured(values: dict) -> ProcessJobConfiguration:
        made = ProcessJobConfiguration.from_template_and_values(pool_template(), values, client=object())
        return asyncio.run(made)

    assert configured(variables) == configured({})
    assert configured(variables).command.endswith("-m flows.entry.child prefect.engine")
