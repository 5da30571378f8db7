"""The whole system as its user starts it: server, worker, deployments, schedules, alerts, and what a browser shows."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Pending, Running

from tasks.journal.journal_reader import JournalReader
from tasks.runs.stale_runs import ZOMBIE_S, _beats, crash_stale_runs
from tests.e2e.system import MAIN_JOB, ROOT, System, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.long]
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
    assert schema["definitions"]["Market"]["properties"]["category"]["enum"] == ["linear", "spot"]


def test_value_out_of_bounds_is_refused_with_its_reason_when_a_run_is_asked_for(system):
    with pytest.raises(httpx.HTTPStatusError) as refused:
        system.run("retrain/retrain-sandbox", recipe={"folds": {"folds": 0}})
    assert "0 is less than the minimum of 1" in refused.value.response.text


@pytest.fixture(scope="module")
def session(installed, verdict) -> dict[str, Any]:
    """A paper session without end that the scheduler has fired, running."""
    trade = installed.api("/deployments/name/trade/paper-trade-sandbox")["id"]
    first = datetime.now(UTC) + timedelta(seconds=15)
    given = {name: SMALL[name] for name in ("market", "exchange")} | {"version": "newest", "session": "cancelled"}
    schedule = {
        "schedule": {"interval": 60.0, "anchor_date": first.isoformat()},
        "active": True,
        "slug": "often",
        "parameters": given | {"steps": 100_000, "rules": {"at_end": "flat"}},
    }
    installed.api(f"/deployments/{trade}/schedules", [schedule])

    def fired() -> Any:
        runs = installed.api("/flow_runs/filter", {"deployments": {"id": {"any_": [trade]}}})
        return [run for run in runs if run["state_type"] == "RUNNING"]

    (run,) = wait_for(fired)
    installed.api(f"/deployments/{trade}/pause_deployment", {})
    return run


def test_scheduler_plans_and_fires_runs(system, session):
    hourly = {"deployments": {"name": {"any_": ["hourly-health-check"]}}}
    wait_for(lambda: len(system.api("/flow_runs/filter", hourly)) >= 3)
    assert session["auto_scheduled"]


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
    user, password = system.auth

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


def test_session_that_is_cancelled_ends_as_its_rules_say_and_its_page_tells(system, session):
    run = session["id"]
    asked = {"artifacts": {"flow_run_id": {"any_": [run]}, "type": {"any_": ["markdown"]}}}
    (first,) = wait_for(lambda: system.api("/artifacts/filter", asked))
    assert ": RUNNING\n" in first["data"]
    system.api(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    # Prefect's runner tells a process why it is stopped, and waits one second for its answer; a busy one that is late
    # calls itself crashed. It ends by its rules all the same, but later.
    assert system.ended(run)["state_type"] in ("CANCELLED", "CRASHED")
    wait_for(lambda: ": ENDED\n" in system.api("/artifacts/filter", asked)[0]["data"])
    (page,) = system.api("/artifacts/filter", asked)
    assert page["id"] == first["id"]
    assert "> **it was stopped**" in page["data"]
    assert "| position | flat |" in page["data"]
    with JournalReader.of(system.home / "sessions" / "cancelled.sqlite") as reader:
        (slug,) = reader.markets()
        assert reader.opens(slug, last=1)[0].opened.ledger.side == 0
        assert reader.facts()["summary"]["unexplained"] == 0


def test_failed_run_is_told_to_the_webhook_with_its_reason(system):
    run = system.ended(
        system.run("ingest/new-candles-sandbox", bars={"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"})
    )
    assert run["state_type"] == "FAILED"
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
