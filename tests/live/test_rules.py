"""What a session does on bad days: a clock that is off, bars late or lost, markets that end, REST that is down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from storage.schema import DAY_MS, ClockError, Market, TemporaryError
from tasks.champion.version_selector import VersionChoice
from tasks.exchange.stream_events import BookTop, ConfirmedBar, Reconnected, Trade
from tasks.execution.accounting import Costs
from tasks.execution.paper import Ledger
from tasks.journal.journal import Journal
from tasks.journal.journal_reader import JournalReader
from tasks.live.account import Account, nothing_new
from tasks.live.exchange_time import DataTime, ExchangeTime
from tasks.live.funding_rates import FundingRates
from tasks.live.rest_feed import RestFeed
from tasks.live.session import Session
from tasks.live.session_config import SessionConfig
from tasks.live.session_replay import replay
from tasks.sandbox.listing import Listing
from tests.live.conftest import CANDLES, FIRST, MARKET, START_MS, STEP_MS, Rig, make_model, predict
from tests.live.desk import INSTRUMENT, KEY, PAST, Rest, again, decisions_of

OPEN = Callable[..., Rig]
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("position", "target", "allowed"),
    [(0, 1, 0), (0, -1, 0), (0, 0, 0), (1, 1, 1), (1, 0, 0), (1, -1, 0), (-1, -1, -1), (-1, 1, 0)],
)
def test_nothing_new_is_what_is_held_or_flat(position: int, target: int, allowed: int) -> None:
    assert nothing_new(position, target) == allowed


def test_clock_that_is_off_opens_nothing_and_closes_what_the_rule_closes(desk: Any) -> None:
    here = desk()
    here.step(20)
    here.time.trusted = False
    here.market.note("clock off", "1.2 s")
    here.step(40, first=20)
    held = [(one.position, one.target, one.wanted, one.cause) for one in decisions_of(here)[20:]]
    assert all(wanted == nothing_new(position, target) for position, target, wanted, _ in held)
    assert any(cause == "clock" for *_, cause in held)
    assert here.own.ledger.side == 0
    assert again(here).unexplained == 0


class Offsets:
    """The exchange's clock against this machine's, as it is told at each comparison."""

    def __init__(self, *told: float | Exception) -> None:
        self.told = list(told)

    def __call__(self) -> float:
        one = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        if isinstance(one, Exception):
            raise one
        return one


@pytest.mark.parametrize(
    ("told", "trusted"),
    [
        ((400.0,), True),
        ((-999.0,), True),
        ((1_001.0,), False),
        ((-1_001.0,), False),
        ((5_000.0, 10.0), True),
        ((TemporaryError("down"),) * 2 + (3.0,), True),
        ((TemporaryError("down"),), False),
        ((ClockError("an hour"),), False),
    ],
)
def test_clock_is_trusted_while_it_is_close_to_the_exchange_s(desk: Any, told: Any, trusted: bool) -> None:
    time_there = ExchangeTime()
    here = desk(time=time_there)
    stop, offsets = threading.Event(), Offsets(*told)

    def compare() -> float:
        if len(offsets.told) == 1:
            compared.append(None)
            if len(compared) == 3:
                stop.set()
        return offsets()

    compared: list[None] = []
    config = SessionConfig(clock_check_s=1e-6)
    session = Session(
        [here.market], here.events, here.market._journal, time=time_there, config=config,
        compare_clocks=compare, stop=stop,
    )  # fmt: skip
    session.look_every_s = 0.001
    session.run()
    assert time_there.trusted is trusted


def test_decision_after_its_deadline_is_recorded_and_not_traded(desk: Any) -> None:
    here = desk()
    for bar in range(40):
        here.open(bar)
        here.close(bar, late_ms=0.11 * STEP_MS)
    causes = {one.cause for one in decisions_of(here) if one.target != one.position}
    assert causes == {"deadline"}
    assert (here.own.traded, here.own.ledger.side) == (0, 0)
    assert again(here).unexplained == 0


def test_open_that_is_seen_too_late_is_not_traded(desk: Any) -> None:
    here = desk()
    for bar in range(40):
        here.open(bar, late_ms=0.11 * STEP_MS)
        here.close(bar)
    assert (here.own.traded, here.own.causes.keys()) == (0, {"stale"})
    assert again(here).unexplained == 0


def test_open_that_is_seen_too_late_closes_what_is_not_to_be_held_any_more(desk: Any) -> None:
    here, bar = desk(), 0
    while not here.own.ledger.side:
        here.step(1, first=bar)
        bar += 1
    opened, first = here.own.traded, bar
    for bar in range(first, first + 30):
        here.open(bar, late_ms=0.11 * STEP_MS)
        here.close(bar)
    decisions = decisions_of(here)[first - 1 :]
    leaves = next(one for one in decisions if one.wanted != one.position)
    assert leaves.wanted == -leaves.position  # a flip, of which one half may be late
    assert [one.position for one in decisions if one.start_ms > leaves.start_ms] == [0] * (30 - decisions.index(leaves))
    assert (here.own.traded, here.own.causes.keys()) == (opened + 1, {"stale"})
    found = again(here)
    assert found.unexplained == 0
    assert found.comparison.parts["unexplained"] == pytest.approx(0.0, abs=1e-9)


def test_book_of_before_the_open_fills_nothing(desk: Any) -> None:
    here = desk()
    here.step(30)
    traded = here.own.traded
    assert traded >= 1
    bar = 30
    while decisions_of(here)[-1].wanted == here.own.ledger.side:
        here.open(bar)
        here.close(bar)
        bar += 1
    traded, start_ms = here.own.traded, START_MS + bar * STEP_MS
    price = float(CANDLES.open[FIRST + bar])
    here.book(price, start_ms - 1)
    here.market.on_event(Trade(KEY, price, 1.0, start_ms + 5, time.monotonic_ns()))
    assert here.own.traded == traded
    here.book(price, start_ms + 6)
    assert here.own.traded == traded + 1


def test_hole_that_rest_fills_restarts_no_feature(desk: Any) -> None:
    here, whole = desk(Rest(CANDLES[: FIRST + 13])), desk()
    here.step(10)
    here.step(20, first=13)
    whole.step(33)
    assert here.market.counts.missing == 0
    for one, other in zip(decisions_of(here), decisions_of(whole), strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=0, atol=1e-9)
    assert again(here).unexplained == 0


def test_hole_that_rest_can_t_fill_restarts_the_features_and_holds_no_position(desk: Any) -> None:
    here = desk()
    here.step(30)
    here.step(20, first=33)
    after = decisions_of(here)[30:]
    assert here.market.counts.missing == 3
    assert all(one.target == 0 and one.reason.startswith("warming up: lacks") for one in after)
    assert here.own.ledger.side == 0
    lacks = [int(one.reason.split()[3]) for one in after]
    assert lacks == list(range(here.market.history_bars, here.market.history_bars - 20, -1))
    found = again(here)
    assert (found.unexplained, found.missing) == (0, 3)


def test_overdue_bar_is_asked_for_with_growing_pauses(desk: Any) -> None:
    here = desk()
    here.step(5)
    asked, last_ms = here.rest.asked, here.market.last_ms
    due_ms = last_ms + 2 * STEP_MS + 2_000
    for ms in range(0, 120_000, 100):  # two minutes of events, ten a second
        here.book(83.0, due_ms + 1 + ms)
    assert here.rest.asked - asked == 7  # after 0, 1, 3, 7, 15, 31 and 63 s


def test_overdue_bar_is_found_without_any_event(desk: Any) -> None:
    here = desk(Rest(CANDLES[: FIRST + 6]))
    here.step(5)
    here.market.poll(here.market.last_ms + 2 * STEP_MS + 2_001)
    assert here.market.counts.stepped == 5  # the stream told of that bar as none that has closed
    here.market.reconnected()
    here.market.poll(here.market.last_ms + 2 * STEP_MS + 10_000)
    assert here.market.counts.stepped == 6


def test_stream_that_has_been_silent_for_long_keeps_no_bar_back_that_rest_says_has_closed(desk: Any) -> None:
    here = desk(Rest(CANDLES[: FIRST + 6]))
    here.step(5)
    here.open(5)
    here.market.poll(here.market.last_ms + 2 * STEP_MS + 2_001)
    assert here.market.counts.stepped == 5
    here.market._missed._heard_ns -= 6_000_000_000
    here.market.poll(here.market.last_ms + 2 * STEP_MS + 4_000)
    assert here.market.counts.stepped == 6


def test_market_that_is_closed_stops_alone(open_rig: OPEN) -> None:
    other = Market(symbol="OTHERUSDT")
    short = Listing(candles=CANDLES[: FIRST + 20], market=other)
    rig = open_rig(more=[short])
    versions = {MARKET: VersionChoice(rig.model), other: VersionChoice(make_model(market=other))}
    with rig.session(60, versions=versions) as session:
        (here,) = (one for one in session.markets.values() if one.market == other)

        def close() -> None:
            short.rules = replace(short.rules, status="Closed")
            rig.play(60)

        session.run(close)
    assert here.halted == "the exchange says that it is Closed"
    assert here.counts.stepped == 20
    assert session.markets[KEY].counts.stepped == 60
    with rig.reader() as reader:
        assert [(slug, kind) for _, slug, kind, _ in reader.notes("halted")] == [(other.slug, "halted")]


def test_session_is_ready_when_each_of_its_streams_has_connected_however_often_one_does(desk: Any) -> None:
    here, stop, ready = desk(Rest(CANDLES)), threading.Event(), []
    session = Session(
        [here.market], here.events, here.market._journal, time=here.time, config=SessionConfig(), streams=2, stop=stop
    )
    for generation, stream in enumerate(["linear", "linear", "spot", "linear"], 1):
        here.events.put(Reconnected(stream, generation, time.monotonic_ns()))

    def on_ready() -> None:
        ready.append(here.events.qsize())
        stop.set()

    session.run(on_ready)
    assert ready == [1]  # by the third connection, and the fourth was to come


def test_rest_that_is_down_is_asked_again_and_loses_nothing(desk: Any) -> None:
    here = desk(Rest(CANDLES), bars=12)
    session = Session([here.market], here.events, here.market._journal, time=here.time, config=SessionConfig())
    session.retry_s = 0.0
    here.step(5)
    here.rest.down = True
    rows = [(FIRST + bar, CANDLES.matrix()[FIRST + bar]) for bar in (8, 9)]
    for _, row in rows:
        here.events.put(
            ConfirmedBar(KEY, "5", int(row[0]), *row[1:6].tolist(), 0.0, int(row[0]) + STEP_MS, time.monotonic_ns())
        )
    told: list[str] = []
    session.on_note = lambda line: (told.append(line), setattr(here.rest, "down", len(told) < 3))
    session.run()
    assert here.market.counts.stepped == 12  # REST has told of 400, and a session steps as many as it was asked for
    assert here.market.counts.missing == 0
    assert told[:3] == [f"{MARKET}: REST is down"] * 3


def test_rest_that_is_down_is_asked_for_an_overdue_bar_with_growing_pauses_and_noted_once(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.live.session.boottime_s", lambda: 1e6)  # the time of the bars alone goes on
    here = desk(bars=6)
    here.step(5)
    here.rest.down, asked, due_ms = True, here.rest.asked, here.market.last_ms + 2 * STEP_MS + 2_000
    for ms in range(0, 120_000, 100):  # two minutes of events, ten a second
        here.events.put(BookTop(KEY, 83.0, 9e9, 84.0, 9e9, due_ms + 1 + ms, time.monotonic_ns()))
    row = CANDLES.matrix()[FIRST + 5]
    confirmed = ConfirmedBar(
        KEY, "5", int(row[0]), *row[1:6].tolist(), 0.0, int(row[0]) + STEP_MS, time.monotonic_ns()
    )  # fmt: skip
    here.events.put(confirmed)
    session = Session([here.market], here.events, here.market._journal, time=here.time, config=SessionConfig())
    session.run()
    assert here.rest.asked - asked == 1 + 7  # at the start, then after 0, 1, 3, 7, 15, 31 and 63 s
    assert len(here.market._journal.reader().notes("rest")) == 1


def test_markets_do_not_wait_for_each_other_s_answers_while_rest_is_down(
    open_rig: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [Market(symbol=f"{name}USDT") for name in ("ONE", "TWO")]
    rig, stop = open_rig(more=[Listing(candles=CANDLES, market=other) for other in others]), threading.Event()
    versions = {market: VersionChoice(make_model(market=market)) for market in (MARKET, *others)}
    asked: list[Market] = []

    def down(feed: RestFeed, market: Market, first_ms: int) -> Any:
        asked.append(market)
        stop.set()
        raise TemporaryError("REST is down")

    with rig.session(None, versions=versions, stop=stop) as session:
        monkeypatch.setattr(RestFeed, "closed_since", down)
        session.run()
    assert asked == [MARKET]


def test_funding_rate_that_nobody_knows_is_not_asked_for_with_every_quote(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.live.funding_rates._ASK_S", 1e9)
    here, asked, bar = desk(), [], -1

    def down(*args: Any) -> Any:
        asked.append(args)
        raise TemporaryError("REST is down")

    here.rest.funding = down
    while not asked:
        bar += 1
        with suppress(TemporaryError):
            here.step(1, first=bar)
    for ms in range(50):
        with pytest.raises(TemporaryError, match="is not known yet"):
            here.book(float(CANDLES.open[FIRST + bar]), START_MS + bar * STEP_MS + ms)
    assert len(asked) == 1


def test_funding_rate_that_only_a_shadow_lacks_keeps_no_order_waiting_and_is_named(desk: Any) -> None:
    model = make_model(6)
    shadow = Account(f"{MARKET.slug}@{model.ref.version}", INSTRUMENT, Ledger(10_000.0))
    shadow.decide_by(model)
    here, asked = desk(shadows=[shadow]), []

    def down(*args: Any) -> Any:
        asked.append(args)
        raise TemporaryError("REST is down")

    here.rest.funding = down
    here.own.pays_by_rate = False  # as where orders trade
    here.market._rates = FundingRates(MARKET, 60, here.rest)
    stamps = [(ms, 1e-3) for ms in range(START_MS // DAY_MS * DAY_MS, START_MS + 2 * DAY_MS, HOUR_MS)]
    bar, lacked = 0, 0
    while not lacked:
        here.step(1, first=bar)
        bar += 1
        lacked = shadow.ledger.side and (START_MS + bar * STEP_MS) % HOUR_MS == 0
    here.step(3, first=bar)
    assert (here.market.counts.stepped, asked) == (bar + 3, [])
    reader = here.market._journal.reader()
    found = replay(reader, MARKET, {model.ref.version: model}, INSTRUMENT, predict, account=shadow.name, funding=stamps)
    assert (found.unexplained, found.causes["funding"]) == (0, 1)


@pytest.mark.promise(11)
def test_stamp_that_a_market_tells_of_beside_its_step_of_the_start_is_paid_too() -> None:
    rates = FundingRates(MARKET, 480, Rest())
    rates.learn(8 * HOUR_MS + 5, 1e-3, 7 * HOUR_MS)  # a few milliseconds late, and paid once
    rates.learn(12 * HOUR_MS, 2e-3, 8 * HOUR_MS + 9)  # from now on each four hours
    due = [rates.due(hour * HOUR_MS, (hour + 1) * HOUR_MS, asks=True) for hour in range(7, 13)]
    assert due == [1e-3, 0.0, 0.0, 0.0, 2e-3, 0.0]


@pytest.mark.promise(11)
def test_stamp_that_the_market_has_called_off_is_not_paid() -> None:
    rates = FundingRates(MARKET, 480, Rest())
    rates.learn(12 * HOUR_MS, 2e-3, 9 * HOUR_MS)  # each four hours
    rates.learn(9 * HOUR_MS, 3e-3, 10 * HOUR_MS)  # an old one is not the next
    rates.learn(16 * HOUR_MS, 1e-3, 11 * HOUR_MS)  # and back to eight
    due = [rates.due(hour * HOUR_MS, (hour + 1) * HOUR_MS, asks=True) for hour in range(8, 16)]
    assert due == [0.0] * 7 + [1e-3]


def test_bar_that_has_not_begun_is_dropped_and_noted(desk: Any) -> None:
    here, whole = desk(), desk()
    here.step(5)
    row = CANDLES.matrix()[FIRST + 5]
    start_ms = int(row[0]) + 1_000 * STEP_MS
    here.market.on_event(
        ConfirmedBar(KEY, "5", start_ms, *row[1:6].tolist(), 0.0, int(row[0]) + STEP_MS, time.monotonic_ns())
    )
    here.step(15, first=5)
    whole.step(20)
    assert (here.market.counts.stepped, here.market.counts.missing) == (20, 0)
    assert here.own.ledger == whole.own.ledger
    assert len(here.market._journal.reader().notes("future")) == 1


def test_bar_whose_message_says_that_it_is_of_the_future_too_is_dropped(desk: Any) -> None:
    class Clock(DataTime):
        """A clock that no message sets."""

        def at(self, ts_ms: int, received_ns: int) -> float:
            return min(ts_ms, self.latest_ms)

    clock = Clock(latest_ms=START_MS + 100 * STEP_MS)
    here = desk(time=clock)
    here.step(5)
    row = CANDLES.matrix()[FIRST + 5]
    start_ms = START_MS + 1_000 * STEP_MS
    here.market.on_event(
        ConfirmedBar(KEY, "5", start_ms, *row[1:6].tolist(), 0.0, start_ms + STEP_MS, time.monotonic_ns())
    )
    here.step(15, first=5)
    assert (here.market.counts.stepped, here.market.counts.missing) == (20, 0)
    assert len(here.market._journal.reader().notes("future")) == 1


def test_market_without_any_candle_asks_for_none_of_before_it_was_listed(
    open_rig: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, asked = open_rig(now_ms=int(CANDLES.start_ms[0])), []
    closed_since = RestFeed.closed_since

    def look(feed: RestFeed, market: Market, first_ms: int) -> Any:
        asked.append(first_ms)
        return closed_since(feed, market, max(first_ms, int(CANDLES.start_ms[0])))

    monkeypatch.setattr(RestFeed, "closed_since", look)
    session = rig.run(5)
    assert session.markets[KEY].counts.stepped == 5
    assert min(asked) >= int(CANDLES.start_ms[0])


@pytest.mark.promise(16)
def test_markets_of_one_session_decide_as_each_alone_and_share_the_capital(open_rig: OPEN) -> None:
    other = Market(symbol="OTHERUSDT")
    rig = open_rig(more=[Listing(candles=CANDLES, market=other)])
    versions = {MARKET: VersionChoice(rig.model), other: VersionChoice(make_model(6, market=other))}
    rig.run(80, versions=versions, config=SessionConfig(capital=30_000.0))
    with rig.reader() as reader:
        assert reader.facts()["capital"] == {MARKET.slug: 15_000.0, other.slug: 15_000.0}
        assert reader.markets() == sorted([MARKET.slug, other.slug])
    again = rig.replayed(reference=CANDLES, funding=[])
    assert (again.unexplained, again.equal_decisions, again.missing) == (0, 80, 0)
    assert again.fills == again.equal_fills >= 5


def test_warm_up_is_safe_as_a_whole_or_not_at_all(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    takeover, seen = Journal.takeover, []

    def look(journal: Journal, *args: Any) -> None:
        with JournalReader.of(journal.path) as reader:
            seen.append(len(reader.candles(MARKET.slug)[0]))
        takeover(journal, *args)

    monkeypatch.setattr(Journal, "takeover", look)
    here = desk()
    assert seen == [0]
    with JournalReader.of(here.market._journal.path) as reader:
        assert len(reader.candles(MARKET.slug)[0]) == len(PAST)
        assert len(reader.takeovers(MARKET.slug)) == 1


@pytest.mark.parametrize("funding", [True, False])
def test_funding_is_paid_where_the_recipe_says_so(desk: Any, funding: bool) -> None:
    here = desk(model=make_model(costs=Costs(commission=1e-6, slippage=1e-6, funding=funding)))
    stamps = range(START_MS // DAY_MS * DAY_MS, START_MS + 2 * DAY_MS, 8 * HOUR_MS)
    here.market._rates._rates = dict.fromkeys(stamps, 1e-3)
    here.step(120)
    paid = [bar.opened.funding for bar in here.market._journal.reader().opens(MARKET.slug)]
    assert any(paid) is funding
