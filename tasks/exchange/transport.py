"""One request to Bybit through pybit: returns one checked answer, or raises one error that says what to do about it.

pybit's own retries are switched off: their sleep can't be interrupted, they lose the code of the last error, and with
`force_retry` they can send an order twice. `error_of` depends on the exceptions that pybit 5.17 raises for each fault,
as observed against a local server.
"""

import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import requests
from pybit.exceptions import FailedRequestError, InvalidRequestError
from pybit.unified_trading import HTTP

from storage.api_keys import ApiKey
from storage.schema import (
    Ambiguous,
    AuthError,
    Banned,
    ClockError,
    ConfigError,
    PipelineError,
    RateLimited,
    Rejected,
    TemporaryError,
    one_line,
)
from tasks.exchange.bounded_http import BoundedAdapter

Exchange = Literal["sandbox", "bybit", "testnet", "demo"]
HOST_NAMES: Mapping[Exchange, str] = {
    "sandbox": "the sandbox",
    "bybit": "Bybit",
    "testnet": "Bybit testnet",
    "demo": "Bybit demo",
}

NO_RETRY_CODES = frozenset({-99999})  # pybit replaces an empty set by its defaults
RATE_CODES = frozenset({10006, 170005, 170222})
BAN_CODES = frozenset({10018})
CLOCK_CODES = frozenset({10002})
AUTH_CODES = frozenset({10003, 10004, 10005, 10010, 33004})
SERVER_CODES = frozenset({429, 10000, 10016, 10019, 10429, 170001, 170007, 170032, 170146, 500000})

RECV_WINDOW_MS = 5_000
"""Bybit refuses a signed request that arrives later than this after it was signed."""

CLIENT_NAME = f"dsc-trading/{secrets.token_hex(8)}"
"""User agent of this process for a sandbox, which counts its rate limit by it, as all clients share one IP address."""

_RESET_HEADER = "X-Bapi-Limit-Reset-Timestamp"
_UNREADABLE_JSON = 409  # pybit's status for a body that is not JSON
_MAY_BE_BYBITS = frozenset({400, 401, 404})  # https://bybit-exchange.github.io/docs/v5/error has 403 and 429 too
_CONNECTING = threading.Lock()  # pybit adds a log handler to one shared logger for each client


class Unreachable(Ambiguous):
    """No answer came at all."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Bybit's answer, its envelope checked.

    Attributes:
        time_ms: Bybit's clock when it answered, UTC milliseconds; None if the envelope has no time.
    """

    result: dict[str, Any]
    time_ms: int | None


class _Client(HTTP):  # type: ignore[misc]
    """pybit's client, without the key and secret that its own repr shows."""

    def __repr__(self) -> str:
        return f"<client of {self.endpoint}>"

    def _check_status_code(self, response: requests.Response, *asked: Any) -> None:
        """Let a refusal of Bybit's own be read under 4xx too: a proxy's page, which is no answer, has none."""
        if not (response.status_code in _MAY_BE_BYBITS and _is_refusal(response)):
            super()._check_status_code(response, *asked)


def new_client(
    exchange: Exchange,
    url: str | None,
    timeout_s: tuple[float, float],
    key: ApiKey | None = None,
    recv_window_ms: int = RECV_WINDOW_MS,
) -> HTTP:
    """Return a pybit client without retries; for one thread only.

    Args:
        url: Address of the sandbox; None for Bybit.
        timeout_s: Longest wait for a connection and for the next bytes; their sum limits a whole answer.
        key: API key that signs the requests; None for public ones.
        recv_window_ms: Bybit refuses a signed request that arrives later than this after it was signed.

    Raises:
        ConfigError: The sandbox has no address, so that requests would go to Bybit.
    """
    if exchange == "sandbox" and url is None:
        raise ConfigError("url must be given for the sandbox, was None")
    logger = logging.getLogger("pybit._http_manager")
    with _CONNECTING:
        handlers = list(logger.handlers)
        client = _Client(
            testnet=exchange == "testnet",
            demo=exchange == "demo",
            timeout=timeout_s,
            max_retries=1,
            force_retry=False,
            retry_codes=set(NO_RETRY_CODES),
            api_key=key and key.key,
            api_secret=key and key.secret,
            recv_window=recv_window_ms,
        )
        for scheme in ("https://", "http://"):
            client.client.mount(scheme, BoundedAdapter(sum(timeout_s)))
        logger.handlers[:] = handlers  # the application configures logging, not pybit
    if url is not None:
        client.endpoint = url
        client.client.trust_env = False  # no proxy for a server on this machine
        client.client.headers["User-Agent"] = CLIENT_NAME
    return client


