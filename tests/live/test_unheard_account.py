"""An account that nobody can compare, close or understand: nothing new is opened, and somebody hears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from time import monotonic, sleep

import pytest

from tasks.live.market_session import MarketSession
from tasks.live.order_gateway import OrderConfig
from tasks.sandbox.faults import CREATE_PATH, Action, Fault, Match
from tests.live.conftest import MARKET, WAIT_S, Rig
from tests.live.order_rig import Trader
from tests.live.test_order_session import while_held
from tests.live.test_unknown import size
from tests.orders.cells import Desk
from tests.orders.test_malformed_facts import LISTS, says
from tests.sandbox import actions

OPEN = Callable[..., Rig]
FILLS = "/v5/execution/list"


@pytest.fixture
def open_orders(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    with ExitStack() as stack:
        yield lambda **options: Desk(tmp_path / "orders.sqlite", stack, **options)


@pytest.mark.promise(15)
def test_nothing_is_opened_while_nobody_can_compare_the_account_and_somebody_hears(open_rig: OPEN) -> None:
    trader = Trader(open_rig)
    down = Action("down", lambda reply: reply.html(502, "bad gateway"))
    trader.rig.sandbox.follow([Fault(Match(path=FILLS, times=None), down)])
    sent: list[int] = []

    def before_bar(bar: int, market: MarketSession) -> None:
        sent.append(len(trader.account.orders))
        if bar == 8:
            trader.rig.sandbox.follow([])
            give_up_s = monotonic() + WAIT_S
            while market.own.desk.unknown and monotonic() < give_up_s:  # it is asked again after a while
                sleep(0.002)

    market = trader.hold(24, before_bar, patience_s=2.0)
    assert sent[8] == 0
    assert trader.account.orders
    assert market.own.causes["stream"] == trader.check().causes["stream"] >= 1
    assert market.halted == ""
    (line,) = (one for one in trader.alerts if "the exchange does not tell what the account holds" in one)
    assert line.endswith("; nothing new is opened until that is over")


@pytest.mark.promise(15)
def test_position_that_the_exchange_refuses_to_close_twice_is_trouble_and_closed_by_its_rules_of_now(
    open_rig: OPEN,
) -> None:
    trader = Trader(open_rig, config=OrderConfig(close_after_bars=2))
    refusal = Action("refused", actions.ret_code(10001, "Qty invalid").spoil, unseen=True)

    def refuse() -> None:
        match = Match(path=CREATE_PATH, method="POST", times=2, params={"reduceOnly": "true"})
        trader.rig.sandbox.follow([Fault(match, refusal)])

    market = trader.hold(40, while_held(refuse), patience_s=1.0)
    assert "the exchange refuses to close" in market.halted
    assert "10001: Qty invalid" in trader.alerts[0]
    assert (size(trader), market.still_open) == (0, "")
    assert trader.closed < 40


def test_one_refusal_to_close_is_no_trouble(open_rig: OPEN) -> None:
    trader = Trader(open_rig)
    refusal = Action("refused", actions.ret_code(10001, "Qty invalid").spoil, unseen=True)

    def refuse() -> None:
        match = Match(path=CREATE_PATH, method="POST", params={"reduceOnly": "true"})
        trader.rig.sandbox.follow([Fault(match, refusal)])

    market = trader.hold(24, while_held(refuse), patience_s=1.0)
    assert (market.halted, trader.alerts) == ("", [])
    assert trader.check().causes["rejected"] == 1


def refuse_to_open(trader: Trader, code: int, times: int | None = None) -> None:
    refusal = Action("refused", actions.ret_code(code, "ab not enough for new order").spoil, unseen=True)
    match = Match(path=CREATE_PATH, method="POST", times=times, params={"reduceOnly": "false"})
    trader.rig.sandbox.follow([Fault(match, refusal)])


def test_openings_that_are_refused_one_after_another_are_told_once(open_rig: OPEN) -> None:
    trader = Trader(open_rig)
    refuse_to_open(trader, 110007)
    market = trader.hold(40, patience_s=1.0)
    assert market.own.causes["rejected"] == trader.check().causes["rejected"] > 3
    assert trader.alerts == [
        f"{MARKET} on sandbox: the exchange has refused to open 3 times in a row "
        "(110007: ab not enough for new order); nothing is opened until that is over"
    ]
    assert market.halted == ""


def test_refused_openings_are_told_from_the_third_in_a_row_of_one_code_and_anew_after_one_that_was_taken(
    open_orders: Callable[..., Desk],
) -> None:
    here, told = open_orders(), list[bool]()
    for bar, code in enumerate((110007, 110007, 110012, 110012, 0, 110012, 110012, 110012, 110012)):
        refusal = Action("refused", actions.ret_code(code, "no").spoil, unseen=True)
        here.sandbox.follow([Fault(Match(path=CREATE_PATH, method="POST"), refusal)] if code else [])
        here.want(f"{here.desk.held + Decimal('0.1')}", bar)
        here.work()
        told.append(bool(here.desk.refuses_to_open))
    assert told == [False] * 7 + [True] * 2
    assert here.desk.refuses_to_open == "the exchange has refused to open 4 times in a row (110012: no)"


@pytest.mark.promise(15)
def test_reports_that_contradict_each_other_are_trouble_however_often_they_come(
    open_orders: Callable[..., Desk],
) -> None:
    here = open_orders()
    here.sandbox.follow([says(path, cumExecQty="9") for path in LISTS])
    here.want("0.4")
    here.work(lambda: bool(here.desk.trouble))
    assert "is said to have filled 9" in here.desk.trouble
    here.desk.give_up()
    for _ in range(3):
        here.desk.work()
        here.desk.compare_soon()
        here.desk.reconcile()
    assert len(here.posts) == 1


@pytest.mark.promise(17)
def test_rules_of_a_market_before_its_launch_are_known_to_what_closes_a_position(
    open_orders: Callable[..., Desk],
) -> None:
    here = open_orders()
    rules = here.trading.instrument(MARKET)
    (listing,) = here.sandbox.listings.values()
    for status in ("PreLaunch", "Delivering"):
        listing.rules = replace(rules, status=status)
        assert here.trading.instrument(MARKET) == replace(rules, status=status)
