"""A champion that nobody questions expires."""

import pytest

from storage.schema import ConfigError
from tasks.champion.expiry import ExpiryRule, missed_retrains

DAY_MS = 86_400_000
NOON_MS = 20_454 * DAY_MS + DAY_MS // 2


@pytest.mark.promise(13)
@pytest.mark.parametrize(("days", "missed"), [(-1.0, 0), (0.0, 0), (0.99, 0), (1.0, 1), (2.99, 2), (3.0, 3)])
def test_retrain_is_missed_when_its_day_is_over(days, missed):
    assert missed_retrains(NOON_MS, NOON_MS + int(days * DAY_MS), ExpiryRule()) == missed


def test_schedule_decides_what_is_missed():
    hourly = ExpiryRule(retrain_hours=1.0, most_missed=6)
    assert missed_retrains(NOON_MS, NOON_MS + DAY_MS // 4, hourly) == 6
    assert missed_retrains(NOON_MS, NOON_MS + DAY_MS // 4 - 1, hourly) == 5


def test_rule_under_which_a_champion_lives_longer_is_looser():
    usual = ExpiryRule()
    assert ExpiryRule(retrain_hours=25.0).is_looser_than(usual)
    assert not ExpiryRule(retrain_hours=12.0, most_missed=6).is_looser_than(usual)


def test_rule_refuses_a_schedule_that_never_expires():
    with pytest.raises(ConfigError, match="retrain_hours must be finite and > 0, was inf"):
        ExpiryRule(retrain_hours=float("inf"))
    with pytest.raises(ConfigError, match="most_missed must be >= 1, was 0"):
        ExpiryRule(most_missed=0)
