"""What an outage may not lead to: what is held is minded until somebody knows that it is flat."""

from __future__ import annotations

import re
from dataclasses import replace
from time import monotonic

import pytest

from storage.schema import DAY_MS, HOUR_MS, ClockError
from tasks.exchange.boot_clock import boottime_s
from tasks.exchange.private_events import read_execution, read_order
from tasks.live.order_desk import OrderDesk
from tasks.sandbox.faults import Action, Fault, Match
from tests.orders.cells import ACCOUNT, BAR_MS, EXECUTION, KEY, LIMIT_S, LOT, MARKET, OPEN, ORDER, TIMING, D
from tests.sandbox import actions
from tests.sandbox.order_actions import order_fault
from tests.sandbox.outside import Outside

POSITION, SET_STOP = "/v5/position/list", "/v5/position/trading-stop"


def down(path: str, method: str = "GET") -> list[Fault]:
    """Return the plan in which nothing of a path is answered, or done, any more."""
    gone = Action("down", actions.http_status(500).spoil, unseen=True)
    return [Fault(Match(path=path, method=method, times=None), gone)]


@pytest.mark.promise(15)
def test_position_that_could_not_be_closed_in_an_outage_is_closed_after_it(
    open_desk: OPEN, open_account: ACCOUNT, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, told, late_s = open_desk(), list[str](), [0.0]
    _, own = open_account(here)
    here.desk, own.alert = own.desk, told.append
    monkeypatch.setattr("tasks.live.halting.monotonic", lambda: monotonic() + late_s[0])
    here.want("0.4", stop=D(50))
    here.work()
    own.desk._stop("an order of somebody else")
    here.sandbox.follow(down(POSITION))
    for late_s[0] in (0.0, 60.0, 120.0, 180.0, 240.0):
        assert own.wind_down(True)
    here.sandbox.follow([])
    give_up_s = monotonic() + LIMIT_S
    while own.wind_down(True):
        assert monotonic() < give_up_s
    assert here.sandbox.account(KEY.key).position(MARKET.symbol).size == 0
    (line,) = [one for one in told if "STILL OPEN" in one]
    assert MARKET.symbol in line


@pytest.mark.promise(15)
def test_position_whose_stop_can_t_be_set_for_a_while_is_to_be_closed(open_desk: OPEN, open_account: ACCOUNT) -> None:
    here = open_desk(down(SET_STOP, "POST"))
    _, own = open_account(here)
    here.desk, own.desk.timing = own.desk, replace(TIMING, unknown_s=0.3)
    here.want("0.4")
    here.work()
    give_up_s = monotonic() + LIMIT_S
    while not (said := own.poll()):
        assert monotonic() < give_up_s
    assert "0.4 had no stop at the exchange, and got none for 0.3 s" in said


@pytest.mark.promise(15)
@pytest.mark.parametrize("code", [10003, 10010, 33004])
def test_position_of_an_account_whose_key_is_refused_is_told_of_at_once_and_closed_when_it_is_admitted_again(
    open_desk: OPEN, open_account: ACCOUNT, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    here, told, late_s = open_desk(), list[str](), [0.0]
    _, own = open_account(here)
    here.desk, own.alert = own.desk, told.append
    monkeypatch.setattr("tasks.live.compared_position.boottime_s", lambda: boottime_s() + late_s[0])
    monkeypatch.setattr("tasks.live.held_position.boottime_s", lambda: boottime_s() + late_s[0])
    here.want("0.4", stop=D(50))
    here.work()
    assert (own.poll(), told) == ("", [])
    no = Action("no", actions.ret_code(code, "no").spoil, unseen=True)
    here.sandbox.follow([Fault(Match(path=None, method=method, times=None), no) for method in ("GET", "POST")])
    own.desk.timing = replace(TIMING, reconcile_s=60.0)
    own.desk.compare_soon()
    asked = len(here.sandbox.requests)
    assert own.poll()
    for _ in range(50):
        assert own.wind_down(True)
    assert len(here.sandbox.requests) <= asked + 2
    halted, open_still = told
    assert f"is halted: the sandbox refused the position in {MARKET.symbol} ({code}: no); check the key: " in halted
    assert open_still.startswith("STILL OPEN: 0.4 by the journal, and nobody here can see or close it (the sandbox ")
    assert "; close it on the exchange's site, or with a key that works: " in open_still
    for late_s[0] in (1_800.0, 3_599.0, 3_700.0, 3_800.0):
        assert own.wind_down(True)
    assert told == [halted, open_still, open_still]  # again after an hour
    here.sandbox.follow([])
    late_s[0] += 61.0
    give_up_s = monotonic() + LIMIT_S
    while own.wind_down(True):
        assert monotonic() < give_up_s
    assert here.sandbox.account(KEY.key).position(MARKET.symbol).size == 0


@pytest.mark.promise(15)
def test_order_that_a_refused_key_may_not_ask_for_ends_no_minding_of_what_is_held(
    open_desk: OPEN, open_account: ACCOUNT
) -> None:
    lost = Fault(Match(path="/v5/order/create", method="POST"), actions.delivery("reset"))
    no = Action("no", actions.ret_code(33004, "expired").spoil, unseen=True)
    here = open_desk()
    _, own = open_account(here)
    here.desk = own.desk
    here.sandbox.follow([lost, Fault(Match(path=None, times=None), no)])
    here.want("0.4", stop=D(50))
    here.work(until=lambda: bool(own.desk.trouble))
    assert f"order {own.desk.unsettled[0].link_id} (33004: expired); check the key" in own.desk.trouble
    assert own.wind_down(True)
    here.sandbox.follow([])
    own.desk.compare_soon()
    give_up_s = monotonic() + LIMIT_S
    while own.wind_down(True):
        assert monotonic() < give_up_s
    assert (here.sandbox.account(KEY.key).position(MARKET.symbol).size, len(here.posts)) == (0, 2)


@pytest.mark.promise(15)
def test_position_that_can_have_no_stop_is_to_be_closed_and_its_stop_is_not_set_to_0(
    open_desk: OPEN, open_account: ACCOUNT
) -> None:
    here = open_desk()
    _, own = open_account(here)
    here.desk = own.desk
    own._stop._tick = D(1_000)
    here.want("0.4")
    here.work()
    give_up_s = monotonic() + LIMIT_S
    while not (said := own.poll()):
        assert monotonic() < give_up_s
    assert re.fullmatch(
        r"0\.4 had no stop at the exchange, and can have none: a long at [0-9.]+ can have no stop: the tick is 1000",
        said,
    )
    assert not any(one.path == SET_STOP for one in here.sandbox.requests)


def test_stop_that_is_set_again_by_a_request_whose_answer_is_lost_is_told_of(
    open_desk: OPEN, open_account: ACCOUNT
) -> None:
    lost = Fault(Match(path=SET_STOP, method="POST", times=1), actions.http_status(500))
    here, told = open_desk([lost]), list[str]()
    _, own = open_account(here)
    here.desk, own.alert = own.desk, told.append
    here.want("0.4")
    here.work()
    give_up_s = monotonic() + LIMIT_S
    while own.desk.bare_s or here.trading.position(MARKET).stop == 0:
        assert monotonic() < give_up_s
        assert own.poll() == ""
    (line,) = told
    assert "0.4 had no stop at the exchange, and whether it has one now is not known (HTTP 500); " in line


@pytest.mark.promise(15)
def test_rest_of_what_a_flip_closes_goes_out_after_it_is_too_late_to_open(
    open_desk: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = open_desk()
    here.want("0.3")
    here.work()
    here.sandbox.follow(order_fault("partly filled, then cancelled", MARKET.symbol, parts=2))
    here.want("-0.4", bar=1)
    here.desk.work()
    assert len(here.posts) == 2
    monkeypatch.setattr("tasks.live.order_desk.boottime_s", lambda: boottime_s() + LIMIT_S + 1.0)
    here.work()
    assert (here.desk.held, len(here.posts)) == (0, 3)
    assert here.desk.outcome(BAR_MS + MARKET.interval_ms) == "stale"


@pytest.mark.promise(15)
def test_order_of_which_nobody_can_tell_is_trouble_though_this_machine_s_clock_was_set_back(open_desk: OPEN) -> None:
    lost = Fault(Match(path="/v5/order/create", method="POST"), actions.delivery("reset"))
    here = open_desk([lost, *down("/v5/order/realtime")])
    here.desk.timing = replace(TIMING, unknown_s=0.3)
    here.want("0.4")
    here.desk.work()
    here.desk._now_ms = lambda: 0
    give_up_s = monotonic() + 10.0
    while not here.desk.trouble:
        assert monotonic() < give_up_s
        here.desk.work()
    assert "nobody can tell for 0.3 s what has become of order dsc-" in here.desk.trouble


@pytest.mark.promise(15)
def test_question_that_was_signed_too_long_ago_once_does_not_halt_the_market(open_desk: OPEN) -> None:
    here = open_desk([Fault(Match(path=POSITION, times=1), actions.ret_code(10002, "late"))])
    here.desk.reconcile()
    assert (here.desk.trouble, here.desk.unknown) == ("", "")


@pytest.mark.promise(15)
@pytest.mark.parametrize("status", [400, 401, 404, 407, 502])
@pytest.mark.parametrize("path", [POSITION, "/v5/execution/list", "/v5/order/realtime"])
def test_page_of_a_proxy_is_no_refusal_and_the_account_is_unknown_while_it_lasts(
    open_desk: OPEN, path: str, status: int
) -> None:
    here = open_desk([Fault(Match(path=path, times=None), actions.http_status(status))])
    here.desk.reconcile()
    assert here.desk.trouble == ""
    assert re.search(f"HTTP {status}.*; asked 3 times", here.desk.unknown)
    here.sandbox.follow([])
    here.desk.compare_soon()
    here.desk.reconcile()
    assert (here.desk.trouble, here.desk.unknown) == ("", "")


@pytest.mark.promise(15)
@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize("code", [10003, 10004, 10005, 10010, 33004])
def test_key_that_a_question_meets_a_refusal_of_is_trouble_at_once_whatever_its_status(
    open_desk: OPEN, code: int, status: int
) -> None:
    refusal = actions.with_status(status, actions.ret_code(code, "no"))
    here = open_desk([Fault(Match(path=POSITION, times=None), refusal)])  # a busy machine asks again
    here.desk.reconcile()
    assert f"{code}: no" in here.desk.stopped


@pytest.mark.promise(15)
@pytest.mark.parametrize("path", [POSITION, "/v5/execution/list", "/v5/order/realtime"])
def test_clock_that_is_off_makes_the_account_unknown_while_it_lasts_and_halts_no_market(
    open_desk: OPEN, path: str
) -> None:
    here = open_desk([Fault(Match(path=path, times=None), actions.ret_code(10002, "time window"))])
    here.desk.reconcile()
    assert here.desk.trouble == ""
    assert "(10002: time window); this machine's clock is off" in here.desk.unknown
    here.sandbox.follow([])
    here.desk.compare_soon()
    here.desk.reconcile()
    assert (here.desk.trouble, here.desk.unknown) == ("", "")


@pytest.mark.promise(15)
def test_order_is_followed_on_after_a_clock_was_off(open_desk: OPEN, monkeypatch: pytest.MonkeyPatch) -> None:
    here, look_up, asked = open_desk(), [], list[str]()

    def off(market: object, name: str) -> None:
        asked.append(name)
        monkeypatch.setattr(here.trading, "look_up", look_up[0])
        raise ClockError("this machine's clock is off")

    look_up.append(here.trading.look_up)
    monkeypatch.setattr(here.trading, "look_up", off)
    here.want("0.4", stop=D(50))
    here.work()
    assert (len(asked), here.desk.held, here.desk.trouble) == (1, D("0.4"), "")


@pytest.mark.promise(15)
def test_position_without_a_stop_is_not_closed_because_a_clock_is_off(open_desk: OPEN, open_account: ACCOUNT) -> None:
    off = Action("off", actions.ret_code(10002, "time window").spoil, unseen=True)
    here, told = open_desk(), list[str]()
    _, own = open_account(here)
    here.desk, own.alert = own.desk, told.append
    here.want("0.4")
    here.work()
    here.sandbox.follow([Fault(Match(path=SET_STOP, method="POST", times=2), off)])
    give_up_s = monotonic() + LIMIT_S
    while own.desk.bare_s or here.trading.position(MARKET).stop == 0:
        assert monotonic() < give_up_s
        assert own.poll() == ""
    assert "whether it has one now is not known (10002: time window)" in told[0]


@pytest.mark.promise(15)
def test_order_that_arrived_too_late_once_is_refused_and_the_next_decision_s_is_sent(open_desk: OPEN) -> None:
    late = Action("late", actions.ret_code(10002, "late").spoil, unseen=True)
    here = open_desk([Fault(Match(path="/v5/order/create", method="POST", times=1), late)])
    here.want("0.4")
    here.work()
    assert (here.desk.outcome(BAR_MS), here.desk.trouble) == ("rejected", "")
    here.want("0.4", bar=1)
    here.work()
    assert (here.desk.held, len(here.posts)) == (D("0.4"), 2)


@pytest.mark.promise(15)
def test_market_in_trouble_is_not_called_flat_before_the_exchange_has_told(
    open_desk: OPEN, open_account: ACCOUNT
) -> None:
    here = open_desk()
    _, own = open_account(here)
    own.desk.reconcile()
    here.sandbox.follow(down(POSITION))
    own.desk.on_account_event(read_order(ORDER | {"symbol": MARKET.symbol, "orderLinkId": "by hand"}, 1))
    assert own.wind_down(False)
    Outside(here.sandbox.desk, KEY.key).order(MARKET.symbol, "Buy", "0.3")
    here.sandbox.follow([])
    assert own.wind_down(False)
    assert own.desk.there == D("0.3")


def test_booking_that_is_told_does_not_say_that_all_before_it_were(open_desk: OPEN) -> None:
    here = open_desk()
    begin_ms = here.sandbox.clock.now_ms()
    funding = EXECUTION | {"symbol": MARKET.symbol, "execType": "Funding", "execQty": "0"}
    here.desk.on_account_event(read_execution(funding | {"execTime": str(begin_ms + 3 * HOUR_MS)}, 1))
    here.desk.reconcile()
    (asked,) = [one.params["startTime"] for one in here.sandbox.requests if one.path == "/v5/execution/list"]
    assert asked == str(begin_ms)


@pytest.mark.promise(15)
def test_process_that_goes_on_asks_from_where_all_was_told_and_not_from_the_last_booking(open_desk: OPEN) -> None:
    here = open_desk()
    begin_ms, clock = here.sandbox.clock.now_ms(), here.sandbox.clock
    funding = EXECUTION | {"symbol": MARKET.symbol, "execType": "Funding", "execQty": "0"}

    def go_on() -> OrderDesk:
        options = {"trading": here.trading, "journal": here.journal, "timing": TIMING}
        return OrderDesk(MARKET.slug, MARKET, "tests", lot=LOT, begin_ms=begin_ms, **options)

    def first_asked(desk: OrderDesk) -> int:
        before = len(here.sandbox.requests)
        desk.compare_soon()
        desk.reconcile()
        return min(int(one.params["startTime"]) for one in here.sandbox.requests[before:] if "startTime" in one.params)

    clock.advance(20 * DAY_MS)
    here.sandbox.follow(down("/v5/execution/list"))
    here.desk.reconcile()
    here.desk.on_account_event(read_execution(funding | {"execTime": str(clock.now_ms())}, 1))
    here.sandbox.follow([])
    assert first_asked(desk := go_on()) == begin_ms
    clock.advance(DAY_MS)
    assert first_asked(desk) == clock.now_ms() - DAY_MS - HOUR_MS
    assert first_asked(go_on()) == clock.now_ms() - HOUR_MS
    clock.advance(HOUR_MS)
    assert first_asked(go_on()) == clock.now_ms() - 2 * HOUR_MS
    assert desk.trouble == ""
