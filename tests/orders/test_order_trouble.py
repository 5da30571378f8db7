"""What ends the trading of a market: doubt that stays, a refused key, somebody else's order or position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from time import monotonic

import pytest

from tasks.exchange.private_events import (
    read_order,
)
from tasks.execution.orders import Status
from tasks.live.halts import Halts
from tasks.sandbox.faults import CREATE_PATH, Action, Fault, Match, OrderTwist
from tests.orders.cells import (
    ACCOUNT,
    CANDLES,
    KEY,
    LIMIT_S,
    MARKET,
    OPEN,
    ORDER,
    PRICE,
    TIMING,
)
from tests.sandbox import actions
from tests.sandbox.order_actions import order_fault
from tests.sandbox.outside import Outside

D = Decimal
REALTIME = "/v5/order/realtime"


def test_exchange_that_keeps_saying_another_position_ends_in_trouble_and_not_in_a_loop(open_desk: OPEN) -> None:
    here = open_desk(order_fault("position lags", MARKET.symbol, polls=1_000))
    here.want("0.4")
    here.work()
    for _ in range(TIMING.rounds):
        assert here.desk.trouble == ""
        here.desk.compare_soon()
        here.desk.reconcile()
    assert "the exchange holds 0, the journal says 0.4" in here.desk.trouble
    here.want("0.8", bar=1)
    here.work()
    assert len(here.posts) == 1


def test_state_that_can_t_be_asked_for_stays_unknown_and_nothing_is_opened(open_desk: OPEN) -> None:
    lost = Fault(Match(path=CREATE_PATH, method="POST"), actions.delivery("reset"))
    here = open_desk([lost, Fault(Match(path=REALTIME, times=None), actions.http_status(500))])
    here.want("0.4")
    asked: Callable[[], int] = lambda: sum(one.path == REALTIME for one in here.sandbox.requests)  # noqa: E731
    here.work(until=lambda: asked() >= 4)
    (order,) = here.orders
    assert (order.status, len(here.posts)) == (Status.UNKNOWN, 1)
    assert here.desk.outcome(int(CANDLES.start_ms[-1])) == "unknown"


def test_order_of_which_nobody_can_tell_for_long_is_trouble(open_desk: OPEN) -> None:
    lost = Fault(Match(path=CREATE_PATH, method="POST"), actions.delivery("reset"))
    here = open_desk([lost, Fault(Match(path=REALTIME, times=None), actions.http_status(500))])
    here.desk.timing = replace(TIMING, unknown_s=0.3)
    here.want("0.4")
    here.work(until=lambda: bool(here.desk.trouble))
    assert "nobody can tell for 0.3 s what has become of order dsc-" in here.desk.trouble
    assert len(here.posts) == 1


def test_order_that_is_acknowledged_and_never_heard_of_again_is_trouble(open_desk: OPEN) -> None:
    unseen = {"realtime": 10_000, "history": 10_000, "executions": 10_000}
    here = open_desk([Fault(Match(path=CREATE_PATH, method="POST"), Action("unseen", twist=OrderTwist(unseen=unseen)))])
    here.desk.timing = replace(TIMING, unknown_s=0.3)
    here.want("0.4")
    here.work(until=lambda: bool(here.desk.trouble))
    assert (here.orders[0].status, len(here.posts)) == (Status.ACKED, 1)


@pytest.mark.parametrize("code", [10003, 10004, 10005])
def test_key_that_is_refused_ends_it_at_once(open_desk: OPEN, code: int) -> None:
    refusal = actions.ret_code(code, "no")
    here = open_desk(
        [Fault(Match(path=CREATE_PATH, method="POST", times=None), Action("no", refusal.spoil, unseen=True))]
    )
    here.want("0.4")
    here.work()
    assert (len(here.posts), here.orders[0].status) == (1, Status.REJECTED)
    assert (
        here.desk.trouble == f"the exchange refuses this key ({code}: no); check it: of this environment, may it trade?"
    )
    here.want("0.4", bar=1)
    here.work()
    assert len(here.posts) == 1


def test_stop_that_fires_latches_the_market_for_the_next_session_too(open_desk: OPEN, open_account: ACCOUNT) -> None:
    here = open_desk()
    _, own = open_account(here)
    here.desk = own.desk
    here.listen()
    here.want("0.4", stop=D(50))
    here.work()
    Outside(here.sandbox.desk, KEY.key).deleverage(MARKET.symbol, "0.4")
    here.work(until=lambda: bool(own.poll()))
    assert own.desk.held == 0
    halt = Halts.of(here.journal.path.parent).read("sandbox", MARKET)
    assert halt is not None
    assert "by no order of this session" in halt.why


def test_stranger_s_order_is_followed_before_the_market_stops(open_desk: OPEN) -> None:
    here = open_desk()
    outside = Outside(here.sandbox.desk, KEY.key)
    waits = outside.order(MARKET.symbol, "Buy", "0.3", orderType="Limit", price=format(PRICE / 2, ".2f"))
    here.desk.reconcile()
    assert waits.order_id in here.desk.trouble
    assert here.desk.stopped == ""
    outside.order(MARKET.symbol, "Sell", "0.2")
    give_up_s = monotonic() + LIMIT_S
    while not here.desk.stopped:
        assert monotonic() < give_up_s
        here.desk.reconcile()
    assert (here.desk.stopped, here.desk.held) == (here.desk.trouble, D("-0.2"))
    here.want("-0.5")
    here.work()
    assert (len(here.posts), here.violations()) == (0, [])


def test_stop_without_a_parent_is_ours_and_an_order_by_hand_is_not(open_desk: OPEN) -> None:
    here = open_desk()
    here.want("0.4")
    here.work()
    row = ORDER | {"orderLinkId": "", "orderStatus": "Untriggered", "stopOrderType": "StopLoss"}
    here.desk.on_account_event(read_order(row, 1))
    assert here.desk.trouble == ""
    here.desk.on_account_event(read_order(row | {"stopOrderType": ""}, 1))
    assert "an order of somebody else" in here.desk.trouble


def test_trouble_that_comes_with_the_end_of_an_order_is_over_as_soon_as_both_sides_agree(open_desk: OPEN) -> None:
    here = open_desk()
    spoil = Action("MNT", lambda reply: [row.update(feeCurrency="MNT") for row in reply.envelope["result"]["list"]])
    here.sandbox.follow([Fault(Match(path="/v5/execution/list", times=None), spoil)])
    here.want("0.4")
    here.desk.work()
    assert here.desk.unsettled
    give_up_s = monotonic() + LIMIT_S
    while here.sandbox.account(KEY.key).position(MARKET.symbol).size != D("0.4"):  # it fills behind its answer
        assert monotonic() < give_up_s
    while here.desk.unknown or not here.desk.trouble:  # until it has answered all that one comparison asks
        assert monotonic() < give_up_s
        here.desk.compare_soon()
        here.desk.reconcile()
    assert "a fee was paid in MNT" in here.desk.stopped
