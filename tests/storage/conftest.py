"""Small markets and every kind of store for the storage room's tests."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from storage.artifacts import ArtifactStore
from storage.schema import CANDLE_COLUMNS, DAY_MS, Candles, Market

START_MS = 20_089 * DAY_MS  # 2025-01-01
STORES = ["disk", "memory", *(["s3"] if find_spec("s3fs") and find_spec("moto") else [])]


def make_candles(bars: int, *, first_ms: int = START_MS, step: int = 300_000, seed: int = 1) -> Candles:
    """A random walk that keeps the candle contract; turnover is unknown in every third bar."""
    rng = np.random.default_rng(seed)
    open_, close = 100.0 + rng.random((2, bars))
    volume = rng.random(bars) * 10
    return Candles(
        start_ms=first_ms + np.arange(bars, dtype=np.int64) * step,
        open=open_,
        high=np.maximum(open_, close) + rng.random(bars),
        low=np.minimum(open_, close) - rng.random(bars),
        close=close,
        volume=volume,
        turnover=np.where(np.arange(bars) % 3 == 2, np.nan, volume * close),
    )


def equal(one: Candles, other: Candles) -> bool:
    """Whether two sets of candles are equal bit for bit, NaN for NaN."""
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name == "turnover")
        for name in ("start_ms", *CANDLE_COLUMNS)
    )


@pytest.fixture(name="make_candles", scope="session")
def make_candles_fixture():
    return make_candles


@pytest.fixture(name="equal", scope="session")
def equal_fixture():
    return equal


@pytest.fixture(scope="session")
def market() -> Market:
    """BTCUSDT on five minutes."""
    return Market(symbol="BTCUSDT", category="linear", interval="5")


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "models")
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("s3_bucket")
    return f"{base}{tmp_path}"


@pytest.fixture
def store(url: str) -> ArtifactStore:
    return ArtifactStore(url)
