"""What each fault looks like once it left pybit, and which error of ours it becomes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import requests
from pybit.exceptions import InvalidRequestError

from storage.schema import Ambiguous, AuthError, Banned, Candles, ClockError, PipelineError, RateLimited, Rejected
from tasks.exchange.transport import Answer, Unreachable, ask, error_of, give_up, new_client, refused
from tasks.sandbox.faults import Action, Fault, Match
from tests.sandbox import actions

MAKE = Callable[..., Candles]
OPEN = Callable[..., Any]
TIME = "/v5/market/time"
HTTP_401 = "HTTP 401: the key is refused, or a proxy asks for a login"


@pytest.fixture
def ask_time(make_candles: MAKE, open_sandbox: OPEN, open_client: OPEN) -> Callable[[Action], Answer]:
    """Return an asker of the server's time that meets one fault on the way."""
    sandbox = open_sandbox(make_candles(3))

    def asked(action: Action, timeout_s: tuple[float, float] = (3.05, 10.0)) -> Answer:
        sandbox.follow([Fault(Match(path=TIME), action)])
        return ask(open_client(sandbox, timeout_s), "get_server_time", {})

    return asked


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (actions.rate_limit(), RateLimited, "10006: Too many visits. Exceeded the API Rate Limit."),
        (actions.ret_code(10018), Banned, "10018: refused"),
        (actions.ret_code(10002), ClockError, "10002: refused"),
        (actions.ret_code(10003), AuthError, "10003: refused"),
        (actions.ret_code(10004), AuthError, "10004: refused"),
        (actions.ret_code(33004), AuthError, "33004: refused"),
        (actions.ret_code(10000), Ambiguous, "10000: refused"),
        (actions.ret_code(10016), Ambiguous, "10016: refused"),
        (actions.ret_code(10001), Rejected, "10001: refused"),
        (actions.ret_code(10001, "two\nlines\tof text"), Rejected, "10001: two lines of text"),
        (actions.ret_code(10001, "\x1b[2Jred\u202e"), Rejected, "10001: [2Jred"),
        (actions.ret_code(10001, message=None), Ambiguous, "the answer is not Bybit's"),
        (actions.ret_code("10001"), Ambiguous, "the answer is not Bybit's: no integer retCode"),
        (actions.ret_code("0"), Ambiguous, "the answer is not Bybit's: no integer retCode"),
        (actions.http_status(403), Banned, "HTTP 403"),
        (actions.http_status(429), RateLimited, "HTTP 429"),
        (actions.http_status(500), Ambiguous, "HTTP 500"),
        (actions.http_status(502), Ambiguous, "HTTP 502"),
        (actions.http_status(503), Ambiguous, "HTTP 503"),
        (actions.http_status(504), Ambiguous, "HTTP 504"),
        (actions.http_status(400), Ambiguous, "HTTP 400"),
        (actions.http_status(401), Ambiguous, HTTP_401),
        (actions.http_status(404), Ambiguous, "HTTP 404"),
        (actions.http_status(407), Ambiguous, "HTTP 407"),
        (actions.http_status(204), Ambiguous, "HTTP 204"),
        (actions.with_status(401, actions.ret_code(10003)), AuthError, "10003: refused"),
        (actions.with_status(400, actions.ret_code(10001)), Rejected, "10001: refused"),
        (actions.with_status(401, actions.body(b'{"retCode": 0, "result": {}}')), Ambiguous, HTTP_401),
        (actions.with_status(404, actions.body(b'{"code": 404, "retCode": "10003"}')), Ambiguous, "HTTP 404"),
        (actions.with_status(403, actions.ret_code(10009)), Banned, "HTTP 403"),
        (actions.with_status(503, actions.ret_code(10001)), Ambiguous, "HTTP 503"),
        (actions.ret_code(429), Ambiguous, "429: refused"),
        (actions.truncated(), Ambiguous, "the answer is not JSON"),
        (actions.body(b"<html>"), Ambiguous, "the answer is not JSON"),
        (actions.body(b""), Ambiguous, "the answer is not JSON"),
        (actions.body(b"\xff\xfe{}"), Ambiguous, "the answer is not JSON"),
        (actions.body(b"{}"), Ambiguous, "the answer is not Bybit's: no integer retCode"),
        (actions.body(b"[]"), Ambiguous, "the answer is not Bybit's"),
        (actions.body(b"null"), Ambiguous, "the answer is not Bybit's"),
        (actions.body(b'"OK"'), Ambiguous, "the answer is not Bybit's"),
        (actions.body(b'{"retCode": false, "result": {}}'), Ambiguous, "the answer is not Bybit's: no integer retCode"),
        (actions.body(b'{"retCode": 0.0, "result": {}}'), Ambiguous, "the answer is not Bybit's: no integer retCode"),
        (actions.body(b'{"retCode": [1], "retMsg": ""}'), Ambiguous, "the answer is not Bybit's"),
        (actions.body(b'{"retCode": 0, "result": []}'), Ambiguous, "the answer is not Bybit's: no result"),
        (actions.envelope_fields({"retCode": None}), Ambiguous, "the answer is not Bybit's: no integer retCode"),
        (actions.delivery("reset"), Unreachable, "Connection reset by peer"),
        (actions.delivery("short"), Ambiguous, "the answer broke off: ChunkedEncodingError"),
        (actions.delivery("chunk"), Ambiguous, "the answer broke off: ChunkedEncodingError"),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else None,
)
def test_fault_becomes_the_error_that_says_what_to_do(
    ask_time: OPEN, action: Action, error: type[PipelineError], message: str
) -> None:
    with pytest.raises(error) as raised:
        ask_time(action)
    assert type(raised.value) is error
    assert str(raised.value) == message


