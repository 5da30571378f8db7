"""From where on funding has to be asked for again, and what is said where it is not known."""

from types import SimpleNamespace

import numpy as np
import pytest

from storage.schema import Market
from tasks.data import first_hole
from tasks.market.samples import Span
from tasks.reporting.content import _share_without_funding

HOUR = 3_600_000
EVERY_8_HOURS = np.arange(0, 240 * HOUR, 8 * HOUR)


@pytest.mark.parametrize(
    ("stamps", "first", "last", "hole"),
    [
        (EVERY_8_HOURS, 0, 240 * HOUR - 1, None),
        (EVERY_8_HOURS[:0], 5 * HOUR, 240 * HOUR, 5 * HOUR),  # nothing stored
        (EVERY_8_HOURS[:10], 0, 240 * HOUR, 72 * HOUR),  # the end is missing
        (EVERY_8_HOURS[10:], 0, 239 * HOUR, 0),  # the beginning is missing
        (np.delete(EVERY_8_HOURS, 7), 0, 239 * HOUR, 48 * HOUR),  # one stamp in the middle
        (EVERY_8_HOURS, 100 * HOUR, 200 * HOUR, None),  # more is stored than asked for
        (EVERY_8_HOURS[:10], 60 * HOUR, 79 * HOUR, None),  # the next one is not due yet
        (EVERY_8_HOURS[:10], 60 * HOUR, 80 * HOUR, 72 * HOUR),  # now it is
        (np.arange(0, 10 * HOUR, HOUR), 0, 10 * HOUR - 1, None),  # hourly, complete
        (np.arange(0, 10 * HOUR, HOUR), 0, 10 * HOUR, 9 * HOUR),  # hourly, the newest is due
    ],
)
def test_first_hole_is_where_a_step_is_longer_than_funding_ever_waits(stamps, first, last, hole):
    assert first_hole(stamps, first, last) == hole


@pytest.mark.parametrize(
    ("stamps", "category", "share"),
    [
        (EVERY_8_HOURS, "linear", 0.0),
        (np.arange(0, 240 * HOUR, HOUR), "linear", 0.0),
        (EVERY_8_HOURS[:0], "linear", 232 / 240),
        (EVERY_8_HOURS[:15], "linear", 120 / 240),  # known for the first half: train has them, test has not
        (np.delete(EVERY_8_HOURS, 7), "linear", 8 / 240),
        (EVERY_8_HOURS[:0], "spot", 0.0),
    ],
)
def test_report_says_for_how_much_of_the_unseen_time_no_funding_is_known(stamps, category, share):
    opens = np.arange(-100 * HOUR, 240 * HOUR + 1, HOUR)
    dataset = SimpleNamespace(
        ref=SimpleNamespace(market=Market(category=category)),
        candles=SimpleNamespace(start_ms=opens),
        funding_ms=stamps,
    )
    evaluation = SimpleNamespace(samples=SimpleNamespace(dataset=dataset), unseen=Span(start=100, stop=len(opens)))
    assert _share_without_funding(evaluation) == pytest.approx(share)
