"""What a position pays at a market's funding stamps, as the stream told it, or REST where the stream did not."""

import math
import time

from storage.schema import MINUTE_MS, Market, TemporaryError, utc_text
from tasks.live.rest_feed import RestFeed

_ASK_S = 5.0  # between two questions for rates that REST did not give


class FundingRates:
    """The rates of the stamps to come, and of those of a bar that is not booked yet.

    Args:
        interval_min: Minutes between two stamps as the session began; 0 for none. A market that has changed its step
            since has others: they are due where the stream tells of them.
    """

    def __init__(self, market: Market, interval_min: int, feed: RestFeed) -> None:
        self._market, self._interval_ms, self._feed = market, interval_min * MINUTE_MS, feed
        self._rates: dict[int, float] = {}
        self._ask_s = -math.inf

    def learn(self, stamp_ms: int, rate: float, told_ms: int) -> None:
        """Take in what the stream told of the next stamp; one it had told of before and that has not come is off.

        Args:
            stamp_ms: UTC milliseconds.
            rate: Share of the notional.
            told_ms: When it was told, by the exchange's clock, UTC milliseconds; a stamp of before is not the next.
        """
        now_ms, stamp_ms = _minute(told_ms), _minute(stamp_ms)
        self._rates = {stamp: known for stamp, known in self._rates.items() if stamp <= now_ms + MINUTE_MS}
        if stamp_ms >= now_ms:
            self._rates[stamp_ms] = rate

    def forget_until(self, stamp_ms: int) -> None:
        """Forget the rates of stamps until then, which is included."""
        if self._rates:
            self._rates = {stamp: rate for stamp, rate in self._rates.items() if stamp > stamp_ms}

    def due(self, since_ms: int, until_ms: int, *, asks: bool) -> float:
        """Return the sum of the rates whose stamps came after one time and until another.

        Args:
            since_ms: UTC milliseconds, left out.
            until_ms: UTC milliseconds, included.
            asks: Whether REST is asked for what is lacking; else that counts as 0.

        Raises:
            TemporaryError: REST does not tell now.
        """
        if not self._interval_ms:
            return 0.0
        usual = range((since_ms // self._interval_ms + 1) * self._interval_ms, until_ms + 1, self._interval_ms)
        due = sorted({*usual, *(stamp for stamp in self._rates if since_ms < stamp <= until_ms)})
        lacking = [stamp for stamp in due if stamp not in self._rates]
        if lacking and asks:
            if time.monotonic() < self._ask_s:  # every trade and quote of an outage would ask
                raise TemporaryError(f"the funding rate of {utc_text(lacking[0])} is not known yet")
            self._ask_s = time.monotonic() + _ASK_S
            told = self._feed.funding(self._market, lacking[0], lacking[-1] + MINUTE_MS)
            self._ask_s = -math.inf
            self._rates |= {_minute(stamp): rate for stamp, rate in told}
        return sum(self._rates.get(stamp, 0.0) for stamp in due)


def _minute(stamp_ms: int) -> int:
    """Return the minute of a stamp: many are a few milliseconds late."""
    return stamp_ms // MINUTE_MS * MINUTE_MS
