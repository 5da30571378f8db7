"""When what speaks for a champion is too old: the bars that judged it, or the last retrain that questioned it."""

from dataclasses import dataclass
from typing import Self

from storage.bounds import Checked, PositiveFloat, PositiveInt
from storage.schema import DAY_MS, HOUR_MS

UP_TO_DATE = "bars up to date"
"""A condition of promotion; a version that fails it has questioned no champion."""

MOST_AGE_MS = 2 * DAY_MS
"""With a retrain a day one may fail. No part of a recipe, so that none can ask for less."""


@dataclass(frozen=True, kw_only=True)
class LastBar:
    """The last bar of a verdict, at the moment of judging.

    Attributes:
        age_ms: Since it closed; negative where the clock says that it is still open.
        has_present: Whether an exchange sent it; a replay and a synthetic market have no present, and their champions
            are none on an exchange.
    """

    age_ms: int
    interval_ms: int
    has_present: bool

    @property
    def most_ms(self) -> int:
        """The oldest that it may be; the newest weekly bar is up to a week old."""
        return max(MOST_AGE_MS, self.interval_ms)

    @property
    def is_up_to_date(self) -> bool:
        """Whether the verdict is about the present; by a clock that is far behind nobody knows."""
        return not self.has_present or abs(self.age_ms) <= self.most_ms

    def __str__(self) -> str:
        return f"{self.age_ms / DAY_MS:,.2f} days old" if self.has_present else "no present: replayed or made up"


@dataclass(frozen=True, kw_only=True)
class ExpiryRule(Checked):
    """How long a champion outlives the retrains that should have questioned it.

    Attributes:
        retrain_hours: Hours from one retrain to the next, as scheduled.
        most_missed: Retrains that may be missed in a row; from this many on nothing is served. A retrain that keeps the
            champion has questioned it, so they count from the last retrain on bars up to date, not from the champion's
            promotion.
    """

    retrain_hours: PositiveFloat = 24.0
    most_missed: PositiveInt = 3

    def __str__(self) -> str:
        return f"{self.most_missed} missed retrains, one every {self.retrain_hours:g} hours"

    def is_looser_than(self, other: Self) -> bool:
        """Return whether a champion outlives its last retrain by longer than under another rule."""
        return self.retrain_hours * self.most_missed > other.retrain_hours * other.most_missed


USUAL_EXPIRY = ExpiryRule()
"""With a retrain a day; also the longest that real money is traded by."""


def missed_retrains(last_ms: int, now_ms: int, rule: ExpiryRule) -> int:
    """Return how many scheduled retrains have not happened since the last one stored its version; UTC milliseconds."""
    return max(int((now_ms - last_ms) / (rule.retrain_hours * HOUR_MS)), 0)
