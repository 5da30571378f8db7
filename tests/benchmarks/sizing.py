"""What many markets need, measured here on a small one and extrapolated: `python -m tests.benchmarks.sizing`."""

from __future__ import annotations

import math
import os
import resource
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cyclopts

from flows.entry.server import server_at_hand
from flows.ingest import ingest
from flows.retrain import retrain
from storage.schema import DAY_MS, FUNDING_STEP_MS, WINDOW_BARS, Interval, Market
from storage.settings import Settings
from tasks.exchange.connection import ExchangeConfig
from tasks.exchange.reference import FUNDING_ROWS
from tasks.market.synthetic import SyntheticMarket

POLL_REQUESTS = 4  # of one ingest that finds one new bar: time, instrument, the newest two windows
BYBIT_PER_S = 60.0  # half of what Bybit allows an address; the default of ExchangeConfig


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one market took here.

    Attributes:
        bars: Candles ingested and trained on.
        ingest_cpu_s, retrain_cpu_s: Processor time of both.
        daily_cpu_s: Of a retrain when another day has passed, which finds all folds but the newest.
        database_bytes: DuckDB file with this market alone, less the empty file.
    """

    bars: int
    ingest_cpu_s: float
    retrain_cpu_s: float
    daily_cpu_s: float
    database_bytes: int


def size(sample: Sample, markets: int, market: Market, years: float) -> dict[str, float]:
    """Return what so many markets need; everything but the first line of `Sample` grows with bars and markets.

    Args:
        sample: What was measured.
        markets: How many.
        market: Their interval.
        years: History of each.
    """
    bars = years * market.bars_per_year
    requests = math.ceil(bars / WINDOW_BARS) + 2
    requests += math.ceil(bars * market.interval_ms / FUNDING_STEP_MS / FUNDING_ROWS)
    scale = bars / sample.bars * markets
    retrain_h, daily_h = (seconds * scale / 3_600 for seconds in (sample.retrain_cpu_s, sample.daily_cpu_s))
    return {
        "first ingest, requests": requests * markets,
        "first ingest, minutes at 60 requests/s": requests * markets / BYBIT_PER_S / 60,
        "first ingest, CPU minutes": sample.ingest_cpu_s * scale / 60,
        "each new bar, requests": POLL_REQUESTS * markets,
        "each new bar, seconds at 60 requests/s": POLL_REQUESTS * markets / BYBIT_PER_S,
        "DuckDB, GB": sample.database_bytes * scale / 1e9,
        "first retrain of all, CPU hours": retrain_h,
        "daily retrain of all, CPU hours": daily_h,
        "workers (1 core each) for a daily retrain of all within 4 hours": math.ceil(daily_h / 4),
    }


def measure(bars: int) -> Sample:
    """Ingest and retrain a synthetic market of that many bars in a home of its own."""
    market, exchange = Market(), ExchangeConfig(synthetic=SyntheticMarket(bars=bars))
    with tempfile.TemporaryDirectory(prefix="dsc-sizing-") as home, ExitStack() as stack:
        os.environ["DSC_HOME"] = home
        os.environ.pop("DSC_ARTIFACT_URL", None)
        stack.enter_context(server_at_hand(Settings.from_environment().prepare_home()))
        began = _cpu_s()
        ingest(market=market, exchange=exchange)
        ingested = _cpu_s()
        database = Settings.from_environment().database.stat().st_size
        retrain(market=market, exchange=exchange)
        trained = _cpu_s()
        later = ExchangeConfig(synthetic=SyntheticMarket(bars=bars + DAY_MS // market.interval_ms))
        ingest(market=market, exchange=later)
        next_day = _cpu_s()
        retrain(market=market, exchange=later)
        return Sample(
            bars=bars,
            ingest_cpu_s=ingested - began,
            retrain_cpu_s=trained - ingested,
            daily_cpu_s=_cpu_s() - next_day,
            database_bytes=database - _empty_database(Path(home)),
        )


def _empty_database(home: Path) -> int:
    from storage.database import Database

    path = home / "empty.duckdb"
    with Database(path).writing():
        pass
    return path.stat().st_size


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def sizing(*, bars: int = 60_000, years: float = 3.0, interval: Interval = "5") -> None:
    """Measure one synthetic market here, and print what 1, 20 and 500 of the interval need.

    Args:
        bars: Of the market that is measured.
        years: History of each market that is extrapolated to.
        interval: Bar length of each, Bybit's code.
    """
    sample = measure(bars)
    columns = [size(sample, markets, Market(interval=interval), years) for markets in (1, 20, 500)]
    print(f"measured: {sample}")
    print(f"{f'{years:g} years of {interval}-minute bars, markets:':<64} {1:>9} {20:>9} {500:>9}")
    for name in columns[0]:
        print(f"{name:<64} " + " ".join(f"{column[name]:>9,.{_digits(column[name])}f}" for column in columns))


def _digits(value: float) -> int:
    return 0 if value >= 100 or value == int(value) else 2


if __name__ == "__main__":
    app = cyclopts.App(result_action="return_value")
    app.default(sizing)
    app()
