"""From where on funding has to be asked for again."""

import numpy as np
import pytest

from tasks.ingestion.funding import first_hole

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
        (np.delete(np.arange(0, 10 * HOUR, HOUR), 5), 0, 10 * HOUR - 1, 4 * HOUR),  # hourly, one in the middle
        (np.arange(0, 240 * HOUR, 24 * HOUR), 0, 239 * HOUR, 0),  # one of three a day is stored
    ],
)
def test_first_hole_is_where_a_step_is_longer_than_funding_ever_waits(stamps, first, last, hole):
    assert first_hole(stamps, first, last) == hole
