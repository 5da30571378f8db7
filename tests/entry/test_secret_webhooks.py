"""Where an alert is sent is in no log: whoever knows the address can write there."""

import asyncio
import logging
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

TOKEN = "T0KEN-hunter2"  # noqa: S105 - the path of a webhook, as Slack makes them


class Answers500(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(500)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def failing_webhook():
    server = HTTPServer(("127.0.0.1", 0), Answers500)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/services/{TOKEN}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.promise(18)
@pytest.mark.parametrize("place", ["answers 500", "is not there", "is no address"])
def test_address_of_a_webhook_that_fails_is_in_no_log(monkeypatch, caplog, failing_webhook, place):
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.server.events.actions import SendNotification

    from flows.entry.secret_webhooks import keep_webhooks_secret

    address = {
        "answers 500": failing_webhook,
        "is not there": f"http://127.0.0.1:1/services/{TOKEN}",
        "is no address": f"//{TOKEN}",
    }[place]
    block = CustomWebhookNotificationBlock(
        name="alerts", url="{{address}}", secrets={"address": address}, json_data={"text": "{{body}}"},
        allow_private_urls=True,
    )  # fmt: skip
    monkeypatch.setattr(SendNotification, "act", SendNotification.act)  # as found, afterwards
    keep_webhooks_secret()

    async def found_block(self, triggered_action):
        return block

    async def rendered(self, triggered_action):
        return "subject", "body"

    monkeypatch.setattr(SendNotification, "_get_notification_block", found_block)
    monkeypatch.setattr(SendNotification, "render", rendered)
    caplog.set_level(logging.DEBUG)
    try:
        asyncio.run(SendNotification(block_document_id="0" * 32, body="").act(None))
    except RuntimeError as err:
        logging.getLogger("of the server").exception("Failed in consume_loop")
        assert "an alert can't be sent to its webhook" in str(err)  # noqa: PT017
    else:
        pytest.fail("it is an error, which the server tries again")
    assert "Failed in consume_loop" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.promise(18)
def test_server_keeps_webhooks_secret_before_it_serves(monkeypatch):
    from prefect.server.events.actions import SendNotification

    from flows.entry import server

    monkeypatch.setattr(SendNotification, "act", SendNotification.act)
    monkeypatch.setattr("prefect.server.api.server.create_app", lambda final: None)
    served_with = []

    def run(self, sockets):
        sockets[0].close()
        served_with.append(SendNotification.act.__module__)

    monkeypatch.setattr("uvicorn.Server.run", run)
    with socket.socket() as listening:
        server._serve(listening.detach(), ["127.0.0.1"])
    assert served_with == ["flows.entry.secret_webhooks"]
