"""What is held while something is unknown: it stays behind its stop, is closed some bars later, and somebody hears."""

from __future__ import annotations

import queue
import re
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tasks.champion.version_selector import VersionChoice
from tasks.exchange.private_events import ExecutionNews
from tasks.exchange.stream import PrivateStream
from tasks.execution.orders import HALT_ID, Execution
from tasks.live.exchange_time import DataTime
from tasks.live.gates import Denied
from tasks.live.halting import close_all, latch_all
from tasks.live.market_session import MarketSession
from tasks.live.order_gateway import OrderConfig, account_of
from tasks.live.outcome import SessionResult
from tasks.live.session_config import SessionConfig
from tasks.sandbox import order_record
from tasks.sandbox.faults import CREATE_PATH, Action, Fault, Match
from tasks.sandbox.stream_faults import AtMessage, StreamPlan
from tests.live.conftest import MARKET, QUICK, START_MS, STEP_MS, WAIT_S, Rig
from tests.live.desk import Rest
from tests.live.order_rig import CAPITAL, KEY, Trader
from tests.live.test_kill import wait_until
from tests.live.test_order_session import while_held
from tests.live.test_sized_session import SIZED
from tests.orders.cells import Desk
from tests.sandbox import actions
from tests.sandbox import stream_actions as act
from tests.sandbox.outside import Outside

OPEN = Callable[..., Rig]
AFTER = 4
SOMEBODY = "(an order of somebody else|by no order of this session)"  # what was heard first: the order, or its fill
CONFIG = OrderConfig(close_after_bars=AFTER)


def size(trader: Trader) -> Decimal:
    return trader.account.positions[MARKET.symbol].size


def stops(trader: Trader) -> list[Any]:
    return [order for order in trader.account.open_orders if order.trigger is not None]


def stranger(trader: Trader) -> None:
    Outside(trader.rig.sandbox.desk, KEY.key).order(MARKET.symbol, "Buy", "0.3")


@pytest.mark.promise(15)
def test_champion_that_nobody_knows_orders_nothing_new_and_is_told_once(open_rig: OPEN) -> None:
    trader, why = Trader(open_rig), ["no answer"]

    def before_bar(bar: int, market: MarketSession) -> None:
        if bar == 8:
            assert not trader.account.orders
            why[0] = ""
        wait_until(lambda: market.own.is_in_doubt == bool(why[0]))

    market = trader.hold(
        20, before_bar, config=SessionConfig(new_version_s=0.0),
        choose=lambda market, present: VersionChoice(present, unknown=why[0]),
    )  # fmt: skip
    assert trader.account.orders
    assert trader.alerts == [
        f"{MARKET} on sandbox: nobody knows its champion, nothing new is held: no answer",
        f"{MARKET} on sandbox: its champion is known again",
    ]
    assert market.own.causes["champion"] == trader.check().causes["champion"] >= 1


@pytest.mark.promise(15)
def test_position_of_a_market_that_is_in_trouble_waits_behind_its_stop_and_is_closed_after_so_many_bars(
    open_rig: OPEN,
) -> None:
    trader = Trader(open_rig, config=CONFIG)
    seen: list[tuple[int, Decimal, int]] = []
    does = while_held(lambda: stranger(trader))

    def before_bar(bar: int, market: MarketSession) -> None:
        does(bar, market)
        if market.halted:
            seen.append((trader.closed, size(trader), len(stops(trader))))

    market = trader.hold(24, before_bar, patience_s=1.0)
    assert re.search(SOMEBODY, market.halted)
    waits = [one for one in seen if one[1]]
    assert len(waits) >= AFTER - 1
    assert all(stop for *_, stop in waits)  # it stays behind its stop meanwhile
    assert (size(trader), market.own.is_open, market.still_open) == (0, False, "")
    assert trader.closed < 24  # the session goes on until then, and no longer
    halted, closes, *flat, done = trader.alerts
    assert re.search(f"is halted: .*{SOMEBODY}", halted)
    assert "what is held is closed: something has been unknown for too long" in closes
    assert all("is flat after" in line for line in flat)  # not told where that took longer than it is watched
    assert "is flat and no order waits" in done
    again = trader.check()
    assert {"foreign", "halted"} <= set(again.causes)


