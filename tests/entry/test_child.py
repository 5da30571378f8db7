"""Children that end with their parent, however that one ends, and a start that leaves nothing for others to read."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from flows.entry.child import ROOT, bound_log, child_command, end_family, start_child
from flows.entry.environment import client_environment, server_environment

WRITE = """
import sys
for line in sys.stdin:
    sys.stderr.write(line)
    print("written", flush=True)
"""
LIMIT_S = 300.0  # a busy machine is no failure

PARENT = """
import os, sys
from pathlib import Path
import tests.entry.hasty_child
from flows.entry.child import start_child
child = start_child(["tests.entry.idle_child", sys.argv[1]], environment=os.environ, log=Path(sys.argv[1]) / "log")
print(child.pid, flush=True)
child.wait()
"""


def wait_for(look):
    deadline = time.monotonic() + LIMIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.05)
    return found


def grandchild_of(folder):
    """Return the process that the child in this folder has started."""
    return psutil.Process(int(wait_for(lambda: (folder / "ready").exists() and (folder / "ready").read_text())))


@pytest.mark.parametrize("stubborn", ["", "stubborn"])
def test_child_and_its_own_child_end_when_the_parent_is_killed(tmp_path, stubborn):
    environment = os.environ | {"IDLE": stubborn}
    parent = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    with parent:
        child = psutil.Process(int(parent.stdout.readline()))
        grandchild = grandchild_of(tmp_path)
        assert os.getsid(child.pid) != os.getsid(parent.pid)  # Ctrl-C in the terminal is not for the child
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([child, grandchild], timeout=LIMIT_S)
    assert alive == []


def test_child_whose_parent_is_gone_before_it_looks_ends(tmp_path):
    environment = os.environ | {"DSC_PARENT_PID": "1", "IDLE": ""}  # nobody's child any more
    command = child_command("tests.entry.idle_child", str(tmp_path))
    orphan = subprocess.Popen(command, cwd=ROOT, env=environment)  # noqa: S603
    assert orphan.wait(LIMIT_S) == 128 + signal.SIGTERM


def test_family_is_ended_with_the_child_even_when_it_does_not_listen(tmp_path):
    child = start_child(
        ["tests.entry.idle_child", str(tmp_path)], environment=os.environ | {"IDLE": "stubborn"}, log=tmp_path / "log"
    )
    grandchild = grandchild_of(tmp_path)
    end_family(child, stop_s=0.2)
    _, alive = psutil.wait_procs([grandchild], timeout=LIMIT_S)
    assert (alive, child.returncode) == ([], -signal.SIGKILL)


@pytest.mark.promise(18)
def test_environment_holds_what_a_process_needs_and_no_other_key(tmp_path, monkeypatch):
    given = {
        "DSC_BYBIT_LIVE_KEY": "a", "BYBIT_API_SECRET": "b", "DSC_ALERT_URL": "c", "AWS_SECRET_ACCESS_KEY": "d",
        "PREFECT_API_DATABASE_CONNECTION_URL": "e", "PREFECT_SERVER_DATABASE_PASSWORD": "f",
        "PREFECT_SERVER_API_AUTH_STRING": "g", "PREFECT_API_AUTH_STRING": "h", "DSC_ARTIFACT_KEY": "i" * 32,
    }  # fmt: skip
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    client = client_environment(tmp_path, "http://127.0.0.1:4200/api", "dsc:x")
    server = server_environment(tmp_path, "http://127.0.0.1:4200/api", "dsc:x")
    assert {name: client[name] for name in given if name in client} == {
        "AWS_SECRET_ACCESS_KEY": "d", "PREFECT_API_AUTH_STRING": "dsc:x", "DSC_ARTIFACT_KEY": "i" * 32,
    }  # fmt: skip
    assert {name: server[name] for name in given if name in server} == {
        "PREFECT_API_DATABASE_CONNECTION_URL": "e", "PREFECT_SERVER_DATABASE_PASSWORD": "f",
        "PREFECT_SERVER_API_AUTH_STRING": "dsc:x", "PREFECT_API_AUTH_STRING": "dsc:x",
    }  # fmt: skip
    assert server["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200"


@pytest.mark.promise(19)
def test_log_that_grows_too_long_begins_anew_while_its_child_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.entry.child.LOG_BYTES", 10)
    log = tmp_path / "worker.log"
    with log.open("ab") as out:  # as a child gets it
        child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", WRITE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True
        )
    for text in ("short", "what is too long", "next", "and too long again", "last"):
        child.stdin.write(f"{text}\n")
        child.stdin.flush()
        child.stdout.readline()
        bound_log(log)
    child.communicate()
    assert log.read_text() == "last\n"
    assert (tmp_path / "worker.log.1").read_text() == "next\nand too long again\n"


@pytest.mark.promise(19)
def test_server_forgets_runs_of_more_than_a_month_ago_unless_its_user_said_otherwise(tmp_path, monkeypatch):
    code = (
        "from prefect.settings import get_current_settings; s = get_current_settings().server.services.db_vacuum; "
        "print(sorted(s.enabled_vacuum_types), s.retention_period.days)"
    )

    def told() -> str:
        environment = server_environment(tmp_path, "http://127.0.0.1:4200/api", "dsc:x")
        return subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip()  # noqa: S603

    assert told() == "['events', 'flow_runs', 'orphans'] 30"
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD", str(90 * 86_400))
    assert told() == "['events', 'flow_runs', 'orphans'] 90"
