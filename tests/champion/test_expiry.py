"""A champion that nobody questions expires."""

import pytest

from storage.schema import ConfigError
from tasks.champion.expiry import ExpiryRule, has_expired, missed_retrains

DAY_MS = 86_400_000
NOON_MS = 20_454 * DAY_MS + DAY_MS // 2


@pytest.mark.promise(13)
@pytest.mark.parametrize(
    ("days", "missed", "expired"),
    [(-1.0, 0, False), (0.0, 0, False), (0.99, 0, False), (1.0, 1, False), (2.99, 2, False), (3.0, 3, True)],
)
def test_champion_expires_when_the_third_daily_retrain_is_missed(days, missed, expired):
    now_ms = NOON_MS + int(days * DAY_MS)
    assert missed_retrains(NOON_MS, now_ms, ExpiryRule()) == missed
    assert has_expired(NOON_MS, now_ms, ExpiryRule()) is expired


def test_schedule_decides_what_is_missed():
    hourly = ExpiryRule(retrain_hours=1.0, most_missed=6)
    assert has_expired(NOON_MS, NOON_MS + DAY_MS // 4, hourly)
    assert not has_expired(NOON_MS, NOON_MS + DAY_MS // 4 - 1, hourly)


def test_rule_refuses_a_schedule_that_never_expires():
    with pytest.raises(ConfigError, match="retrain_hours must be finite and > 0, was inf"):
        ExpiryRule(retrain_hours=float("inf"))
    with pytest.raises(ConfigError, match="most_missed must be >= 1, was 0"):
        ExpiryRule(most_missed=0)