def test_silence_becomes_unreachable_when_the_time_is_over(ask_time: OPEN) -> None:
    with pytest.raises(Unreachable, match=r"^no answer in time$"):
        ask_time(actions.delivery("never"), timeout_s=(1.0, 0.1))


def test_closed_port_becomes_unreachable_with_the_reason(open_client: OPEN) -> None:
    class Nowhere:
        url = "http://127.0.0.1:1"  # tcpmux: nothing listens there

    with pytest.raises(Unreachable, match=r"^Connection refused$"):
        ask(open_client(Nowhere()), "get_server_time", {})


def test_unknown_host_becomes_unreachable_with_the_reason() -> None:
    inner = requests.ConnectionError(OSError(-2, "Name or service not known"))
    assert str(error_of(inner)) == "Name or service not known"


@pytest.mark.parametrize(
    "action",
    [actions.gzipped(), actions.envelope_fields({"colour": "blue", "retExtInfo": None}), actions.clock_skew(5_000)],
)
def test_harmless_oddity_is_an_answer(ask_time: OPEN, action: Action) -> None:
    assert set(ask_time(action).result) == {"timeSecond", "timeNano"}


def test_answer_without_a_readable_time_says_so(ask_time: OPEN) -> None:
    assert ask_time(actions.envelope_fields({"time": "yesterday"})).time_ms is None


@pytest.mark.parametrize(("reset_in_ms", "told"), [(2_000, 2_000), (-2_000, -2_000), (None, None)])
def test_rate_limit_keeps_the_reset_that_bybit_told(ask_time: OPEN, reset_in_ms: int | None, told: int | None) -> None:
    now_ms = ask_time(actions.gzipped()).time_ms
    with pytest.raises(RateLimited) as limited:
        ask_time(actions.rate_limit(reset_in_ms))
    assert limited.value.reset_ms == (None if told is None else now_ms + told)


def test_rejection_keeps_the_code(ask_time: OPEN) -> None:
    with pytest.raises(Rejected) as rejected:
        ask_time(actions.ret_code(110001))
    assert rejected.value.code == 110001


@pytest.mark.parametrize("header", ["soon", "", "-5", "1e3", "9" * 5_000])
def test_unreadable_reset_header_counts_as_absent(header: str) -> None:
    err = InvalidRequestError("", "slow", 10006, "", {"X-Bapi-Limit-Reset-Timestamp": header})
    limited = error_of(err)
    assert isinstance(limited, RateLimited)
    assert limited.reset_ms is None


