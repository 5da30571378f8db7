"""What a stranger can reach: a page in the user's browser, a name that was bound to this address, a guessed secret."""

import base64
import json
import os
import shutil
import signal
import time
from contextlib import suppress

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.e2e.system import KEYS, LIMIT_S, MAIN_JOB, System, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.promise(18)]

FOREIGN = {"Origin": "http://evil.example"}
TYPED = {"Content-Type": "application/json"}


@pytest.fixture
def deployment(system) -> str:
    """The id of a deployment that runs for whoever may start it."""
    reply = httpx.get(f"{system.url}/api/deployments/name/monitor/hourly-health-check", auth=system.auth, timeout=60)
    return str(reply.raise_for_status().json()["id"])


def runs_that_somebody_started(system: System) -> list[str]:
    reply = httpx.post(f"{system.url}/api/flow_runs/filter", json={}, auth=system.auth, timeout=60)
    return [run["id"] for run in reply.raise_for_status().json() if not run["auto_scheduled"]]


@pytest.mark.parametrize(
    "headers",
    [
        FOREIGN,  # without a Content-Type a browser asks nobody before it sends
        FOREIGN | TYPED,
        FOREIGN | {"Content-Type": "text/plain"},
        {},
        {"Authorization": "Basic " + base64.b64encode(b"dsc:guessed").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"dsc:").decode()},
        {"Authorization": "Basic not base64"},
        {"Authorization": "Bearer token"},
        {"Authorization": ""},
    ],
)
def test_run_is_started_for_nobody_without_the_secret(system, deployment, headers):
    before, url = runs_that_somebody_started(system), f"{system.url}/api/deployments/{deployment}/create_flow_run"
    body = json.dumps({"job_variables": {"command": "touch /tmp/entered"}}).encode()
    reply = httpx.post(url, content=body, headers=headers, timeout=60)
    assert reply.status_code == httpx.codes.UNAUTHORIZED
    assert system.secret.split(":")[1] not in reply.text
    assert runs_that_somebody_started(system) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/block_documents/filter"),
        ("POST", "/api/flows/filter"),
        ("POST", "/api/logs/filter"),
        ("GET", "/api/admin/settings"),
        ("GET", "/api/admin/version"),
        ("POST", "/api/admin/database/clear"),
        ("GET", "/api/csrf-token?client=x"),
        ("GET", "/api//flows/"),
        ("DELETE", "/api/work_pools/local"),
        ("GET", "/api/work_pools/local/health"),  # the path of the health check is open, none that ends like it
    ],
)
def test_nothing_is_read_or_changed_without_the_secret(system, method, path):
    body = json.dumps({"include_secrets": True})
    reply = httpx.request(method, f"{system.url}{path}", content=body, headers=TYPED, timeout=60)
    assert reply.status_code == httpx.codes.UNAUTHORIZED
    assert system.webhook.url not in reply.text


def test_browser_is_told_that_no_other_origin_may_ask(system):
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    reply = httpx.options(f"{system.url}/api/flows/filter", headers=FOREIGN | asks, timeout=60)
    assert reply.status_code == httpx.codes.BAD_REQUEST
    assert "Access-Control-Allow-Origin" not in reply.headers
    answered = httpx.get(f"{system.url}/api/health", headers=FOREIGN, timeout=60)
    assert "Access-Control-Allow-Origin" not in answered.headers


