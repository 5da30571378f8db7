"""Runs a flow by hand with the same parameters as its deployment: `python -m flows.<name> --help`."""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

import cyclopts
from prefect import Flow
from prefect.settings import get_current_settings

from storage.schema import PipelineError
from storage.settings import Settings


class _OneLinePerRefusal(logging.Filter):
    """Our own errors say what is wrong and what to do; a traceback under them only hides it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], PipelineError):
            record.exc_info = None
        return True


def run_by_hand(flow: Flow[..., Any]) -> None:
    """Parse the command line into the parameters of `flow`, run it, and exit.

    The exit status is 0; 1 when the run was refused or failed with one of our errors; 2 for a bad command line.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_OneLinePerRefusal())

    @functools.wraps(flow.fn)
    def command(*args: Any, **kwargs: Any) -> None:
        flow(*args, **kwargs)

    app = cyclopts.App(result_action="return_value")
    app.default(command)
    try:
        Settings.from_environment().prepare_home()
        get_current_settings().home.mkdir(parents=True, exist_ok=True)  # Prefect's own server does not make it
        app()
    except PipelineError as err:
        sys.exit(f"{type(err).__name__}: {err}")
