"""Runs a flow by hand with the same parameters as its deployment: `python -m flows.<name> --help`."""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

import cyclopts
import httpx
from prefect import Flow
from prefect.settings import get_current_settings

from storage.schema import PipelineError, StoreError
from storage.settings import Settings


class _SaidOnce(logging.Filter):
    """Drops Prefect's own lines about a refusal: the run ends with ours, which says what is wrong and what to do."""

    def filter(self, record: logging.LogRecord) -> bool:
        refused = record.exc_info is not None and isinstance(record.exc_info[1], PipelineError)
        return not refused and "Finished in state Failed" not in record.getMessage()


def run_by_hand(flow: Flow[..., Any]) -> Any:
    """Parse the command line into the parameters of `flow`, run it, and return its result.

    The exit status is 0; 1 when the run was refused or failed with one of our errors; 2 for a bad command line.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_SaidOnce())

    @functools.wraps(flow.fn)
    def command(*args: Any, **kwargs: Any) -> Any:
        return flow(*args, **kwargs)

    app = cyclopts.App(result_action="return_value")
    app.default(command)
    try:
        _prepare_folders()
        return app()
    except PipelineError as err:
        sys.exit(f"{type(err).__name__}: {err}")
    except (httpx.TransportError, RuntimeError) as err:
        if "API" not in str(err) and not isinstance(err, httpx.TransportError):
            raise
        sys.exit(_unreachable(err))


def _unreachable(err: Exception) -> str:
    settings = get_current_settings()
    if settings.api.url:
        return f"Prefect can't be reached at {settings.api.url} ({err}); start it, or unset PREFECT_API_URL"
    limit_s = settings.server.ephemeral.startup_timeout_seconds
    return (
        f"Prefect's own temporary server can't be reached, it has {limit_s} s to start ({err}); run again when this "
        "machine is less busy, or start a server and set PREFECT_API_URL"
    )


def _prepare_folders() -> None:
    Settings.from_environment().prepare_home()
    folder = get_current_settings().home
    try:
        folder.mkdir(parents=True, exist_ok=True)  # Prefect's own server does not make it
    except OSError as err:
        raise StoreError(f"PREFECT_HOME must be a writable folder, {folder} is not ({err.strerror})") from err
