"""Prefect's server as this project runs it: on an address that was bound for it, for callers who have the secret.

    python -m flows.entry.server <file descriptor of the listening socket> <host name> [<host name> ...]

It answers to its own names only, so that no page of another site can reach it under a name of that site's making; it
allows no other origin; its pages ask no other host; and whatever asks the API shows the home's secret. What it prints
goes to a log.
"""

import contextlib
import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import psutil
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, get_current_settings, temporary_settings

from flows.entry.child import end_family, start_child
from flows.entry.environment import prefect_home, server_environment
from flows.entry.fresh_database import give_database
from storage.locks import exclusive, held
from storage.schema import ConfigError, OperationError
from storage.secret import home_secret

HOST = "127.0.0.1"
PORTS = 1 << 16
ANY_HOST = "0.0.0.0"  # noqa: S104 - only where a person asks for it

_OF_A_PAGE = {  # a page asks no other host for anything, and no page of another site frames it
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),  # eval: the picture of a run's steps is drawn by a library that compiles its own code
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
START_S = 180.0
"""What a server may take until it answers: at first it migrates a database, and a busy machine has needed a minute."""

_LOCK = "operation.lock"
_POLL_S, _ANSWER_S = 0.1, 5.0
_DRAIN_S = 3  # what a server that was told to stop gives to requests under way
_STOP_S = 3.0  # of a temporary one, whose caller waits


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raises:
        ConfigError: Something has the port, it is none, or the address is none of this machine.
    """
    if not 0 <= port < PORTS:
        raise ConfigError(f"port must be 0 to {PORTS - 1}, was {port}; set PORT")
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as err:
        listening.close()
        raise ConfigError(f"port {port} of {host} must be free ({err.strerror}); stop who has it or set PORT") from err
    return listening


def start_server(
    listening: socket.socket, environment: Mapping[str, str], log: Path, module: str = "flows.entry.server"
) -> subprocess.Popen[bytes]:
    """Start a server on a socket that listens; the caller may close its own copy.

    `module` is Prefect's server, or another one that takes the socket and the names that it answers to.
    """
    command = [module, str(listening.fileno()), *served_names(listening)]
    return start_child(command, environment=environment, log=log, pass_fds=[listening.fileno()])


def served_names(listening: socket.socket) -> tuple[str, ...]:
    """Return the host names under which callers of a socket that listens on this machine know it."""
    host = listening.getsockname()[0]
    return tuple(dict.fromkeys([host, HOST, "localhost", *(own_names() if host == ANY_HOST else ())]))


def own_names() -> Iterator[str]:
    """Yield the names and addresses of this machine."""
    yield from (socket.gethostname(), socket.getfqdn())
    for addresses in psutil.net_if_addrs().values():
        yield from (one.address for one in addresses if one.family == socket.AF_INET)


def wait_until_up(server: subprocess.Popen[bytes], api_url: str, limit_s: float, log: Path) -> None:
    """Return once a server answers.

    Raises:
        OperationError: It ended, or did not answer within `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    while not answers(api_url):
        if server.poll() is not None or time.monotonic() > deadline:
            ended = server.poll() is not None
            why = f"ended with status {server.returncode}" if ended else f"did not answer within {limit_s:g} s"
            raise OperationError(f"the Prefect server {why}; see {log}, or run again when this machine is less busy")
        time.sleep(_POLL_S)


def answers(api_url: str) -> bool:
    """Return whether a Prefect server answers at an address."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{api_url}/health", timeout=_ANSWER_S).status_code == httpx.codes.OK
    return False


def sole_server(folder: Path, url: str) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of a PREFECT_HOME: two servers on one database would both schedule every run."""
    return exclusive(folder / _LOCK, f"the server of {folder}", 0.0, note=url)


@contextlib.contextmanager
def server_at_hand(home: Path, libraries: Sequence[str] = ()) -> Iterator[None]:
    """Let Prefect calls of this process reach a server for as long as the block lasts.

    That is the one that PREFECT_API_URL names, with this home's secret where it is this home's own; else a temporary
    one, for this process alone.

    Args:
        libraries: Modules that the block will import, late; they are while a temporary server starts.

    Raises:
        OperationError: The temporary one did not start; the message names its log.
    """
    settings = get_current_settings()
    with contextlib.ExitStack() as server:
        if not settings.api.url:
            limit_s = max(settings.server.ephemeral.startup_timeout_seconds, START_S)  # Prefect's 20 s are too few
            server.enter_context(_temporary_server(home, limit_s, libraries))
        elif settings.api.auth_string is None and held(
            prefect_home(home) / _LOCK, settings.api.url.removesuffix("/").removesuffix("/api")
        ):  # it is this home's, and not whoever took its port after it
            server.enter_context(temporary_settings({PREFECT_API_AUTH_STRING: home_secret(home)}))
        try:
            yield
        finally:
            _send_what_is_left()


@contextlib.contextmanager
def _temporary_server(home: Path, limit_s: float, libraries: Sequence[str]) -> Iterator[None]:
    log, secret = home / "logs" / "server.log", home_secret(home)
    with bound_socket(HOST, 0) as listening:
        api_url = f"http://{HOST}:{listening.getsockname()[1]}/api"
        environment = server_environment(home, api_url, secret) | {"PREFECT__SERVER_EPHEMERAL": "1"}
        give_database(environment)
        server = start_server(listening, environment, log)
    try:
        for library in libraries:
            importlib.import_module(library)
        wait_until_up(server, api_url, limit_s, log)
        with temporary_settings({PREFECT_API_URL: api_url, PREFECT_API_AUTH_STRING: secret}):
            yield
    finally:
        end_family(server, _STOP_S)


def _send_what_is_left() -> None:
    """Send the server what threads of this process still hold for it: log lines and events."""
    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_STOP_S)


def _serve(descriptor: int, hosts: Sequence[str]) -> None:
    import uvicorn
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from flows.entry.headed import Headed
    from flows.entry.secret_webhooks import keep_webhooks_secret

    app = TrustedHostMiddleware(Headed(create_app(final=True), _OF_A_PAGE), allowed_hosts=hosts, www_redirect=False)
    keep_webhooks_secret()
    level = os.environ.get("PREFECT_SERVER_LOGGING_LEVEL", "warning").lower()
    # The loop is named: uvicorn would take uvloop where some other package has brought it.
    config = uvicorn.Config(app, loop="asyncio", lifespan="on", log_level=level, timeout_graceful_shutdown=_DRAIN_S)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2:])
