"""Runs a flow by hand with the same parameters as its deployment: `python -m flows.<name> --help`."""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cyclopts
import httpx
from prefect import Flow
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import get_current_settings

from flows.entry.environment import prefect_home
from flows.entry.interrupt import interruptible
from flows.entry.server import server_at_hand
from storage.private import keep_home_private
from storage.schema import PipelineError, StoreError

_LEAST_FREE_MB = 64  # on a full disk Prefect's server ends in pages of traceback before the first step can say why


class _SaidOnce(logging.Filter):
    """Drops Prefect's own lines about a refusal: the run ends with ours, which says what is wrong and what to do."""

    def filter(self, record: logging.LogRecord) -> bool:
        refused = record.exc_info is not None and isinstance(record.exc_info[1], PipelineError)
        return not refused and "Finished in state Failed" not in record.getMessage()


def run_by_hand(flow: Flow[..., Any]) -> Any:
    """Parse the command line into the parameters of `flow`, run it, and return its result.

    The exit status is 0; 1 when the run was refused or failed with one of our errors; 2 for a bad command line; 130
    after Ctrl-C.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_SaidOnce())

    @functools.wraps(flow.fn)
    def command(*args: Any, **kwargs: Any) -> Any:
        with interruptible(), server_at_hand(_prepared_home()):
            return flow(*args, **kwargs)

    app = cyclopts.App(result_action="return_value")
    app.default(command)
    with plain_errors():
        return app()


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with one line where something is refused or Prefect's server is not there."""
    try:
        yield
    except PipelineError as err:
        sys.exit(f"{type(err).__name__}: {err}")
    except PrefectHTTPStatusError as err:
        url = get_current_settings().api.url
        if err.response.status_code == httpx.codes.UNAUTHORIZED:
            sys.exit(
                f"{url} asks for its home's secret; put what the file `secret` there holds into PREFECT_API_AUTH_STRING"
            )
        if err.response.status_code not in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
            raise
        sys.exit(f"no Prefect API at {err.request.url}; PREFECT_API_URL must end in /api, was {url}")
    except (httpx.TransportError, RuntimeError) as err:
        if "API" not in str(err) and not isinstance(err, httpx.TransportError):
            raise
        way_out = "start it, check PREFECT_API_URL (it ends in /api), or unset that"
        sys.exit(f"Prefect can't be reached at {get_current_settings().api.url} ({err}); {way_out}")


def _prepared_home() -> Path:
    home = keep_home_private()
    folder = prefect_home(home)
    try:
        folder.mkdir(parents=True, exist_ok=True)  # Prefect's own server does not make it
    except OSError as err:
        raise StoreError(f"PREFECT_HOME must be a writable folder, {folder} is not ({err.strerror})") from err
    for name, place in (("DSC_HOME", home), ("PREFECT_HOME", folder)):
        free_mb = shutil.disk_usage(place).free / 1e6
        if free_mb < _LEAST_FREE_MB:
            raise StoreError(
                f"{name} must have {_LEAST_FREE_MB} MB free, {place} has {free_mb:.1f}; free space or set {name}"
            )
    return home
