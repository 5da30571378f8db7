"""An order's course from a decision to its books: what is sent, once, and what is left alone."""

from __future__ import annotations

from decimal import Decimal
from time import monotonic

import pytest

from storage.schema import StoreError
from tasks.exchange.private_events import (
    ExecutionNews,
)
from tasks.execution.orders import Execution, Leg, LotSize, Status, next_leg
from tasks.execution.paper import Ledger
from tasks.live.order_desk import OrderDesk
from tasks.sandbox.faults import CREATE_PATH, Action, Fault, Match, OrderTwist
from tests.orders.cells import (
    ACCOUNT,
    BAR_MS,
    CANDLES,
    KEY,
    LIMIT_S,
    MARKET,
    OPEN,
    PRICE,
)
from tests.sandbox import actions
from tests.sandbox.order_actions import order_fault
from tests.sandbox.outside import Outside

D = Decimal


@pytest.mark.parametrize("streams", [True, False])
def test_position_is_opened_flipped_and_closed(open_desk: OPEN, streams: bool) -> None:
    here = open_desk()
    if streams:
        here.listen()
    for bar, coins, posts in ((0, "0.4", 1), (1, "-0.3", 3), (2, "0", 4), (3, "0", 4)):
        here.want(coins, bar)
        here.work()
        assert (here.desk.held, len(here.posts)) == (D(coins), posts)
        assert here.desk.outcome(int(CANDLES.start_ms[-1]) + bar * MARKET.interval_ms) == ""
    here.reconcile()
    assert (here.violations(), here.desk.trouble) == ([], "")
    assert [order.leg.reduces for order in here.orders] == [False, True, False, True]


def test_funding_moves_cash_and_no_coins(open_desk: OPEN, open_account: ACCOUNT) -> None:
    here = open_desk()
    _, own = open_account(here)
    own.on_account_event(
        ExecutionNews(MARKET.symbol, "", "f1", "Funding", "Buy", Execution("f1", D(".045"), PRICE, D(".3")), 1, 1)
    )
    booked = own.late(5, float(PRICE))
    assert booked is not None
    assert booked.opened.ledger == Ledger(4_999.7, 0.0, 0, 0)
    assert (own.desk.held, booked.opened.funding, own.desk.trouble) == (0, 0.3, "")


def test_order_event_after_a_time_out_ends_the_doubt(open_desk: OPEN) -> None:
    here = open_desk([Fault(Match(path=CREATE_PATH, method="POST"), actions.delivery("never"))])
    here.listen()
    here.want("0.4")
    here.work()
    assert (here.desk.held, len(here.posts), here.violations()) == (D("0.4"), 1, [])


def test_filled_order_that_four_polls_do_not_see_is_sent_once(open_desk: OPEN) -> None:
    here = open_desk(order_fault("accepted, invisible, refused as duplicate when sent again", MARKET.symbol, polls=4))
    here.want("0.4")
    here.work()
    (order,) = here.orders
    assert (order.status, len(here.posts)) == (Status.FILLED, 1)


def test_message_that_comes_twice_is_booked_once(open_desk: OPEN) -> None:
    here = open_desk(order_fault("execution told twice", MARKET.symbol, parts=3))
    here.listen()
    here.want("0.4")
    here.work()
    assert (here.desk.held, here.violations()) == (D("0.4"), [])


@pytest.mark.parametrize("parts", [1, 40])
def test_full_disk_sends_nothing_and_what_was_sent_is_in_the_books_when_there_is_room(
    open_desk: OPEN, parts: int
) -> None:
    filled = Action("in parts", twist=OrderTwist(parts=parts))
    here = open_desk([Fault(Match(path=CREATE_PATH, method="POST", times=None), filled)])
    (pages,) = here.journal._db.execute("PRAGMA page_count").fetchone()
    here.journal._db.execute(f"PRAGMA max_page_count={pages + 2}")

    def trade() -> None:
        for bar in range(200):
            here.want("0.4" if bar % 2 else "0", bar=bar)
            here.work()

    with pytest.raises(StoreError, match="full"):
        trade()
    assert len(here.posts) == len([one for one in here.orders if one.status is not Status.INTENT])
    here.start()
    here.reconcile()
    assert (here.violations(), here.desk.trouble) == ([], "")


