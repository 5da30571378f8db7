"""Who may ask: keys, signatures, the time window, permissions, limits; and what the log keeps of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from pybit.exceptions import FailedRequestError, InvalidRequestError

from tasks.sandbox.venue_account import AccountSpec
from tests.sandbox.conftest import SPEC
from tests.sandbox.trader import MARKET_BUY, SYMBOL, refused

OPEN = Callable[..., Any]
READER = AccountSpec(key="reader", secret="reads", may_trade=False)  # noqa: S106  # it opens a sandbox alone


class Ticks:
    """Seconds and milliseconds that pass when they are told to."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self._start_s = time.time()

    def timer(self) -> float:
        return self.ahead_s

    def wall_clock_ms(self) -> int:
        return int((self._start_s + self.ahead_s) * 1000)


def read(client: Any) -> Any:
    return client.get_positions(category="linear", symbol=SYMBOL)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"key": "of-another-environment"}, 10003),
        ({"secret": "no-such-secret"}, 10004),
        ({"secret": SPEC.key}, 10004),
    ],
)
def test_key_or_signature_that_is_wrong_is_refused(
    open_sandbox: OPEN, open_client: OPEN, wrong: dict[str, str], code: int
) -> None:
    sandbox = open_sandbox()
    client = open_client(sandbox, dataclasses.replace(SPEC, **wrong))
    refused(read, code, client=client)
    refused(client.place_order, code, **MARKET_BUY)
    assert sandbox.account(SPEC.key).orders == {}


@pytest.mark.parametrize(
    ("off_s", "code"),
    [(0.0, 0), (-0.7, 0), (-1.5, 10002), (4.0, 0), (6.0, 10002)],
)
def test_request_outside_its_time_window_is_refused_by_the_real_clock(
    open_sandbox: OPEN, open_client: OPEN, off_s: float, code: int
) -> None:
    sandbox = open_sandbox(wall_clock_ms=lambda: int((time.time() + off_s) * 1000))
    client = open_client(sandbox)
    if not code:
        client.place_order(**MARKET_BUY)
    else:
        assert "recv_window[5000]" in refused(client.place_order, code, **MARKET_BUY)


def test_longer_window_is_taken_as_the_client_states_it(open_sandbox: OPEN, open_client: OPEN) -> None:
    client = open_client(open_sandbox(wall_clock_ms=lambda: int((time.time() + 6) * 1000)))
    client.recv_window = 20_000
    client.place_order(**MARKET_BUY)


def test_body_is_signed_as_it_is_sent(open_sandbox: OPEN, open_client: OPEN) -> None:
    sandbox = open_sandbox()
    client, sent = open_client(sandbox), []
    client.client.hooks["response"] = [lambda answer, **_: sent.append(answer.request)]
    client.place_order(**MARKET_BUY)
    (request,) = sent
    headers = {name: value for name, value in request.headers.items() if name.startswith("X-BAPI")}
    for body, code in [(request.body, 0), (request.body.replace('"1"', '"2"'), 10004)]:
        answer = requests.post(request.url, data=body, headers=headers, timeout=60).json()
        assert answer["retCode"] == code


def test_request_without_a_key_is_refused(open_sandbox: OPEN) -> None:
    sandbox = open_sandbox()
    answer = requests.get(sandbox.url + "/v5/position/list", timeout=60).json()
    assert (answer["retCode"], answer["retMsg"]) == (10001, "empty value: apiTimestamp[] apiKey[] apiSignature[]")


def test_key_that_may_only_read_reads_and_changes_nothing(open_sandbox: OPEN, open_client: OPEN) -> None:
    sandbox = open_sandbox(accounts=[READER])
    client = open_client(sandbox, READER)
    read(client)
    assert client.get_api_key_information()["result"]["readOnly"] == 1
    refused(client.place_order, 10005, **MARKET_BUY)
    refused(client.set_leverage, 10005, category="linear", symbol=SYMBOL, buyLeverage="2", sellLeverage="2")


def test_sandbox_without_accounts_has_no_trading_endpoints(open_sandbox: OPEN, open_client: OPEN) -> None:
    with pytest.raises(FailedRequestError) as failure:
        open_client(open_sandbox(accounts=[])).place_order(**MARKET_BUY)
    assert failure.value.status_code == 404


def test_key_over_its_limit_is_refused_until_the_second_is_over(open_sandbox: OPEN, open_client: OPEN) -> None:
    ticks = Ticks()
    sandbox = open_sandbox(timer=ticks.timer, accounts=[SPEC, READER])
    client = open_client(sandbox)
    for _ in range(10):
        client.place_order(**MARKET_BUY)
    with pytest.raises(InvalidRequestError) as refusal:
        client.place_order(**MARKET_BUY)
    assert refusal.value.status_code == 10006
    headers = refusal.value.resp_headers
    assert (headers["X-Bapi-Limit"], headers["X-Bapi-Limit-Status"]) == ("10", "0")
    assert int(headers["X-Bapi-Limit-Reset-Timestamp"]) == sandbox.clock.now_ms() + 1_000
    read(client)  # another endpoint has a limit of its own
    read(open_client(sandbox, READER))  # and so has another key
    ticks.ahead_s += 1.0
    client.place_order(**MARKET_BUY)
    assert len(sandbox.account(SPEC.key).orders) == 11


def test_reads_have_fifty_a_second(open_sandbox: OPEN, open_client: OPEN) -> None:
    client = open_client(open_sandbox(timer=Ticks().timer))
    for _ in range(50):
        read(client)
    refused(read, 10006, client=client)


def test_address_limit_counts_orders_too(open_sandbox: OPEN, open_client: OPEN) -> None:
    sandbox = open_sandbox(timer=Ticks().timer, ip_limit=2)
    client = open_client(sandbox)
    client.place_order(**MARKET_BUY)
    read(client)
    with pytest.raises(FailedRequestError) as ban:
        client.place_order(**MARKET_BUY)
    assert ban.value.status_code == 403
    assert len(sandbox.account(SPEC.key).orders) == 1


def test_log_keeps_bodies_and_neither_signature_nor_secret(open_sandbox: OPEN, open_client: OPEN) -> None:
    sandbox = open_sandbox()
    client = open_client(sandbox)
    client.place_order(**MARKET_BUY, orderLinkId="bar-1", reduceOnly=False, positionIdx=0)
    read(client)
    placed, asked = sandbox.requests
    texts = {"orderLinkId": "bar-1", "reduceOnly": "false", "positionIdx": "0"}
    assert (placed.method, placed.path, placed.params) == ("POST", "/v5/order/create", MARKET_BUY | texts)
    assert (placed.signed, placed.known) == (True, True)
    assert (asked.method, asked.params) == ("GET", {"category": "linear", "symbol": SYMBOL})
    assert SPEC.key not in repr(sandbox.requests)
    assert SPEC.secret not in repr(sandbox.requests)


@pytest.mark.parametrize("body", [b"", b"[]", b"no json", b"\xff"])
def test_body_that_is_no_object_is_refused(open_sandbox: OPEN, open_client: OPEN, body: bytes) -> None:
    sandbox = open_sandbox()
    client = open_client(sandbox)
    client.prepare_payload = lambda method, params: body.decode("latin-1")
    refused(client.place_order, 10001, **MARKET_BUY)