@pytest.mark.parametrize("path", ["/", "/api/health", "/api/flows/filter", "/ui-settings"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:4200"])
def test_server_answers_to_no_name_but_its_own(system, host, path):
    reply = httpx.get(f"{system.url}{path}", headers={"Host": host}, auth=system.auth, timeout=60)
    assert (reply.status_code, reply.text) == (httpx.codes.BAD_REQUEST, "Invalid host header")


def heard_by_a_stranger(address: str, protocols: list[str] | None) -> list[str]:
    """Return what a socket says to whoever guesses the secret, until it is closed."""
    heard = []
    try:
        with connect(address, subprotocols=protocols, origin="http://evil.example") as opened:
            opened.send(json.dumps({"type": "auth", "token": "guessed"}))
            while True:
                heard.append(json.loads(opened.recv(timeout=60))["type"])
    except (ConnectionClosed, InvalidStatus):
        return heard


@pytest.mark.parametrize("path", ["/api/events/out", "/api/events/in", "/api/logs/out"])
@pytest.mark.parametrize("protocols", [None, ["prefect"]])
def test_socket_is_closed_on_whoever_does_not_show_the_secret(system, path, protocols):
    heard = heard_by_a_stranger(system.url.replace("http", "ws") + path, protocols)
    assert set(heard) <= {"auth_failure"}


@pytest.mark.parametrize(
    "variables",
    [
        {"command": "touch /tmp/entered"},
        {"working_dir": "/"},
        {"env": {"PYTHONPATH": "/srv/theirs"}},  # another way to run other code
        {"env.LD_PRELOAD": "/srv/theirs.so"},
        {"stream_output": False},
    ],
)
def test_how_a_run_is_started_is_changed_by_nobody_not_even_with_the_secret(system, deployment, variables):
    url, deadline = f"{system.url}/api/deployments/{deployment}/create_flow_run", time.monotonic() + LIMIT_S
    status = httpx.codes.SERVICE_UNAVAILABLE
    while status == httpx.codes.SERVICE_UNAVAILABLE and time.monotonic() < deadline:  # a busy SQLite
        reply = httpx.post(url, json={"job_variables": variables}, auth=system.auth, timeout=60)
        status = reply.status_code
    assert status == httpx.codes.UNPROCESSABLE_ENTITY
    assert "Additional properties are not allowed" in reply.text


def test_browser_gets_in_with_the_secret_and_not_without(system, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the PATH; set CHROMIUM to one")
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu", "--no-proxy-server"]
        browser = started.chromium.launch(executable_path=chromium, args=arguments, timeout=LIMIT_S * 1_000)
        page = browser.new_page()
        page.set_default_timeout(LIMIT_S * 1_000)
        page.goto(f"{system.url}/deployments")
        field = page.locator("input[type=password]")
        field.fill("dsc:guessed")
        with page.expect_response(lambda reply: "/api/admin/version" in reply.url) as refused:
            page.keyboard.press("Enter")
        assert refused.value.status == httpx.codes.UNAUTHORIZED
        field.fill(system.secret)
        page.keyboard.press("Enter")
        shows = "document.body.innerText.includes('pipeline') && document.body.innerText.includes('monitor')"
        page.wait_for_function(shows)
        page.screenshot(path=str(tmp_path / "inside.png"))
        browser.close()


def test_key_is_in_no_file_and_in_the_environment_of_nobody_who_does_not_need_it(system):
    told = {}
    for process in system.family():
        with suppress(psutil.NoSuchProcess):  # a helper that was at its end
            if process.pid != system.process.pid:
                told[" ".join(process.cmdline())] = " ".join(process.environ().values())
    server = [name for name in told if "flows.entry.server" in name]
    assert server
    for name, values in told.items():
        assert system.secret in values, name
        assert not [key for key in (*KEYS.values(), system.webhook.url) if key in values], name
    hidden = [system.secret, *KEYS.values()]
    holding, open_to_others = set(), []
    for path in system.home.rglob("*"):
        with suppress(FileNotFoundError):  # it came and went
            if path.is_file() and any(text.encode() in path.read_bytes() for text in hidden):
                holding.add(str(path.relative_to(system.home)))
            if path.lstat().st_mode & 0o077 and not path.is_symlink():
                open_to_others.append(path)
    assert holding == {"secret"}
    assert open_to_others == []


def test_start_says_where_the_secret_is_and_not_the_secret(system):
    assert f"it asks for the secret in {system.home / 'secret'}" in system.said
    assert system.secret.split(":")[1] not in str(system.said)


@pytest.mark.ends_file
def test_nothing_goes_on_when_the_operation_is_killed(system):
    run = system.run(MAIN_JOB)
    wait_for(lambda: system.api(f"/flow_runs/{run}")["state_type"] == "RUNNING")
    family = system.family()
    assert len(family) >= 4  # operation, server, worker, flow run
    system.process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=LIMIT_S)
    assert alive == []
    system.stop()
