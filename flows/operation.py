"""The whole system on one machine: server, work pool, deployments, automations and workers, started and stopped as one.

    python -m flows.operation [--exchange sandbox] [--port 4200] [--workers 1]
    python -m flows.operation --join http://10.0.0.5:4200/api [--workers 1]        workers alone, for that server

Everything that was started is a child process and ends with this one, flow runs included. Settings that matter are set
here for all of them: one server address, heartbeats that the guard against dead runs can rely on, no telemetry, and no
server of its own for a run that has lost the one it should use.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Literal, Self, get_args

import cyclopts
import httpx
import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    get_current_settings,
    temporary_settings,
)
from prefect.states import Crashed
from prefect.workers.process import ProcessWorker

from flows.command_line import plain_errors
from storage.schema import ConfigError, PipelineError, StoreError
from storage.settings import Settings
from tasks.alerts import HEARTBEAT_S, ZOMBIE_S, install_automations
from tasks.stale_runs import crash_stale_runs

ROOT = Path(__file__).parents[1]
POOL = "local"
HOST = "127.0.0.1"
ANY_HOST = "0.0.0.0"  # noqa: S104 - only where --host asks for it

World = Literal["sandbox", "bybit"]
"""Names of the deployments of prefect.yaml that belong to one source of candles."""

SHARED = ("hourly", "by-hand")
"""Names of those that belong to both."""

_SERVER_START_S = 180.0  # a first start migrates a database; a busy machine has needed a minute
_STOP_S = 30.0  # a flow run on a busy machine needs some of it to report that it was stopped
_POLL_S = 0.25
_LOOK_S = 10.0
_SERVER_ONLY = ("PREFECT_API_DATABASE_", "PREFECT_SERVER_DATABASE_")  # its password is no business of a flow run


class OperationError(PipelineError):
    """The server, a worker or a deployment could not be started, or has ended."""


class Operation:
    """A Prefect server with everything that this project needs, for as long as the `with` block lasts.

    Args:
        exchange: Whose deployments are made: those of the sandbox, or of Bybit; the other ones' schedules are paused.
        port: Where the server listens.
        workers: How many are started.
        host: Address that the server listens on; any but 127.0.0.1 lets other machines in, without a password.
        join: Address of the API of a server that runs already, here or elsewhere; then workers alone are started.
        environment: Further variables of every child; they win over ours.

    Raises:
        ConfigError: The port is taken, or another server runs on the same PREFECT_HOME.
        OperationError: Something did not start, the message names its log; or the server to join does not answer.
    """

    def __init__(
        self,
        *,
        exchange: World = "sandbox",
        port: int = 4200,
        workers: int = 1,
        host: str = HOST,
        join: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        if exchange not in get_args(World):
            raise ConfigError(f"exchange must be one of {' '.join(get_args(World))}, was {exchange!r}")
        self.url = join.removesuffix("/").removesuffix("/api") or f"http://{HOST if host == ANY_HOST else host}:{port}"
        self.api_url = f"{self.url}/api"
        self.home = Settings.from_environment().prepare_home()
        self.logs = self.home / "logs"
        given = operation_environment(self.api_url, self.home) | (environment or {})
        self.environment = {name: text for name, text in given.items() if not name.startswith(_SERVER_ONLY)}
        self._of_server = given
        self.server: subprocess.Popen[bytes] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self._port, self._host, self._joins = port, host, bool(join)
        self._wanted = workers
        self._world = exchange
        self.up_since = self._look_at = math.inf
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            if self._joins:
                if not _answers(self.api_url):
                    raise OperationError(f"no Prefect server answers at {self.api_url}; start it there with --host")
            else:
                self._stack.enter_context(sole_server(Path(self.environment["PREFECT_HOME"]), self.url))
                self.start_server()
                self.prepare()
            prefix = f"{socket.gethostname()}-" if self._joins else ""
            for number in range(1, self._wanted + 1):
                self.start_worker(f"{prefix}worker-{number}")
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start_server(self) -> None:
        """Start the server, and wait until it answers."""
        refuse_taken_port(self._port)
        command = ["server", "start", "--host", self._host, "--port", str(self._port)]
        self.server = self._start("server", command, self._of_server)
        deadline = time.monotonic() + _SERVER_START_S
        while not _answers(self.api_url):
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise OperationError(f"the Prefect server did not start; see {self._log('server')}")
            time.sleep(_POLL_S)
        self.up_since = time.monotonic()
        self._look_at = self.up_since + ZOMBIE_S  # what was said while it was down is not known to it

    def prepare(self) -> None:
        """Make the work pool, every deployment and every automation; what is there already is brought up to date."""
        with self.connected():
            make_pool()
            end_lost_runs()
            install_automations(guards=False)
            pause_schedules(*(world for world in get_args(World) if world != self._world))
        names = [text for pattern in (f"*/{self._world}", *SHARED) for text in ("--name", pattern)]
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *names]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise OperationError(f"prefect deploy failed:\n{done.stdout}{done.stderr}")

    def start_worker(self, name: str) -> None:
        """Start a worker of that name."""
        self.workers[name] = self._start(name, ["worker", "start", "--pool", POOL, "--type", "process", "--name", name])

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Let Prefect calls of this process go to the server, for as long as the block lasts."""
        with temporary_settings({PREFECT_API_URL: self.api_url}):
            yield

    def wait(self) -> None:
        """Return never, unless a child ends by itself.

        Raises:
            OperationError: One did.
        """
        while True:
            self.look_after_runs()
            for name, child in {"server": self.server, **self.workers}.items():
                if child is not None and child.poll() is not None:
                    raise OperationError(f"{name} ended with status {child.returncode}; see {self._log(name)}")
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
                print(f"crashed, without a sign of life for {ZOMBIE_S} s: {name}", flush=True)

    def stop(self) -> None:
        """Stop the workers with their flow runs, then the server, which must hear of their end."""
        for worker in self.workers.values():
            end_family(worker)
        self.workers.clear()
        if self.server is not None:
            end_family(self.server)
            self.server = None
        self._stack.close()

    def _start(
        self, name: str, arguments: list[str], environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        log = self._open_log(name)
        with log:
            return subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "prefect", *arguments],
                cwd=ROOT,
                env=environment or self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_with_default_signals,
            )

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _open_log(self, name: str) -> IO[bytes]:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self._log(name).open("ab")


