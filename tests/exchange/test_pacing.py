"""The token bucket, the retry policy and the circuit breaker, in time that passes only when someone sleeps."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

from storage.schema import Ambiguous, Banned, ConfigError, PipelineError, Rejected, TemporaryError
from tasks.exchange.pacing import CircuitBreaker, Pace, RetryPolicy


def send_times(pace: Pace, time: Any, count: int) -> list[float]:
    times = []
    for _ in range(count):
        pace.wait(time.sleep)
        times.append(time.clock() - 1_000.0)
    return times


def test_pace_lets_a_burst_through_and_then_one_request_per_interval(fake_time: Any) -> None:
    times = send_times(Pace(10.0, burst=3, clock=fake_time.clock), fake_time, 6)
    assert times == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])


def test_pace_after_a_quiet_time_allows_no_more_than_the_burst(fake_time: Any) -> None:
    pace = Pace(10.0, burst=2, clock=fake_time.clock)
    send_times(pace, fake_time, 4)
    fake_time.sleep(60)
    assert send_times(pace, fake_time, 4) == pytest.approx([60.2, 60.2, 60.3, 60.4])


def test_pace_when_closed_holds_everyone_until_it_opens(fake_time: Any) -> None:
    pace = Pace(1_000.0, burst=5, clock=fake_time.clock)
    pace.close_for(5.0)
    assert send_times(pace, fake_time, 2) == pytest.approx([5.0, 5.0], abs=0.01)


def test_pace_when_closed_while_a_thread_waits_holds_that_thread_too(fake_time: Any) -> None:
    pace = Pace(1.0, burst=1, clock=fake_time.clock)
    pace.wait(fake_time.sleep)

    def sleep(seconds: float) -> None:
        if not fake_time.slept:
            pace.close_for(30.0)  # another thread meets the rate limit just now
        fake_time.sleep(seconds)

    pace.wait(sleep)
    assert fake_time.clock() - 1_000.0 == pytest.approx(30.0)


def test_pace_keeps_its_rate_over_many_threads(fake_time: Any) -> None:
    pace = Pace(50.0, burst=4, clock=fake_time.clock)
    threads = [threading.Thread(target=send_times, args=(pace, fake_time, 25)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 100 requests, 4 of them at once, 96 at 50 a second; each sleeper moves the shared time on, so it is a lower bound.
    assert fake_time.clock() - 1_000.0 >= 96 / 50 - 1e-9


def test_back_off_doubles_up_to_its_limit() -> None:
    policy = RetryPolicy(first_wait_s=0.5, max_wait_s=3.0, jitter=0.0)
    assert [policy.back_off_s(failures) for failures in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_back_off_is_lengthened_by_at_most_the_jitter() -> None:
    policy = RetryPolicy(first_wait_s=1.0, jitter=0.25)
    waits = [policy.back_off_s(1) for _ in range(200)]
    assert 1.0 <= min(waits) < max(waits) <= 1.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "attempts must be >= 1, was 0"),
        ({"budget_s": -1.0}, "budget_s must be >= 0, was -1.0"),
        ({"jitter": float("nan")}, "jitter must be finite and >= 0, was nan"),
    ],
)
def test_retry_policy_that_breaks_a_rule_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RetryPolicy(**options)


class Asked(list[str]):
    """Who has asked; each question takes 5 s in an outage and is answered otherwise."""

    def __init__(self, time: Any) -> None:
        self.breaker, self.time, self.down = CircuitBreaker(time.clock), time, {"A", "B", "C"}

    def ask(self, who: str) -> str:
        """Ask, and return the answer or why there is none."""
        try:
            return self.breaker.ask(who, lambda: self._answer(who))
        except PipelineError as err:
            return str(err)

    def _answer(self, who: str) -> str:
        self.append(who)
        if who in self.down:
            self.time.sleep(5.0)
            raise TemporaryError(f"{who} is not answered")
        return f"{who} is answered"


def test_breaker_after_a_failure_asks_nothing_for_as_long_as_that_took(fake_time: Any) -> None:
    asked = Asked(fake_time)
    assert [asked.ask(who) for who in "AB"] == ["A is not answered", "A is not answered; nothing was asked since"]
    fake_time.sleep(4.9)
    assert (asked.ask("B"), asked) == ("A is not answered; nothing was asked since", ["A"])
    fake_time.sleep(0.1)
    assert (asked.ask("B"), asked) == ("B is not answered", ["A", "B"])


def test_breaker_lets_each_asker_have_its_turn_though_one_is_always_the_first_to_come(fake_time: Any) -> None:
    asked = Asked(fake_time)
    for _ in range(60):
        for who in "ABC":
            asked.ask(who)
        fake_time.sleep(1.0)
    assert asked[:7] == ["A", "B", "C", "A", "B", "C", "A"]


def test_breaker_waits_for_no_asker_that_has_gone(fake_time: Any) -> None:
    asked = Asked(fake_time)
    for who in "ABC":
        asked.ask(who)
    fake_time.sleep(6.0)  # B and C are heard of no more
    asked.ask("A")
    assert asked == ["A", "A"]


def test_breaker_lets_all_ask_as_soon_as_one_is_answered(fake_time: Any) -> None:
    asked = Asked(fake_time)
    asked.ask("A")
    asked.down.clear()
    fake_time.sleep(5.0)
    assert [asked.ask(who) for who in "BAC"] == [f"{who} is answered" for who in "BAC"]
    assert asked.breaker.why == ""


@pytest.mark.parametrize(
    ("error", "waits"), [(Rejected("no", 1), False), (Ambiguous("?"), True), (Banned("403"), False)]
)
def test_breaker_takes_a_refusal_for_an_answer(fake_time: Any, error: PipelineError, waits: bool) -> None:
    breaker = CircuitBreaker(fake_time.clock)

    def refuse() -> None:
        fake_time.sleep(1.0)
        raise error

    with pytest.raises(PipelineError, match=re.escape(str(error))):
        breaker.ask("A", refuse)
    assert bool(breaker.why) == waits
