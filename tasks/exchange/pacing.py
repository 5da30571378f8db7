"""Rate limiting and retries of requests, and how much one thread waits while nobody answers them."""

import random
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from storage.bounds import Checked, NonNegativeFloat, NonNegativeInt, PositiveInt
from storage.schema import Banned, PipelineError, TemporaryError
from tasks.exchange.bans import BAN_S

T = TypeVar("T")
Sleep = Callable[[float], object]

_GONE_S = 6.0  # after which an asker that was turned away comes no more: a session's ask again after 5 s at most


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


class CircuitBreaker:
    """Lets one thread with many requests wait no more than half of its time while they go unanswered. Not thread-safe.

    After a failure nothing is asked for as long as it took. Then one asker after the other has its turn, the one that
    was turned away first before those that came later, until one is answered: so none keeps the others from asking.

    Args:
        clock: Seconds, never going back; that of a machine that sleeps may stand still, so nobody waits for the night.

    Attributes:
        why: The last failure; empty since a request was answered.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.why = ""
        self._clock, self._closed_until_s = clock, 0.0
        self._waiting: dict[Hashable, float] = {}  # when each was turned away last; the longest waiting first

    def ask(self, asker: Hashable, request: Callable[[], T]) -> T:
        """Return the answer to a request, or turn its asker away.

        Raises:
            TemporaryError: It is not its turn, and nothing was asked; or its request failed.
        """
        began_s = self._clock()
        if self.why:
            self._waiting[asker] = began_s
            first = next(one for one, at_s in self._waiting.items() if began_s - at_s < _GONE_S)
            if began_s < self._closed_until_s or first != asker:
                raise TemporaryError(f"{self.why}; nothing was asked since")
            del self._waiting[asker]
        try:
            answer = request()
        except Banned:
            raise  # which nobody waits for
        except TemporaryError as err:
            self.why, now_s = str(err), self._clock()
            self._closed_until_s = 2 * now_s - began_s
            raise
        except PipelineError:
            self._answered()
            raise
        self._answered()
        return answer

    def _answered(self) -> None:
        self.why = ""
        self._waiting.clear()
