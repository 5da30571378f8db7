"""Sessions whose positions are sized by forecast volatility: one share in backtest, paper, orders and replay."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.schema import CANDLE_COLUMNS, Candles
from tasks.execution.accounting import Costs, Steps
from tasks.execution.backtest import run_backtest
from tasks.execution.bars import Bars
from tasks.execution.decision import DecisionConfig, decide_series, shares_of
from tasks.journal.journal_rows import BarOpen, Decision
from tasks.live.market_session import MarketSession
from tasks.live.outcome import SessionResult, market_numbers, session_numbers, signal_line
from tasks.live.protective_stop import ProtectiveStop
from tasks.live.session_config import OrderConfig, SessionConfig
from tasks.market.features import build_features
from tasks.market.labels import LabelConfig
from tasks.market.volatility import forecast_volatility
from tasks.strategy.live_tick import day_vol, forecast_vol, share_taken
from tasks.strategy.recipe import Recipe
from tests.live.conftest import CANDLES, FIRST, MARKET, NETWORK, STEP_MS, Rig, make_model, predict
from tests.live.desk import INSTRUMENT, Desk, again, decisions_of
from tests.live.order_rig import NO_LIMITS, Trader

OPEN = Callable[..., Rig]
SAT = Callable[..., Desk]
BARS, TARGET = 60, 0.4  # the market moves 57 % a year
SIZED: dict[str, Any] = {
    "seed": 8,  # trades ten times and more
    "network": replace(NETWORK, risk_head=True),
    "costs": Costs(commission=1e-4, slippage=2e-4),  # no book is worse
    "decision": DecisionConfig(rule="argmax", sizing="volatility", target_vol=TARGET),
}


def opened(decisions: list[Decision], opens: list[BarOpen]) -> list[tuple[Decision, BarOpen]]:
    """Return each decision that opened a position, and the open that followed it."""
    by_start = {bar.start_ms: bar for bar in opens}
    turned = [one for one in decisions if one.wanted not in (0, one.position)]
    pairs = [(one, by_start[one.start_ms + STEP_MS]) for one in turned if one.start_ms + STEP_MS in by_start]
    return [(one, bar) for one, bar in pairs if bar.opened.fill is not None]


@pytest.mark.promise(10)
@pytest.mark.promise(16)
def test_sized_session_is_the_backtest_of_its_shares_and_its_replay(desk: SAT) -> None:
    here = desk(model=make_model(**SIZED))
    here.step(BARS)
    found, told, model = again(here), decisions_of(here), here.own.model
    assert found.differences == []
    assert (found.equal_decisions, found.equal_fills) == (BARS, found.fills)
    assert found.fills >= 5
    assert found.comparison is not None
    assert found.comparison.parts["unexplained"] == pytest.approx(0.0, abs=1e-9)

    candles = CANDLES[: FIRST + BARS]
    built, rows = build_features(candles.matrix(), STEP_MS), slice(FIRST, None)
    probabilities, log_ratio = predict(model, built.values, built.segment)
    forecast = forecast_volatility(built.vol, log_ratio)[rows]
    np.testing.assert_allclose([forecast_vol(one.values) for one in told], forecast, rtol=1e-5)
    told_of = np.array([forecast_vol(one.values) for one in told])
    bars = Bars.of(candles[rows], STEP_MS)
    targets = decide_series(probabilities[rows], built.vol[rows], bars.contiguous, model.params, None, told_of)
    shares = shares_of(told_of, model.params)
    assert [share_taken(one.values) for one in told] == shares.tolist()
    assert 0.0 < shares.min() < 0.9 * shares.max() < 1.0
    account = replace(model.recipe.backtest, initial_capital=10_000.0)
    result = run_backtest(
        bars, targets, model.recipe.costs, account, trained_until_ms=None, label_span_ms=0,
        steps=Steps.of(INSTRUMENT), share=shares,
    )  # fmt: skip
    quantity = [bar.opened.ledger.quantity for bar in here.market._journal.reader().opens(MARKET.slug)]
    assert quantity == result.quantity[: len(quantity)].tolist()


def test_quantity_follows_the_share_and_stays_while_the_position_does(desk: SAT) -> None:
    here = desk(model=make_model(**SIZED))
    here.step(BARS)
    told, opens = decisions_of(here), here.market._journal.reader().opens(MARKET.slug)
    pairs = opened(told, opens)
    assert len(pairs) >= 4
    before = {bar.start_ms: opens[n - 1].opened.ledger for n, bar in enumerate(opens) if n}
    for one, bar in pairs[1:]:
        share, price = share_taken(one.values), bar.quote.first
        assert share * forecast_vol(one.values) * np.sqrt(MARKET.bars_per_year) == pytest.approx(TARGET, rel=1e-12)
        coins = 0.95 * share * before[bar.start_ms].equity(price) / price
        assert 0.0 <= coins - abs(bar.opened.ledger.quantity) < float(INSTRUMENT.qty_step)
    stays = [(a.opened.ledger, b.opened.ledger) for a, b in pairwise(opens)]
    assert all(a.quantity == b.quantity for a, b in stays if a.side == b.side)


@pytest.mark.promise(16)
@pytest.mark.parametrize("place", [-2, -1], ids=["volatility", "share"])
def test_changed_volatility_or_share_of_a_decision_is_found(desk: SAT, place: int) -> None:
    here = desk(model=make_model(**SIZED))
    here.step(BARS)
    reader = here.market._journal.reader()
    one, _ = opened(decisions_of(here), reader.opens(MARKET.slug))[2]
    values = one.values.copy()
    values[place] *= 1.001
    reader._db.execute("UPDATE decisions SET vals = ? WHERE start_ms = ?", (values.tobytes(), one.start_ms))
    what = {difference.what for difference in again(here).differences if not difference.cause}
    assert {-2: "volatility", -1: "share"}[place] in what


def test_session_that_goes_on_opens_what_was_decided_before_it_ended(open_rig: OPEN) -> None:
    whole, cut = open_rig(make_model(**SIZED), name="whole"), open_rig(make_model(**SIZED), name="cut")
    whole.run(BARS)
    with whole.reader() as reader:
        told, opens = reader.decisions(MARKET.slug), reader.opens(MARKET.slug)
    third, _ = opened(told, opens)[2]
    cut.run(1 + [one.start_ms for one in told].index(third.start_ms))  # the open after it is the next process's
    cut.run(BARS)
    found = cut.replayed(funding=[])
    assert found.unexplained == 0
    with cut.reader() as reader:
        assert [share_taken(one.values) for one in reader.decisions(MARKET.slug)] == [
            share_taken(one.values) for one in told
        ]


def test_signal_and_summary_say_the_volatility_of_a_day_and_the_share_of_a_position(open_rig: OPEN) -> None:
    rig, lines = open_rig(make_model(**SIZED)), []
    session = rig.run(20, on_decision=lambda market, decision: lines.append(signal_line(market, decision)))
    with rig.reader() as reader:
        told = reader.decisions(MARKET.slug)
        (market,) = session.markets.values()
        numbers = session_numbers([(market, market_numbers(market, reader, rig.replayed(funding=[]), {}))], reader)
    for line, one in zip(lines, told, strict=True):
        assert line["foreseen_volatility_24h"] == pytest.approx(forecast_vol(one.values) * 288**0.5, rel=1e-12)
        assert line["share"] == share_taken(one.values) < 1.0
    text = SessionResult(name="sized", mode="paper", journal="", numbers={**numbers, "still_open": []}).text()
    day, share = lines[-1]["foreseen_volatility_24h"], lines[-1]["share"]
    said = f"{MARKET}: {100 * day:.1f} % in the next 24 hours forecast; {100 * share:.1f} % of a position is taken"
    said += "; by orders a day may lose 2.0 %"
    assert f"  volatility   {said}" in text.replace("\N{NO-BREAK SPACE}", " ").splitlines()


@pytest.mark.promise(10)
def test_orders_are_as_large_as_the_share_says(open_rig: OPEN) -> None:
    trader = Trader(open_rig, capital=2_000.0, recipe=SIZED)
    trader.hold(44)
    found = trader.check()
    assert found.fills == found.backtest_fills >= 5
    with trader.rig.reader() as reader:
        told, opens = reader.decisions(MARKET.slug), reader.opens(MARKET.slug)
        orders = reader.orders(MARKET.slug)
    before = {bar.start_ms: opens[n - 1].opened.ledger for n, bar in enumerate(opens) if n}
    opening = {start_ms: order for start_ms, order in orders if not order.leg.reduces}
    pairs = [(one, bar) for one, bar in opened(told, opens) if bar.start_ms in before and bar.start_ms in opening]
    assert len(pairs) >= 3
    step = float(trader.rig.link.gateway.instrument(MARKET).qty_step)
    for one, bar in pairs:
        coins = 0.95 * share_taken(one.values) * before[bar.start_ms].equity(bar.quote.first) / bar.quote.first
        assert 0.0 <= coins - float(opening[bar.start_ms].leg.quantity) < step


@given(
    hard=st.floats(1e-4, 0.5),
    vols=st.floats(1.0, 1e6),
    forecast=st.floats(-1.0, 1e3) | st.sampled_from([math.inf, -math.inf, 5e-324, 1e308]),
    bars=st.integers(1, 10_000),
)
def test_stop_in_units_of_volatility_is_never_looser_than_the_hard_one(
    hard: float, vols: float, forecast: float, bars: int
) -> None:
    config = OrderConfig(stop_share=hard, stop_vols=vols)
    away = config.stop_distance(forecast, bars)
    assert 0.0 < away <= hard
    assert config.stop_distance(float("nan"), bars) == hard
    assert OrderConfig(stop_share=hard).stop_distance(forecast, bars) == hard


def test_stop_lies_so_many_times_the_forecast_volatility_of_the_holding_time_away() -> None:
    config = OrderConfig(stop_share=0.1, stop_vols=3.0)
    assert config.stop_distance(0.002, 25) == pytest.approx(3 * 0.002 * 5, rel=1e-12)
    assert config.stop_distance(0.002, 10_000) == 0.1
    assert config.stop_distance(1e-5, 1) == 0.005  # where a fill may slip to
    assert "3x the forecast volatility of the holding time away, at most 10.0\N{NO-BREAK SPACE}%" in config.describe(
        NO_LIMITS
    )
    assert Recipe(labels=LabelConfig(horizon=7)).holding_bars == 7
    assert Recipe(labels=LabelConfig(horizon=7), decision=DecisionConfig(min_hold=9)).holding_bars == 9


@pytest.mark.promise(15)
def test_stop_is_of_the_version_that_decided_whoever_follows_and_stays_so_when_it_is_set_again(open_rig: OPEN) -> None:
    trader = Trader(open_rig, capital=2_000.0, recipe=SIZED, config=OrderConfig(stop_vols=2.0))
    market = trader.hold(20)
    own, decided = market.own, decisions_in(trader)[-1]
    away = 2.0 * forecast_vol(decided.values) * Recipe().labels.horizon ** 0.5
    assert 0.005 < away < 0.1
    assert own._stop.share == pytest.approx(away, rel=1e-12)
    own.decide_by(make_model(**SIZED | {"labels": LabelConfig(horizon=48)}))
    assert own._stop.share == pytest.approx(away, rel=1e-12)
    own.decide_by(None, "the champion is gone")
    own._stop.follow(decided, own.model)
    assert own._stop.share == own.config.stop_at  # nothing is forecast any more: what opens has the hard stop


def decisions_in(trader: Trader) -> list[Decision]:
    with trader.rig.reader() as reader:
        return reader.decisions(MARKET.slug)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(("price", "away"), [("0.02", 0.005), ("100", 0.00001), ("0.02", 0.1)])
def test_stop_is_a_tick_away_where_that_is_more_than_was_asked_for(price: str, away: float, side: int) -> None:
    stop = ProtectiveStop(OrderConfig(stop_share=away), "0.01")
    assert (Decimal(price) - stop.of_new(Decimal(price), side)) * side == Decimal("0.01")


@pytest.mark.promise(15)
@pytest.mark.parametrize(
    ("price", "side", "stop"),
    [("1", 1, None), ("1", -1, "2"), ("1.5", 1, None), ("1.6", 1, "1"), ("2", 1, "1"), ("3", 1, "2")],
)
@pytest.mark.parametrize("rounding", [ROUND_HALF_EVEN, ROUND_HALF_UP])  # ccxt sets the second for all of a process
def test_long_position_at_a_tick_has_no_stop_for_at_0_it_would_be_none(
    price: str, side: int, stop: str | None, rounding: str
) -> None:
    with localcontext(rounding=rounding):
        found = ProtectiveStop(OrderConfig(), "1").of_new(Decimal(price), side)
    assert found == (None if stop is None else Decimal(stop))


@pytest.mark.promise(15)
def test_position_that_could_have_no_stop_is_not_opened_and_says_why(open_rig: OPEN) -> None:
    trader = Trader(open_rig)

    def before_bar(bar: int, market: MarketSession) -> None:
        market.own._stop._tick = Decimal(1_000)  # USDT, more than the market's price

    market = trader.hold(24, before_bar)
    assert market.halted == ""
    assert {order.side for order in trader.account.orders.values() if not order.reduce_only} == {"Sell"}
    assert market.own.causes["NO_STOP"] == trader.check().causes["NO_STOP"] >= 1
    with trader.rig.reader() as reader:
        said = {line for *_, line in reader.notes("NO_STOP at open")}
    assert all(re.fullmatch(r"a long at [0-9.]+ can have no stop: the tick is 1000", line) for line in said)


def test_share_that_is_less_than_the_exchange_takes_opens_nothing_and_counts_no_order(open_rig: OPEN) -> None:
    tiny = {**SIZED, "decision": replace(SIZED["decision"], target_vol=1e-6)}
    trader = Trader(open_rig, capital=2_000.0, recipe=tiny, limits=replace(NO_LIMITS, orders_per_hour=1))
    market = trader.hold(BARS // 2)
    found = trader.check()
    assert (found.fills, found.backtest_fills, found.causes) == (0, 0, {})
    assert sum(one.wanted != 0 for one in decisions_in(trader)) >= 10
    assert (trader.account.orders, market.own.limit_book.state()["orders_ms"]) == ({}, [])


@pytest.mark.promise(15)
def test_stop_at_the_exchange_goes_with_what_was_forecast_at_the_decision(open_rig: OPEN) -> None:
    trader = Trader(open_rig, capital=2_000.0, recipe=SIZED, config=OrderConfig(stop_vols=2.0))
    seen: dict[int, Any] = {}

    def before_bar(bar: int, market: MarketSession) -> None:
        waiting = [order.trigger for order in trader.account.open_orders if order.trigger is not None]
        if waiting and market.own.ledger.bars_held == 1:
            seen[market.own.opened_ms] = waiting

    trader.hold(44, before_bar)
    trader.check()
    with trader.rig.reader() as reader:
        pairs = opened(reader.decisions(MARKET.slug), reader.opens(MARKET.slug))
    found = [(one, bar, seen[bar.start_ms]) for one, bar in pairs if bar.start_ms in seen]
    assert len(found) >= 3
    for one, bar, (stop,) in found:
        away = 2.0 * forecast_vol(one.values) * Recipe().labels.horizon ** 0.5
        assert 0.005 < away < 0.1
        assert float(stop) == pytest.approx(bar.quote.first * (1 - one.wanted * away), abs=0.006)  # half a tick


VOLS = replace(NO_LIMITS, daily_loss=0.5, daily_vols=1.0)
FAR_STOP = OrderConfig(stop_share=0.5)


def test_signal_says_what_a_day_may_lose_by_orders(open_rig: OPEN) -> None:
    config, lines = SessionConfig(limits=VOLS), []
    open_rig(make_model(**SIZED)).run(
        8, config=config, on_decision=lambda market, decision: lines.append(signal_line(market, decision))
    )
    for line in lines:
        assert line["daily_limit"] == pytest.approx(0.95 * line["share"] * line["foreseen_volatility_24h"], rel=1e-12)


@pytest.mark.promise(10)
def test_paper_trades_as_if_there_were_no_limits(open_rig: OPEN) -> None:
    fills = []
    for name, limits in (("with", VOLS), ("without", NO_LIMITS)):
        rig = open_rig(make_model(**SIZED), name=name)
        rig.run(BARS, config=SessionConfig(limits=limits))
        found = rig.replayed(funding=[])
        assert (found.differences, found.fills) == ([], found.backtest_fills)
        with rig.reader() as reader:
            fills.append([bar.opened for bar in reader.opens(MARKET.slug)])
    assert fills[0] == fills[1]


def moved_against(opens: list[BarOpen], vols: float, told: list[Decision]) -> tuple[int, Candles]:
    """Return a bar, and candles that move at its open against the position held then, by so many forecast vols a day.

    Nothing is traded at that open, and it is not the first bar that holds the position.
    """
    bar = next(n for n, one in enumerate(opens) if one.opened.ledger.side and one.opened.ledger.bars_held == 3)
    held, opened_by = opens[bar].opened.ledger, told[bar - 3]  # what was decided at the close before
    by = vols * day_vol(opened_by.values, STEP_MS)
    columns = {name: getattr(CANDLES, name).copy() for name in CANDLE_COLUMNS}
    for name in ("open", "high", "low", "close"):
        columns[name][FIRST + bar :] *= 1.0 - held.side * by
    return bar, Candles(start_ms=CANDLES.start_ms, **columns)


@pytest.mark.promise(16)
@pytest.mark.promise(17)
@pytest.mark.parametrize(("vols", "halts"), [(1.4, True), (0.6, False)])
def test_session_that_loses_so_many_forecast_volatilities_in_a_day_halts_and_a_restart_keeps_it(
    open_rig: OPEN, vols: float, halts: bool
) -> None:
    undisturbed = open_rig(make_model(**SIZED), name="undisturbed")
    undisturbed.run(BARS)
    with undisturbed.reader() as reader:
        bar, candles = moved_against(reader.opens(MARKET.slug), vols, reader.decisions(MARKET.slug))
    trader = Trader(open_rig, capital=2_000.0, recipe=SIZED, limits=VOLS, config=FAR_STOP, candles=candles)
    trader.hold(bar - 1)
    with trader.rig.reader() as reader:
        assert [one.cause for one in reader.decisions(MARKET.slug) if one.cause] == []
    trader.hold(bar + 4)  # by another process: what the loss is measured by has outlived the first
    halt = trader.halts.read("sandbox", MARKET)
    assert (halt is not None) == halts
    found = trader.check()
    with trader.rig.reader() as reader:
        told, notes = reader.decisions(MARKET.slug), reader.notes()
    assert [one.cause for one in told[:bar] if one.cause] == []
    if not halts:
        assert "halted" not in found.causes
        return
    assert halt is not None
    assert halt.why.startswith("DAILY_VOLS: ")
    assert halt.why.endswith(", allowed 1")
    assert (told[bar].cause, told[bar].wanted) == ("halted", 0)
    assert (told[bar].start_ms, MARKET.slug, "halted at close", halt.why) in notes
    orders = len(trader.account.orders)
    market = trader.hold(bar + 14)
    assert (market.own.ledger.side, len(trader.account.orders)) == (0, orders)
    trader.check()


@pytest.mark.promise(15)
@pytest.mark.promise(16)
def test_position_of_which_nothing_is_forecast_is_not_opened_where_a_limit_counts_in_that(open_rig: OPEN) -> None:
    trader = Trader(open_rig, limits=VOLS)  # a network without a volatility head
    trader.hold(14)
    found = trader.check()
    assert found.fills == 0
    assert found.causes["UNFORESEEN"] >= 1
