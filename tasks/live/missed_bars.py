"""Which bars REST is asked for, when, and which of its rows are over: what the stream has missed, or is late with."""

import math

from storage.schema import CANDLE_COLUMNS, Candles, Market
from tasks.live.account import ClosedBar
from tasks.live.exchange_time import elapsed_ms
from tasks.live.rest_feed import RestFeed

_FIRST_WAIT_MS, _MAX_WAIT_MS = 1_000.0, 60_000.0  # between two questions for a bar that REST lacks too
_SILENT_S = 5.0  # longer than `orderbook.1` is ever silent: what a stream told before that says nothing of now


class MissedBars:
    """The bars of one market that a stream has not told of.

    Args:
        grace_s: How long after a bar's end its confirmation may be missing before it is asked for.
    """

    def __init__(self, market: Market, feed: RestFeed, grace_s: float) -> None:
        self._market, self._feed, self._grace_ms = market, feed, 1_000 * grace_s
        self._told_ms = math.inf  # the newest bar that the present connection has told of
        self._heard_ns = 0  # when the stream told of anything last
        self._ask_ms, self._wait_ms = -math.inf, _FIRST_WAIT_MS

    def heard(self, received_ns: int, start_ms: int | None = None) -> None:
        """Note that the stream has told of something, at a time of `boottime_ns`; of which bar, where it is of one."""
        self._heard_ns = received_ns
        self._told_ms = self._told_ms if start_ms is None else start_ms

    def reconnected(self) -> None:
        """Note that the stream begins anew and has told of no bar yet."""
        self._told_ms = math.inf

    def stepped(self) -> None:
        """Note that a bar has come: the next one is asked for as soon as it is overdue."""
        self._ask_ms, self._wait_ms = -math.inf, _FIRST_WAIT_MS

    def is_overdue(self, last_ms: int, now_ms: float) -> bool:
        """Return whether the bar after the last one is asked for now, of the exchange's clock."""
        due_ms = last_ms + 2 * self._market.interval_ms + self._grace_ms
        return last_ms >= 0 and now_ms > max(due_ms, self._ask_ms)

    def ask_later(self, now_ms: float) -> None:
        """Note that REST lacks it too, or does not say: it is asked for more and more seldom."""
        self._ask_ms, self._wait_ms = now_ms + self._wait_ms, min(2 * self._wait_ms, _MAX_WAIT_MS)

    def since(self, first_ms: int, before_ms: float) -> list[ClosedBar]:
        """Return every bar from one on that REST has and that is over, oldest first, before a time.

        Raises:
            TemporaryError: It does not say now.
        """
        recent = self._feed.closed_since(self._market, first_ms)
        rows = [row for row in _rows(recent.candles) if row[0] < before_ms]
        told_ms = self._told_ms if elapsed_ms(self._heard_ns) < 1_000 * _SILENT_S else math.inf
        if rows and rows[-1][0] >= told_ms:
            rows.pop()  # while the stream tells of none later it may be forming, whatever the exchange's clock says
        newest = len(rows) - 1 if before_ms == math.inf else -1
        return [
            ClosedBar(int(row[0]), row, "rest", recent.now_ms, recent.asked_ns, math.nan, i == newest)
            for i, row in enumerate(rows)
        ]


def _rows(candles: Candles) -> list[tuple[float, ...]]:
    columns = [getattr(candles, name).tolist() for name in CANDLE_COLUMNS]
    return [(float(ms), *row) for ms, *row in zip(candles.start_ms.tolist(), *columns, strict=True)]
