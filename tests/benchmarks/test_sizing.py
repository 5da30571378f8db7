"""The sizing table: what is extrapolated, by hand."""

import pytest

from storage.schema import Market
from tests.benchmarks.sizing import Sample, size


def test_three_years_of_five_minute_bars_take_what_a_hand_calculation_says():
    # 315,360 bars: 316 windows of 1,000; 3,285 funding stamps, 17 pages of 200; time and instrument once.
    sample = Sample(
        bars=315_360, ingest_cpu_s=60.0, retrain_cpu_s=3_600.0, daily_cpu_s=1_800.0, database_bytes=12_000_000
    )
    one = size(sample, 1, Market(), 3.0)
    assert one == {
        "first ingest, requests": 335,
        "first ingest, minutes at 60 requests/s": pytest.approx(335 / 3_600),
        "first ingest, CPU minutes": pytest.approx(1.0),
        "each new bar, requests": 4,
        "each new bar, seconds at 60 requests/s": pytest.approx(4 / 60),
        "DuckDB, GB": pytest.approx(0.012),
        "first retrain of all, CPU hours": pytest.approx(1.0),
        "daily retrain of all, CPU hours": pytest.approx(0.5),
        "workers (1 core each) for a daily retrain of all within 4 hours": 1,
    }
    many = size(sample, 500, Market(), 3.0)
    workers = "workers (1 core each) for a daily retrain of all within 4 hours"
    assert many.pop(workers) == 63
    assert many == {name: pytest.approx(500 * value) for name, value in one.items() if name != workers}


def test_longer_bars_take_less_of_everything_but_the_funding():
    sample = Sample(bars=1_000, ingest_cpu_s=1.0, retrain_cpu_s=10.0, daily_cpu_s=5.0, database_bytes=100_000)
    hourly = size(sample, 1, Market(interval="60"), 3.0)
    assert hourly["first ingest, requests"] == 27 + 2 + 17  # 26,280 bars
    assert hourly["first retrain of all, CPU hours"] == pytest.approx(10.0 * 26.28 / 3_600)
