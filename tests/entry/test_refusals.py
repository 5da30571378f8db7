"""A refused run's log says why in one line; a mistake of ours keeps its traceback, once."""

import logging
import os
import subprocess
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from flows.entry.child import child_command
from flows.entry.refusals import _LOGGERS, _OneLine, shorten_refusals
from storage.schema import StoreBusyError

ROOT = Path(__file__).parents[2]


def logged(*arguments: str) -> list[str]:
    """Return what Prefect logs of a run that a child process runs."""
    environment = os.environ | {
        "PREFECT_API_URL": get_current_settings().api.url,
        "PREFECT_LOGGING_TO_API_ENABLED": "0",
    }
    command = child_command("tests.entry.refused_run", *arguments)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 1
    return [line for line in (done.stdout + done.stderr).splitlines() if "| ERROR " in line]


@pytest.mark.parametrize(
    ("arguments", "said"), [((), "ConfigError: days must be 5 % of it; give more"), (("mistake",), "ZeroDivisionError")]
)
def test_failure_is_said_once_by_each_flow(prefect_api, arguments, said):
    errors = logged(*arguments)
    of_flows = [line for line in errors if "Flow run " in line]
    assert len(of_flows) == 2
    assert all(said in line for line in of_flows)
    assert (len(errors) == 2) is not bool(arguments)  # a step's own line, with its traceback, is of a mistake alone


def line_of(logger: str, message: str, error: Exception) -> logging.LogRecord:
    return logging.LogRecord(logger, logging.ERROR, "", 0, message, (), (type(error), error, None))


@pytest.mark.parametrize("kind", [ConnectionError, StoreBusyError])
@pytest.mark.parametrize(
    "first",
    ["Encountered exception during execution", "trying to load flow", "Engine execution exited with unexpected"],
)
def test_failure_is_said_once_whether_a_flow_began_or_not(first, kind):
    error = kind("held")
    of_flow = line_of("prefect.flow_runs", first, error)
    assert _OneLine(()).filter(of_flow)
    assert (of_flow.exc_info is None) is (kind is StoreBusyError)
    of_engine = line_of("prefect.engine", "Execution of flow run '1' exited with unexpected exception", error)
    assert not _OneLine(()).filter(of_engine)


@pytest.mark.parametrize(
    ("error", "said"), [(ConnectionError("no"), "Execution exited"), (StoreBusyError("held"), "held")]
)
def test_what_ends_the_engine_alone_is_said_by_it(error, said, monkeypatch):
    for logger in map(logging.getLogger, _LOGGERS):
        monkeypatch.setattr(logger, "filters", [])
    shorten_refusals()  # a child
    shorten_refusals("View at http")  # that runs a flow by hand
    record = line_of("prefect.engine", "Execution exited with unexpected exception", error)
    assert logging.getLogger(record.name).filter(record)
    assert said in record.getMessage()


def test_failure_is_no_repetition_of_one_that_is_long_forgotten():
    for _ in range(100):  # each error lies where one before it lay
        assert _OneLine(()).filter(line_of("prefect.flow_runs", "Encountered exception", ConnectionError("no")))
        alone = line_of("prefect.engine", "Execution exited with unexpected exception", ConnectionError("no"))
        assert _OneLine(()).filter(alone)


def test_refused_step_that_is_tried_again_says_so_without_its_traceback():
    error = StoreBusyError("held")
    record = logging.LogRecord(
        "prefect.task_runs", logging.ERROR, "", 0, "Task run failed with exception: %r - Retry 1/3 will start",
        (error,), (StoreBusyError, error, None),
    )  # fmt: skip
    assert _OneLine(()).filter(record)
    assert logging.Formatter("%(message)s").format(record) == (
        "Task run failed with exception: StoreBusyError('held') - Retry 1/3 will start"
    )
