"""Which settlements an account booked: a hole in the rates is seen, and where nothing is due nothing is asked."""

from types import SimpleNamespace

import numpy as np
import pytest

from storage.schema import Market
from tasks.execution.accounting import Costs
from tasks.market.walk_forward import Span
from tasks.strategy.funding_record import FundingRecord, funding_record

HOUR = 3_600_000
EVERY_8_HOURS = np.arange(0, 241 * HOUR, 8 * HOUR)  # 30 of them at an open where something may be held
EVERY_HOUR = np.arange(0, 241 * HOUR, HOUR)
NONE = EVERY_8_HOURS[:0]
# Each 8 hours, then 4, then each hour, then each 8 again: 10 + 5 + 40 + 13; from hour 139 to 144 in one step.
FASTER_AND_BACK = (
    np.concatenate([np.arange(0, 80, 8), np.arange(80, 100, 4), np.arange(100, 140), np.arange(144, 241, 8)]) * HOUR
)
CHARGED = Costs()


def recorded(stamps, costs=CHARGED, symbol="BTCUSDT", category="linear", origin="exchange") -> FundingRecord:
    """Return the record of 241 unseen hours, from 0 on, behind 100 hours of training."""
    opens = np.arange(-100 * HOUR, 240 * HOUR + 1, HOUR)
    market = Market(symbol=symbol, category=category, interval="60")
    candles, ref = SimpleNamespace(start_ms=opens), SimpleNamespace(market=market)
    dataset = SimpleNamespace(ref=ref, candles=candles, funding_ms=stamps)
    return funding_record(dataset, Span(start=100, stop=len(opens)), costs, origin)


@pytest.mark.promise(11)
@pytest.mark.parametrize(
    ("stamps", "booked", "due"),
    [
        (EVERY_8_HOURS, 30, 30),
        (EVERY_8_HOURS + 5, 30, 30),  # stamps are a few milliseconds late
        (EVERY_HOUR, 240, 240),
        (np.concatenate([EVERY_8_HOURS[:16], np.arange(121 * HOUR, 241 * HOUR, HOUR)]), 135, 135),  # then every hour
        (NONE, 0, 30),
        (EVERY_8_HOURS[:16], 15, 30),  # training has them, half of the test has not
        (EVERY_8_HOURS[16:], 15, 30),
        (np.delete(EVERY_8_HOURS, 7), 29, 30),
        (np.delete(EVERY_8_HOURS, [7, 8, 20]), 27, 30),
        (EVERY_8_HOURS[:-1], 29, 30),  # the last one is due at the last open
        (np.arange(0, 241 * HOUR, 24 * HOUR), 10, 30),  # a file of one rate a day: no market pays so seldom
        (np.delete(EVERY_HOUR, [50, 51, 52, 200]), 236, 240),  # of an hourly market, shorter than 8 hours
        (np.delete(EVERY_8_HOURS, [7, 9]), 28, 30),  # one stands alone between two holes, which is no step of 16 hours
        (FASTER_AND_BACK, 67, 67),
        (np.delete(FASTER_AND_BACK, 20), 66, 67),
    ],
)
def test_every_settlement_without_a_stored_rate_is_missing(stamps, booked, due):
    record = recorded(stamps)
    assert (record.booked, record.due) == (booked, due)
    assert record.is_whole is (booked == due)


@pytest.mark.parametrize(
    ("market", "why"),
    [
        ({"category": "spot"}, "none due: spot"),
        ({"symbol": "BTCUSDT-26DEC25"}, "none due: a dated future"),
        ({"origin": "synthetic"}, "none due: a market that is made up"),
    ],
)
def test_market_without_funding_says_why_nothing_is_due(market, why):
    record = recorded(NONE, **market)
    assert record.is_whole
    assert str(record) == why


@pytest.mark.promise(11)
def test_funding_that_the_recipe_leaves_out_of_the_costs_is_booked_by_nobody():
    record = recorded(EVERY_8_HOURS, Costs(funding=False))
    assert (str(record), record.is_whole) == ("0 of 30 settlements", False)
