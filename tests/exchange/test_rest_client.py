"""How often a question is repeated, how long everyone waits, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from storage.schema import Ambiguous, AuthError, Banned, Candles, ClockError, Market, RateLimited, Rejected, Window
from tasks.exchange.pacing import RetryPolicy
from tasks.exchange.transport import Unreachable
from tasks.sandbox.faults import Action, Fault, FaultPlan, Match
from tests.sandbox import actions

MAKE = Callable[..., Candles]
OPEN = Callable[..., Any]
TIME = "/v5/market/time"
STEADY = RetryPolicy(jitter=0.0)  # waits of 0.5, 1, 2, 4, 8 s


def plan(*faults: Action, nth: int = 0) -> FaultPlan:
    """Let the requests for the time meet one fault after the other."""
    return [Fault(Match(path=TIME, nth=nth + i), action) for i, action in enumerate(faults)]


def always(action: Action, nth: int = 0) -> FaultPlan:
    return [Fault(Match(path=TIME, nth=nth, times=None), action)]


@pytest.fixture
def sandbox(make_candles: MAKE, open_sandbox: OPEN) -> Any:
    return open_sandbox(make_candles(3))


@pytest.mark.parametrize(
    "action",
    [
        actions.http_status(500),
        actions.http_status(502),
        actions.http_status(503),
        actions.http_status(504),
        actions.http_status(429),
        actions.ret_code(10000),
        actions.ret_code(10016),
        actions.rate_limit(),
        actions.rate_limit(2_000),
        actions.rate_limit(-2_000),
        actions.body(b"{}"),
        actions.body(b"[]"),
        actions.body(b"null"),
        actions.truncated(),
        actions.delivery("reset"),
        actions.delivery("short"),
        actions.delivery("chunk"),
        actions.ret_code("0"),
        actions.envelope_fields({"retCode": None}),
        actions.result_fields({"timeNano": None}),
        actions.result_fields({"timeNano": "NaN"}),
    ],
    ids=lambda action: action.name,
)
def test_passing_trouble_is_waited_out(sandbox: Any, open_gateway: OPEN, fake_time: Any, action: Action) -> None:
    sandbox.follow(plan(action, action))
    assert open_gateway(sandbox, retry=STEADY).server_time_ms() == sandbox.clock.now_ms()
    assert len(sandbox.requests) == 3
    assert 1.5 <= sum(fake_time.slept) <= 1.5 + 2 * 5


def test_answer_that_never_comes_is_waited_for_no_longer_than_the_timeout(sandbox: Any, open_gateway: OPEN) -> None:
    sandbox.follow(plan(actions.delivery("never")))
    # On a busy machine a good answer may take longer than 0.1 s too, and is asked for once more.
    patient = RetryPolicy(attempts=1_000, budget_s=1e9)
    gateway = open_gateway(sandbox, timeout_s=(1.0, 0.1), retry=patient)
    assert gateway.server_time_ms() == sandbox.clock.now_ms()  # or the test hangs
    assert len(sandbox.requests) >= 2


def test_waits_double_from_failure_to_failure(sandbox: Any, open_gateway: OPEN, fake_time: Any) -> None:
    sandbox.follow(plan(*[actions.http_status(502)] * 5))
    open_gateway(sandbox, retry=STEADY).server_time_ms()
    assert fake_time.slept == pytest.approx([0.5, 1, 2, 4, 8])


def test_attempts_are_a_budget_and_the_end_is_one_line(sandbox: Any, open_gateway: OPEN) -> None:
    sandbox.follow(always(actions.http_status(502)))
    with pytest.raises(Ambiguous) as end:
        open_gateway(sandbox, retry=STEADY).server_time_ms()
    assert str(end.value) == (
        "the sandbox gave no usable answer for the time (HTTP 502; asked 6 times in 16 s); run again later"
    )
    assert len(sandbox.requests) == 6


def test_time_is_a_budget_too(sandbox: Any, open_gateway: OPEN, fake_time: Any) -> None:
    sandbox.follow(always(actions.http_status(502)))
    with pytest.raises(Ambiguous, match="asked 3 times in 2 s"):
        open_gateway(sandbox, retry=RetryPolicy(jitter=0.0, budget_s=3.0)).server_time_ms()
    assert fake_time.slept == pytest.approx([0.5, 1.0])  # 2 s more would be 3.5


def test_ban_that_nobody_waits_out_is_kept_and_nothing_is_asked(
    sandbox: Any, open_gateway: OPEN, fake_time: Any
) -> None:
    sandbox.follow(plan(actions.http_status(403)))
    gateway = open_gateway(sandbox, retry=RetryPolicy(bans=0))
    with pytest.raises(Banned, match="HTTP 403"):
        gateway.server_time_ms()
    asked = len(sandbox.requests)
    fake_time.sleep(590.0)
    with pytest.raises(Banned, match="refuses this address for 10 s more; nothing was asked"):
        gateway.server_time_ms()
    assert len(sandbox.requests) == asked
    fake_time.sleep(11.0)
    assert gateway.server_time_ms() > 0


def test_one_attempt_is_no_repetition(sandbox: Any, open_gateway: OPEN) -> None:
    sandbox.follow(plan(actions.http_status(502)))
    with pytest.raises(Ambiguous, match=r"for the time \(HTTP 502\); run again later"):
        open_gateway(sandbox, retry=RetryPolicy(attempts=1)).server_time_ms()


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (10001, Rejected, r"the sandbox refused the time \(10001: refused\); check symbol, category and interval"),
        (
            10003,
            AuthError,
            r"the sandbox refused the time \(10003: refused\); check the key",
        ),
        (10002, ClockError, r"the sandbox refused the time \(10002: refused\); this machine's clock is off"),
    ],
)
def test_refusal_is_final_at_once(
    sandbox: Any, open_gateway: OPEN, fake_time: Any, code: int, error: Any, message: str
) -> None:
    sandbox.follow(plan(actions.ret_code(code)))
    with pytest.raises(error, match=message):
        open_gateway(sandbox).server_time_ms()
    assert len(sandbox.requests) == 1
    assert fake_time.slept == []


@pytest.mark.parametrize(
    ("reset_in_ms", "wait_s"),
    [
        (2_500, 2.5),  # as told
        (60_000, 5.0),  # told more than anyone should believe
        (-60_000, 0.5),  # in the past: back-off
        (100, 0.5),  # sooner than the back-off
        (None, 0.5),  # not told
    ],
)
def test_rate_limit_is_waited_out_until_its_reset_within_bounds(
    sandbox: Any, open_gateway: OPEN, fake_time: Any, reset_in_ms: int | None, wait_s: float
) -> None:
    gateway = open_gateway(sandbox, retry=STEADY)
    gateway.server_time_ms()  # so that it knows how far apart the two clocks are
    sandbox.follow(plan(actions.rate_limit(reset_in_ms)))
    gateway.server_time_ms()
    assert sum(fake_time.slept) == pytest.approx(wait_s, abs=0.01)


def test_rate_limit_that_stays_ends_in_one_line_and_keeps_the_reset(sandbox: Any, open_gateway: OPEN) -> None:
    sandbox.follow(always(actions.rate_limit(1_000)))
    with pytest.raises(
        RateLimited, match=r"no room for more requests, the time .*; lower requests_per_s or wait a minute"
    ) as end:
        open_gateway(sandbox).server_time_ms()
    assert end.value.reset_ms == sandbox.clock.now_ms() + 1_000


@pytest.mark.parametrize("ban", [actions.http_status(403), actions.ret_code(10018)], ids=lambda action: action.name)
def test_ban_is_waited_out_once_for_ten_minutes(sandbox: Any, open_gateway: OPEN, fake_time: Any, ban: Action) -> None:
    gateway = open_gateway(sandbox)
    gateway.server_time_ms()
    sandbox.follow(plan(ban))
    gateway.server_time_ms()
    assert sum(fake_time.slept) == pytest.approx(600, abs=0.1)
    sandbox.follow(plan(ban, ban))
    with pytest.raises(
        Banned, match=r"refuses this address \(.*; asked 2 times in 0 s\): too many requests, or a country"
    ):
        gateway.server_time_ms()


def test_ban_of_an_address_that_was_never_served_is_final(sandbox: Any, open_gateway: OPEN, fake_time: Any) -> None:
    sandbox.follow(plan(actions.http_status(403)))
    with pytest.raises(Banned, match=r"^the sandbox refuses this address \(HTTP 403\): .*; wait 10 minutes$"):
        open_gateway(sandbox).server_time_ms()
    assert fake_time.slept == []


def test_ban_does_not_use_up_the_budget_of_other_trouble(sandbox: Any, open_gateway: OPEN) -> None:
    gateway = open_gateway(sandbox, retry=RetryPolicy(jitter=0.0, attempts=3, budget_s=2.0))
    gateway.server_time_ms()
    sandbox.follow(plan(actions.http_status(502), actions.http_status(403), actions.http_status(502)))
    assert gateway.server_time_ms() == sandbox.clock.now_ms()


def test_address_limit_of_the_sandbox_is_never_met_at_the_default_pace(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    gateway = open_gateway(open_sandbox(make_candles(3), ip_limit=60), requests_per_s=10)
    for _ in range(200):
        gateway.server_time_ms()


@pytest.mark.parametrize("limit", [actions.rate_limit(4_000), actions.http_status(403), actions.http_status(429)])
def test_limit_that_one_thread_meets_holds_another_before_it_asks(
    sandbox: Any, open_gateway: OPEN, fake_time: Any, limit: Action
) -> None:
    waits: dict[str, list[float]] = {"first": [], "second": []}

    def sleep(seconds: float) -> None:
        thread = threading.current_thread().name
        waits["second" if thread == "second" else "first"].append(seconds)
        if len(waits["first"]) == 1 and thread != "second":
            second = threading.Thread(target=gateway.server_time_ms, name="second")
            second.start()  # asks while the first one waits
            second.join()
        fake_time.sleep(seconds)

    gateway = open_gateway(sandbox, sleep=sleep, retry=STEADY)
    gateway.server_time_ms()
    sandbox.follow(plan(limit))
    gateway.server_time_ms()
    assert waits["second"] == pytest.approx(waits["first"][:1], abs=0.01)


def test_every_repetition_is_told_in_one_line(sandbox: Any, open_gateway: OPEN) -> None:
    told: list[str] = []
    sandbox.follow(plan(actions.http_status(502), actions.ret_code(10016, "server\nrestart")))
    open_gateway(sandbox, retry=STEADY, on_retry=told.append).server_time_ms()
    assert told == [
        "asking again in 0.5 s: the time (HTTP 502)",
        "asking again in 1.0 s: the time (10016: server restart)",
    ]


def test_unreachable_sandbox_says_so_in_one_line(make_candles: MAKE, open_gateway: OPEN) -> None:
    class Gone:
        source, url = "sandbox:0123abcd", "http://127.0.0.1:1"

    with pytest.raises(
        Unreachable, match=r"^the sandbox can't be reached \(Connection refused; asked 6 .*\); start it again$"
    ):
        open_gateway(Gone()).server_time_ms()


def test_no_request_for_market_data_carries_a_key(
    monkeypatch: pytest.MonkeyPatch, make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    monkeypatch.setenv("DSC_BYBIT_LIVE_KEY", "key")
    monkeypatch.setenv("DSC_BYBIT_LIVE_SECRET", "secret")
    sandbox = open_sandbox(make_candles(30))
    gateway, market = open_gateway(sandbox), Market()
    now_ms = gateway.server_time_ms()
    gateway.instrument(market)
    gateway.funding("linear", market.symbol, now_ms - 86_400_000, now_ms)
    list(gateway.fetch_windows(market, Window.cover(market, now_ms - 9_000_000, now_ms), now_ms))
    assert {request.path.rsplit("/", 1)[-1] for request in sandbox.requests} == {
        "time",
        "instruments-info",
        "history",
        "kline",
    }
    assert not any(request.signed for request in sandbox.requests)
