"""Cases that have cost others money, each with what is right."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from itertools import count
from math import nan
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from storage.api_keys import ApiKey
from storage.schema import DAY_MS, AuthError, Rejected, StoreError, TemporaryError
from tasks.exchange.connection import Link
from tasks.exchange.gateway import Gateway
from tasks.exchange.private_events import (
    ExecutionNews,
    OrderNews,
    read_execution,
    read_order,
)
from tasks.exchange.wire_values import BadMessage
from tasks.execution.accounting import COMMISSION, RULES
from tasks.execution.orders import Execution, Leg, LotSize, Status, next_leg
from tasks.execution.paper import Ledger, Quote
from tasks.journal.journal_rows import Decision
from tasks.live.exchange_time import boottime_s
from tasks.live.gates import Denied
from tasks.live.halts import Halts
from tasks.live.order_account import OrderAccount
from tasks.live.order_gateway import OrderGateway
from tasks.sandbox.faults import CREATE_PATH, Action, Fault, Match, OrderTwist, Reply
from tests.orders.cells import CANDLES, KEY, LIMIT_S, MARKET, PRICE, TIMING, Desk
from tests.sandbox import actions
from tests.sandbox.order_actions import order_fault

D = Decimal
REALTIME = "/v5/order/realtime"
OPEN = Callable[..., Desk]


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[OPEN]:
    with ExitStack() as stack:
        yield lambda faults=(), **options: Desk(tmp_path / "orders.sqlite", stack, faults, **options)


def account_of(here: Desk, stack: ExitStack, key: ApiKey = KEY) -> tuple[OrderGateway, OrderAccount]:
    gateway = stack.enter_context(Gateway("sandbox", source=here.sandbox.source, url=here.sandbox.url))
    link = Link(gateway=gateway, url=here.sandbox.url)
    halts = Halts.of(here.journal.path.parent)
    orders = stack.enter_context(OrderGateway(link, key, "tests", halts, desk_timing=TIMING, recv_window_ms=400))
    own = orders.account(MARKET, gateway.instrument(MARKET), Ledger(5_000.0), here.journal)
    own.rules[COMMISSION] = 0.001
    return orders, own


def posted(here: Desk) -> int:
    return len(here.posts)


@pytest.mark.parametrize("streams", [True, False])
def test_position_is_opened_flipped_and_closed(open_desk: OPEN, streams: bool) -> None:
    here = open_desk()
    if streams:
        here.listen()
    for bar, coins, posts in ((0, "0.4", 1), (1, "-0.3", 3), (2, "0", 4), (3, "0", 4)):
        here.want(coins, bar)
        here.work()
        assert (here.desk.held, posted(here)) == (D(coins), posts)
        assert here.desk.outcome(int(CANDLES.start_ms[-1]) + bar * MARKET.interval_ms) == ""
    here.reconcile()
    assert (here.violations(), here.desk.trouble) == ([], "")
    assert [order.leg.reduces for order in here.orders] == [False, True, False, True]


def test_funding_moves_cash_and_no_coins(open_desk: OPEN) -> None:
    here = open_desk()
    with ExitStack() as stack:
        _, own = account_of(here, stack)
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
    assert (here.desk.held, posted(here), here.violations()) == (D("0.4"), 1, [])


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
    assert posted(here) == 1


ORDER = {
    "symbol": "BTCUSDT", "orderId": "x", "orderLinkId": "dsc-1", "orderStatus": "New", "cumExecQty": "",
    "category": "linear", "rejectReason": "", "updatedTime": "0", "parentOrderLinkId": "", "avgPrice": "",
}  # fmt: skip
EXECUTION = {
    "symbol": "BTCUSDT", "execId": "e", "execQty": "0.1", "execPrice": "100", "execFee": "0", "execType": "Trade",
    "side": "Buy", "orderId": "", "orderLinkId": "", "execTime": "0", "closedSize": "", "isMaker": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("read", "row", "needed"),
    [
        (read_order, ORDER, {"symbol", "orderStatus", "orderLinkId", "orderId"}),
        (read_execution, EXECUTION, {"symbol", "execId", "execQty", "execPrice", "side"}),
    ],
)
def test_field_that_is_left_out_or_empty_changes_nothing(
    read: Callable[..., OrderNews | ExecutionNews], row: dict[str, Any], needed: set[str]
) -> None:
    whole = read(row, 1)
    for name in row.keys() - needed:
        assert read({other: value for other, value in row.items() if other != name}, 1) == whole
        assert read(row | {name: None}, 1) == whole


def test_hedge_mode_is_denied_before_any_order(open_desk: OPEN) -> None:
    here = open_desk()
    here.sandbox.outside(KEY.key).set_hedge(True)
    with ExitStack() as stack:
        orders, own = account_of(here, stack)
        with pytest.raises(Denied, match=r"ACCOUNT: .*hedge mode"):
            orders.admit(own, MARKET)
    assert posted(here) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"may_trade": False}, "KEY: this key may not trade"),
        ({"may_withdraw": True}, "KEY: this key may withdraw"),
        ({"margin_mode": "ISOLATED_MARGIN"}, "MARGIN: margin mode must be cross"),
        ({"unified_margin_status": 1}, "ACCOUNT: classic accounts"),
        ({"taker_fee": "0.0011"}, "COSTS: this account pays 0.0011 a fill"),
        ({"capital": "4999"}, "CAPITAL: the session starts with 5000 USDT"),
    ],
)
def test_account_that_is_not_fit_is_denied(open_desk: OPEN, options: dict[str, Any], said: str) -> None:
    here = open_desk(**options)
    with ExitStack() as stack:
        orders, own = account_of(here, stack)
        with pytest.raises(Denied, match=said):
            orders.admit(own, MARKET)
    assert posted(here) == 0


def test_account_whose_margin_mode_is_not_told_is_denied(open_desk: OPEN) -> None:
    here = open_desk()
    silent = Action("silent", lambda reply: reply.envelope["result"].pop("marginMode"))
    here.sandbox.follow([Fault(Match(path="/v5/account/info", times=None), silent)])
    with ExitStack() as stack:
        orders, own = account_of(here, stack)
        with pytest.raises(Denied, match=r"MARGIN: margin mode must be cross .*, was not told"):
            orders.admit(own, MARKET)


def test_venue_that_tells_no_fees_is_traded_at_the_recipe_s(open_desk: OPEN) -> None:
    here = open_desk(tells_fees=False)
    with ExitStack() as stack:
        orders, own = account_of(here, stack)
        orders.admit(own, MARKET)
        assert len(own.rules) == RULES


def test_live_account_of_which_nobody_says_what_it_pays_is_denied(open_desk: OPEN) -> None:
    here = open_desk(tells_fees=False)
    with ExitStack() as stack:
        orders, own = account_of(here, stack)
        own.desk.trading.exchange = "bybit"  # real money
        with pytest.raises(Denied, match="COSTS: nobody says what this account pays a fill"):
            orders.admit(own, MARKET)


def test_position_of_somebody_else_is_denied(open_desk: OPEN) -> None:
    here = open_desk()
    here.sandbox.outside(KEY.key).order(MARKET.symbol, "Buy", "0.1")
    with ExitStack() as stack:
        orders, own = account_of(here, stack)
        with pytest.raises(Denied, match="RECONCILIATION"):
            orders.admit(own, MARKET)


def test_filled_order_that_four_polls_do_not_see_is_sent_once(open_desk: OPEN) -> None:
    here = open_desk(order_fault("accepted, invisible, refused as duplicate when sent again", MARKET.symbol, polls=4))
    here.want("0.4")
    here.work()
    (order,) = here.orders
    assert (order.status, posted(here)) == (Status.FILLED, 1)


def test_full_disk_sends_nothing(open_desk: OPEN) -> None:
    here = open_desk()
    (pages,) = here.journal._db.execute("PRAGMA page_count").fetchone()
    here.journal._db.execute(f"PRAGMA max_page_count={pages}")

    def trade() -> None:
        for bar in range(200):
            here.want("0.4" if bar % 2 else "0", bar=bar)
            here.work()

    with pytest.raises(StoreError, match="full"):
        trade()
    assert posted(here) == len([one for one in here.orders if one.status is not Status.INTENT])


@pytest.mark.parametrize(
    ("held", "leg"), [("172.1", Leg("Sell", D("172.1"), True)), ("147.7", Leg("Sell", D("147.7"), True))]
)
def test_next_leg_closes_what_is_left(held: str, leg: Leg) -> None:
    lot = LotSize(step=D("0.1"), least=D("0.1"), most=D(1_000), least_notional=D(5))
    assert next_leg(D(held), D(0), lot, D(10)) == leg


def test_dust_is_flat_and_no_order(open_desk: OPEN) -> None:
    here = open_desk()
    with ExitStack() as stack:
        _, own = account_of(here, stack)
        fill = Execution("e1", D("0.0004"), PRICE, D(0))
        own.on_account_event(ExecutionNews(MARKET.symbol, "", "x", "Trade", "Buy", fill, 1, 1))
        booked = own.late(5, float(PRICE))
        assert booked is not None
        assert (booked.opened.ledger.side, booked.opened.ledger.quantity) == (0, 0.0004)
    here.desk.held = D("0.0004")
    here.want("0")
    here.work()
    assert posted(here) == 0


def test_position_that_stays_asks_for_nothing(open_desk: OPEN) -> None:
    here = open_desk()
    here.want("0.4", stop=D(50))
    here.work()
    asked = len(here.sandbox.requests)
    for bar in range(1, 101):
        here.want("0.4", bar=bar, stop=D(50))
        here.work()
    assert len(here.sandbox.requests) == asked


def test_state_that_can_t_be_asked_for_stays_unknown_and_nothing_is_opened(open_desk: OPEN) -> None:
    lost = Fault(Match(path=CREATE_PATH, method="POST"), actions.delivery("reset"))
    here = open_desk([lost, Fault(Match(path=REALTIME, times=None), actions.http_status(500))])
    here.want("0.4")
    asked: Callable[[], int] = lambda: sum(one.path == REALTIME for one in here.sandbox.requests)  # noqa: E731
    here.work(until=lambda: asked() >= 4)
    (order,) = here.orders
    assert (order.status, posted(here)) == (Status.UNKNOWN, 1)
    assert here.desk.outcome(int(CANDLES.start_ms[-1])) == "unknown"


def test_order_of_which_nobody_can_tell_for_long_is_trouble(open_desk: OPEN) -> None:
    lost = Fault(Match(path=CREATE_PATH, method="POST"), actions.delivery("reset"))
    here = open_desk([lost, Fault(Match(path=REALTIME, times=None), actions.http_status(500))])
    here.desk._timing = replace(TIMING, unknown_s=0.3)
    here.want("0.4")
    here.work(until=lambda: bool(here.desk.trouble))
    assert "nobody can tell for 0.3 s what has become of order dsc-" in here.desk.trouble
    assert posted(here) == 1


@pytest.mark.parametrize("code", [10003, 10004, 10005])
def test_key_that_is_refused_ends_it_at_once(open_desk: OPEN, code: int) -> None:
    refusal = actions.ret_code(code, "no")
    here = open_desk(
        [Fault(Match(path=CREATE_PATH, method="POST", times=None), Action("no", refusal.spoil, unseen=True))]
    )
    here.want("0.4")
    here.work()
    assert (posted(here), here.orders[0].status) == (1, Status.REJECTED)
    assert str(code) in here.desk.trouble
    here.want("0.4", bar=1)
    here.work()
    assert posted(here) == 1


def test_message_that_comes_twice_is_booked_once(open_desk: OPEN) -> None:
    here = open_desk(order_fault("execution told twice", MARKET.symbol, parts=3))
    here.listen()
    here.want("0.4")
    here.work()
    assert (here.desk.held, here.violations()) == (D("0.4"), [])


def test_nothing_that_a_desk_writes_holds_the_key(open_desk: OPEN, caplog: pytest.LogCaptureFixture) -> None:
    here = open_desk([Fault(Match(path=CREATE_PATH, method="POST"), actions.ret_code(10004, "sign"))])
    here.want("0.4")
    here.work()
    shown: Sequence[object] = (
        here.trading, here.desk, vars(here.trading), vars(here.desk), here.orders, here.desk.trouble, KEY, caplog.text,
    )  # fmt: skip
    here.trading.ban.begin(1e12)
    with pytest.raises(TemporaryError) as caught:
        here.trading.position(MARKET)
    texts = [repr(one) for one in (*shown, caught.value)]
    here.stop()
    files = [path.read_bytes().decode("latin-1") for path in here.journal.path.parent.iterdir()]
    for text in (*texts, *files):
        assert KEY.key not in text
        assert KEY.secret not in text


def test_stop_that_fires_latches_the_market_for_the_next_session_too(open_desk: OPEN) -> None:
    here = open_desk()
    with ExitStack() as stack:
        _, own = account_of(here, stack)
        here.desk = own.desk
        here.listen()
        here.want("0.4", stop=D(50))
        here.work()
        here.sandbox.outside(KEY.key).deleverage(MARKET.symbol, "0.4")
        here.work(until=lambda: bool(own.poll()))
        assert own.desk.held == 0
        halt = Halts.of(here.journal.path.parent).read("sandbox", MARKET)
    assert halt is not None
    assert "by no order of this session" in halt.why


def test_stranger_s_order_is_followed_before_the_market_stops(open_desk: OPEN) -> None:
    here = open_desk()
    outside = here.sandbox.outside(KEY.key)
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
    assert (posted(here), here.violations()) == (0, [])


@pytest.mark.promise(17)
def test_halt_between_two_legs_opens_nothing(open_desk: OPEN) -> None:
    here = open_desk()
    with ExitStack() as stack:
        _, own = account_of(here, stack)
        here.desk = own.desk
        here.want("0.3")
        here.work()
        here.want("-0.4", bar=1)
        here.desk.work()
        assert posted(here) == 2  # the close leg is under way
        Halts.of(here.journal.path.parent).latch("sandbox", MARKET, "the news")
        here.work()
        assert here.desk.outcome(int(CANDLES.start_ms[-1]) + MARKET.interval_ms) == "halted"
    assert (here.desk.held, posted(here)) == (0, 2)


@pytest.mark.promise(17)
@pytest.mark.parametrize("at", ["disk", "pace"])
@pytest.mark.parametrize("said", ["halted", "stale"])
def test_order_that_was_held_up_on_its_way_out_opens_nothing_that_may_not_be_opened_any_more(
    open_desk: OPEN, monkeypatch: pytest.MonkeyPatch, at: str, said: str
) -> None:
    here = open_desk()
    with ExitStack() as stack:
        _, own = account_of(here, stack)
        here.desk, halts = own.desk, Halts.of(here.journal.path.parent)
        here.want("0.3")
        here.work()
        write, clock = here.journal.order, "tasks.live.order_desk.boottime_s"

        def held_up(*args: Any) -> None:
            if said == "halted":
                halts.latch("sandbox", MARKET, "the news")
            else:
                monkeypatch.setattr(clock, lambda: boottime_s() + 2 * LIMIT_S)
            if at == "disk":
                write(*args)

        monkeypatch.setattr(*((here.journal, "order") if at == "disk" else (own.desk.trading._pace, "wait")), held_up)
        here.want("0", bar=1)
        here.work()
        assert (here.desk.held, posted(here)) == (0, 2)  # what closes goes out all the same
        halts.rearm("sandbox", MARKET)
        monkeypatch.setattr(clock, boottime_s)
        here.want("0.3", bar=2)
        here.work()
        assert (here.desk.held, posted(here), here.desk.trouble) == (0, 2, "")
        assert here.orders[-1].why == f"{said} before it was sent; nothing has left this machine"
        assert here.desk.outcome(int(CANDLES.start_ms[-1]) + 2 * MARKET.interval_ms) == "rejected"


@pytest.mark.promise(17)
def test_end_of_a_session_closes_what_is_held_after_trouble_too(open_desk: OPEN) -> None:
    here = open_desk()
    with ExitStack() as stack:
        _, own = account_of(here, stack)
        here.desk = own.desk
        here.want("0.4")
        here.work()
        own.desk._stop("an order of somebody else")
        assert own.is_open  # though no row of its ledger says so yet
        booked = own.close_out(int(CANDLES.start_ms[-1]) + 1, Quote(float(PRICE)))
        assert (booked.opened.ledger.side, own.is_open) == (0, False)
    assert here.sandbox.account(KEY.key).positions[MARKET.symbol].size == 0


def test_order_that_is_acknowledged_and_never_heard_of_again_is_trouble(open_desk: OPEN) -> None:
    unseen = {"realtime": 10_000, "history": 10_000, "executions": 10_000}
    here = open_desk([Fault(Match(path=CREATE_PATH, method="POST"), Action("unseen", twist=OrderTwist(unseen=unseen)))])
    here.desk._timing = replace(TIMING, unknown_s=0.3)
    here.want("0.4")
    here.work(until=lambda: bool(here.desk.trouble))
    assert (here.orders[0].status, posted(here)) == (Status.ACKED, 1)


def test_refusal_that_echoes_the_key_does_not_show_it_nor_does_its_traceback(open_desk: OPEN) -> None:
    said = f"error sign! origin_string[1795925842237{KEY.key}5000{{}}]"
    here = open_desk([Fault(Match(path=CREATE_PATH, method="POST"), actions.ret_code(10004, said))])
    here.want("0.4")
    here.work()
    assert here.desk.trouble == "10004: error sign!"
    assert KEY.key not in here.orders[0].why
    here.sandbox.follow([Fault(Match(path="/v5/position/list"), actions.ret_code(10004, said))])
    with pytest.raises(AuthError) as caught:
        here.trading.position(MARKET)
    assert KEY.key not in "".join(traceback.format_exception(caught.value))  # as Prefect logs what fails a run


def test_demo_that_does_not_tell_what_its_key_may_do_is_traded(open_desk: OPEN) -> None:
    silent = Fault(Match(path="/v5/user/query-api", times=None), actions.ret_code(10032, "not on demo"))
    here = open_desk([silent])
    with ExitStack() as stack:
        with pytest.raises(Rejected):
            account_of(here, stack)
        orders, own = account_of(here, stack, ApiKey("demo", KEY.key, KEY.secret))
        orders.admit(own, MARKET)


def test_stop_without_a_parent_is_ours_and_an_order_by_hand_is_not(open_desk: OPEN) -> None:
    here = open_desk()
    here.want("0.4")
    here.work()
    row = ORDER | {"orderLinkId": "", "orderStatus": "Untriggered", "stopOrderType": "StopLoss"}
    here.desk.on_account_event(read_order(row, 1))
    assert here.desk.trouble == ""
    here.desk.on_account_event(read_order(row | {"stopOrderType": ""}, 1))
    assert "an order of somebody else" in here.desk.trouble


def test_order_of_more_executions_than_a_page_holds_is_settled_by_questions_alone(open_desk: OPEN) -> None:
    twist = OrderTwist(parts=130)
    here = open_desk([Fault(Match(path=CREATE_PATH, method="POST"), Action("130 parts", twist=twist))])
    here.want("0.4")
    here.work()
    assert len(here.orders[0].fills) >= 130
    assert (here.desk.held, here.violations()) == (D("0.4"), [])


def test_pages_that_go_round_in_a_circle_and_a_clock_that_moves_end(open_desk: OPEN) -> None:
    here = open_desk()
    here.want("0.4")
    here.work()
    spoil = actions.result_fields({"nextPageCursor": "again"}).spoil
    loop = Action("a circle", spoil, lambda params: {name: text for name, text in params.items() if name != "cursor"})
    here.sandbox.follow([Fault(Match(path="/v5/execution/list", times=None), loop)])
    asked = len(here.sandbox.requests)
    booked, _ = here.trading.executions(MARKET, here.sandbox.clock.now_ms() - 1_000)
    assert len(booked) == len(here.orders[0].fills)
    assert len(here.sandbox.requests) <= asked + 4


def test_pages_without_end_are_not_read_to_the_end(open_desk: OPEN, monkeypatch: pytest.MonkeyPatch) -> None:
    here, numbers = open_desk(), count()
    here.want("0.4")
    here.work()

    def another(reply: Reply) -> None:
        (row, *_) = reply.envelope["result"]["list"]
        reply.envelope["result"] = {"list": [row | {"execId": f"made-up-{next(numbers)}"}], "nextPageCursor": "more"}

    page = Action("one more", another, lambda params: {name: text for name, text in params.items() if name != "cursor"})
    here.sandbox.follow([Fault(Match(path="/v5/execution/list", times=None), page)])
    monkeypatch.setattr("tasks.exchange.trading_account._MOST_PAGES", 5)
    with pytest.raises(Rejected, match="more than 5 executions in a week"):
        here.trading.executions(MARKET, here.sandbox.clock.now_ms() - 1_000)
    assert next(numbers) == 5


@pytest.mark.promise(15)
def test_what_was_booked_in_weeks_in_which_nobody_ran_is_asked_for_week_by_week_and_once(open_desk: OPEN) -> None:
    here = open_desk()
    outside, clock = here.sandbox.outside(KEY.key), here.sandbox.clock
    began_ms, booked_ms = clock.now_ms(), list[int]()
    for _ in range(4):
        for side in ("Buy", "Sell"):
            outside.order(MARKET.symbol, side, "0.3")
        booked_ms.append(clock.now_ms())
        clock.advance(6 * DAY_MS)

    def weeks_asked() -> int:
        return sum(request.path == "/v5/execution/list" for request in here.sandbox.requests)

    booked, known_ms = here.trading.executions(MARKET, began_ms)
    assert sorted({one.time_ms for one in booked}) == booked_ms
    assert sum(one.fill.quantity if one.side == "Buy" else -one.fill.quantity for one in booked) == 0
    assert (known_ms, weeks_asked()) == (clock.now_ms(), 4)
    here.start()
    here.desk.reconcile()
    clock.advance(3 * 7 * DAY_MS)
    here.desk.reconcile()
    assert (here.desk.trouble, weeks_asked()) == ("", 4 + 1 + 3)
    here.desk.reconcile()
    assert weeks_asked() == 4 + 1 + 3 + 1  # all until then is known


@pytest.mark.promise(15)
@pytest.mark.parametrize(("days", "told"), [(6, False), (9, True)])
def test_session_that_nobody_ran_for_longer_than_executions_are_kept_says_what_it_does_not_know(
    open_desk: OPEN, days: int, told: bool
) -> None:
    here = open_desk()
    closed_ms = MARKET.floor(here.sandbox.clock.now_ms() - days * DAY_MS)
    last = Decision(closed_ms, "", np.empty(0), 0, 0, 0, 0, "", "flat", nan, nan, 0.0, nan, 0.0, 0.0)
    alerts: list[str] = []
    with ExitStack() as stack:
        orders, own = account_of(here, stack)
        own.alert = alerts.append
        own.resume(None, last)
        orders.admit(own, MARKET)
        notes = [said for _, _, kind, said in here.journal.reader().notes() if kind == "away"]
    assert alerts == notes
    assert [one[:43] for one in notes] == ["nobody ran this session for 9 days: what it"] * told


@pytest.mark.parametrize(
    "text", ["1e999999999", "-1e999999999", "1e-999999999", "9" * 5_000_000, "NaN", "inf", "x", []]
)
def test_number_that_nothing_can_be_is_refused_at_once(text: object) -> None:
    with pytest.raises(BadMessage):
        read_order(ORDER | {"updatedTime": text}, 1)


@pytest.mark.promise(19)
def test_halt_that_is_nested_without_end_is_a_halt(tmp_path: Path) -> None:
    (tmp_path / "halts").mkdir()
    (tmp_path / "halts" / f"demo-linear-{MARKET.symbol}.json").write_text("[" * 9_000)
    halt = Halts.of(tmp_path).read("demo", MARKET)
    assert halt is not None
    assert "can't be read" in halt.why
