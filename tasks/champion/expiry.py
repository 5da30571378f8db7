"""When a champion may no longer be served: nobody has asked for too long whether it still deserves to be one."""

from __future__ import annotations

from dataclasses import dataclass

from storage.bounds import Checked, PositiveFloat, PositiveInt

_HOUR_MS = 3_600_000


@dataclass(frozen=True, kw_only=True)
class ExpiryRule(Checked):
    """How long a champion outlives the retrains that should have questioned it.

    Attributes:
        retrain_hours: Hours from one retrain to the next, as scheduled.
        most_missed: Retrains that may be missed in a row; from this many on nothing is served.
    """

    retrain_hours: PositiveFloat = 24.0
    most_missed: PositiveInt = 3


def missed_retrains(last_ms: int, now_ms: int, rule: ExpiryRule) -> int:
    """Return how many scheduled retrains have not happened.

    Args:
        last_ms: When the last one stored its version, UTC milliseconds.
        now_ms: UTC milliseconds; before `last_ms` none is missed.
        rule: The schedule.
    """
    return max(int((now_ms - last_ms) / (rule.retrain_hours * _HOUR_MS)), 0)


def has_expired(last_ms: int, now_ms: int, rule: ExpiryRule) -> bool:
    """Return whether a champion must not be served any more; arguments as in `missed_retrains`.

    A retrain that keeps the champion has questioned it, so the time runs from the last retrain, not from its promotion.
    """
    return missed_retrains(last_ms, now_ms, rule) >= rule.most_missed
