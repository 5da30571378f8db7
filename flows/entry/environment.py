"""What each process of an operation is told by its environment: what it needs, and no key that it does not."""

import os
from collections.abc import Mapping
from pathlib import Path

from tasks.runs.stale_runs import HEARTBEAT_S

_OF_THE_SERVER = ("PREFECT_API_DATABASE_", "PREFECT_SERVER_DATABASE_", "PREFECT_SERVER_API_AUTH_")
_OF_FLOW_RUNS = ("AWS_", "DSC_ARTIFACT_KEY")  # whatever opens the artifact store
_OF_NOBODY_BELOW = (
    "BYBIT_",
    "DSC_BYBIT_",
    "DSC_ALERT_URL",
)  # no flow asks for a key; the webhook's address is stored once, at the start

_MONTH_S = 30 * 86_400
_KEPT = {  # by Prefect's server: else runs with their logs and pages take about 2 GB a year
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(_MONTH_S),
}
_UNLESS_SET = {"PREFECT_WORKER_QUERY_SECONDS": "2"}  # with Prefect's 10, Submit waits up to 13 s for a worker to look


def client_environment(
    home: Path, api_url: str, secret: str, further: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of workers, flow runs and whatever else talks to the server at `api_url`.

    `further` are variables beside those of this process.
    """
    return _UNLESS_SET | _without(_OF_THE_SERVER, further) | _of_all(home, api_url, secret)


def server_environment(
    home: Path, api_url: str, secret: str, further: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of the server itself; arguments as in `client_environment`."""
    ours = {
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": api_url.removesuffix("/api"),
        "PREFECT_SERVER_UI_API_URL": "/api",  # relative, so that the UI finds its server on any port
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # it asks a host of its makers on every page, analytics off or on
        # On disk: with the default, in memory, a restart forgets who holds a slot, and it is never free again.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    return _KEPT | _without(_OF_FLOW_RUNS, further) | _of_all(home, api_url, secret) | ours


def prefect_home(home: Path) -> Path:
    """Return where Prefect keeps its own data."""
    return Path(os.environ.get("PREFECT_HOME") or home / "prefect").absolute()


def _without(others: tuple[str, ...], further: Mapping[str, str] | None) -> dict[str, str]:
    given = os.environ | dict(further or {})
    return {name: text for name, text in given.items() if not name.startswith(others + _OF_NOBODY_BELOW)}


def _of_all(home: Path, api_url: str, secret: str) -> dict[str, str]:
    return {
        "DSC_HOME": str(home),
        "PREFECT_HOME": str(prefect_home(home)),
        "PREFECT_API_URL": api_url,
        "PREFECT_API_AUTH_STRING": secret,
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # a lost server is an error, never a private database
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PYTHONUNBUFFERED": "1",
    }
