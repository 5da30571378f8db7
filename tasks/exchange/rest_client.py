"""Requests with retries: repeats a request until it is answered or the budget is spent, at a pace shared by threads."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from storage.api_keys import ApiKey
from storage.schema import Ambiguous, Banned, ClockError, PipelineError, RateLimited, TemporaryError, one_line
from tasks.exchange.bans import Ban
from tasks.exchange.pacing import Pace, RetryPolicy, Sleep
from tasks.exchange.transport import HOST_NAMES, Answer, Exchange, ask, give_up, new_client, refused
from tasks.exchange.wire_values import BadMessage

T = TypeVar("T")


class Withdrawn(Exception):
    """The request was cancelled while it waited for its turn."""


@dataclass(kw_only=True, eq=False)
class RestClient:
    """REST client with one pybit client per thread, and one token bucket and one retry policy for all of them.

    Attributes:
        exchange: One of Bybit's hosts, or the sandbox.
        url: Address of the sandbox; None for Bybit.
        requests_per_s: Most requests a second, all threads together.
        burst: Requests that may be sent at once after a pause.
        retry: How often a request is repeated.
        timeout_s: Longest wait for a connection and for the next bytes of an answer.
        clock: Monotonic clock, seconds.
        wall_clock_ms: This machine's UTC milliseconds.
        sleep: Waits for a number of seconds; None for a real wait that ends at once when the request is cancelled.
        on_retry: Called with one line for every repetition.
        offset_ms: Bybit's clock minus this machine's; 0 until it has been measured.
        key: API key that signs the requests; None for public ones.
        ban: The shared ban of this address; None for one that is not shared.
    """

    exchange: Exchange
    url: str | None
    requests_per_s: float
    burst: int
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_s: tuple[float, float] = (3.05, 10.0)
    clock: Callable[[], float] = time.monotonic
    wall_clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    sleep: Sleep | None = None
    on_retry: Callable[[str], object] = lambda line: None
    offset_ms: int = 0
    key: ApiKey | None = field(default=None, repr=False)
    ban: Ban | None = None

    def __post_init__(self) -> None:
        self._pace = Pace(self.requests_per_s, self.burst, self.clock)
        self._closed = threading.Event()
        self._local = threading.local()
        self._clients: list[Any] = []
        self._served = False
        self.known_ban = self.ban or Ban(clock=self.clock)

    def close(self) -> None:
        """Cancel every request that still waits."""
        self._closed.set()

    def disconnect(self) -> None:
        """Close the connections; no thread may use this client any more."""
        for client in self._clients:
            client.client.close()

    def ask(
        self,
        what: str,
        method: str,
        params: Mapping[str, Any],
        read: Callable[[Answer], T],
        stop: threading.Event | None = None,
    ) -> T:
        """Send a request until an answer can be read, or the budget is spent.

        Args:
            what: Description of the request for error texts.
            method: Name of pybit's method, such as get_kline.
            params: Its arguments.
            read: Parses the answer; an error of it means that the answer is unusable, which is a failed attempt.
            stop: Cancels the request when set.

        Raises:
            TemporaryError: The budget is spent.
            PipelineError: Bybit refused.
            Withdrawn: The request was cancelled.
        """
        policy, failures, bans, spent_s = self.retry, 0, 0, 0.0
        is_signed_anew = self.key is None
        while True:
            self._pace.wait(partial(self._wait, stop))
            if left_s := self.known_ban.left_s():
                if bans >= policy.bans or not self._served:
                    self.known_ban.check(HOST_NAMES[self.exchange])
                bans += 1
                self.on_retry(f"this address is refused, another process was told: waiting {left_s:.0f} s for {what}")
                self._pace.close_for(left_s)
                continue
            client, began = self._client(), self.clock()
            try:
                parsed = _parsed(ask(client, method, params), read)
            except Banned as err:
                bans, spent_s = bans + 1, spent_s + self.clock() - began
                self.known_ban.begin(policy.ban_wait_s)
                # If Bybit has never served this address, waiting ten minutes will hardly change that.
                if bans > policy.bans or not self._served:
                    raise give_up(err, self.exchange, what, failures + bans, spent_s) from err
                self.on_retry(f"asking again in {policy.ban_wait_s:.1f} s: {what} ({err})")
                self._pace.close_for(policy.ban_wait_s)  # for all threads; this one waits in its next turn
            except TemporaryError as err:
                failures, spent_s = failures + 1, spent_s + self.clock() - began
                wait_s = self._wait_s(err, failures)
                if failures >= policy.attempts or spent_s + wait_s > policy.budget_s:
                    raise give_up(err, self.exchange, what, failures + bans, spent_s) from err
                self.on_retry(f"asking again in {wait_s:.1f} s: {what} ({err})")
                if isinstance(err, RateLimited):
                    self._pace.close_for(wait_s)
                else:
                    self._wait(stop, wait_s)
                spent_s += wait_s
            except ClockError as err:
                # Signed too long ago: it was held up, as by a machine that slept, or the clock is off indeed.
                if is_signed_anew:
                    raise refused(err, self.exchange, what) from err
                is_signed_anew = True
                self.on_retry(f"asking again: {what} ({err})")
            except PipelineError as err:
                raise refused(err, self.exchange, what) from err
            else:
                self._served = True
                return parsed

    def _wait_s(self, err: TemporaryError, failures: int) -> float:
        back_off_s = self.retry.back_off_s(failures)
        if isinstance(err, RateLimited) and err.reset_ms is not None:
            reset_s = (err.reset_ms - self.wall_clock_ms() - self.offset_ms) / 1000
            # Never shorter than the back-off: a reset time in the past means that the clocks differ.
            return max(back_off_s, min(reset_s, self.retry.max_reset_wait_s))
        return back_off_s

    def _wait(self, stop: threading.Event | None, seconds: float) -> None:
        withdrawn = stop or self._closed
        if self.sleep is None:
            withdrawn.wait(seconds)
        else:
            self.sleep(seconds)
        if withdrawn.is_set() or self._closed.is_set():
            raise Withdrawn

    def _client(self) -> Any:
        if not hasattr(self._local, "client"):
            self._local.client = new_client(self.exchange, self.url, self.timeout_s, self.key)
            self._clients.append(self._local.client)
        return self._local.client


def _parsed(answer: Answer, read: Callable[[Answer], T]) -> T:
    try:
        return read(answer)
    except BadMessage as err:
        raise Ambiguous(str(err)) from err
    except (ValueError, KeyError, TypeError, ArithmeticError) as err:
        raise Ambiguous(f"the answer can't be read: {type(err).__name__} {one_line(err)}") from err