WHAT = "BTCUSDT linear 5m candles from 2026-01-04T10:00Z"


@pytest.mark.parametrize(
    ("err", "message"),
    [
        (
            Unreachable("Connection refused"),
            "Bybit can't be reached (Connection refused; asked 6 times in 15 s); check the network, "
            "or run the default sandbox: make run",
        ),
        (
            Ambiguous("HTTP 502"),
            f"Bybit gave no usable answer for {WHAT} (HTTP 502; asked 6 times in 15 s); run again later, "
            "or run the default sandbox: make run",
        ),
        (
            RateLimited("10006: slow"),
            f"Bybit has no room for more requests, {WHAT} (10006: slow; asked 6 times in 15 s); "
            "lower requests_per_s or wait a minute, or run the default sandbox: make run",
        ),
        (
            Banned("HTTP 403"),
            "Bybit refuses this address (HTTP 403; asked 6 times in 15 s): too many requests, or a country that it "
            "does not serve; wait 10 minutes, or run the default sandbox: make run",
        ),
    ],
)
def test_end_of_the_budget_is_one_line_with_the_way_out(err: Any, message: str) -> None:
    end = give_up(err, "bybit", WHAT, 6, 15.2)
    assert str(end) == message
    assert type(end) is type(err)


def test_sandbox_out_of_reach_names_another_way_out_than_the_sandbox() -> None:
    end = give_up(Unreachable("Connection refused"), "sandbox", WHAT, 1, 0.0)
    assert str(end) == "the sandbox can't be reached (Connection refused); start it again"


@pytest.mark.parametrize(
    ("err", "message"),
    [
        (Rejected("10001: no", 10001), f"Bybit demo refused {WHAT} (10001: no); check symbol, category and interval"),
        (
            AuthError("10003: no"),
            f"Bybit demo refused {WHAT} (10003: no); check the key: is it of this very environment, and may it trade?",
        ),
        (
            ClockError("10002: no"),
            f"Bybit demo refused {WHAT} (10002: no); this machine's clock is off, synchronise it (NTP)",
        ),
    ],
)
def test_refusal_is_one_line_with_the_way_out(err: PipelineError, message: str) -> None:
    assert str(refused(err, "demo", WHAT)) == message


@pytest.mark.parametrize(
    ("exchange", "endpoint"),
    [
        ("bybit", "https://api.bybit.com"),
        ("testnet", "https://api-testnet.bybit.com"),
        ("demo", "https://api-demo.bybit.com"),
    ],
)
def test_client_goes_to_the_exchange_that_was_named(exchange: Any, endpoint: str) -> None:
    client = new_client(exchange, None, (3.05, 10.0))
    assert client.endpoint == endpoint
    assert client.client.trust_env  # Bybit may lie behind a proxy; the sandbox never does
    client.client.close()


def test_client_has_no_keys_and_no_retries_of_its_own() -> None:
    client = new_client("bybit", None, (3.05, 10.0))
    assert (client.api_key, client.api_secret) == (None, None)
    assert (client.max_retries, client.force_retry, client.retry_codes) == (1, False, {-99999})
    assert {adapter.max_retries.total for adapter in client.client.adapters.values()} == {0}
    client.client.close()


def test_client_of_the_sandbox_ignores_proxy_variables(
    monkeypatch: pytest.MonkeyPatch, make_candles: MAKE, open_sandbox: OPEN, open_client: OPEN
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask(open_client(open_sandbox(make_candles(3))), "get_server_time", {}).time_ms is not None


def test_new_clients_leave_logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # where pybit would add a handler for each client
    before = list(logging.getLogger("pybit._http_manager").handlers)
    for _ in range(3):
        new_client("bybit", None, (3.05, 10.0)).client.close()
    assert logging.getLogger("pybit._http_manager").handlers == before


def test_request_text_never_gets_into_an_error(ask_time: OPEN) -> None:
    with pytest.raises(Ambiguous) as raised:
        ask_time(actions.body(json.dumps({"retCode": 10016, "retMsg": "busy"}).encode()))
    assert "\n" not in str(raised.value)
    assert TIME not in str(raised.value)
