"""Sessions whose positions are sized by foreseen volatility: one share in backtest, paper, orders and replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tasks.execution.accounting import Bars, Costs, Steps
from tasks.execution.backtest import run_backtest
from tasks.execution.decision import DecisionConfig, decide_series, shares_of
from tasks.journal.journal_rows import BarOpen, Decision
from tasks.live.outcome import SessionResult, market_numbers, session_numbers, signal_line
from tasks.market.features import build_features
from tasks.market.volatility import foreseen_volatility
from tasks.strategy.live_tick import foreseen_vol, share_taken
from tests.live.conftest import CANDLES, FIRST, MARKET, NETWORK, STEP_MS, Rig, make_model, predict
from tests.live.desk import INSTRUMENT, Desk, again, decisions_of
from tests.live.order_rig import Trader

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
    foreseen = foreseen_volatility(built.vol, log_ratio)[rows]
    np.testing.assert_allclose([foreseen_vol(one.values) for one in told], foreseen, rtol=1e-5)
    told_of = np.array([foreseen_vol(one.values) for one in told])
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
        assert share * foreseen_vol(one.values) * np.sqrt(MARKET.bars_per_year) == pytest.approx(TARGET, rel=1e-12)
        coins = 0.95 * share * before[bar.start_ms].equity(price) / price
        assert 0.0 <= coins - abs(bar.opened.ledger.quantity) < float(INSTRUMENT.qty_step)
    stays = [(a.opened.ledger, b.opened.ledger) for a, b in pairwise(opens)]
    assert all(a.quantity == b.quantity for a, b in stays if a.weight == b.weight)


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
        assert line["foreseen_volatility_24h"] == pytest.approx(foreseen_vol(one.values) * 288**0.5, rel=1e-12)
        assert line["share"] == share_taken(one.values) < 1.0
    text = SessionResult(name="sized", mode="paper", journal="", numbers={**numbers, "still_open": []}).text()
    day, share = lines[-1]["foreseen_volatility_24h"], lines[-1]["share"]
    said = f"{MARKET}: {100 * day:.1f} % in the next 24 hours foreseen; {100 * share:.1f} % of a position is taken"
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
