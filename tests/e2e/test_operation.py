"""The whole system as its user starts it: server, worker, deployments, schedules, alerts, and what a browser shows."""

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Pending, Running

from flows.entry import operation
from tasks.journal.journal_reader import JournalReader
from tasks.runs.stale_runs import ZOMBIE_S, _beats, crash_stale_runs

pytestmark = [pytest.mark.e2e, pytest.mark.long]
ROOT = Path(__file__).parents[2]
MAIN_JOB = f"{operation.MAIN_JOB}-sandbox"
LIMIT_S = 600.0  # of every wait: a busy machine is no failure
SMALL = {
    "market": {"interval": "5"},
    "exchange": {"synthetic": {"bars": 6_500, "seed": 8}},
    "bars": {},
    "recipe": {
        "folds": {"folds": 2},
        "network": {"hidden_channels": 8, "num_blocks": 2, "window": 16, "newest_step": True, "linear_bypass": True},
        "fit": {"epochs": 1, "distil": 0.0},
        "baselines": {"twin": False, "strengths": [0.001], "leaves": [2], "most_trees": 20},
    },
}


@flow
def nothing() -> None:
    """A flow to have runs of."""


class Webhook(NamedTuple):
    """Where alerts go, and what came."""

    url: str
    heard: list[str]


