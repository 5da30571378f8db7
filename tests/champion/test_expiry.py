"""A champion that nobody questions expires, and old bars judge none."""

import pytest

from storage.schema import ConfigError
from tasks.champion.expiry import ExpiryRule, LastBar, missed_retrains

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


@pytest.mark.promise(13)
@pytest.mark.parametrize(
    ("age_ms", "interval_ms", "held"),
    [
        (0, 300_000, True),
        (2 * DAY_MS, 300_000, True),
        (2 * DAY_MS + 1, 300_000, False),
        (730 * DAY_MS, 300_000, False),
        (2 * DAY_MS + 1, 7 * DAY_MS, True),  # no weekly bar has closed since
        (7 * DAY_MS + 1, 7 * DAY_MS, False),
        (-300_000, 300_000, True),  # a clock that is a little behind
        (-2 * DAY_MS - 1, 300_000, False),  # one that knows nothing of the age
    ],
)
def test_last_bar_is_up_to_date_for_two_days_or_until_the_next_one_closes(age_ms, interval_ms, held):
    bar = LastBar(age_ms=age_ms, interval_ms=interval_ms, has_present=True)
    assert bar.is_up_to_date is held
    assert LastBar(age_ms=age_ms, interval_ms=interval_ms, has_present=False).is_up_to_date


def test_rule_refuses_a_schedule_that_never_expires():
    with pytest.raises(ConfigError, match="retrain_hours must be finite and > 0, was inf"):
        ExpiryRule(retrain_hours=float("inf"))
    with pytest.raises(ConfigError, match="most_missed must be >= 1, was 0"):
        ExpiryRule(most_missed=0)
