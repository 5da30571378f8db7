"""When a champion may no longer be served: nobody has asked for too long whether it still deserves to be one."""

from __future__ import annotations

from dataclasses import dataclass

from storage.bounds import Checked, PositiveFloat, PositiveInt
from storage.schema import HOUR_MS


@dataclass(frozen=True, kw_only=True)
class ExpiryRule(Checked):
    """How long a champion outlives the retrains that should have questioned it.

    Attributes:
        retrain_hours: Hours from one retrain to the next, as scheduled.
        most_missed: Retrains that may be missed in a row; from this many on nothing is served. A retrain that keeps the
            champion has questioned it, so they count from the last retrain, not from the champion's promotion.
    """

    retrain_hours: PositiveFloat = 24.0
    most_missed: PositiveInt = 3

    def __str__(self) -> str:
        return f"{self.most_missed} missed retrains, one every {self.retrain_hours:g} hours"

    def is_looser_than(self, other: ExpiryRule) -> bool:
        """Return whether a champion outlives its last retrain by longer than under another rule."""
        return self.retrain_hours * self.most_missed > other.retrain_hours * other.most_missed


USUAL_EXPIRY = ExpiryRule()
"""With a retrain a day; also the longest that real money is traded by."""


def missed_retrains(last_ms: int, now_ms: int, rule: ExpiryRule) -> int:
    """Return how many scheduled retrains have not happened.

    Args:
        last_ms: When the last one stored its version, UTC milliseconds.
        now_ms: UTC milliseconds; before `last_ms` none is missed.
        rule: The schedule.
    """
    return max(int((now_ms - last_ms) / (rule.retrain_hours * HOUR_MS)), 0)
