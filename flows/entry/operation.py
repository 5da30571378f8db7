"""The whole system on one machine: server, work pool, deployments, alerts and workers, started and stopped as one.

    python -m flows.entry.operation [--exchange sandbox] [--port 4200] [--workers 1]
    python -m flows.entry.operation --join http://10.0.0.5:4200/api [--workers 1]        workers alone, for that server

Everything that was started is a child process and ends with this one, flow runs included, also where this one is
killed. Settings that matter are set for all of them (`flows/entry/environment.py`): one server address, the home's
secret that the server asks for, heartbeats that the look at stale runs relies on, no telemetry, and no server of
its own for a run that has lost the one it should use.
"""

import contextlib
import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Self, get_args

import cyclopts
import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    get_current_settings,
    temporary_settings,
)

from flows.entry.child import bound_log, end_family, start_child
from flows.entry.command_line import plain_errors, prepared_home
from flows.entry.deployments import MAIN_JOB, POOL, DeploymentSet, deploy, end_lost_runs, make_pool, pause_others
from flows.entry.environment import client_environment, server_environment
from flows.entry.fresh_database import give_database
from flows.entry.server import (
    ANY_HOST,
    HOST,
    PORTS,
    START_S,
    answers,
    bound_socket,
    server_at_hand,
    sole_server,
    start_server,
    wait_until_up,
)
from storage.artifacts import ArtifactStore
from storage.private import keep_home_private
from storage.schema import ConfigError, OperationError
from storage.secret import home_secret, secret_path
from storage.settings import Settings
from tasks.runs.alerts import install_alerts
from tasks.runs.stale_runs import HEARTBEAT_S, ZOMBIE_S, crash_stale_runs

_LOOK_S = 10.0


