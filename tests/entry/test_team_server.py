"""A server for a team: Prefect on PostgreSQL, and workers that join it."""
# ruff: noqa: S603 - every process that is started is PostgreSQL's own

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.deployments import run_deployment

from flows.entry.deployments import MAIN_JOB
from flows.entry.operation import Operation
from storage.schema import OperationError

pytestmark = pytest.mark.long
LIMIT_S = 600.0  # of a run: a busy machine is no failure
PASSWORD = "hunter2-of-the-database"  # noqa: S105 - of a server that lives as long as this module


@pytest.fixture(scope="module")
def database_url(free_port):
    """A PostgreSQL server of its own on 127.0.0.1, with a password."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    pg_ctl = shutil.which("pg_ctl") or (str(found[-1]) if found else None)
    if pg_ctl is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="dsc-postgres-"))  # not below pytest's own, which let no other user through
    (folder / "password").write_text(PASSWORD)
    who = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        who = {"user": "postgres", "group": "postgres", "extra_groups": []}
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres", "postgres")
    port = free_port()

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **who)
        assert done.returncode == 0, done.stdout + done.stderr

    initdb = str(Path(pg_ctl).with_name("initdb"))
    run(initdb, "-D", "data", "-U", "prefect", "-A", "scram-sha-256", "--pwfile=password", "--no-sync")
    listen = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
    run(pg_ctl, "-D", "data", "-l", "log", "-w", "-t", "120", "-o", listen, "start")
    yield f"postgresql+asyncpg://prefect:{PASSWORD}@127.0.0.1:{port}/postgres"
    run(pg_ctl, "-D", "data", "-m", "immediate", "-w", "stop")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def team(database_url, free_port, tmp_path_factory):
    """The operation on that database: a worker that joined it has run a flow and left, one of its own another.

    With it come the name of the one that joined, and who knew the password meanwhile.
    """
    home = tmp_path_factory.mktemp("team") / "home"
    environment = {"PREFECT_API_DATABASE_CONNECTION_URL": database_url}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSC_HOME", str(home))
        patch.setenv("PREFECT_HOME", str(home / "prefect"))
        for name in ("DSC_ARTIFACT_URL", "PREFECT_API_URL"):
            patch.delenv(name, raising=False)
        with Operation(port=free_port(), workers=0, environment=environment) as running:
            with running.connected(), get_client(sync_client=True) as client:
                for deployment in client.read_deployments():
                    client.pause_deployment(deployment.id)  # no scheduled run takes the slot of the test's
            patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("joined")))
            with Operation(join=running.api_url) as joined:
                (name,) = joined.workers
                run_a_flow(running)  # the one that joined is the only one
            patch.setenv("PREFECT_HOME", str(home / "prefect"))
            running.start_worker("worker-1")
            known_to = who_knows_the_password(running)
            run_a_flow(running)
            yield SimpleNamespace(operation=running, home=home, joined=name, password_known_to=known_to)


def run_a_flow(running: Operation) -> None:
    """Run a deployment that no schedule competes for, the history of champions, and wait for its end and its table."""
    with running.connected(), get_client(sync_client=True) as client:
        run = run_deployment("rollback/roll-back-sandbox", timeout=LIMIT_S, poll_interval=0.5)
        assert run.state is not None
        assert run.state.is_completed(), run.state
        (shown,) = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id={"any_": [run.id]}))
    assert shown.key.startswith("champions-sandbox-")
    assert "flat is the first champion" in str(shown.data)


def who_knows_the_password(running: Operation) -> set[str]:
    """Return the names of the children whose environment holds it."""
    children = {"server": running.server, **running.workers}
    environments = {name: Path(f"/proc/{child.pid}/environ").read_bytes() for name, child in children.items()}
    return {name for name, content in environments.items() if PASSWORD.encode() in content}


def test_flows_run_through_each_of_two_workers_of_a_server_on_postgresql(team):
    assert not (team.home / "prefect" / "prefect.db").exists()  # nothing lies in a file of its own
    assert team.joined.endswith("-worker-1")
    for worker in (team.joined, "worker-1"):
        assert "submitting flow run" in (team.operation.logs / f"{worker}.log").read_text().lower()


def test_password_of_the_database_is_known_to_the_server_alone_and_in_no_log(team):
    assert team.password_known_to == {"server"}
    logs = list(team.home.rglob("*.log"))
    assert {"server.log", "worker-1.log"} <= {path.name for path in logs}
    assert not [path for path in logs if PASSWORD in path.read_text()]


@pytest.mark.ends_file
def test_stop_leaves_nothing_behind_not_even_a_running_flow(team):
    running = team.operation
    with running.connected(), get_client(sync_client=True) as client:
        run, deadline = run_deployment(f"{MAIN_JOB}-sandbox", timeout=0).id, time.monotonic() + LIMIT_S
        while not client.read_flow_run(run).state.is_running():
            assert time.monotonic() < deadline
            time.sleep(0.5)
    parents = [psutil.Process(child.pid) for child in (running.server, running.reports, *running.workers.values())]
    family = [*parents, *(child for parent in parents for child in parent.children(recursive=True))]
    assert len(family) >= 4  # server, reports, worker, flow run
    running.stop()
    _, alive = psutil.wait_procs(family, timeout=LIMIT_S)
    assert alive == []


def test_server_to_join_that_does_not_answer_is_said(home, free_port):
    address = f"http://127.0.0.1:{free_port()}/api"
    with (
        pytest.raises(OperationError, match=f"no Prefect server answers at {address}; start it there with --host"),
        Operation(join=address),
    ):
        pytest.fail("it was joined")
