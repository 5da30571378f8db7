"""What `make ui` starts, as these tests start it, ask it and stop it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from flows.entry import deployments

ROOT = Path(__file__).parents[2]
MAIN_JOB = f"{deployments.MAIN_JOB}-sandbox"
LIMIT_S = 600.0  # of every wait: a busy machine is no failure
KEYS = {"DSC_BYBIT_LIVE_KEY": "KEY-0F-THE-ACC0UNT", "DSC_BYBIT_LIVE_SECRET": "SECRET-0F-THE-ACC0UNT"}


class Webhook(NamedTuple):
    """Where alerts go, and what came."""

    url: str
    heard: list[str]


@dataclass(kw_only=True)
class System:
    """What `make ui` starts, in a home of its own, by a user whose webhook and keys are nobody's business."""

    port: int
    home: Path
    webhook: Webhook
    process: subprocess.Popen[str] = field(init=False)
    client: httpx.Client = field(init=False)  # one for all questions: each new one reads every certificate
    said: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def secret(self) -> str:
        return (self.home / "secret").read_text()

    @property
    def auth(self) -> tuple[str, str]:
        """The secret as a client of HTTP takes it."""
        user, _, password = self.secret.partition(":")
        return user, password

    def start(self) -> None:
        """Start it and wait until it is up; SIGINT is ignored, as a shell's background jobs inherit it."""
        given = {name: text for name, text in os.environ.items() if not name.startswith(("PREFECT_", "DSC_", "BYBIT_"))}
        given |= KEYS | {
            "DSC_HOME": str(self.home),
            "PREFECT_HOME": str(self.home / "prefect"),
            "DSC_ALERT_URL": self.webhook.url,
        }
        given["PREFECT_API_URL"] = "http://127.0.0.1:9/api"  # somebody's setting, wrong: ours must win
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "flows.entry.operation", "--port", str(self.port)],
            cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )  # fmt: skip
        for line in iter(self.process.stdout.readline, ""):
            self.said |= [line.strip().partition(": ")[::2]]
            if line.startswith("Ctrl-C"):
                break
        assert self.process.poll() is None, self.said
        self.client = httpx.Client(base_url=f"{self.url}/api", auth=self.auth, timeout=60.0)
        for name in ("ingest/new-candles-sandbox", MAIN_JOB):  # runs that nobody waits for would take time and slots
            self.api(f"/deployments/{self.api(f'/deployments/name/{name}')['id']}/pause_deployment", {})

    def stop(self) -> list[str]:
        """Stop it as a service manager does, and return what it said since it was up."""
        self.client.close()
        self.process.terminate()
        self.process.wait(LIMIT_S)
        with self.process.stdout as said:
            return said.read().splitlines()

    def api(self, path: str, body: Any = None) -> Any:
        """Ask the server: POST with a body, GET without one. A busy SQLite answers 503, and is asked again."""

        def ask() -> Any:
            method = "GET" if body is None else "POST"
            reply = self.client.request(method, path, json=body)
            return None if reply.status_code == httpx.codes.SERVICE_UNAVAILABLE else reply

        reply = wait_for(ask)
        reply.raise_for_status()
        return reply.json() if reply.content else None

    def run(self, deployment: str, **parameters: Any) -> str:
        """Start a run as the UI does, and return its id."""
        found = self.api(f"/deployments/name/{deployment}")["id"]
        return str(self.api(f"/deployments/{found}/create_flow_run", {"parameters": parameters})["id"])

    def ended(self, run: str) -> dict[str, Any]:
        """Wait until a run has ended, and return it."""

        def look() -> Any:
            found = self.api(f"/flow_runs/{run}")
            return found if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        return wait_for(look)

    def family(self) -> list[psutil.Process]:
        """Return every process of it."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def environment(self) -> dict[str, str]:
        """Return the environment of a program that talks to the server."""
        return os.environ | {"PREFECT_API_URL": f"{self.url}/api", "PREFECT_API_AUTH_STRING": self.secret}


def wait_for(look: Callable[[], Any]) -> Any:
    """Return what `look` returns once it is true."""
    deadline = time.monotonic() + LIMIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.5)
    return found
