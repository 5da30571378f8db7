"""What a retrain of a long history holds in memory before it trains: `python -m tests.benchmarks.memory`.

One process stores a synthetic market. Another, which has loaded all that a retrain loads, makes its dataset, takes note
of its quality and divides it into samples, as the tasks of a retrain do before the first network is trained.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile

import cyclopts

from storage.schema import Market, Source
from tests.storage.stored import commit_window

SOURCE, MARKET = Source("sandbox:0123abcd"), Market(interval="1")
HISTORY = 1_500_000
"""Bars: nearly three years of minutes."""


def store(bars: int) -> None:
    """Store a synthetic market of one-minute bars."""
    from storage.candles import CandleStore
    from storage.schema import Window
    from storage.settings import Settings
    from tasks.market.synthetic import SyntheticMarket, generate

    settings = Settings.from_environment()
    settings.prepare_home()
    candles = generate(SyntheticMarket(bars=bars, interval_ms=MARKET.interval_ms))
    window = Window(first_ms=int(candles.start_ms[0]), last_ms=int(candles.start_ms[-1]))
    now_ms = window.last_ms + MARKET.interval_ms
    commit_window(CandleStore(settings.database), SOURCE, MARKET, window, candles, (), now_ms)


def prepare() -> None:
    """Make a dataset of what is stored and samples of that, and print the peak so far, MB, after each step."""
    import flows.retrain  # noqa: F401  # all that a retrain loads
    from storage.candles import CandleStore
    from storage.settings import Settings
    from storage.snapshots import load_dataset
    from tasks.ingestion.bar_range import BarRange
    from tasks.ingestion.dataset import make_dataset
    from tasks.ingestion.quality import QualityConfig, stored_quality
    from tasks.strategy.recipe import Recipe
    from tasks.strategy.samples import load_samples

    settings = Settings.from_environment()
    candles = CandleStore(settings.database)
    print(f"imports {peak_mb():,.0f}")
    data = make_dataset(candles, settings.datasets, SOURCE, MARKET, BarRange(), QualityConfig())[0]
    print(f"dataset {peak_mb():,.0f}")
    stored_quality(candles, SOURCE, MARKET, load_dataset(settings.datasets, data).candles)
    print(f"quality {peak_mb():,.0f}")
    load_samples(settings.datasets, data, Recipe())
    print(f"samples {peak_mb():,.0f}")


def peak_mb() -> float:
    """Return the most memory that this process has held so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


def memory(*, bars: int = HISTORY) -> None:
    """Store a synthetic market, and print the peak of each step that comes before its training.

    Args:
        bars: How many one-minute candles it has.
    """
    with tempfile.TemporaryDirectory(prefix="dsc-memory-") as home:
        for call in (f"store({bars})", "prepare()"):
            code = f"from tests.benchmarks import memory; memory.{call}"
            subprocess.run([sys.executable, "-c", code], env=os.environ | {"DSC_HOME": home}, check=True)  # noqa: S603


if __name__ == "__main__":
    app = cyclopts.App(result_action="return_value")
    app.default(memory)
    app()
