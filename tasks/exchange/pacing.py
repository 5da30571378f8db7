"""Rate limiting and retries of requests."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from storage.bounds import Checked, NonNegativeFloat, NonNegativeInt, PositiveInt
from tasks.exchange.bans import BAN_S

Sleep = Callable[[float], object]


@dataclass(frozen=True, kw_only=True)
class BackOff(Checked):
    """How long to wait after failures in a row.

    Attributes:
        first_wait_s: Wait after the first failure; each further wait is twice as long.
        max_wait_s: Longest such wait.
        jitter: Each wait is lengthened at random by up to this share, so that threads do not retry at the same moment.
    """

    first_wait_s: NonNegativeFloat = 0.5
    max_wait_s: NonNegativeFloat = 8.0
    jitter: NonNegativeFloat = 0.25

    def back_off_s(self, failures: int) -> float:
        """Return the wait after `failures` failures in a row, seconds."""
        wait = min(self.first_wait_s * 2.0 ** (failures - 1), self.max_wait_s)
        return wait * (1 + self.jitter * random.random())


@dataclass(frozen=True, kw_only=True)
class RetryPolicy(BackOff):
    """How often and for how long one request is repeated.

    Attributes:
        attempts: Most attempts of one request, not counting those that meet a ban.
        budget_s: Longest time from the first attempt to the last, seconds, not counting bans.
        max_reset_wait_s: Longest wait for the reset time of a rate limit that Bybit sends: its clock may be wrong.
        ban_wait_s: Wait of all threads after HTTP 403; Bybit requires 10 minutes.
        bans: Bans that one request waits out before it fails.
    """

    attempts: PositiveInt = 6
    budget_s: NonNegativeFloat = 60.0
    max_reset_wait_s: NonNegativeFloat = 5.0
    ban_wait_s: NonNegativeFloat = BAN_S
    bans: NonNegativeInt = 1


class Pace:
    """A token bucket shared by all threads of a client; one thread can close it for all of them.

    Args:
        requests_per_s: Refill rate.
        burst: Requests that may be sent at once after a pause.
        clock: Monotonic clock, seconds.
    """

    def __init__(self, requests_per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self._interval_s = 1 / requests_per_s
        self._slack_s = (burst - 1) / requests_per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._next_s = clock()  # when the bucket would be full again if nothing more were taken
        self._closed_until_s = self._next_s

    def wait(self, sleep: Sleep) -> None:
        """Take a token; sleep until one is available and the bucket is not closed."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next_s - self._slack_s, self._closed_until_s)
            self._next_s = max(turn, self._next_s) + self._interval_s
        while (delay := turn - self._clock()) > 0:
            sleep(delay)
            with self._lock:
                turn = max(turn, self._closed_until_s)  # closed by another thread while this one slept

    def close_for(self, seconds: float) -> None:
        """Close the bucket for all threads for `seconds`."""
        with self._lock:
            self._closed_until_s = max(self._closed_until_s, self._clock() + seconds)
