"""Whose fees are charged where, and how that is said."""

import pytest

from tasks.execution.accounting import Costs
from tasks.execution.fee_schedule import SCHEDULE, charged, costs_text


@pytest.mark.parametrize(
    ("name", "commission", "slippage"),
    [("bybit-linear", 0.00055, 0.0001), ("bybit-spot", 0.001, 0.0001), ("source", 0.001, 0.0001)],
)
def test_schedule_is_what_the_venues_publish(name, commission, slippage):
    costs = charged(Costs(funding=False), name)
    assert costs == Costs(commission=commission, slippage=slippage, funding=False)
    assert SCHEDULE[name].said_by


def test_own_costs_stay_as_they_are():
    own = Costs(commission=0.0002, slippage=0.0)
    assert charged(own, "own") == own
    assert costs_text(own, "own") == "own, 2 bp + 0 bp slippage a fill"


def test_costs_are_said_with_their_source_and_date():
    said = costs_text(charged(Costs(), "bybit-linear"), "bybit-linear")
    assert said == "bybit-linear, 5.5 bp + 1 bp slippage a fill (Bybit's fee page, perpetuals, no VIP, 2026-10)"
