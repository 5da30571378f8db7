"""Which funding settlements of a perpetual are missing in a list of their stamps.

Funding has no step of its own: Bybit moves a market from 8 hours to 4 or 1 when it is volatile, and back, and tells
today's step alone. So what was due is told by the stamps themselves, but for a step longer than 8 hours: no market has
one, and a file that keeps one rate a day would else pass for whole.
"""

import numpy as np

from storage.schema import FUNDING_STEP_MS, MINUTE_MS, IntArray


def missing_settlements(stamps_ms: IntArray, first_ms: int, last_ms: int) -> tuple[IntArray, IntArray]:
    """Return where each stretch without a settlement begins, and how many are missing in it.

    In a stretch one is due each time the longer of the steps before and after it has passed: a market that has changed
    its step has paid at one of the two. After 8 hours one is due in any case. Behind the newest stamp only the step
    before it is known, so a market that has just gone back to a longer one lacks some until it has paid twice.

    Args:
        stamps_ms: (n,) known stamps, UTC milliseconds, increasing; those outside the range tell steps too.
        first_ms: Start of the range, at which no settlement is due.
        last_ms: Its end, inclusive.

    Returns:
        (k + 1,) and (k + 1,) for the k settlements inside the range.
    """
    stamps = stamps_ms // MINUTE_MS * MINUTE_MS  # many are a few milliseconds late
    inside = stamps[(stamps > first_ms) & (stamps <= last_ms)]
    ends = np.concatenate([[first_ms], inside, [last_ms + 1]])
    steps = np.diff(stamps)
    padded = np.concatenate([[0, 0], steps, [0, 0]])  # padded[i + 2] is the step that begins at stamp i
    begins = np.searchsorted(stamps, ends[:-1], side="right") - 1  # the stamp before, or -1
    due = np.minimum(np.maximum(padded[begins + 1], padded[begins + 3]), FUNDING_STEP_MS)
    due[due == 0] = FUNDING_STEP_MS  # there are no two stamps that tell of it
    missing: IntArray = -(-np.diff(ends) // due) - 1
    return ends[:-1], missing
