"""Small markets for the money room's tests."""

from collections.abc import Callable

import numpy as np
import pytest

from storage.schema import MINUTE_MS
from tasks.execution.bars import Bars

STEP_MS = 5 * MINUTE_MS


def make_bars(open_, close=None, *, gap_before=(), funding_rate=None, first_ms=0) -> Bars:
    """Five-minute bars; `close` defaults to the next open; one bar is missing before each bar in `gap_before`."""
    open_ = np.asarray(open_, float)
    close = np.append(open_[1:], open_[-1]) if close is None else np.asarray(close, float)
    slots = np.arange(len(open_)) + np.isin(np.arange(len(open_)), gap_before).cumsum()
    rate = None if funding_rate is None else np.asarray(funding_rate, float)
    return Bars(start_ms=first_ms + slots * STEP_MS, open=open_, close=close, interval_ms=STEP_MS, funding_rate=rate)


@pytest.fixture(name="make_bars", scope="session")
def make_bars_fixture() -> Callable[..., Bars]:
    return make_bars


@pytest.fixture(scope="session")
def random_market():
    """(bars, target) of a random walk whose opens differ from the closes before; targets are redrawn now and then."""

    def build(bars: int, seed: int, *, switch: float = 0.05, price: float = 30_000.0):
        rng = np.random.default_rng(seed)
        close = price * np.exp(np.cumsum(rng.normal(0.0, 2e-3, bars)))
        open_ = np.concatenate([[price], close[:-1]]) * np.exp(rng.normal(0.0, 2e-4, bars))
        fresh = rng.integers(-1, 2, bars)
        switched = np.maximum.accumulate(np.where(rng.random(bars) < switch, np.arange(bars), 0))
        return make_bars(open_, close), fresh[switched]

    return build
