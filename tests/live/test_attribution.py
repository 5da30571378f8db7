"""What each cause made of the difference between an account and a backtest: hand-made cases, and sums that add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from storage.schema import Candles
from tasks.exchange.stream_events import FormingBar
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, run_backtest
from tasks.execution.bars import Bars
from tasks.execution.decision import DecisionConfig, decide_series
from tasks.live.attribution import CAUSES, UNEXPLAINED, Attribution
from tasks.live.outcome import parts_text, rounding_lines
from tasks.live.session_replay import replay
from tasks.market.features import build_features
from tasks.strategy.live_tick import PROBABILITIES
from tests.live.conftest import CANDLES, FIRST, MARKET, START_MS, STEP_MS, make_model, predict
from tests.live.desk import INSTRUMENT, KEY, Desk, Rest, decisions_of

CAPITAL, BARS = 10_000.0, 60
DEAR = {"costs": Costs(commission=1e-4, slippage=2e-4), "decision": DecisionConfig(rule="argmax")}  # no book is worse
ONE_COIN = make_model(backtest=BacktestConfig(initial_capital=CAPITAL, fixed_coins=1.0), **DEAR)
SAT = Callable[..., Desk]


def compared(desk: Desk, **options: Any) -> Attribution:
    """Return the desk's account beside the backtest; the parts are those of its whole difference."""
    reader, model = desk.market._journal.reader(), desk.own.model
    again = replay(reader, MARKET, {model.ref.version: model}, INSTRUMENT, predict, **({"funding": []} | options))
    assert again.unexplained == 0
    assert sum(again.comparison.parts.values()) == pytest.approx(again.comparison.difference_bp, abs=1e-6)
    assert again.comparison.parts[UNEXPLAINED] == pytest.approx(0.0, abs=1e-6)
    assert set(again.causes) <= set(again.comparison.parts)
    return again.comparison


def bp(usdt: float) -> Any:
    return pytest.approx(1e4 * usdt / CAPITAL, abs=1e-6)


def test_account_of_a_quiet_session_is_a_backtests_but_for_the_exchanges_steps(desk: SAT) -> None:
    here = desk(model=make_model(**DEAR))
    here.step(BARS)
    found = compared(here)

    model, candles = here.own.model, CANDLES[: FIRST + BARS]
    built = build_features(candles.matrix(), STEP_MS)
    bars = Bars.of(candles[FIRST:], STEP_MS)
    probabilities = predict(model, built.values, built.segment).probabilities[FIRST:]
    targets = decide_series(probabilities, built.vol[FIRST:], bars.contiguous, model.params)
    recipe = model.recipe
    result = run_backtest(bars, targets, recipe.costs, recipe.backtest, trained_until_ms=None, label_span_ms=0)
    costs, held, close = recipe.costs, result.quantity[-1], candles.close[-1]
    price = close * (1 - np.sign(held) * costs.slippage)
    sold = abs(held) * (abs(close - price) + costs.commission * price)  # a backtest pays for its last exit

    assert held != 0.0
    assert here.own.traded >= 5
    assert found.backtest == pytest.approx(result.equity[-1] + sold, rel=1e-12)
    assert found.paper == pytest.approx(here.own.ledger.equity(close), rel=1e-12)
    assert list(found.parts) == ["rounding", "price", UNEXPLAINED]
    assert found.parts["price"] == bp(0.0)
    assert abs(found.parts["rounding"]) > 0.01


def turn(desk: Desk, side: int) -> int:
    """Return a bar of the session after which the position changes to `side`; the bar after it wants the same."""
    told = decisions_of(desk)
    wants = [int(np.argmax(one.values[PROBABILITIES])) - 1 for one in told]
    return next(n for n in range(1, BARS - 2) if told[n].position != wants[n] == wants[n + 1] == side)


def test_price_that_was_not_there_costs_what_was_paid_more(desk: SAT) -> None:
    quiet = desk(model=ONE_COIN)
    quiet.step(BARS)
    bar = turn(quiet, 1)
    coins = 1 - decisions_of(quiet)[bar].position

    here = desk(model=ONE_COIN)
    here.step(bar + 1)
    start_ms, price = START_MS + (bar + 1) * STEP_MS, float(CANDLES.open[FIRST + bar + 1])
    here.market.on_event(FormingBar(KEY, "5", start_ms, price, price, price, price, 0.0, 0.0, start_ms, 0))
    assert here.own.opened_ms < start_ms  # the book is of before the open
    ask = round(price * 1.01, 2)
    here.book(ask - 0.005, start_ms)
    here.close(bar + 1)
    here.step(BARS - bar - 2, first=bar + 2)

    costs, tick = ONE_COIN.recipe.costs, float(INSTRUMENT.tick_size)
    more = ask - np.ceil(price * (1 + costs.slippage) / tick) * tick
    assert compared(here).parts["price"] == bp(-coins * more * (1 + costs.commission))


