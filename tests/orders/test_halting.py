"""The halt that needs no session: cancelled, closed, latched, and honest about what is still open."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from threading import Thread, Timer
from time import monotonic, sleep

import pytest

from tasks.exchange.trading_account import Protection
from tasks.execution.orders import Leg, Order, Refused
from tasks.live.halting import close_all, latch_all
from tasks.live.halts import Halts
from tasks.live.order_gateway import account_of
from tasks.sandbox.faults import CREATE_PATH, Action, Fault, Match
from tasks.sandbox.listing import default_instrument
from tests.orders.cells import CANDLES, KEY, LIMIT_S, MARKET, Desk
from tests.sandbox import actions
from tests.sandbox.order_actions import late_request
from tests.sandbox.outside import Outside


@pytest.mark.promise(17)
@pytest.mark.parametrize("coins", ["0.4", "-0.3", "0"])
def test_position_is_closed_and_orders_are_cancelled_without_the_session(tmp_path: Path, coins: str) -> None:
    with ExitStack() as stack:
        here = Desk(tmp_path / "orders.sqlite", stack)
        here.want(coins, stop=None if coins == "0" else Decimal(50 if coins[0] != "-" else 150))
        here.work()
        Outside(here.sandbox.desk, KEY.key).order(MARKET.symbol, "Buy", "0.1", orderType="Limit", price="50")
        told: list[str] = []
        assert close_all(here.trading, [MARKET], on_note=told.append) == []
        account = here.sandbox.account(KEY.key)
        position = account.positions.get(MARKET.symbol)
        assert not position or position.size == 0
        assert not account.open_orders
        assert told[-1] == f"{MARKET.symbol} is flat and no order waits"
        here.desk.reconcile()
        assert here.desk.held == 0  # the session learns of it


def test_what_can_t_be_closed_is_named(tmp_path: Path) -> None:
    with ExitStack() as stack:
        here = Desk(tmp_path / "orders.sqlite", stack)
        here.want("0.4")
        here.work()
        refusal = actions.ret_code(110007, "no")
        match = Match(path=CREATE_PATH, method="POST", times=None)
        here.sandbox.follow([Fault(match, Action("refused", refusal.spoil, unseen=True))])
        (line,) = close_all(here.trading, [MARKET], within_s=0.3)
        assert line.startswith(f"{MARKET.symbol}: holds 0.4")
        assert "closing it was refused (110007" in line
        here.sandbox.follow([])
        assert close_all(here.trading, [MARKET]) == []


@pytest.mark.promise(17)
def test_market_stays_latched_for_the_first_reason_and_what_can_t_be_latched_is_named(tmp_path: Path) -> None:
    halts, told = Halts.of(tmp_path), list[str]()
    assert latch_all(halts, "sandbox", [MARKET], "the news", told.append) == []
    assert latch_all(halts, "sandbox", [MARKET], "again", told.append) == []
    latched = halts.read("sandbox", MARKET)
    assert latched is not None
    assert (latched.why, told) == (
        "the news",
        2 * [f"{MARKET.symbol} on sandbox is halted since {latched.at}: the news"],
    )
    (tmp_path / "other").touch()
    (line,) = latch_all(Halts.of(tmp_path / "other"), "sandbox", [MARKET], "the news", told.append)
    assert line.startswith(f"{MARKET.symbol}: the halt ")
    assert line.endswith("; a session of it may open again, so end that first")


@pytest.mark.promise(17)
def test_ban_is_waited_for_unasked_and_what_is_held_is_closed_after_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        here = Desk(tmp_path / "orders.sqlite", stack)
        here.want("0.4")
        here.work()
        forbidden = Action("403", lambda reply: reply.html(403, "access too frequent"), unseen=True)
        here.sandbox.follow([Fault(Match(path="/v5/order/cancel-all", method="POST"), forbidden)])
        here.trading.ban_s = 1.0
        told, asked = list[str](), list[int]()

        def hear(line: str) -> None:
            told.append(line)
            if "is closed in" in line:
                answer = here.trading.place(MARKET, here.orders[0], Protection())
                assert isinstance(answer, Refused)  # whoever tries meanwhile asks nothing either
                assert "nothing was asked" in answer.why
                asked.append(len(here.sandbox.requests))
                Timer(0.9, lambda: asked.append(len(here.sandbox.requests))).start()

        assert close_all(here.trading, [MARKET], on_note=hear) == []
        assert "HTTP 403; what is held is closed in 1 s" in told
        assert asked[0] == asked[1] < len(here.sandbox.requests)
        assert here.sandbox.account(KEY.key).positions[MARKET.symbol].size == 0


@pytest.mark.promise(17)
def test_position_is_closed_though_nobody_can_tell_whether_orders_were_cancelled(tmp_path: Path) -> None:
    with ExitStack() as stack:
        here = Desk(tmp_path / "orders.sqlite", stack)
        here.want("0.4")
        here.work()
        broken = actions.ret_code(10016, "Internal server error")
        here.sandbox.follow([Fault(Match(path="/v5/order/cancel-all", method="POST", times=None), broken)])
        (line,) = close_all(here.trading, [MARKET], within_s=0.3)
        assert f"{MARKET.symbol}: 10016" in line
        assert here.sandbox.account(KEY.key).positions[MARKET.symbol].size == 0


@pytest.mark.promise(17)
def test_address_that_stays_refused_is_given_up_after_two_bans_and_what_is_open_is_named(tmp_path: Path) -> None:
    with ExitStack() as stack:
        here = Desk(tmp_path / "orders.sqlite", stack)
        here.want("0.4")
        here.work()
        forbidden = Action("403", lambda reply: reply.html(403, "access too frequent"), unseen=True)
        here.sandbox.follow([Fault(Match(path="/v5/order/cancel-all", method="POST", times=None), forbidden)])
        asked = len(here.sandbox.requests)
        (line,) = close_all(here.trading, [MARKET])
        assert line == f"{MARKET.symbol}: HTTP 403; run this again then"
        assert len(here.sandbox.requests) == asked + 3
        here.sandbox.follow([])
        sleep(here.trading.ban.left_s())
        assert close_all(here.trading, [MARKET]) == []


@pytest.mark.promise(17)
def test_order_that_was_under_way_is_closed_too(tmp_path: Path) -> None:
    with ExitStack() as stack:
        here = Desk(
            tmp_path / "orders.sqlite", stack, [Fault(Match(path=CREATE_PATH, method="POST"), late_request(0.3))]
        )
        order = Order(link_id="dsc-late", leg=Leg("Buy", Decimal("0.4"), False)).submitting(1)
        sender = stack.enter_context(account_of(KEY, here.sandbox.url, recv_window_ms=20_000))
        sending = Thread(target=sender.place, args=(MARKET, order, Protection()))
        sending.start()  # a session that hangs: its request arrives after the halt has looked
        give_up_s = monotonic() + LIMIT_S
        while not here.posts and monotonic() < give_up_s:
            sleep(0.001)
        stop = stack.enter_context(account_of(KEY, here.sandbox.url, recv_window_ms=3_000))
        assert close_all(stop, [MARKET]) == []
        sending.join()
        account = here.sandbox.account(KEY.key)
        assert [order.status for order in account.orders.values() if order.trigger is None] == ["Filled", "Filled"]
        assert account.positions[MARKET.symbol].size == 0


@pytest.mark.promise(17)
def test_position_beyond_the_largest_order_is_closed_in_pieces(tmp_path: Path) -> None:
    rules = replace(default_instrument(MARKET, int(CANDLES.start_ms[0]), CANDLES), max_market_qty="0.2")
    with ExitStack() as stack:
        here = Desk(tmp_path / "orders.sqlite", stack, instrument=rules)
        for _ in range(3):
            Outside(here.sandbox.desk, KEY.key).order(MARKET.symbol, "Buy", "0.15")
        assert close_all(here.trading, [MARKET]) == []
        assert here.sandbox.account(KEY.key).positions[MARKET.symbol].size == 0


@pytest.mark.promise(17)
def test_stop_stays_while_the_position_can_t_be_closed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        here = Desk(tmp_path / "orders.sqlite", stack)
        here.want("0.4", stop=Decimal(50))
        here.work()
        refusal = Action("refused", actions.ret_code(110007, "no").spoil, unseen=True)
        here.sandbox.follow([Fault(Match(path=CREATE_PATH, method="POST", times=None), refusal)])
        (line,) = close_all(here.trading, [MARKET], within_s=0.2)
        assert "holds 0.4" in line
        (stop,) = here.sandbox.account(KEY.key).open_orders
        assert stop.trigger == 50
        here.sandbox.follow([])
        assert close_all(here.trading, [MARKET]) == []
        assert not here.sandbox.account(KEY.key).open_orders
