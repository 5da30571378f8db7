"""Clients of a sandbox's accounts: pybit as it is, and plain sockets for what pybit hides."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import websocket
from pybit.exceptions import InvalidRequestError
from pybit.unified_trading import HTTP, WebSocket

from storage.schema import Market
from tasks.exchange.transport import new_client
from tasks.sandbox.private_stream import PRIVATE_PATH
from tasks.sandbox.sandbox import Sandbox
from tasks.sandbox.venue_account import AccountSpec

WAIT_S = 30.0  # for what comes in milliseconds; only a failure waits so long

Message = dict[str, Any]


MARKET = Market()  # SYNTHUSDT, linear, 5 minutes
SYMBOL = MARKET.symbol
MARKET_BUY = {
    "category": "linear", "symbol": SYMBOL, "side": "Buy", "orderType": "Market", "qty": "1"
}  # fmt: skip
LIMIT_BUY = MARKET_BUY | {"orderType": "Limit", "price": "99"}


def trading_client(sandbox: Sandbox, spec: AccountSpec, timeout_s: tuple[float, float] = (3.05, 10.0)) -> HTTP:
    """Return pybit's HTTP client with an account's key."""
    client = new_client("sandbox", sandbox.url, timeout_s)
    client.api_key, client.api_secret = spec.key, spec.secret
    return client


class PrivateClient(WebSocket):  # type: ignore[misc]  # pybit has no types
    """pybit's client of the private stream, as it is but for the address; it keeps what it hears.

    Attributes:
        messages: Of every topic, in the order of arrival.
    """

    def __init__(self, sandbox: Sandbox, spec: AccountSpec, *topics: str) -> None:
        self.messages: list[Message] = []
        self._news = threading.Condition()
        self._local = sandbox.stream_url + PRIVATE_PATH
        super().__init__(
            "private",
            testnet=False,
            api_key=spec.key,
            api_secret=spec.secret,
            private_auth_expire=10,
            ping_interval=30,  # of a busy machine; a client that lost its stream before it subscribes waits for ever
            ping_timeout=20,
            retries=1_000,  # without a wait in between: ten are over before a stream is back
        )
        for topic in topics:
            self.subscribe(topic, self._take)
        sandbox.wait_for_subscribers(*topics)

    def _connect(self, url: str) -> None:
        super()._connect(self._local)

    def _take(self, message: Message) -> None:
        with self._news:
            self.messages.append(message)
            self._news.notify_all()

    def rows(self, topic: str) -> list[Message]:
        """Return the rows of a topic so far."""
        return [message["data"][0] for message in self.messages if message["topic"] == topic]

    def wait(self, is_there: Callable[[list[Message]], object]) -> list[Message]:
        """Return all messages when they are as they are waited for."""
        with self._news:
            assert self._news.wait_for(lambda: is_there(self.messages), WAIT_S), self.messages
            return list(self.messages)

    def wait_for_end(self, count: int = 1) -> list[Message]:
        """Return all messages when the wallet, of which one comes at the end of each fill, has been told so often."""
        return self.wait(lambda messages: sum(one["topic"] == "wallet" for one in messages) >= count)


class RawPrivate:
    """A plain socket of the private stream; whoever asks reads."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.messages: list[Message] = []
        self._socket = websocket.create_connection(sandbox.stream_url + PRIVATE_PATH, timeout=WAIT_S)

    def close(self) -> None:
        self._socket.shutdown()

    def ask(self, request: Any) -> Message:
        """Send a request and return its answer; messages before it are kept."""
        self._socket.send(request if isinstance(request, str) else json.dumps(request))
        while "topic" in (received := json.loads(self._socket.recv())):
            self.messages.append(received)
        return received

    def authenticate(self, spec: AccountSpec, expires_in_ms: int = 10_000, **wrong: str) -> Message:
        """Say who one is, or what is wrong of key and signature."""
        expires = int(time.time() * 1000) + expires_in_ms
        signature = hmac.new(spec.secret.encode(), f"GET/realtime{expires}".encode(), hashlib.sha256).hexdigest()
        return self.ask(
            {"op": "auth", "args": [wrong.get("key", spec.key), expires, wrong.get("signature", signature)]}
        )


def refused(ask: Callable[..., Any], code: int, **params: Any) -> str:
    """Return the message with which a request is refused."""
    with pytest.raises(InvalidRequestError) as refusal:
        ask(**params)
    assert refusal.value.status_code == code
    return str(refusal.value.message)


def order_of(client: Any, order_id: str) -> dict[str, Any]:
    (row,) = client.get_open_orders(category="linear", symbol=SYMBOL, orderId=order_id)["result"]["list"]
    return dict(row)


def only_position(client: Any) -> dict[str, Any]:
    (row,) = client.get_positions(category="linear", symbol=SYMBOL)["result"]["list"]
    return dict(row)


def place(client: Any, **params: Any) -> dict[str, Any]:
    """Place an order and return what has become of it."""
    return order_of(client, client.place_order(**params)["result"]["orderId"])


def told(messages: list[dict[str, Any]]) -> list[str]:
    """Return what was said: topics, of orders with their status."""
    rows = [(message["topic"], message["data"][0]) for message in messages]
    return [f"order {row['orderStatus']}" if topic == "order" else topic for topic, row in rows]
