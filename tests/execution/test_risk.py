"""Limits: each at its edge, latched until a person re-arms, and no sequence that slips through."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.schema import DAY_MS, ConfigError
from tasks.execution.risk import LATCHING, RiskBook, RiskLimits

LIMITS = RiskLimits(daily_loss=0.02, drawdown=0.10, losses=3, notional=1.0, band=0.02, orders_per_hour=2)


def book(**changes: float) -> RiskBook:
    return RiskBook(LIMITS, capital=10_000.0)


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
def test_losing_round_trips_in_a_row_latch_and_a_gain_begins_anew() -> None:
    here = book()
    worths = [(0, 1, 10_000.0), (1, -1, 9_990.0), (-1, 0, 9_980.0), (0, 1, 9_980.0), (1, 0, 9_981.0)]
    assert [code(here.trip(*one)) for one in worths] == [""] * 5
    assert here.losses == 0
    falls = [(0, 1, 9_981.0), (1, -1, 9_970.0), (-1, 1, 9_960.0), (1, 0, 9_950.0)]
    assert [code(here.trip(*one)) for one in falls] == ["", "", "", "LOSSES"]


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
    ],
)
def test_position_that_is_too_large_or_too_far_from_the_mark_is_refused(
    coins: float, price: float, mark: float, found: str
) -> None:
    breach = book().may_open(coins, price, mark, 0.0)
    assert code(breach) == found
    assert found not in LATCHING


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
        at_ms = bar * DAY_MS // 4
        if bar % 4 == 0:
            day_began = equity
        equity *= 1 + change
        best = max(best, equity)
        here.close(at_ms, equity)
        broken |= 1 - equity / day_began >= 0.02 or 1 - equity / best >= 0.10
        assert (here.may_open(1.0, 100.0, 100.0, 1e12 * bar) is not None) == broken


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="daily_loss must be"):
        RiskLimits(daily_loss=0.0)
    with pytest.raises(ConfigError, match="notional must be"):
        RiskLimits(notional=2.0)
