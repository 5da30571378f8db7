"""Sessions whose decisions are carried out by orders on the sandbox: books, causes, stops, restarts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from math import isnan
from time import monotonic, monotonic_ns, sleep
from typing import Any

import pytest

from storage.schema import TemporaryError
from tasks.champion.version_selector import VersionChoice
from tasks.exchange.private_events import OrderNews
from tasks.exchange.stream_events import Ticker
from tasks.execution.accounting import Costs
from tasks.execution.limits import TradingLimits
from tasks.execution.orders import Reported
from tasks.journal.journal_rows import BarOpen, Decision
from tasks.live.market_session import MarketSession
from tasks.live.order_gateway import OrderConfig
from tasks.live.session_config import SessionConfig
from tasks.sandbox.stream_faults import AtMessage, Delivery, StreamAction, StreamPlan
from tests.live.conftest import MARKET, START_MS, STEP_MS, WAIT_S, Rig, make_model
from tests.live.desk import KEY as LINEAR
from tests.live.desk import again as replay_of
from tests.live.order_rig import CAPITAL, KEY, NO_LIMITS, Trader
from tests.sandbox import stream_actions as act
from tests.sandbox.order_actions import order_fault
from tests.sandbox.outside import Outside

OPEN = Callable[..., Rig]
BARS, BOOK = 24, f"orderbook.1.{MARKET.symbol}"


def told(trader: Trader) -> tuple[list[Decision], list[BarOpen]]:
    with trader.rig.reader() as reader:
        return reader.decisions(MARKET.slug), reader.opens(MARKET.slug)


@pytest.mark.promise(16)
def test_session_trades_what_it_decides_and_its_books_are_the_exchange_s(open_rig: OPEN) -> None:
    trader = Trader(open_rig)
    market = trader.hold(BARS)
    again = trader.check()
    assert market.halted == ""
    assert (again.bars, again.missing, again.equal_decisions) == (BARS, 0, BARS)
    assert again.fills == again.backtest_fills >= 5
    assert set(again.causes) <= {"slippage", "unknown"}  # the last where a bar is over before its fill
    ledger, account = market.own.ledger, trader.account
    assert ledger.cash + ledger.quantity * market.close == pytest.approx(
        float(account.wallet + account.unrealised) - 20_000.0 + CAPITAL, abs=0.01
    )
    assert again.comparison is not None
    assert again.comparison.parts["unexplained"] == 0.0
    assert sum(again.comparison.parts.values()) == pytest.approx(again.comparison.difference_bp, abs=1e-6)


def test_what_a_thin_book_does_not_give_is_named_and_accepted(open_rig: OPEN) -> None:
    trader = Trader(open_rig, capital=10_000.0, config=OrderConfig(slippage_percent=0.05))
    trader.hold(12)
    again = trader.check()
    assert again.causes["partial"] >= 3
    assert abs(again.comparison.parts["partial"]) > 0.01
    assert again.comparison.parts["unexplained"] == 0.0


CAUSES = {
    "acknowledged, then rejected": {"rejected"},
    "refused, answer lost": {"absent"},
    "accepted, answer lost": set[str](),
    "partly filled, then cancelled": set[str](),  # the second order has the rest
    "filled while the private stream is down": set[str](),
    "acknowledged after recv_window": set[str](),
    "HTTP 403 on create": {"unknown"},
}
"""Fault of one order -> causes that are named for it, beside `unknown` where a bar is over before its orders are."""


@pytest.mark.promise(16)
@pytest.mark.parametrize("fault", CAUSES)
def test_order_that_meets_a_fault_is_explained_by_what_became_of_it(open_rig: OPEN, fault: str) -> None:
    trader = Trader(open_rig)
    trader.rig.sandbox.follow(order_fault(fault, MARKET.symbol, nth=3, parts=2, late_s=0.6))
    market = trader.hold(14, patience_s=0.5 if fault == "HTTP 403 on create" else 10.0)
    again = trader.check()
    assert market.halted == ""
    assert set(again.causes) - {"slippage", "unknown"} <= CAUSES[fault]
    assert ("rejected" in again.causes) == (CAUSES[fault] == {"rejected"})


def test_open_whose_book_is_not_there_is_stale_and_sends_nothing(open_rig: OPEN) -> None:
    silent = StreamPlan([AtMessage(number, act.confirm_missing(), topic=BOOK) for number in range(20, 60)])
    trader = Trader(open_rig, stream_faults=silent)
    trader.hold(BARS, patience_s=0.5)
    again = trader.check()
    assert again.causes["stale"] >= 1
    _, opens = told(trader)
    with trader.rig.reader() as reader:
        traded = {start_ms for start_ms, _ in reader.orders(MARKET.slug)}
    assert {bar.start_ms for bar in opens if bar.cause == "stale"}.isdisjoint(traded)


def while_held(do: Callable[[], object]) -> Callable[[int, MarketSession], None]:
    """Return what does something once, before the first bar from the sixth on in which a position is held."""
    done: list[int] = []

    def before_bar(bar: int, market: MarketSession) -> None:
        if bar >= 5 and market.own.ledger.side and market.own.opened_ms > market.last_ms and not done:
            done.append(bar)
            do()

    return before_bar


@pytest.mark.promise(17)
def test_halted_position_is_closed_when_neither_book_nor_private_stream_comes(open_rig: OPEN) -> None:
    trader = Trader(open_rig)

    def latch() -> None:
        silent = [AtMessage(n, act.confirm_missing(), topic=BOOK) for n in range(1_000)]
        trader.rig.sandbox.follow_stream(StreamPlan(silent))
        trader.rig.sandbox.private_stream.cut()
        trader.halts.latch("sandbox", MARKET, "a person says so")

    market = trader.hold(14, while_held(latch), patience_s=0.5)
    assert (market.halted, market.own.ledger.side) == ("", 0)
    assert trader.check().causes["halted"] >= 1


@pytest.mark.promise(15)
def test_champion_that_was_judged_at_less_than_the_account_pays_is_not_taken_over(open_rig: OPEN) -> None:
    trader = Trader(open_rig)
    right, cheap = trader.rig.model, make_model(6, costs=Costs(commission=1e-7, slippage=1e-6))
    champion, refused = [right], list[int]()

    def before_bar(bar: int, market: MarketSession) -> None:
        if bar >= 5 and market.own.ledger.side and not refused:
            refused.append(bar)
            champion[0] = cheap
        elif refused and bar == refused[0] + 4:
            champion[0] = right  # rolled back
        else:
            return
        decides = None if champion[0] is cheap else champion[0]
        give_up_s = monotonic() + WAIT_S
        while market.own.model is not decides and monotonic() < give_up_s:
            sleep(0.002)

    market = trader.hold(
        BARS, before_bar, choose=lambda *asked: VersionChoice(champion[0]), config=SessionConfig(new_version_s=0.0)
    )
    (first,) = refused
    why = f"champion {cheap.ref.version} holds no position here: this account pays 0.000001 a fill, the version was "
    why += "judged at 1e-07"
    assert trader.alerts == [f"{MARKET} on sandbox: {why}"]
    decisions, _ = told(trader)
    assert [one.version for one in decisions] == [right.ref.version] * first + [""] * 4 + [right.ref.version] * (
        BARS - first - 4
    )
    assert {one.reason for one in decisions[first : first + 4]} == {why}
    assert [one.position for one in decisions[first + 1 : first + 4]] == [0, 0, 0]
    assert market.halted == ""
    with trader.rig.reader() as reader:
        assert [said for _, _, kind, said in reader.notes() if kind == "version"] == [
            why,
            f"{right.ref.version} decides from the next bar on",
        ]
    trader.check()


@pytest.mark.promise(15)
def test_champion_of_which_nobody_knows_whether_the_account_pays_more_takes_over_when_that_is_known(
    open_rig: OPEN,
) -> None:
    trader = Trader(open_rig)
    champion, doubted = [trader.rig.model], list[bool]()
    next_one = make_model(6)

    def refused(market: Any) -> None:
        raise TemporaryError("HTTP 503")

    def before_bar(bar: int, market: MarketSession) -> None:
        if bar != 5:
            return
        trading, own = market.own.desk.trading, market.own
        answers, trading.taker_fee = trading.taker_fee, refused
        champion[0] = next_one
        give_up_s = monotonic() + WAIT_S
        while not own.is_in_doubt and monotonic() < give_up_s:
            sleep(0.002)
        doubted.extend((own.is_in_doubt, own.model is trader.rig.model))
        trading.taker_fee = answers
        while own.model is not next_one and monotonic() < give_up_s:
            sleep(0.002)
        doubted.append(own.is_in_doubt)

    trader.hold(
        8, before_bar, choose=lambda *asked: VersionChoice(champion[0]), config=SessionConfig(new_version_s=0.0)
    )
    assert doubted == [True, True, False]
    decisions, _ = told(trader)
    assert [one.version for one in decisions] == [trader.rig.model.ref.version] * 5 + [next_one.ref.version] * 3
    first, then = trader.alerts
    assert f"nothing new is held: whether {next_one.ref.version} may decide here: HTTP 503" in first
    assert "its champion is known again" in then


@pytest.mark.promise(17)
def test_halt_closes_the_position_and_nothing_opens_until_it_is_removed(open_rig: OPEN) -> None:
    trader = Trader(open_rig)
    market = trader.hold(14, while_held(lambda: trader.halts.latch("sandbox", MARKET, "a person says so")))
    assert (market.halted, market.own.ledger.side) == ("", 0)
    assert trader.check().causes["halted"] >= 1
    orders = len(trader.account.orders)

    market = trader.hold(BARS)
    assert len(trader.account.orders) == orders
    decisions, _ = told(trader)
    assert any(one.cause == "halted" and one.wanted == 0 != one.target for one in decisions[14:])
    trader.check()

    trader.halts.rearm("sandbox", MARKET)
    trader.hold(BARS + 10)
    assert len(trader.account.orders) > orders
    trader.check()


def test_loss_of_a_day_latches_closes_and_survives_a_restart(open_rig: OPEN) -> None:
    trader = Trader(open_rig, limits=replace(NO_LIMITS, daily_loss=1e-6))
    market = trader.hold(BARS)
    assert market.own.ledger.side == 0
    (line,) = trader.alerts
    assert "DAILY_LOSS" in line
    halt = trader.halts.read("sandbox", MARKET)
    assert halt is not None
    assert halt.why.startswith("DAILY_LOSS: ")
    assert trader.check().causes["halted"] >= 1
    orders = len(trader.account.orders)

    trader.hold(BARS + 8)
    assert len(trader.account.orders) == orders
    trader.check()

    trader.halts.rearm("sandbox", MARKET)
    trader.hold(BARS + 20)
    assert len(trader.account.orders) > orders
    trader.check()


@pytest.mark.parametrize(
    ("limits", "code"),
    [({"notional": 0.001}, "NOTIONAL"), ({"orders_per_hour": 1}, "RATE")],
)
def test_position_that_a_limit_refuses_is_named_by_its_code(open_rig: OPEN, limits: Any, code: str) -> None:
    trader = Trader(open_rig, limits=TradingLimits(**(vars(NO_LIMITS) | limits)))
    trader.hold(14)
    assert trader.check().causes[code] >= 1


def _mark_elsewhere(delivery: Delivery) -> None:
    ticker = delivery.message | {"data": dict(delivery.message["data"])}
    if "markPrice" in ticker["data"]:
        ticker["data"]["markPrice"] = str(Decimal(ticker["data"]["markPrice"]) * Decimal("1.05"))
    delivery.items = [json.dumps(ticker)]


def _without(topic: str) -> StreamPlan:
    return StreamPlan([AtMessage(number, act.confirm_missing(), topic=topic) for number in range(1_000)])


def _mark_off() -> StreamPlan:
    spoilt = StreamAction("mark 5 % off", _mark_elsewhere)
    return StreamPlan([AtMessage(number, spoilt, topic=f"tickers.{MARKET.symbol}") for number in range(1_000)])


REFUSALS: dict[str, Callable[[], StreamPlan] | None] = {
    "RATE": None,
    "BAND": _mark_off,
    "stale": lambda: _without(BOOK),
}


@pytest.mark.promise(15)
@pytest.mark.parametrize("cause", REFUSALS)
def test_flip_whose_new_side_is_refused_closes_the_old_one(open_rig: OPEN, cause: str) -> None:
    trader = Trader(open_rig, limits=replace(NO_LIMITS, orders_per_hour=1 if cause == "RATE" else 60))
    plan = REFUSALS[cause]
    spoil = while_held(lambda: plan and trader.rig.sandbox.follow_stream(plan()))
    share = 0.003 if cause == "stale" else 0.1
    market = trader.hold(18, spoil, patience_s=4.0, config=SessionConfig(deadline_share=share))
    assert market.halted == ""
    trader.check()
    flips, before = [], 0
    for bar in told(trader)[1]:
        if before * bar.wanted < 0 and bar.cause == cause:
            flips.append((bar.start_ms, bar.opened.ledger.side))
        before = bar.opened.ledger.side
    assert flips
    assert {side for _, side in flips} == {0}


def deleverage(trader: Trader) -> None:
    outside = Outside(trader.rig.sandbox.desk, KEY.key)
    outside.deleverage(MARKET.symbol, format(abs(outside.size(MARKET.symbol)), "f"))


SOMEBODY = "somebody else|by no order of this session"  # what was heard first: the order, or its fill
STRANGERS = {
    "an order by hand": (
        lambda one: Outside(one.rig.sandbox.desk, KEY.key).order(MARKET.symbol, "Buy", "0.3"),
        SOMEBODY,
    ),
    "deleveraged": (deleverage, "AdlTrade"),
}


@pytest.mark.promise(15)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_market_stops_with_the_reason_when_somebody_else_moves_the_position(open_rig: OPEN, stranger: str) -> None:
    trader = Trader(open_rig)
    does, said = STRANGERS[stranger]
    market = trader.hold(BARS, while_held(lambda: does(trader)))
    assert re.search(said, market.halted)
    again = trader.check()
    assert again.causes["foreign"] >= 1
    assert again.bars < BARS
    with trader.rig.reader() as reader:
        assert any(re.search(said, line) for *_, line in reader.notes("halted"))


def test_what_comes_between_a_bar_s_end_and_its_confirmation_is_booked_in_that_bar(desk: Any) -> None:
    here, at = desk(), []
    here.step(3)
    here.open(3)
    here.own.late = lambda at_ms, price: at.append(at_ms)
    news = OrderNews(MARKET.symbol, "", "", "x", Reported("x", "New", Decimal(0), 0), 0)
    end_ms = START_MS + 4 * STEP_MS
    for now_ms in (end_ms - 7, end_ms, end_ms + 500):
        here.time.latest_ms = now_ms
        here.market.on_account([news])
    assert at == [end_ms - 7, end_ms - 2, end_ms - 2]


def test_position_that_is_closed_after_a_bar_s_end_is_closed_in_that_bar(desk: Any) -> None:
    here, bar = desk(), 0
    while not here.own.ledger.side:
        here.step(1, first=bar)
        bar += 1
    here.open(bar)
    here.time.latest_ms = START_MS + (bar + 1) * STEP_MS + 500
    assert list(here.market.close_out(0.0)) == []  # on paper nothing is waited for
    *_, last = here.market._journal.reader().opens(MARKET.slug)
    assert (last.start_ms, last.cause) == (START_MS + (bar + 1) * STEP_MS - 1, "stop")
    assert replay_of(here).unexplained == 0


@pytest.mark.parametrize("at_end", ["flat", "hold"])
def test_end_of_a_session_is_explained_and_the_next_goes_on_from_it(open_rig: OPEN, at_end: Any) -> None:
    trader = Trader(open_rig)
    market = trader.hold(10, config=SessionConfig(at_end=at_end))
    assert (market.own.ledger.side == 0) == (at_end == "flat")
    assert ("stop" in trader.check().causes) == (at_end == "flat")
    trader.hold(16)
    trader.check()


def test_funding_moves_cash_alone_and_does_not_age_the_position(open_rig: OPEN) -> None:
    stamps = [(START_MS + n * STEP_MS, 0.001) for n in range(BARS)]
    trader = Trader(open_rig, funding=stamps)
    trader.hold(BARS)
    again = trader.check()
    assert again.causes["funding"] >= 3
    assert abs(again.comparison.parts["funding"]) > 0.001
    _, opens = told(trader)
    amid = [n for n, bar in enumerate(opens) if n and bar.start_ms % STEP_MS]
    for n in amid:
        before, after = opens[n - 1].opened.ledger, opens[n].opened.ledger
        if opens[n].opened.fill is None:
            assert (after.quantity, after.bars_held) == (before.quantity, before.bars_held)


def test_price_away_from_the_mark_opens_nothing_and_the_reason_is_on_record(open_rig: OPEN) -> None:
    trader = Trader(open_rig, stream_faults=_mark_off())
    market = trader.hold(16)
    assert (market.halted, market.own.ledger.side, list(trader.account.orders)) == ("", 0, [])
    assert trader.check().causes["BAND"] >= 2


@pytest.mark.promise(15)
def test_mark_price_that_is_not_told_any_more_opens_nothing(open_rig: OPEN) -> None:
    trader, opened = Trader(open_rig), []

    def before_bar(bar: int, market: MarketSession) -> None:
        if bar == 4:
            trader.rig.sandbox.follow_stream(_without(f"tickers.{MARKET.symbol}"))
        if bar in (5, 23):  # at the open of bar 4 the price was told
            orders = trader.account.orders.values()
            opened.append(sum(not one.reduce_only and one.trigger is None for one in orders))

    market = trader.hold(24, before_bar, patience_s=0.5)
    assert market.halted == ""
    assert opened[0] == opened[1]
    assert trader.check().causes["stale"] >= 1


def test_mark_price_is_forgotten_after_ten_seconds_and_with_its_connection(desk: Any) -> None:
    here = desk()
    here.open(0)
    here.market.on_event(Ticker(LINEAR, 83.0, 0.0, 0, START_MS, monotonic_ns()))
    here.market.poll(START_MS + 9_000)
    assert here.own.mark == 83.0
    here.market.poll(START_MS + 11_000)
    assert isnan(here.own.mark)
    here.market.on_event(Ticker(LINEAR, 84.0, 0.0, 0, START_MS + 12_000, monotonic_ns()))
    assert here.own.mark == 84.0
    here.market.reconnected()
    assert isnan(here.own.mark)
