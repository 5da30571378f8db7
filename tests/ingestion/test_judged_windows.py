"""Windows that came in together are judged in one look, and each keeps its own rows."""

from dataclasses import replace

import numpy as np

from storage.schema import Candles, Market, RejectedRow, Window
from tasks.exchange.pages import FetchedWindow
from tasks.ingestion.candle_ingest import judge_windows
from tasks.market.synthetic import SyntheticMarket, generate

MARKET = Market(interval="5")
CANDLES = generate(SyntheticMarket(bars=30))
NOW = int(CANDLES.start_ms[-1]) + MARKET.interval_ms


def fetched(rows: slice, candles: Candles = CANDLES, rejected: tuple[RejectedRow, ...] = ()) -> FetchedWindow:
    part = candles[rows]
    window = Window(first_ms=int(part.start_ms[0]), last_ms=int(part.start_ms[-1]))
    return FetchedWindow(window=window, candles=part, rejected=rejected, missing=np.empty(0, np.int64))


def test_each_window_keeps_its_own_good_and_broken_rows_in_any_order():
    low = CANDLES.low.copy()
    low[[3, 25]] = -1.0
    spoilt, unreadable = replace(CANDLES, low=low), RejectedRow(start_ms=None, raw="x", reason="no list")

    late, early, middle = judge_windows(
        [fetched(slice(20, 30), spoilt), fetched(slice(0, 10), spoilt, (unreadable,)), fetched(slice(10, 20), spoilt)],
        MARKET,
        NOW,
    )

    assert late.candles.start_ms.tolist() == np.delete(CANDLES.start_ms[20:30], 5).tolist()
    assert [row.start_ms for row in late.rejected] == [CANDLES.start_ms[25]]
    assert "low: in (0," in late.rejected[0].reason
    assert [row.start_ms for row in early.rejected] == [None, CANDLES.start_ms[3]]
    assert len(early.candles) == 9
    assert (len(middle.candles), middle.rejected) == (10, ())