@pytest.mark.promise(15)
def test_session_that_ends_before_its_halted_position_is_closed_says_so_by_its_status(open_rig: OPEN) -> None:
    trader = Trader(open_rig, config=OrderConfig(close_after_bars=1_000))
    market = trader.hold(12, while_held(lambda: stranger(trader)))
    assert size(trader)
    assert "by the ledger, and " in market.still_open
    numbers = {"unexplained": 0, "still_open": [market.still_open]}
    assert SessionResult(name="x", mode="sandbox", journal="", numbers=numbers).status == 1
    assert SessionResult(name="x", mode="sandbox", journal="", numbers=numbers | {"still_open": []}).status == 0


def test_session_that_can_t_end_flat_says_so(open_rig: OPEN, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.live.order_account.CLOSE_S", 0.3)
    trader = Trader(open_rig)
    refusal = Action("refused", actions.ret_code(110007, "no").spoil, unseen=True)

    def refuse() -> None:
        match = Match(path=CREATE_PATH, method="POST", times=None, params={"reduceOnly": "true"})
        trader.rig.sandbox.follow([Fault(match, refusal)])

    market = trader.hold(7, while_held(refuse), config=SessionConfig(at_end="flat"))
    assert size(trader)
    assert "could not be closed at the end of the session" in market.still_open
    assert any("could not be closed at the end of the session" in line for line in trader.alerts)


@pytest.mark.promise(15)
def test_position_of_which_nothing_is_heard_for_so_many_bars_is_closed(desk: Any) -> None:
    rest = Rest()
    here, bar = desk(rest), 0
    while not here.own.ledger.side:
        here.step(1, first=bar)
        bar += 1
    rest.down = True
    here.own.bars_unknown = AFTER
    with pytest.raises(Exception, match="REST is down"):
        here.market.poll(here.market.last_ms + 4 * STEP_MS)
    with pytest.raises(Exception, match=r"no bar since .* \(REST is down\), while a position is held"):
        here.market.poll(here.market.last_ms + 5 * STEP_MS)


@pytest.mark.promise(15)
@pytest.mark.parametrize("who", ["the model", "a person"])
def test_position_is_closed_on_what_rest_says_while_the_public_stream_is_down(
    open_rig: OPEN, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    trader, cut = Trader(open_rig), []
    monkeypatch.setattr("tasks.live.missed_bars._SILENT_S", 0.0)

    def fall_silent() -> None:
        trader.rig.sandbox.follow_stream(StreamPlan([AtMessage(n, act.confirm_missing()) for n in range(2_000)]))
        monkeypatch.setattr(DataTime, "now_ms", lambda time: START_MS + trader.closed * STEP_MS + 40_000.0)
        cut.append(trader.closed)
        if who == "a person":
            trader.halts.latch("sandbox", MARKET, "a person says so")

    market = trader.hold(40, while_held(fall_silent), patience_s=0.3)
    assert (market.halted, market.counts.stepped) == ("", 40)
    assert cut
    assert size(trader) == 0
    trader.check()
    with trader.rig.reader() as reader:
        legs = [order.leg for start_ms, order in reader.orders(MARKET.slug) if start_ms > START_MS + cut[0] * STEP_MS]
    assert [leg.reduces for leg in legs] == [True]


@pytest.mark.promise(17)
def test_stop_out_latches_is_told_and_is_named_in_the_replay(open_rig: OPEN) -> None:
    trader = Trader(open_rig, config=OrderConfig(stop_share=0.0005, close_after_bars=AFTER))
    market = trader.hold(40)
    assert "the stop at the exchange closed" in market.halted
    assert any("is halted: the stop at the exchange closed" in line for line in trader.alerts)
    halt = trader.halts.read("sandbox", MARKET)
    assert halt is not None
    assert "the stop at the exchange closed" in halt.why
    again = trader.check()
    assert again.causes["stop-out"] >= 1
    assert "foreign" not in again.causes
    assert "stop-out" in again.comparison.parts


def soon(holds: Callable[[], bool]) -> bool:
    """Return whether something comes to hold: who plays the bars must not fail, or the session waits for them."""
    with suppress(AssertionError):
        wait_until(holds)
    return holds()


def cancel_stops(trader: Trader) -> None:
    with account_of(KEY, trader.rig.sandbox.url) as account:
        account.cancel_all(MARKET, stops=True)


@pytest.mark.parametrize(
    "options", [{}, {"capital": 2_000.0, "recipe": SIZED, "config": OrderConfig(stop_vols=2.0)}], ids=["hard", "sized"]
)
def test_stop_that_somebody_has_cancelled_is_set_again_and_somebody_hears(
    open_rig: OPEN, options: dict[str, Any]
) -> None:
    trader, seen = Trader(open_rig, **options), list[tuple[Decimal, Decimal]]()

    def cancel() -> None:
        (before,) = stops(trader)
        cancel_stops(trader)
        if soon(lambda: len(stops(trader)) == 1):
            seen.append((before.trigger, stops(trader)[0].trigger))

    market = trader.hold(44 if options else 14, while_held(cancel))
    ((before, after),) = seen
    # Set again it is as far from what it was opened at; at first from the first price.
    assert float(after) == pytest.approx(float(before), rel=1e-3)
    (line,) = trader.alerts
    # On a busy machine the answer may come later than it is waited for.
    how = re.escape(f"; it is set again, at {after}"), ", and whether it has one now is not known"
    assert re.search(f"had no stop at the exchange({'|'.join(how)})", line)
    assert market.halted == ""
    trader.check()


@pytest.mark.parametrize("is_old", [False, True], ids=["journal of today", "journal that tells no distance"])
def test_stop_that_was_lost_while_nobody_ran_is_set_again_as_far_away_as_it_was_opened(
    open_rig: OPEN, is_old: bool
) -> None:
    trader = Trader(open_rig, capital=2_000.0, recipe=SIZED, config=OrderConfig(stop_vols=2.0))
    bars, seen = until_held(trader), list[Decimal]()
    (before,), position = stops(trader), trader.account.positions[MARKET.symbol]
    opened = position.value / abs(position.size)
    cancel_stops(trader)
    if is_old:
        with closing(sqlite3.connect(trader.rig.path)) as db:
            db.execute("DROP TABLE stops")

    def before_bar(bar: int, market: MarketSession) -> None:
        if soon(lambda: len(stops(trader)) == 1):
            seen.append(stops(trader)[0].trigger)

    trader.hold(bars + 1, before_bar)
    away, before_away = (abs(float(trigger / opened) - 1) for trigger in (seen[0], before.trigger))
    assert 0.005 < before_away < 0.05
    assert away == pytest.approx(0.1 if is_old else before_away, abs=1e-3)
    trader.check()


def test_position_that_was_opened_without_its_stop_gets_it_while_its_bar_forms(open_rig: OPEN) -> None:
    trader = Trader(open_rig)
    loses = Action(
        "no stop", rewrite=lambda params: {name: text for name, text in params.items() if name != "stopLoss"}
    )
    trader.rig.sandbox.follow([Fault(Match(path=CREATE_PATH, method="POST", times=None), loses)])
    safe: list[bool] = []

    def before_bar(bar: int, market: MarketSession) -> None:
        if market.own.ledger.side and market.own.opened_ms > market.last_ms and safe != [False]:
            safe.append(soon(lambda: len(stops(trader)) == 1))

    trader.hold(14, before_bar)
    assert safe
    assert all(safe)
    assert all("it is set again" in line for line in trader.alerts)
    trader.check()


@pytest.mark.promise(15)
def test_position_that_gets_no_stop_is_closed_at_once_and_its_market_latched(open_rig: OPEN) -> None:
    trader = Trader(open_rig, config=OrderConfig(close_after_bars=1_000))

    def cancel() -> None:
        refusal = Action("refused", actions.ret_code(10001, "no").spoil, unseen=True)
        match = Match(path="/v5/position/trading-stop", method="POST", times=None)
        trader.rig.sandbox.follow([Fault(match, refusal)])
        cancel_stops(trader)
        soon(lambda: size(trader) == 0)

    market = trader.hold(14, while_held(cancel))
    assert (size(trader), market.own.is_open, market.still_open) == (0, False, "")
    assert "had no stop at the exchange, and gets none at" in market.halted
    halt = trader.halts.read("sandbox", MARKET)
    assert halt is not None
    assert halt.why == market.halted
    assert trader.check().causes["halted"] >= 1


def until_held(trader: Trader) -> int:
    """Hold sessions until one ends with a position, and return how many bars that took."""
    bars = 4
    trader.hold(bars)
    while not size(trader):
        bars += 1
        trader.hold(bars)
    return bars


def pass_by(trader: Trader, bars: int) -> None:
    """Let bars close while no session is there."""
    trader.rig.sandbox.play(bars=bars).result(WAIT_S)
    trader.closed += bars


def deleverage(trader: Trader) -> None:
    Outside(trader.rig.sandbox.desk, KEY.key).deleverage(MARKET.symbol, format(abs(size(trader)), "f"))


def halt_and_rearm(trader: Trader) -> None:
    with account_of(KEY, trader.rig.sandbox.url, recv_window_ms=500) as account:
        assert latch_all(trader.halts, "sandbox", [MARKET], "a person") == []
        assert close_all(account, [MARKET]) == []
    trader.halts.rearm("sandbox", MARKET)


@pytest.mark.promise(17)
@pytest.mark.parametrize(("moves", "kind"), [(deleverage, "AdlTrade"), (halt_and_rearm, "Trade")])
def test_what_moved_the_position_while_no_session_was_there_latches_and_is_in_the_books_of_the_one_that_goes_on(
    open_rig: OPEN, moves: Callable[[Trader], None], kind: str
) -> None:
    trader = Trader(open_rig)
    bars = until_held(trader)
    pass_by(trader, 1)
    moves(trader)
    pass_by(trader, 2)
    with pytest.raises(Denied, match=rf"RECONCILIATION: {kind} of .* by no order of this session"):
        trader.hold(bars + 4)
    latched = trader.halts.read("sandbox", MARKET)
    assert latched is not None
    assert f"{kind} of " in latched.why
    (line,) = trader.alerts
    assert f"is halted: {latched.why}" in line

    trader.halts.rearm("sandbox", MARKET)
    market = trader.hold(bars + 8)
    assert market.halted == ""
    assert trader.check().causes["foreign"] >= 1


def test_funding_of_while_no_session_was_there_is_in_the_books_of_the_one_that_goes_on(open_rig: OPEN) -> None:
    trader = Trader(open_rig, funding=[(START_MS + n * STEP_MS, 0.001) for n in range(10)])
    bars, before = until_held(trader), len(trader.account.executions)
    pass_by(trader, 5)
    assert {one.exec_type for one in trader.account.executions[before:]} == {"Funding"}
    market = trader.hold(bars + 8)
    assert market.halted == ""
    assert trader.check().causes["funding"] >= 3
    ledger, account = market.own.ledger, trader.account
    assert ledger.cash + ledger.quantity * market.close == pytest.approx(
        float(account.wallet + account.unrealised) - 20_000.0 + CAPITAL, abs=0.01
    )


MEANWHILE = {
    "an order by hand": lambda one: Outside(one.rig.sandbox.desk, KEY.key).order(
        MARKET.symbol, "Buy" if size(one) > 0 else "Sell", "0.3"
    ),
    "a halt": lambda one: one.halts.latch("sandbox", MARKET, "by no order of this session"),
}
"""What befalls a position that is still there when the next session starts."""


@pytest.mark.promise(15)
@pytest.mark.parametrize("what", MEANWHILE)
def test_position_that_may_not_be_held_any_more_when_a_session_goes_on_is_closed_by_it(
    open_rig: OPEN, what: str
) -> None:
    trader, bars = Trader(open_rig, config=OrderConfig(close_after_bars=2)), 4
    trader.hold(bars)
    while not size(trader):
        bars += 1
        trader.hold(bars)
    MEANWHILE[what](trader)
    orders = len(trader.account.orders)
    market = trader.hold(bars + 12, patience_s=1.0)
    assert (size(trader), market.still_open) == (0, "")
    assert all(order.reduce_only for order in list(trader.account.orders.values())[orders:])
    assert "by no order of this session" in trader.alerts[0]
    assert ("by no order of this session" in market.halted) == (what == "an order by hand")
    assert trader.check().causes["foreign" if market.halted else "halted"] >= 1


def test_failed_reconciliation_is_told(open_rig: OPEN) -> None:
    trader = Trader(open_rig, config=CONFIG)

    def before_bar(bar: int, market: MarketSession) -> None:
        does(bar, market)
        market.own.compare_soon()

    def grow() -> None:
        trader.rig.sandbox.desk.accounts[KEY.key].positions[MARKET.symbol].size *= 2

    does = while_held(grow)
    trader.hold(24, before_bar, patience_s=0.5)
    assert any("is halted: the exchange holds" in line for line in trader.alerts)
    assert size(trader) == 0  # what the exchange says is held is closed, not what the journal says


def test_halt_by_somebody_else_is_told_once(open_rig: OPEN) -> None:
    trader = Trader(open_rig)
    trader.hold(14, while_held(lambda: trader.halts.latch("sandbox", MARKET, "the news")))
    (line,) = trader.alerts
    assert line.endswith("is halted: the news")


@pytest.mark.promise(15)
def test_nothing_new_is_opened_while_the_account_s_stream_is_down_for_long_and_somebody_hears(open_rig: OPEN) -> None:
    trader = Trader(open_rig, config=OrderConfig(stream_down_s=0.2))
    orders: list[int] = []
    told: list[int] = []

    def before_bar(bar: int, market: MarketSession) -> None:
        if bar == 1:  # to connect may take longer, which is told as well
            wait_until(lambda: not market.own.stream_down_s())
        if bar == 2:
            told.append(len(trader.alerts))
            trader.rig.sandbox.private_stream.cut()
        if bar == 12:
            wait_until(lambda: len(trader.alerts) > told[0])
            told.append(len(trader.alerts))
            trader.rig.sandbox.private_stream.restore()
        if bar in (5, 12):
            orders.append(sum(not one.reduce_only for one in trader.account.orders.values() if one.trigger is None))

    market = trader.hold(30, before_bar, patience_s=0.5)
    again = trader.check()
    assert again.causes["stream"] >= 1
    assert orders[0] == orders[1]
    assert sum(not one.reduce_only for one in trader.account.orders.values() if one.trigger is None) > orders[1]
    assert (market.halted, [line for line in trader.alerts if "stream" in line]) == ("", trader.alerts)
    (line,) = trader.alerts[slice(*told)]
    assert "its stream of orders has been down for" in line


def test_fee_in_another_coin_is_in_no_ledger_and_halts(open_rig: OPEN, monkeypatch: pytest.MonkeyPatch) -> None:
    trader = Trader(open_rig, config=CONFIG)

    def pay_otherwise() -> None:
        row = order_record.VenueExecution.row
        monkeypatch.setattr(order_record.VenueExecution, "row", lambda self: row(self) | {"feeCurrency": "MNT"})

    market = trader.hold(24, while_held(pay_otherwise))
    assert "a fee was paid in MNT, and the ledger counts USDT alone" in market.halted
    with trader.rig.reader() as reader:
        booked = {one.fill.exec_id: one.fill.fee for one in reader.executions(MARKET.slug)}
        noted = reader.notes("fee")
    assert size(trader) == 0
    odd = {exec_id for exec_id in booked if any(exec_id in line for *_, line in noted)}
    assert odd
    assert {booked[exec_id] for exec_id in odd} == {0}


@pytest.mark.promise(17)
def test_halt_of_this_home_moves_the_position_and_is_no_stranger(tmp_path: Path) -> None:
    news = ExecutionNews(
        MARKET.symbol, f"{HALT_ID}1", "x", "Trade", "Sell", Execution("e", Decimal("0.4"), Decimal(100), Decimal(0)),
        1, 1,
    )  # fmt: skip
    with ExitStack() as stack:
        for halted, trouble in (("the news", ""), ("", "by no order of this session")):
            here = Desk(tmp_path / f"{len(halted)}.sqlite", stack)
            here.desk._halted = lambda halted=halted: halted
            here.desk.on_account_event(news)
            assert trouble in here.desk.trouble
            assert bool(trouble) == bool(here.desk.trouble)


def test_stream_whose_topics_are_refused_is_down_though_its_key_is_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        here = Desk(tmp_path / "orders.sqlite", stack)
        given = {"exchange": "sandbox", "url": here.sandbox.stream_url, "timing": QUICK}
        with monkeypatch.context() as patch:
            patch.setattr("tasks.exchange.stream.PRIVATE_TOPICS", ("order", "nonsense"))
            deaf = PrivateStream(KEY, events=queue.Queue(), **given)
        with deaf:
            for _ in range(3):
                deaf.events.get(timeout=WAIT_S)  # each admitted, and refused
                assert deaf.down_s > 0
        with PrivateStream(KEY, events=queue.Queue(), **given) as hears:
            wait_until(lambda: hears.down_s == 0)
            here.sandbox.private_stream.cut()
            wait_until(lambda: hears.down_s > 0)
