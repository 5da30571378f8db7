"""What a session's REST leaves out is said."""

from types import SimpleNamespace

import numpy as np

from storage.schema import Candles, Market, RejectedRow, Window
from tasks.exchange.pages import FetchedWindow
from tasks.live.rest_feed import RestFeed

MARKET = Market()
STEP_MS = MARKET.interval_ms


def fetched(*closes: float, rejected: int = 0) -> FetchedWindow:
    opens, prices = STEP_MS * np.arange(len(closes)), np.array(closes)
    candles = Candles(
        start_ms=opens, open=prices, high=prices, low=prices, close=prices, volume=prices, turnover=prices
    )
    rows = (RejectedRow(start_ms=None, raw="?", reason="no number"),) * rejected
    window = Window(first_ms=0, last_ms=int(opens[-1]))
    return FetchedWindow(window=window, candles=candles, rejected=rows, missing=opens[:0])


def test_candles_that_can_t_be_read_are_left_out_and_counted() -> None:
    pages, told = [fetched(10.0, np.nan, 11.0, rejected=2)], list[str]()
    gateway = SimpleNamespace(server_time_ms=lambda: 3 * STEP_MS, fetch_windows=lambda *asked: iter(pages))
    feed = RestFeed(gateway=gateway, on_note=told.append)
    assert feed.closed_since(MARKET, 0).candles.close.tolist() == [10.0, 11.0]
    assert told == ["SYNTHUSDT linear 5m: 3 candles of REST can't be read and are left out"]
    pages[:] = [fetched(10.0, 11.0)]
    feed.closed_since(MARKET, 0)
    assert len(told) == 1
