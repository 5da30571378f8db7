"""What time it is at the exchange, and how long ago something was."""

import math
import time
from dataclasses import dataclass

from tasks.exchange.boot_clock import boottime_ns


@dataclass
class ExchangeTime:
    """The clock of an exchange in real time: this machine's clock, corrected.

    Attributes:
        offset_ms: The exchange's clock minus this machine's.
        trusted: Whether it is known well enough to hold anything new.
    """

    offset_ms: float = 0.0
    trusted: bool = True

    def at(self, ts_ms: int, received_ns: int) -> float:
        """Return UTC milliseconds of the exchange's clock when something came in.

        Args:
            ts_ms: The exchange's own stamp of what came in.
            received_ns: `boottime_ns` when it had come in.
        """
        return self.now_ms() - elapsed_ms(received_ns)

    def now_ms(self) -> float:
        """Return UTC milliseconds of the exchange's clock now, as far as anybody knows."""
        return time.time_ns() / 1e6 + self.offset_ms

    def feed_ms(self, ts_ms: int, received_ns: int) -> float:
        """Return how long something was under way, milliseconds; NaN where nobody can tell. Arguments as in `at`."""
        return self.at(ts_ms, received_ns) - ts_ms


@dataclass
class DataTime(ExchangeTime):
    """The clock of a replay, whose bars close every few milliseconds: the latest stamp, which is met as it is made.

    Attributes:
        latest_ms: The latest stamp that came in.
    """

    latest_ms: float = 0.0

    def at(self, ts_ms: int, received_ns: int) -> float:
        """Return the stamp."""
        self.latest_ms = max(self.latest_ms, ts_ms)
        return float(ts_ms)

    def now_ms(self) -> float:
        """Return the latest stamp."""
        return self.latest_ms

    def feed_ms(self, ts_ms: int, received_ns: int) -> float:
        """Return NaN: no time passes between a stamp and its receipt."""
        return math.nan


def elapsed_ms(since_ns: int) -> float:
    """Return real milliseconds since `since_ns` of `boottime_ns`."""
    return (boottime_ns() - since_ns) / 1e6