def test_booking_that_can_t_be_written_ends_the_session_and_is_no_trouble_of_the_market(
    open_desk: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = open_desk()
    Outside(here.sandbox.desk, KEY.key).order(MARKET.symbol, "Buy", "0.3")

    def full(*args: object) -> None:
        raise StoreError("the journal can't be written (database or disk is full)")

    monkeypatch.setattr(here.journal, "execution", full)
    with pytest.raises(StoreError, match="disk is full"):
        here.desk.reconcile()
    assert (here.desk.trouble, here.desk.held) == ("", 0)


def test_stop_whose_setting_can_t_be_noted_closes_no_position(
    open_desk: OPEN, open_account: ACCOUNT, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = open_desk()
    _, own = open_account(here)
    here.desk = own.desk
    here.want("0.4")
    here.work()

    def full(*args: object) -> None:
        raise StoreError("the journal can't be written (database or disk is full)")

    monkeypatch.setattr(own.desk, "note", full)

    def poll() -> None:
        give_up_s = monotonic() + LIMIT_S
        while monotonic() < give_up_s:
            assert own.poll() == ""

    with pytest.raises(StoreError, match="disk is full"):
        poll()
    assert here.trading.position(MARKET).stop > 0


@pytest.mark.parametrize(
    ("held", "leg"), [("172.1", Leg("Sell", D("172.1"), True)), ("147.7", Leg("Sell", D("147.7"), True))]
)
def test_next_leg_closes_what_is_left(held: str, leg: Leg) -> None:
    lot = LotSize(step=D("0.1"), least=D("0.1"), most=D(1_000), least_notional=D(5))
    assert next_leg(D(held), D(0), lot, D(10)) == leg


def test_dust_is_flat_and_no_order(open_desk: OPEN, open_account: ACCOUNT) -> None:
    here = open_desk()
    _, own = open_account(here)
    fill = Execution("e1", D("0.0004"), PRICE, D(0))
    own.on_account_event(ExecutionNews(MARKET.symbol, "", "x", "Trade", "Buy", fill, 1, 1))
    booked = own.late(5, float(PRICE))
    assert booked is not None
    assert (booked.opened.ledger.side, booked.opened.ledger.quantity) == (0, 0.0004)
    here.desk.held = D("0.0004")
    here.want("0")
    here.work()
    assert len(here.posts) == 0


def test_position_that_stays_asks_for_nothing(open_desk: OPEN) -> None:
    here = open_desk()
    here.want("0.4", stop=D(50))
    here.work()
    asked = len(here.sandbox.requests)
    for bar in range(1, 101):
        here.want("0.4", bar=bar, stop=D(50))
        here.work()
    assert len(here.sandbox.requests) == asked


def test_desk_remembers_when_it_asked_of_no_order_that_is_over(open_desk: OPEN) -> None:
    here = open_desk()
    for bar in range(6):
        here.want("0.4" if bar % 2 else "-0.4", bar=bar)
        here.work()
    assert len(here.posts) == 11
    assert (here.desk._sent_s, here.desk._asked) == ({}, {})


def test_desk_holds_no_more_of_its_past_however_many_orders_it_sends(
    open_desk: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = 4
    monkeypatch.setattr("tasks.live.position_keeper._KEPT_ORDERS", kept, raising=False)

    def too_long(desk: OrderDesk) -> list[str]:
        """Return what holds more than the newest orders, in a desk whose bookings a ledger has."""
        desk.mark_booked()
        found = {name: held for name, held in vars(desk).items() if isinstance(held, dict | list | set | tuple)}
        return [name for name, held in found.items() if len(held) > kept]

    here = open_desk()
    for bar in range(6):
        here.want("0.4" if bar % 2 else "-0.4", bar=bar, stop=D(50 if bar % 2 else 150))
        here.work()
    assert len(here.posts) == 11
    assert too_long(here.desk) == []
    here.desk.reconcile()  # every execution is told again, and of a stop that came with an order
    assert (here.violations(), here.desk.trouble, here.desk.held) == ([], "", D("0.4"))
    here.start()
    assert (too_long(here.desk), here.violations()) == ([], [])
    here.want("0", bar=6)
    here.work()
    assert (here.violations(), here.desk.outcome(BAR_MS + 6 * MARKET.interval_ms)) == ([], "")


def test_order_of_more_executions_than_a_page_holds_is_settled_by_questions_alone(open_desk: OPEN) -> None:
    twist = OrderTwist(parts=130)
    here = open_desk([Fault(Match(path=CREATE_PATH, method="POST"), Action("130 parts", twist=twist))])
    here.want("0.4")
    here.work()
    assert len(here.orders[0].fills) >= 130
    assert (here.desk.held, here.violations()) == (D("0.4"), [])
