"""The server of the reports: shows a stored version's page to who has the secret, and nothing to anybody else."""

import base64
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import httpx
import pytest

from flows.entry.child import end_family
from flows.entry.reports import reports_app
from flows.entry.server import HOST, bound_socket, start_server
from storage.artifacts import ArtifactStore
from storage.schema import FEATURES, Source, VersionRef
from storage.secret import home_secret
from tests.reporting.example_panel import SANDBOX, version_of

PAGE = b"<!DOCTYPE html><title>report</title><p>not promoted</p>"
MADE = datetime(2026, 1, 4, 10, tzinfo=UTC)


def published(store: ArtifactStore, source: str, number: int) -> VersionRef:
    files = {"report.html": PAGE, "weights.safetensors": b"weights of the model"}
    now = MADE + timedelta(hours=number)
    return store.publish(Source(source), "linear-BTCUSDT-5", f"{number:08x}", files, {"features": list(FEATURES)}, now)


@dataclass(frozen=True)
class Served:
    """A running server, and what it may show."""

    port: int
    secret: str
    version: VersionRef
    home: Path

    def get(self, path: str, **changes) -> httpx.Response:
        user, _, password = self.secret.partition(":")
        given = {"auth": (user, password), "timeout": 30.0} | changes
        return httpx.request(given.pop("method", "GET"), f"http://{HOST}:{self.port}{path}", **given)

    def raw(self, target: str) -> tuple[int, bytes]:
        """Ask for a target that no library would send as it is, and return status and answer."""
        shown = base64.b64encode(self.secret.encode()).decode()
        request = f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Basic {shown}\r\nConnection: close\r\n\r\n"
        with (
            socket.create_connection((HOST, self.port), timeout=30.0) as connection,
            connection.makefile("rb") as answer,
        ):
            connection.sendall(request.encode())
            content = answer.read()
        return int(content.split()[1]), content


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("reports")
    store = ArtifactStore(str(home / "models"))
    published(store, "sandbox:0123abcd", 0)
    version = published(store, "bybit", 1)
    (home / "models" / "bybit" / "linear-BTCUSDT-5" / "notes.html").write_text("no version's")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("DSC_")}
    with bound_socket(HOST, 0) as listening:
        port = listening.getsockname()[1]
        environment |= {"DSC_HOME": str(home)}
        child = start_server(listening, environment, home / "reports.log", "flows.entry.reports")
    yield Served(port=port, secret=home_secret(home), version=version, home=home)
    end_family(child)


def test_list_names_every_version_and_leads_to_its_report(served):
    reply = served.get("/")
    assert reply.status_code == 200
    assert f'href="/{served.version}"' in reply.text
    assert "BTCUSDT linear 5m from sandbox:0123abcd" in reply.text
    assert "2026-01-04 11:00" in reply.text


def test_list_says_what_became_of_each_version(tmp_path):
    store = ArtifactStore(str(tmp_path))
    for number, one in enumerate([published(store, "bybit", number) for number in (1, 2, 3)][:2]):
        sides = {"champion": {"net": 0.0}, "challenger": {"net": 0.1}}
        store.promote(one.source, one.name, one, sides, expected=number, now=MADE)
    transport = httpx.ASGITransport(app=reports_app(str(tmp_path), "dsc:secret", [HOST]))

    async def page() -> str:
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}", auth=("dsc", "secret")) as client:
            return (await client.get("/")).text

    cells = re.findall(r"<td>([^<>]*)</td></tr>", anyio.run(page))
    assert cells == ["not promoted", "champion", "champion before"]  # the newest first


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_report_is_shown_as_a_page_that_asks_nobody_and_has_no_origin(served, host):
    reply = served.get(f"/{served.version}", headers={"Host": f"{host}:{served.port}"})
    assert (reply.status_code, reply.content) == (200, PAGE)
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"].split("; ")
    assert {"sandbox allow-scripts allow-downloads", "default-src 'none'"} <= set(policy)
    assert served.get(f"/{served.version}", method="HEAD").content == b""


def test_markets_of_a_source_are_shown_side_by_side_and_lead_to_their_reports(tmp_path):
    store = ArtifactStore(str(tmp_path / "models"))
    version = version_of(store)
    published(store, "bybit", 1)  # its manifest says nothing
    transport = httpx.ASGITransport(reports_app(store.place, "dsc:x", ["here"]))

    async def asked() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://here", auth=("dsc", "x")) as client:
            return [
                await client.get(path) for path in ("/", f"/{SANDBOX}", "/bybit", "/demo", "/elsewhere", "/sandbox")
            ]

    listed, sandbox, bybit, demo, *unknown = anyio.run(asked)
    assert f'href="/{SANDBOX}"' in listed.text
    assert 'href="/bybit"' in listed.text
    assert f'href="/{version}"' in sandbox.text
    assert sandbox.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "Can't be shown: manifest of bybit/linear-BTCUSDT-5/" in bybit.text
    assert "Lead beyond luck in 0 of 1 market," in bybit.text
    assert "make run EXCHANGE=demo" in demo.text
    assert [reply.status_code for reply in unknown] == [404, 404]
    assert all('<a href="/">All reports</a>' in reply.text for reply in unknown)


@pytest.mark.promise(18)
@pytest.mark.parametrize("path", ["/", "/version", "/nowhere", "/bybit"])
@pytest.mark.parametrize(
    "auth", [None, ("dsc", ""), ("dsc", "wrong"), ("", ""), ("dsc", "é" * 40), ("x" * 3_000, "y")], ids=repr
)
def test_nobody_gets_in_without_the_homes_secret(served, path, auth):
    reply = served.get(path.replace("version", str(served.version)), auth=auth)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"].startswith("Basic ")
    assert PAGE not in reply.content
    assert served.secret.partition(":")[2] not in reply.text


