"""Limits: each at its edge, latched until a person re-arms, and no sequence that slips through."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.schema import DAY_MS, ConfigError
from tasks.execution.limits import Breach, LimitBook, TradingLimits

LIMITS = TradingLimits(daily_loss=0.02, drawdown=0.10, losses=3, notional=1.0, band=0.02, orders_per_hour=2)


def book(**changes: float) -> LimitBook:
    return LimitBook(LIMITS, capital=10_000.0)


def code(breach: object) -> str:
    return getattr(breach, "code", "")


@pytest.mark.promise(17)
@pytest.mark.parametrize(("equity", "found"), [(9_801.0, ""), (9_800.0, "DAILY_LOSS"), (0.0, "DAILY_LOSS")])
def test_loss_of_a_day_latches_at_its_limit(equity: float, found: str) -> None:
    here = book()
    assert code(here.close(DAY_MS, equity)) == found
    assert code(here.latched) == found


@pytest.mark.promise(17)
def test_day_begins_with_the_equity_of_the_last_close() -> None:
    here = book()
    for day, equity in enumerate((9_850.0, 9_700.0, 9_560.0)):
        assert here.close((day + 1) * DAY_MS, equity) is None
    assert code(here.close(4 * DAY_MS, 9_560.0 * 0.98)) == "DAILY_LOSS"


@pytest.mark.promise(17)
def test_loss_until_midnight_counts_in_the_day_that_ends_there() -> None:
    hour_ms, here = DAY_MS // 24, book()
    assert [here.close(DAY_MS + hour * hour_ms, 10_000.0 - 5 * hour) for hour in range(1, 24)] == [None] * 23
    assert here.day_began == 10_000.0
    early = replace(here)
    early.resume(here.state())
    assert early.close(2 * DAY_MS, 9_801.0) is None
    assert early.close(2 * DAY_MS + hour_ms, 9_801.0 * 0.9801) is None  # begins with what midnight left
    assert code(early.close(2 * DAY_MS + 2 * hour_ms, 9_801.0 * 0.98)) == "DAILY_LOSS"
    assert code(here.close(2 * DAY_MS, 9_800.0)) == "DAILY_LOSS"


@pytest.mark.promise(17)
def test_drawdown_latches_over_days_and_is_told_once() -> None:
    here, equity = book(), 10_000.0
    told = []
    for day in range(1, 12):
        equity *= 0.985
        told.append(code(here.close(day * DAY_MS, equity)))
    assert told.count("DRAWDOWN") == 1
    assert told.index("DRAWDOWN") == 6  # 0.985^7 is below 0.9
    assert code(here.may_open(1.0, 100.0, 100.0, 0.0)) == "DRAWDOWN"


@pytest.mark.promise(17)
@pytest.mark.parametrize("left", [0.0, -5.0])
def test_day_that_begins_with_nothing_is_lost_and_stays_so_when_re_armed(left: float) -> None:
    here = book()
    assert code(here.close(DAY_MS, left)) == "DAILY_LOSS"
    assert here.close(2 * DAY_MS, left) is None  # latched before
    here.rearm()
    assert here.close(3 * DAY_MS, left) == Breach("DAILY_LOSS", 0.02, 1.0)


@pytest.mark.promise(17)
def test_losing_round_trips_in_a_row_latch_and_a_gain_begins_anew() -> None:
    here = book()
    worths = [(0, 1, 10_000.0), (1, -1, 9_990.0), (-1, 0, 9_980.0), (0, 1, 9_980.0), (1, 0, 9_981.0)]
    assert [code(here.trip(*one)) for one in worths] == [""] * 5
    assert here.losses == 0
    falls = [(0, 1, 9_981.0), (1, -1, 9_970.0), (-1, 1, 9_960.0), (1, 0, 9_950.0)]
    assert [code(here.trip(*one)) for one in falls] == ["", "", "", "LOSSES"]


@pytest.mark.promise(17)
def test_trip_is_lost_where_both_its_costs_eat_the_gain_and_a_flip_pays_those_of_each_side() -> None:
    here = book()
    here.trip(0, 1, 9_994.5, entry_costs=5.5)
    here.trip(1, 0, 9_997.0)  # 8 gained, and 5.5 paid to leave: 3 lost in all
    assert here.losses == 1
    here = book()
    here.trip(0, 1, 9_994.5, entry_costs=5.5)
    here.trip(1, -1, 9_995.5, entry_costs=5.5)  # 12 gained, twice 5.5 paid for this trip: 1 gained in all
    assert here.losses == 0
    here.trip(-1, 0, 9_998.0)  # 8 gained, 5.5 paid to leave after 5.5 to enter: 3 lost
    assert here.losses == 1


@pytest.mark.parametrize(
    ("coins", "price", "mark", "found"),
    [
        (100.0, 100.0, 100.0, ""),
        (-100.0, 100.0, 100.0, ""),
        (100.2, 100.0, 100.0, "NOTIONAL"),
        (-100.2, 100.0, 100.0, "NOTIONAL"),
        (90.0, 101.9, 100.0, ""),
        (90.0, 102.1, 100.0, "BAND"),
        (90.0, 97.9, 100.0, "BAND"),
        (90.0, 100.0, math.nan, "BAND"),
        (math.nan, 100.0, 100.0, "NOTIONAL"),
        (90.0, math.nan, 100.0, "NOTIONAL"),
    ],
)
def test_position_that_is_too_large_or_too_far_from_the_mark_is_refused(
    coins: float, price: float, mark: float, found: str
) -> None:
    here = book()
    assert code(here.may_open(coins, price, mark, 0.0)) == found
    assert here.latched is None


def test_position_may_be_worth_what_has_been_earned_too_and_the_refusal_says_that_number() -> None:
    here = book()
    here.close(DAY_MS, 30_000.0)
    assert here.may_open(300.0, 100.0, 100.0, 0.0) is None
    assert str(here.may_open(301.0, 100.0, 100.0, 0.0)) == "NOTIONAL: 3.01e+04, allowed 30000"
    here.close(2 * DAY_MS, 29_500.0)
    poor = book()
    poor.close(DAY_MS, 9_900.0)
    assert poor.may_open(100.0, 100.0, 100.0, 0.0) is None


def test_orders_of_an_hour_are_counted() -> None:
    here = book()
    assert [code(here.may_open(1.0, 100.0, 100.0, ms)) for ms in (0.0, 1.0, 2.0)] == ["", "", "RATE"]
    assert here.may_open(1.0, 100.0, 100.0, 3_600_000.0) is None


def test_person_re_arms_from_what_is_left() -> None:
    here = book()
    here.close(DAY_MS, 9_000.0)
    assert code(here.latched) == "DAILY_LOSS"
    here.rearm()
    assert here.may_open(80.0, 100.0, 100.0, 0.0) is None
    assert here.close(DAY_MS, 8_900.0) is None
    assert code(here.close(DAY_MS, 8_820.0)) == "DAILY_LOSS"


@pytest.mark.promise(17)
@given(st.lists(st.floats(-0.05, 0.05), min_size=1, max_size=60))
def test_nothing_is_opened_once_a_limit_has_been_broken(changes: list[float]) -> None:
    here, equity, best, day_began, broken = book(), 10_000.0, 10_000.0, 10_000.0, False
    for bar, change in enumerate(changes):
        at_ms = (bar + 1) * DAY_MS // 4  # four bars a day, the last of which closes at midnight
        if bar % 4 == 0:
            day_began = equity
        equity *= 1 + change
        best = max(best, equity)
        here.close(at_ms, equity)
        broken |= 1 - equity / day_began >= 0.02 or 1 - equity / best >= 0.10
        assert (here.may_open(1.0, 100.0, 100.0, 1e12 * bar) is not None) == broken


VOLS = replace(LIMITS, daily_vols=3.0)


@pytest.mark.promise(17)
@pytest.mark.parametrize(
    ("risk", "equity", "found"),
    [
        (0.004, 9_880.1, ""),
        (0.004, 9_880.0, "DAILY_VOLS"),  # 1.2 % are three times 0.4 %
        (0.004, 9_800.0, "DAILY_LOSS"),
        (0.01, 9_800.1, ""),  # three times that is more than the fixed limit, which holds
        (0.01, 9_800.0, "DAILY_LOSS"),
        (math.inf, 9_800.1, ""),
        (math.inf, 9_800.0, "DAILY_LOSS"),
    ],
)
def test_loss_of_a_day_latches_at_so_many_forecast_volatilities(risk: float, equity: float, found: str) -> None:
    here = LimitBook(VOLS, capital=10_000.0)
    assert here.close(DAY_MS, 10_000.0) is None
    here.trip(0, 1, 10_000.0, risk)
    assert code(here.close(DAY_MS + 1, equity)) == found
    fixed = book()
    fixed.trip(0, 1, 10_000.0, risk)
    assert code(fixed.close(DAY_MS + 1, 9_880.0)) == ""  # not asked for


def test_unit_of_a_day_is_its_riskiest_position_as_it_was_opened_and_the_next_day_begins_with_what_is_held() -> None:
    here = LimitBook(VOLS, capital=10_000.0)
    here.close(DAY_MS, 10_000.0)
    for before, after, risk in ((0, 1, 0.004), (1, -1, 0.002), (-1, 0, 0.005), (0, 1, 0.003)):
        here.trip(before, after, 10_000.0, risk)
    here.trip(1, 1, 10_000.0, 0.006)  # held on: nothing is forecast anew
    assert (here.risk, here.day_risk) == (0.003, 0.004)
    here.close(2 * DAY_MS, 10_000.0)
    assert here.day_risk == 0.003
    assert code(here.close(2 * DAY_MS + 1, 9_910.1)) == ""
    assert str(here.close(2 * DAY_MS + 2, 9_905.0)) == "DAILY_VOLS: 3.167, allowed 3"


@pytest.mark.promise(17)
@given(
    fixed=st.floats(1e-6, 1.0),
    vols=st.floats(1.0, 1e6),
    risk=st.one_of(st.just(math.nan), st.floats(0.0)),
    losses=st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=20),
)
def test_limit_in_forecast_volatility_is_never_looser_than_the_fixed_one(
    fixed: float, vols: float, risk: float, losses: list[float]
) -> None:
    limits = TradingLimits(daily_loss=fixed, drawdown=1.0, daily_vols=vols)
    assert 0.0 < limits.of_day(risk) <= fixed
    assert replace(limits, daily_vols=None).of_day(risk) == fixed
    fixed_book, here = (LimitBook(one, capital=1.0) for one in (replace(limits, daily_vols=None), limits))
    for bar, loss in enumerate(losses):
        at_ms = (1 + bar // 4) * DAY_MS + bar
        for one in (fixed_book, here):
            one.trip(0, 1, 1.0, risk if risk >= 0.0 else math.inf)
            one.close(at_ms, 1.0 - loss)
        assert fixed_book.latched is None or here.latched is not None


@pytest.mark.promise(15)
@pytest.mark.parametrize("forecast", [math.nan, 0.0, math.inf])
def test_position_of_which_nothing_is_forecast_is_refused_where_a_limit_counts_in_that(forecast: float) -> None:
    here = LimitBook(VOLS, capital=10_000.0)
    assert code(here.may_open(1.0, 100.0, 100.0, 0.0, forecast)) == "UNFORESEEN"
    assert code(here.may_open(1.0, 100.0, 100.0, 0.0)) == "UNFORESEEN"
    assert here.may_open(1.0, 100.0, 100.0, 0.0, 0.01) is None
    assert book().may_open(1.0, 100.0, 100.0, 0.0, forecast) is None


def test_book_of_before_risk_was_in_it_has_the_fixed_limit_until_a_position_is_opened() -> None:
    here = LimitBook(VOLS, capital=10_000.0)
    here.close(DAY_MS, 10_000.0)
    here.trip(0, 1, 10_000.0, 0.001)
    state = here.state()
    again = LimitBook(VOLS, capital=10_000.0)
    again.resume(json.loads(json.dumps(state)))
    assert code(again.close(DAY_MS + 1, 9_960.0)) == "DAILY_VOLS"
    older = LimitBook(VOLS, capital=10_000.0)
    older.resume({name: part for name, part in state.items() if name not in ("risk", "day_risk")})
    assert code(older.close(DAY_MS + 1, 9_960.0)) == ""
    assert code(older.close(DAY_MS + 2, 9_800.0)) == "DAILY_LOSS"
    with pytest.raises(ValueError, match=r"forecast to move must be >= 0, was -1.0"):
        older.resume(state | {"risk": -1.0})


def test_person_who_re_arms_begins_anew_with_the_unit_of_what_is_held() -> None:
    here = LimitBook(VOLS, capital=10_000.0)
    here.close(DAY_MS, 10_000.0)
    here.trip(0, 1, 10_000.0, 0.004)
    here.trip(1, -1, 10_000.0, 0.002)
    here.close(DAY_MS + 1, 9_880.0)
    here.rearm()
    assert code(here.close(DAY_MS + 2, 9_880.0 * (1 - 0.0059))) == ""
    assert code(here.close(DAY_MS + 3, 9_880.0 * (1 - 0.0061))) == "DAILY_VOLS"


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="daily_loss must be"):
        TradingLimits(daily_loss=0.0)
    with pytest.raises(ConfigError, match="notional must be"):
        TradingLimits(notional=2.0)
