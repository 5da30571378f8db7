"""From which share of rejected rows on a run stops."""

from types import SimpleNamespace

import pytest

from storage.schema import Market, QuarantineError, Source, Window
from tasks.ingestion.quality import QualityConfig, refuse_bad_data

MARKET = Market()
SPAN = Window(first_ms=0, last_ms=999 * MARKET.interval_ms)  # 1,000 bars


def refuse(rejected: int, limit: float) -> None:
    store = SimpleNamespace(
        quarantined_bars=lambda *asked: rejected,
        commonest_reason=lambda *asked: "high below low",
        count=lambda *asked: 1_000 - rejected,
    )
    refuse_bad_data(store, Source("bybit"), MARKET, SPAN, QualityConfig(quarantine_limit=limit))


def test_share_at_the_limit_passes_and_one_row_more_stops_the_run() -> None:
    refuse(0, 0.0)
    refuse(10, 0.01)
    text = (
        r"11 of 1000 rows broke the candle contract \(1\.10%\), at most 1\.00% may, most of them: high below low; "
        "the table rejected has the reasons"
    )
    with pytest.raises(QuarantineError, match=text):
        refuse(11, 0.01)