def ask(client: HTTP, method: str, params: Mapping[str, Any]) -> Answer:
    """Send one request and return its checked answer.

    Args:
        client: This thread's client.
        method: Name of pybit's method, such as get_kline.

    Raises:
        TemporaryError: A rate limit, a ban, or a missing or unusable answer.
        PipelineError: Bybit refused.
    """
    try:
        body = getattr(client, method)(**params)
    except (
        FailedRequestError,
        InvalidRequestError,
        requests.RequestException,
        # pybit raises these when the body is not the object that it expects
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as err:
        raise error_of(err) from None  # its text may echo the key
    # bool is a subclass of int, and pybit accepts an answer without retCode.
    if not isinstance(body, dict) or type(body.get("retCode")) is not int:
        raise Ambiguous("the answer is not Bybit's: no integer retCode")
    result, time_ms = body.get("result"), body.get("time")
    if not isinstance(result, dict):
        raise Ambiguous("the answer is not Bybit's: no result")
    return Answer(result=result, time_ms=time_ms if type(time_ms) is int else None)


def error_of(err: Exception) -> PipelineError:
    """Return this project's error for an exception that pybit raised."""
    if isinstance(err, InvalidRequestError):
        return _refusal(err.status_code, one_line(err.message), err.resp_headers)
    if isinstance(err, FailedRequestError):
        return _http_failure(err.status_code)
    if isinstance(err, requests.Timeout):
        return Unreachable("no answer in time")
    if isinstance(err, requests.ConnectionError):
        return Unreachable(_innermost_reason(err))
    if isinstance(err, requests.RequestException):
        return Ambiguous(f"the answer broke off: {type(err).__name__}")
    return Ambiguous("the answer is not Bybit's")


def give_up(err: TemporaryError, exchange: Exchange, what: str, sent: int, spent_s: float) -> TemporaryError:
    """Return the final error of a request: one line that says what was requested, how often, and what to do.

    Args:
        what: Description of the request, such as "BTCUSDT linear 5m candles".
        spent_s: Seconds that the attempts and the waits between them took.
    """
    host = HOST_NAMES[exchange]
    asked = f"{err}; asked {sent} times in {spent_s:.0f} s" if sent > 1 else str(err)
    instead = "" if exchange == "sandbox" else ", or run the default sandbox: make run"
    if isinstance(err, Banned):
        return Banned(
            f"{host} refuses this address ({asked}): too many requests, or a country that it does not serve; "
            f"wait 10 minutes{instead}"
        )
    if isinstance(err, RateLimited):
        return RateLimited(
            f"{host} has no room for more requests, {what} ({asked}); lower requests_per_s or wait a minute{instead}",
            err.reset_ms,
        )
    if isinstance(err, Unreachable):
        way_out = "start it again" if exchange == "sandbox" else f"check the network{instead}"
        return Unreachable(f"{host} can't be reached ({asked}); {way_out}")
    return Ambiguous(f"{host} gave no usable answer for {what} ({asked}); run again later{instead}")


def refused(err: PipelineError, exchange: Exchange, what: str) -> PipelineError:
    """Return the error of a final refusal: one line that says what was requested and what to do."""
    host = HOST_NAMES[exchange]
    if isinstance(err, Rejected):
        return Rejected(f"{host} refused {what} ({err}); check symbol, category and interval", err.code)
    if isinstance(err, ClockError):
        return ClockError(f"{host} refused {what} ({err}); this machine's clock is off, synchronise it (NTP)")
    return AuthError(f"{host} refused {what} ({err}); check the key: is it of this very environment, and may it trade?")


def _refusal(code: object, message: str, headers: Mapping[str, str] | None) -> PipelineError:
    if type(code) is not int:
        return Ambiguous("the answer is not Bybit's: no integer retCode")
    text = f"{code}: {message.partition('origin_string')[0].strip()}"  # origin_string contains the key
    if code in RATE_CODES:
        return RateLimited(text, _reset_ms(headers))
    if code in BAN_CODES:
        return Banned(text)
    if code in CLOCK_CODES:
        return ClockError(text)
    if code in AUTH_CODES:
        return AuthError(text)
    if code in SERVER_CODES:
        return Ambiguous(text)
    return Rejected(text, code)


def _http_failure(status: int) -> PipelineError:
    if status == _UNREADABLE_JSON:
        return Ambiguous("the answer is not JSON")
    if status == 403:
        return Banned("HTTP 403")
    if status == 429:
        return RateLimited("HTTP 429")
    # Who answers without a retCode may be a proxy or a load balancer on the way: that says nothing of the exchange.
    return Ambiguous("HTTP 401: the key is refused, or a proxy asks for a login" if status == 401 else f"HTTP {status}")


def _is_refusal(response: requests.Response) -> bool:
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and type(body.get("retCode")) is int and body["retCode"] != 0


def _reset_ms(headers: Mapping[str, str] | None) -> int | None:
    text = (headers or {}).get(_RESET_HEADER, "")
    # At most 15 digits: milliseconds until the year 33,658; Python refuses to read some thousands of digits.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else None


def _innermost_reason(err: BaseException) -> str:
    while (inner := _inner(err)) is not None:
        err = inner
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    return one_line(str(err.args[-1]) if err.args else type(err).__name__)


def _inner(err: BaseException) -> BaseException | None:
    candidates = [getattr(err, "reason", None), *err.args, err.__cause__]
    return next((inner for inner in candidates if isinstance(inner, BaseException)), None)
