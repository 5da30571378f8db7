"""The one system of these tests: both files go to one worker, and the first test of them starts it."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.system import System, Webhook


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def installed(tmp_path_factory, webhook, free_port) -> Iterator[System]:
    """The one system of these tests, started."""
    found = System(port=free_port(), home=tmp_path_factory.mktemp("system") / "home", webhook=webhook)
    try:
        found.start()
        yield found
    finally:
        if found.process.poll() is None:
            found.stop()


@pytest.fixture
def system(installed) -> System:
    """The system, up: the test that kills it may be followed by any other."""
    if installed.process.poll() is not None:
        installed.start()
    return installed