@dataclass(kw_only=True)
class System:
    """What `make ui` starts, in a home of its own."""

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

    def start(self) -> None:
        """Start it and wait until it is up; SIGINT is ignored, as a shell's background jobs inherit it."""
        given = {name: text for name, text in os.environ.items() if not name.startswith(("PREFECT_", "DSC_", "BYBIT_"))}
        given |= {
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
        user, _, password = self.secret.partition(":")
        self.client = httpx.Client(base_url=f"{self.url}/api", auth=(user, password), timeout=60.0)
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


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    heard: list[str] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Webhook(f"http://127.0.0.1:{server.server_port}/hook", heard)
        server.shutdown()


@pytest.fixture(scope="module")
def installed(tmp_path_factory, webhook, free_port) -> Iterator[System]:
    """The one system of these tests, started."""
    found = System(port=free_port(), home=tmp_path_factory.mktemp("system"), webhook=webhook)
    try:
        found.start()
        yield found
    finally:
        if found.process.poll() is None:
            found.stop()


@pytest.fixture
def system(installed) -> System:
    """The system, up: a test that stops it may be followed by any other."""
    if installed.process.poll() is not None:
        installed.start()
    return installed


@pytest.fixture(scope="module")
def verdict(installed) -> dict[str, Any]:
    """The main job, started from the command line and done."""
    command = [sys.executable, "-m", "prefect", "deployment", "run", MAIN_JOB, "--params", json.dumps(SMALL)]
    environment = installed.environment() | {"COLUMNS": "400"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr
    return installed.ended(re.findall(r"UUID: ([0-9a-f-]{36})", done.stdout)[0])


def test_every_deployment_of_one_world_is_there_and_the_other_worlds_are_not(system):
    found = system.api("/deployments/filter", {})
    names = sorted(deployment["entrypoint"].split(".")[1] + "/" + deployment["name"] for deployment in found)
    assert names == [
        "evaluate/measure-again", "ingest/new-candles-sandbox", "monitor/hourly-health-check",
        MAIN_JOB, "retrain/retrain-sandbox", "rollback/roll-back-sandbox", "trade/paper-trade-sandbox",
    ]  # fmt: skip
    assert all(deployment["description"] for deployment in found)


def test_form_shows_what_each_field_means_and_takes(system):
    schema = system.api("/deployments/name/retrain/retrain-sandbox")["parameter_openapi_schema"]
    folds = schema["definitions"]["FoldConfig"]["properties"]["folds"]
    assert (folds["description"], folds["minimum"], folds["default"]) == ("Number of test blocks.", 1, 4)
    assert schema["definitions"]["Market"]["properties"]["category"]["enum"] == ["linear", "spot", "inverse"]


def test_value_out_of_bounds_is_refused_with_its_reason_when_a_run_is_asked_for(system):
    with pytest.raises(httpx.HTTPStatusError) as refused:
        system.run("retrain/retrain-sandbox", recipe={"folds": {"folds": 0}})
    assert "0 is less than the minimum of 1" in refused.value.response.text


@pytest.fixture(scope="module")
def failed(installed) -> dict[str, Any]:
    """A run that the scheduler has fired, with a range that no run can have, and that has failed."""
    retrain = installed.api("/deployments/name/retrain/retrain-sandbox")["id"]
    first = datetime.now(UTC) + timedelta(seconds=15)
    schedule = {
        "schedule": {"interval": 60.0, "anchor_date": first.isoformat()},  # the first is over before a second begins
        "active": True,
        "slug": "often",
        "parameters": {"bars": {"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}},
    }
    installed.api(f"/deployments/{retrain}/schedules", [schedule])

    def fired() -> Any:
        runs = installed.api("/flow_runs/filter", {"deployments": {"id": {"any_": [retrain]}}})
        return [run["id"] for run in runs if run["state_type"] not in ("SCHEDULED", "PENDING")]

    run = wait_for(fired)[0]
    installed.api(f"/deployments/{retrain}/pause_deployment", {})
    return installed.ended(run)


def test_scheduler_plans_and_fires_runs(system, failed):
    hourly = {"deployments": {"name": {"any_": ["hourly-health-check"]}}}
    wait_for(lambda: len(system.api("/flow_runs/filter", hourly)) >= 3)
    assert failed["auto_scheduled"]


def test_run_that_beats_is_not_taken_for_a_stale_one(system):
    with (
        temporary_settings({PREFECT_API_URL: f"{system.url}/api", PREFECT_API_AUTH_STRING: system.secret}),
        get_client(sync_client=True) as client,
    ):
        run = client.create_flow_run(nothing, state=Pending())
        client.set_flow_run_state(run.id, Running())
        now = datetime.now(UTC)
        beat = Event(
            event="prefect.flow-run.heartbeat",
            resource={"prefect.resource.id": f"prefect.flow-run.{run.id}"},
            occurred=now + timedelta(seconds=1),
        )
        client.request("POST", "/events", json=[beat.model_dump(mode="json")])
        later = now + timedelta(seconds=ZOMBIE_S + 0.5)  # the state is out of the window by then, the beat is not
        wait_for(lambda: _beats(client, client.read_flow_run(run.id), now, later))  # the server stores them in batches
        assert run.name not in crash_stale_runs(client, later)
        assert client.read_flow_run(run.id).state_name == "Running"


def test_start_says_where_to_look_and_where_a_first_run_begins(system):
    assert system.said["starting on sandbox"] == system.said["ready"] == f"{system.url}/deployments"
    main_job = system.api(f"/deployments/name/{MAIN_JOB}")["id"]
    assert system.said["a first run"] == f"press Submit on {system.url}/deployments/deployment/{main_job}/run"


def test_pages_show_what_a_run_came_to_and_ask_no_other_host(system, verdict, tmp_path):
    assert (verdict["state_type"], verdict["name"]) == (
        "COMPLETED",
        "pipeline SYNTHUSDT linear 5m sandbox from the listing on",
    )
    found = {artifact["key"]: artifact for artifact in system.api("/artifacts/latest/filter", {}) if artifact["key"]}
    wanted = {  # what -> kind, words that its page must show
        "verdict": ("markdown", ["SYNTHUSDT linear 5m", "Not promoted", "The whole report"]),
        "result": ("table", ["decision", "kept flat"]),
        "promotion": ("table", ["FAIL", "unseen days"]),
        "data-quality": ("table", ["candles stored", "6,500"]),
        "backtest": ("table", ["Sharpe ratio", "buy and hold"]),
        "latency": ("table", ["eager torch"]),
    }
    pages = {}
    for what, (kind, words) in wanted.items():
        (key,) = (key for key in found if key.startswith(f"{what}-sandbox-"))
        assert found[key]["type"] == kind
        pages[what] = (f"/artifacts/artifact/{found[key]['latest_id']}", words)
    main_job = system.api(f"/deployments/name/{MAIN_JOB}")["id"]
    pages |= {
        "deployments": ("/deployments", ["daily-model-sandbox", "roll-back-sandbox"]),
        "form": (f"/deployments/deployment/{main_job}/run", ["Bar length", "as usual"]),
        "run": (f"/runs/flow-run/{verdict['id']}", ["verdict-sandbox", "result-sandbox", "report-sandbox"]),
        "dashboard": ("/", ["Flow Runs"]),
    }
    with browser_page(system) as (page, errors, hosts):
        for name, (path, words) in pages.items():
            page.goto(system.url + path, wait_until="domcontentloaded")
            if path.startswith("/runs/"):
                page.get_by_text("Artifacts", exact=True).click(timeout=120_000)
            shows = "words => words.every(word => document.body.innerText.includes(word))"
            page.wait_for_function(shows, arg=words, timeout=120_000)
            if name == "verdict":  # the equity and the training, whole
                images = (
                    "[...document.images].filter(image => image.src.startsWith('data:') && image.naturalWidth > 300)"
                )
                page.wait_for_function(f"{images}.length == 2", timeout=120_000)
            page.screenshot(path=str(tmp_path / f"{name}.png"), full_page=True)
        assert "/v2" not in page.url
        assert errors == []
        assert hosts == {httpx.URL(system.url).netloc.decode()}


def test_verdict_leads_to_the_report_in_the_browser_and_the_report_asks_nobody(system, verdict):
    (link,) = (one for one in system.api("/artifacts/filter", {}) if (one["key"] or "").startswith("report-sandbox-"))
    (address,) = re.findall(r"\((http.*)\)", link["data"])
    served = system.said["reports"].partition(" ")[0]
    assert address.startswith(f"{served}/sandbox:")
    assert httpx.get(address).status_code == 401
    with browser_page(system) as (page, errors, hosts):
        page.goto(served)
        page.click("td a")
        page.get_by_text("SYNTHUSDT").first.wait_for(timeout=120_000)
        assert page.url == address
        assert errors == []
        assert hosts == {httpx.URL(address).netloc.decode() for address in (system.url, served)}


@contextlib.contextmanager
def browser_page(system: System) -> Iterator[tuple[Any, list[str], set[str]]]:
    """Open a page in Chromium that is logged in, with its errors and the hosts that it asks, as they come."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the PATH; set CHROMIUM to one")
    errors: list[str] = []
    hosts: set[str] = set()
    user, _, password = system.secret.partition(":")

    def asked(address: str) -> None:
        if address.startswith(("http", "ws")):
            hosts.add(httpx.URL(address).netloc.decode())

    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu", "--no-proxy-server"]
        browser = started.chromium.launch(executable_path=chromium, args=arguments)
        known = {"username": user, "password": password, "origin": system.said["reports"].partition(" ")[0]}
        page = browser.new_context(viewport={"width": 1400, "height": 1000}, http_credentials=known).new_page()
        page.on("request", lambda request: asked(request.url))
        page.on("websocket", lambda opened: asked(opened.url))
        page.goto(system.url)
        page.fill("input[type=password]", system.secret)
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "login" not in url, timeout=120_000)
        # A file that Prefect's own pages miss says "Failed to load" without a name; what the API refuses has one.
        page.on(
            "console",
            lambda said: (
                errors.append(said.text)
                if said.type == "error" and not said.text.startswith("Failed to load")
                else None
            ),
        )
        page.on(
            "response",
            lambda reply: (
                errors.append(f"{reply.status} {reply.url}") if reply.status >= 400 and "/api/" in reply.url else None
            ),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page, errors, hosts
        browser.close()


def test_session_that_is_cancelled_ends_as_its_rules_say_and_its_page_tells(system, verdict):
    given = {name: SMALL[name] for name in ("market", "exchange")} | {"version": "newest", "session": "cancelled"}
    run = system.run("trade/paper-trade-sandbox", **given, steps=100_000, rules={"at_end": "flat"})
    asked = {"artifacts": {"flow_run_id": {"any_": [run]}, "type": {"any_": ["markdown"]}}}
    (first,) = wait_for(lambda: system.api("/artifacts/filter", asked))
    assert ": RUNNING\n" in first["data"]
    system.api(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert system.ended(run)["state_type"] == "CANCELLED"
    (page,) = system.api("/artifacts/filter", asked)
    assert page["id"] == first["id"]
    assert ": ENDED\n" in page["data"]
    assert "> **it was stopped**" in page["data"]
    assert "| position | flat |" in page["data"]
    with JournalReader.of(system.home / "sessions" / "cancelled.sqlite") as reader:
        (slug,) = reader.markets()
        assert reader.opens(slug, last=1)[0].opened.ledger.weight == 0
        assert reader.facts()["summary"]["unexplained"] == 0


def test_failed_run_is_told_to_the_webhook_with_its_reason(system, failed):
    assert failed["state_type"] == "FAILED"
    text = wait_for(lambda: [text for text in system.webhook.heard if "start must be before end" in text])[0]
    assert text.startswith("run failed: ")


def test_promotion_and_drift_are_told_to_the_webhook(system):
    code = (
        "from tasks.runs.alerts import raise_alert\n"
        "for kind in ('promotion', 'drift'):\n    raise_alert(kind, 'bybit/x', 'why')"
    )
    subprocess.run([sys.executable, "-c", code], env=system.environment(), cwd=ROOT, check=True)  # noqa: S603
    wanted = {"a new champion: bybit/x: why", "the market has changed: bybit/x: why"}
    wait_for(lambda: wanted <= set(system.webhook.heard))


@pytest.mark.ends_file
def test_stop_leaves_nothing_behind_not_even_a_running_flow(system, verdict):  # a verdict has stored candles
    long = SMALL["recipe"] | {"fit": {"epochs": 500, "seed": 2, "distil": 0.0}}
    run = system.run("retrain/retrain-sandbox", **SMALL | {"recipe": long})
    wait_for(lambda: system.api(f"/flow_runs/{run}")["state_type"] == "RUNNING")
    family = psutil.Process(system.process.pid).children(recursive=True)
    assert len(family) >= 3  # server, worker, flow run
    assert system.stop()[-1] == "stopped"
    assert system.process.returncode == 0
    _, alive = psutil.wait_procs(family, timeout=30)  # whoever adopts the dead takes a moment to bury them
    assert alive == []