def operation_environment(api_url: str, home: Path) -> dict[str, str]:
    """Return the environment of every process that belongs to the server at `api_url`.

    Args:
        api_url: Address of its API.
        home: Folder of run-time data; Prefect's own lies in it unless PREFECT_HOME says otherwise.
    """
    ours = {
        "DSC_HOME": str(home),
        "PREFECT_HOME": str(Path(os.environ.get("PREFECT_HOME") or home / "prefect").absolute()),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",  # a lost server is an error, never a private database
        "PREFECT_SERVER_UI_API_URL": "/api",  # relative, so that the UI finds its server on any port
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # On disk: with the default, in memory, a restart forgets who holds a slot, and it is never free again.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PYTHONUNBUFFERED": "1",
    }
    return dict(os.environ) | ours


def make_pool() -> None:
    """Make the work pool where it is missing."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


def end_lost_runs() -> None:
    """Mark as crashed what an earlier worker took and never started; a run that did start has the guard for that."""
    with get_client(sync_client=True) as client:
        pending = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING]))
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=pending)):
            client.set_flow_run_state(run.id, Crashed(message="its worker stopped before the run began"), force=True)


def pause_schedules(*names: str) -> None:
    """Pause the deployments of these names; what an earlier start has deployed stays on the server."""
    with get_client(sync_client=True) as client:
        for found in client.read_deployments(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=list(names)))
        ):
            client.pause_deployment(found.id)


def refuse_taken_port(port: int, answer_s: float = 5.0) -> None:
    """Refuse a port that something listens on.

    Args:
        port: The port.
        answer_s: How long whoever listens there may take to say what it is.

    Raises:
        ConfigError: It does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just left is free, as for the server
        try:
            probe.bind((HOST, port))
        except OSError as err:
            who = "another Prefect server" if _answers(f"http://{HOST}:{port}/api", answer_s) else "another program"
            raise ConfigError(
                f"port {port} of {HOST} must be free, {who} has it ({err.strerror}); stop that one or set PORT"
            ) from err


def end_family(child: subprocess.Popen[bytes]) -> None:
    """Stop a child and all its descendants: politely, then for good.

    A worker ends its flow runs itself; one that was killed can't, and each run has a session of its own.
    """
    try:
        family = psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_S)
    if child.poll() is None:
        child.kill()
        child.wait()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=_STOP_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def sole_server(prefect_home: Path, url: str) -> Iterator[None]:
    """Hold the lock of a PREFECT_HOME: two servers on one database would both schedule every run."""
    try:
        prefect_home.mkdir(parents=True, exist_ok=True)
        file = (prefect_home / "operation.lock").open("a+")
    except OSError as err:
        raise StoreError(f"PREFECT_HOME must be a writable folder, {prefect_home} is not ({err.strerror})") from err
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            lock.seek(0)
            raise ConfigError(
                f"one server at a time may use {prefect_home}, {lock.read().strip()} does; stop it or set DSC_HOME"
            ) from err
        lock.truncate(0)
        lock.write(f"process {os.getpid()} ({url})\n")
        lock.flush()
        yield


def _answers(api_url: str, timeout_s: float = 5.0) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{api_url}/health", timeout=timeout_s).status_code == httpx.codes.OK
    return False


def _with_default_signals() -> None:
    # Its own session: Ctrl-C reaches this program alone, which stops its children in order. And SIGINT as usual: a
    # child of a background shell job inherits "ignored", and Prefect stops on it.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def operate(
    *, exchange: World = "sandbox", port: int = 4200, workers: int = 1, host: str = HOST, join: str = ""
) -> None:
    """Start everything, print the address, and stop everything on Ctrl-C or SIGTERM.

    Args:
        exchange: Where candles come from: the sandbox needs no network.
        port: Where the server listens.
        workers: How many are started.
        host: Address that the server listens on; any but 127.0.0.1 lets other machines in, without a password.
        join: Address of the API of a server that runs already; then workers alone are started.
    """
    signal.signal(signal.SIGINT, _leave)  # even where a background shell job said "ignored"
    signal.signal(signal.SIGTERM, _leave)
    operation = Operation(exchange=exchange, port=port, workers=workers, host=host, join=join)
    with contextlib.suppress(KeyboardInterrupt), operation as running:
        what = "joined" if join else f"up on {exchange}"
        print(f"Prefect is {what}: {running.url}\nlogs: {running.logs}\nCtrl-C stops everything", flush=True)
        running.wait()
    print("stopped", flush=True)


def _leave(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def automations() -> None:
    """Install the automations alone, on the server that PREFECT_API_URL names."""
    if not get_current_settings().api.url:
        raise ConfigError(
            "PREFECT_API_URL must name the server that gets the automations, such as http://127.0.0.1:4200/api"
        )
    print("installed:", *install_automations())


if __name__ == "__main__":
    app = cyclopts.App(result_action="return_value")
    app.default(operate)
    app.command(automations)
    with plain_errors():
        app()