@pytest.mark.promise(18)
def test_secret_in_the_address_or_with_another_scheme_lets_nobody_in(served):
    for headers in (
        {"Authorization": f"Bearer {served.secret}"},
        {"Authorization": "Basic"},
        {"Cookie": served.secret},
    ):
        assert served.get(f"/?auth={served.secret}", auth=None, headers=headers).status_code == 401


@pytest.mark.promise(18)
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:4201", "[::1]", ""])
def test_foreign_host_is_refused_even_with_the_secret(served, host):
    reply = served.get(f"/{served.version}", headers={"Host": host})
    assert reply.status_code == 400
    assert PAGE not in reply.content


@pytest.mark.promise(18)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT2"])
@pytest.mark.parametrize("known", [True, False])
def test_whatever_is_no_reading_is_refused(served, method, known):
    changes = {} if known else {"auth": None}
    origin = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    reply = served.get(f"/{served.version}", method=method, headers=origin, **changes)
    assert reply.status_code == (405 if known else 401)
    assert PAGE not in reply.content


@pytest.mark.promise(18)
@pytest.mark.parametrize("path", ["/", "/version", "/nowhere"])
def test_no_other_origin_may_read_an_answer_or_frame_it(served, path):
    reply = served.get(path.replace("version", str(served.version)), headers={"Origin": "http://evil.example"})
    assert [name for name in reply.headers if name.startswith("access-control-")] == []
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert reply.headers["x-frame-options"] == "DENY"
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.promise(18)
@pytest.mark.parametrize(
    "target",
    [
        "/../secret",
        "/bybit/../../secret",
        "/bybit/linear-BTCUSDT-5/../../../secret",
        "/%2e%2e/%2e%2e/secret",
        "/bybit/%2e%2e/secret",
        "/bybit/linear-BTCUSDT-5/%2e%2e%2f%2e%2e%2fsecret",
        "/bybit/..%2f..%2f..%2fsecret/20260104T110000Z-00000001",
        "/bybit/linear-BTCUSDT-5/notes.html",
        "/bybit/linear-BTCUSDT-5/{version}/",
        "/bybit/linear-BTCUSDT-5/{version}/weights.safetensors",
        "/bybit/linear-BTCUSDT-5/{version}%2fweights.safetensors",
        "/bybit/linear-BTCUSDT-5/{version}/manifest.json",
        "/bybit/linear-BTCUSDT-5/{version}%00",
        "/bybit/linear-BTCUSDT-5/champion",
        "//etc/passwd",
        "/file:///etc/passwd",
        "/bybit//etc/passwd/{version}",
        "/sandbox-0123abcd/linear-BTCUSDT-5/20260104T100000Z-00000000",
        "/BYBIT/linear-BTCUSDT-5/{version}",
        "/docs",
        "/openapi.json",
        "http://evil.example/",
    ],
)
def test_nothing_but_a_report_can_be_read_whatever_the_address(served, target):
    status, content = served.raw(target.replace("{version}", served.version.version))
    assert status in (400, 404)
    assert served.secret.partition(":")[2].encode() not in content
    assert not any(part in content for part in (b"root:", b"weights of", b"no version's", b"sha256", PAGE))


@pytest.mark.promise(19)
@pytest.mark.parametrize("length", [2_000, 20_000, 1_000_000])
def test_absurdly_long_address_is_refused_and_the_server_lives_on(served, length):
    try:
        assert served.raw("/" + "a" * length)[0] in (400, 404)
    except ConnectionError:  # refused before it had been sent whole
        assert length > 16_384
    assert served.get("/").status_code == 200


@pytest.mark.promise(19)
def test_caller_who_never_ends_his_request_keeps_nobody_out(served):
    with socket.create_connection((HOST, served.port)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert served.get("/").status_code == 200


def test_damaged_report_is_refused_with_the_reason(served):
    store = ArtifactStore(str(served.home / "models"))
    version = published(store, "testnet", 7)
    Path(store.location(version, "report.html")).write_bytes(b"<script>alert(1)</script>")
    reply = served.get(f"/{version}")
    assert reply.status_code == 404
    assert "does not match its sha256" in reply.text
    assert "<script" not in reply.text
    assert reply.headers["content-security-policy"] == "default-src 'none'"


@pytest.mark.parametrize("url", ["folder", "memory", "s3"])
def test_reports_are_shown_from_wherever_the_versions_live(url, tmp_path, request: pytest.FixtureRequest):
    places: dict[str, Callable[[], str]] = {
        "folder": lambda: str(tmp_path / "models"),
        "memory": lambda: "memory://reports/models",
        "s3": lambda: f"{request.getfixturevalue('s3_bucket')}/reports",
    }
    place = places[url]()
    version = published(ArtifactStore(place), "sandbox:0123abcd", 3)
    transport = httpx.ASGITransport(reports_app(place, "dsc:x", ["here"]))

    async def both() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://here", auth=("dsc", "x")) as client:
            return [await client.get("/"), await client.get(f"/{version}")]

    listed, shown = anyio.run(both)
    assert f'href="/{version}"' in listed.text
    assert shown.content == PAGE


def test_home_without_a_version_says_what_makes_one(tmp_path):
    transport = httpx.ASGITransport(reports_app(str(tmp_path / "models"), "dsc:x", ["here"]))

    async def listed() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://here", auth=("dsc", "x")) as client:
            return await client.get("/")

    assert "a run of the pipeline makes the first one" in anyio.run(listed).text