@pytest.mark.parametrize("side", [1, -1])
def test_late_decision_costs_what_the_price_did_until_the_next_one(desk: SAT, side: int) -> None:
    quiet = desk(model=ONE_COIN)
    quiet.step(BARS)
    bar = turn(quiet, side)

    here = desk(model=ONE_COIN)
    here.step(bar)
    here.open(bar)
    here.close(bar, late_ms=0.2 * STEP_MS)
    here.step(BARS - bar - 1, first=bar + 1)
    told, costs = decisions_of(here), ONE_COIN.recipe.costs
    assert (told[bar].cause, told[bar + 1].wanted) == ("deadline", side)

    tick, to_tick = float(INSTRUMENT.tick_size), {1: np.ceil, -1: np.floor}[side]
    first, second = (
        to_tick(CANDLES.open[FIRST + n] * (1 + side * costs.slippage) / tick) * tick for n in (bar + 1, bar + 2)
    )
    coins = abs(side - told[bar].position)
    assert compared(here).parts["deadline"] == bp(-coins * (second - first) * (side + costs.commission))


def test_late_data_is_told_from_a_deadline_that_the_session_itself_missed(desk: SAT) -> None:
    here = desk()
    here.time.feed_ms = lambda ts_ms, received_ns: 0.2 * STEP_MS
    here.step(20)
    for bar in range(20, BARS):
        here.open(bar)
        here.close(bar, late_ms=0.2 * STEP_MS)
    assert "late" in compared(here).parts


def test_rates_that_the_stream_told_otherwise_cost_their_difference(desk: SAT) -> None:
    here = desk(model=ONE_COIN)
    here.step(BARS)
    opens = here.market._journal.reader().opens(MARKET.slug)
    bar = next(n for n, one in enumerate(opens) if n and opens[n - 1].opened.ledger.side and n > 5)
    held = opens[bar - 1].opened.ledger.quantity
    due = held * float(CANDLES.open[FIRST + bar]) * 0.001  # the history has a rate, the stream told none
    assert compared(here, funding=[(opens[bar].start_ms, 0.001)]).parts["funding"] == bp(due)


@pytest.mark.promise(16)
def test_parts_of_a_bad_day_add_up(desk: SAT) -> None:
    here = desk(Rest())
    here.step(12)
    for bar in range(12, 18):
        here.open(bar)
        here.close(bar, late_ms=0.2 * STEP_MS)
    for bar in range(18, 26):
        here.open(bar, late_ms=0.2 * STEP_MS)
        here.close(bar)
    here.time.trusted = False
    here.market.note("clock off", "1.2 s")
    here.step(10, first=26)
    here.time.trusted = True
    here.market.note("clock on", "0.0 s")
    here.step(14, first=36)
    here.rest.candles = CANDLES[: FIRST + 56]
    here.market.catch_up()  # six bars at once
    here.step(10, first=56)
    here.step(20, first=70)  # four that nobody has
    shown = CANDLES[: FIRST + 90]
    columns = {name: getattr(shown, name).copy() for name in ("open", "high", "low", "close", "volume", "turnover")}
    columns["close"][FIRST + 8] *= 1.0004
    columns["high"][FIRST + 8] *= 1.001
    found = compared(here, reference=Candles(start_ms=shown.start_ms, **columns))
    assert list(found.parts) == [
        *(one for one in CAUSES if one not in ("funding", "late", "champion", "restart", "stop")),
        UNEXPLAINED,
    ]
    assert sum(abs(part) > 0.001 for part in found.parts.values()) >= 6


def test_what_no_cause_makes_is_left_over(desk: SAT) -> None:
    here = desk()
    here.step(BARS)
    reader = here.market._journal.reader()
    (start_ms, *_) = [one.start_ms for one in reader.opens(MARKET.slug)][-1:]
    reader._db.execute("UPDATE opens SET cash = cash + 1.0 WHERE start_ms = ?", (start_ms,))
    again = replay(reader, MARKET, {here.own.version: here.own.model}, INSTRUMENT, predict, funding=[])
    assert again.unexplained >= 1
    assert again.comparison.parts[UNEXPLAINED] == bp(1.0)


def test_parts_are_told_in_one_line_without_those_that_round_to_nothing() -> None:
    assert parts_text({"rounding": -1.23, "price": 0.04, "stale": 3.0}) == (
        "+1.8 bp beside a backtest (rounding -1.2, stale +3.0)"
    )
    assert parts_text({}) == "+0.0 bp beside a backtest"


def test_rounding_is_said_to_be_a_cost_that_the_backtest_does_not_charge() -> None:
    (line,) = rounding_lines({"rounding": -181.0, "price": 3.0}, 255)
    assert line.startswith("181.0 bp, 0.71 a fill: prices are rounded to the tick, against the trader")
    assert line.endswith("which the backtest doesn't charge")
    assert list(rounding_lines({"rounding": 0.0}, 255)) == list(rounding_lines({"price": -9.0}, 0)) == []