class Operation:
    """A Prefect server with everything that this project needs, for as long as the `with` block lasts.

    Of the deployments those of `exchange` are made, and the other ones' schedules are paused. Who joins another server
    shows it the secret in PREFECT_API_AUTH_STRING or, where that is not set, this home's.

    Args:
        exchange, port, workers, host, join: As in `operate`.
        environment: Further variables of the children that need them.

    Raises:
        ConfigError: The port is taken.
        StoreBusyError: Another server runs on the same PREFECT_HOME.
        OperationError: Something did not start, the message names its log; or the server to join does not answer.
    """

    def __init__(
        self,
        *,
        exchange: DeploymentSet = "sandbox",
        port: int = 4200,
        workers: int = 1,
        host: str = HOST,
        join: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        if exchange not in get_args(DeploymentSet):
            raise ConfigError(f"exchange must be one of {' '.join(get_args(DeploymentSet))}, was {exchange!r}")
        self.url = join.removesuffix("/").removesuffix("/api") or f"http://{HOST if host == ANY_HOST else host}:{port}"
        self.api_url = f"{self.url}/api"
        self.home = prepared_home()
        self.logs = self.home / "logs"
        self._secret = (join and os.environ.get("PREFECT_API_AUTH_STRING")) or home_secret(self.home)
        self.environment = client_environment(self.home, self.api_url, self._secret, environment or {})
        self._of_server = server_environment(self.home, self.api_url, self._secret, environment or {})
        self.server: subprocess.Popen[bytes] | None = None
        self.reports: subprocess.Popen[bytes] | None = None
        self.reports_url = ""
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self._port, self._host, self._joins = port, host, bool(join)
        self._wanted = workers
        self._deployment_set = exchange
        self.up_since = self._look_at = math.inf
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            if self._joins:
                self._require_entry()
            else:
                self._stack.enter_context(sole_server(Path(self.environment["PREFECT_HOME"]), self.url))
                self.start_reports()
                self.start_server()
                self.prepare()
            prefix = f"{socket.gethostname()}-" if self._joins else ""
            for number in range(1, self._wanted + 1):
                self.start_worker(f"{prefix}worker-{number}")
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start_reports(self) -> None:
        """Start the server of the reports, on the port behind the server's or, where that is taken, on a free one."""
        try:
            listening = bound_socket(self._host, (self._port + 1) % PORTS)
        except ConfigError:
            listening = bound_socket(self._host, 0)
        with listening:
            self.reports = start_server(listening, self.environment, self._log("reports"), "flows.entry.reports")
            self.reports_url = f"{self.url.rpartition(':')[0]}:{listening.getsockname()[1]}"
        self.environment.setdefault("DSC_REPORTS_URL", self.reports_url)

    def start_server(self) -> None:
        """Start the server, and wait until it answers."""
        give_database(self._of_server)
        with bound_socket(self._host, self._port) as listening:
            self.server = start_server(listening, self._of_server, self._log("server"))
        wait_until_up(self.server, self.api_url, START_S, self._log("server"))
        self.up_since = time.monotonic()
        self._look_at = self.up_since + ZOMBIE_S  # what was said while it was down is not known to it

    def prepare(self) -> None:
        """Make the work pool, every deployment and every alert; what is there already is brought up to date."""
        with self.connected():
            make_pool()
            end_lost_runs()
            install_alerts()
            pause_others(self._deployment_set)
        deploy(self._deployment_set, self.environment)

    def start_worker(self, name: str) -> None:
        """Start a worker of that name."""
        module = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", name]
        self.workers[name] = start_child(module, environment=self.environment, log=self._log(name))

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Let Prefect calls of this process go to the server, for as long as the block lasts."""
        with temporary_settings({PREFECT_API_URL: self.api_url, PREFECT_API_AUTH_STRING: self._secret}):
            yield

    def ready_lines(self) -> Iterator[str]:
        """Yield what a person is told once everything runs: where to look, and where a first run begins."""
        yield f"ready: {self.url}/deployments"
        if not self._joins:
            yield f"reports: {self.reports_url} (user and password stand in the secret, a colon between)"
            if not ArtifactStore(Settings.from_environment().models).markets():
                with self.connected(), get_client(sync_client=True) as client:
                    main_job = client.read_deployment_by_name(f"{MAIN_JOB}-{self._deployment_set}")
                yield f"a first run: press Submit on {self.url}/deployments/deployment/{main_job.id}/run"
        yield "Ctrl-C stops everything"

    def wait(self) -> None:
        """Return never, unless a child ends by itself.

        Raises:
            OperationError: One did.
        """
        while True:
            self.look_after_runs()
            for name, child in {"server": self.server, "reports": self.reports, **self.workers}.items():
                if child is not None and child.poll() is not None:
                    raise OperationError(f"{name} ended with status {child.returncode}; see {self._log(name)}")
                bound_log(self._log(name))
            time.sleep(1.0)

    def look_after_runs(self) -> None:
        """Mark runs as crashed that show no sign of life: whoever operates the server calls it every second or so."""
        if self._joins or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + HEARTBEAT_S
        # A server that is slow to answer now is asked again later: who waits for it here looks after nothing else.
        hasty = {PREFECT_API_REQUEST_TIMEOUT: _LOOK_S, PREFECT_CLIENT_MAX_RETRIES: 0}
        with contextlib.suppress(httpx.HTTPError, PrefectException, RuntimeError), self.connected():
            with temporary_settings(hasty), get_client(sync_client=True) as client:
                ended = crash_stale_runs(client, datetime.now(UTC))
            for name in ended:
                print(f"ended, without a sign of life for {ZOMBIE_S} s: {name}", flush=True)

    def stop(self) -> None:
        """Stop the workers with their flow runs, then the server, which must hear of their end."""
        for worker in self.workers.values():
            end_family(worker)
        self.workers.clear()
        for child in filter(None, (self.reports, self.server)):
            end_family(child)
        self.server = self.reports = None
        self._stack.close()

    def _require_entry(self) -> None:
        """Refuse to join a server that is not there, or that asks for another secret."""
        if not answers(self.api_url):
            raise OperationError(f"no Prefect server answers at {self.api_url}; start it there with --host")
        user, _, password = self._secret.partition(":")
        reply = httpx.get(f"{self.api_url}/admin/version", auth=(user, password), timeout=_LOOK_S)
        if reply.status_code == httpx.codes.UNAUTHORIZED:
            raise OperationError(
                f"{self.api_url} asks for another secret; put what its own file holds into PREFECT_API_AUTH_STRING, or "
                f"copy that file to {secret_path(self.home)}"
            )

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def operate(
    *, exchange: DeploymentSet = "sandbox", port: int = 4200, workers: int = 1, host: str = HOST, join: str = ""
) -> None:
    """Start everything, print the address, and stop everything on Ctrl-C or SIGTERM.

    A team's server is --host with a private address and PREFECT_API_DATABASE_CONNECTION_URL=postgresql+asyncpg://...;
    other machines --join it, with its home's secret copied into theirs as a file. Whoever has the secret can run code
    here, and it travels over plain HTTP: beyond a private network put a reverse proxy with TLS before it.

    Args:
        exchange: Where candles come from: the sandbox needs no network.
        port: Where the server listens.
        workers: How many are started.
        host: Address that the server listens on; any but 127.0.0.1 lets other machines in that know the secret.
        join: Address of the API of a server that runs already; then workers alone are started.
    """
    signal.signal(signal.SIGINT, _leave)  # even where a background shell job said "ignored"
    signal.signal(signal.SIGTERM, _leave)
    operation = Operation(exchange=exchange, port=port, workers=workers, host=host, join=join)
    # Not "/", which is the new UI for a browser that has ever chosen that one, on whatever port.
    print(f"{'joining' if join else f'starting on {exchange}'}: {operation.url}/deployments", flush=True)
    print(
        f"it asks for the secret in {secret_path(operation.home)}: paste the whole line, user:password, into its one "
        f"field; two red notes before that are normal\nlogs: {operation.logs}",
        flush=True,
    )
    with contextlib.suppress(KeyboardInterrupt), operation as running:
        for line in running.ready_lines():
            print(line, flush=True)
        running.wait()
    print("stopped", flush=True)


def _leave(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def alerts() -> None:
    """Install the alerts alone, on the server that PREFECT_API_URL names."""
    if not get_current_settings().api.url:
        raise ConfigError(
            "PREFECT_API_URL must name the server that gets the alerts, such as http://127.0.0.1:4200/api"
        )
    with server_at_hand(keep_home_private()):
        print("installed:", *(install_alerts() or ["none, DSC_ALERT_URL is not set"]))


if __name__ == "__main__":
    app = cyclopts.App(result_action="return_value", version_flags=())
    app.default(operate)
    app.command(alerts)
    with plain_errors():
        app()
