"""Drift: quiet where nothing changes, however slowly a feature moves; loud where something does."""

import numpy as np
import pytest

from tasks.market.drift import measure_drift


def slow(seed: int, bars: int, memory: float = 0.99) -> np.ndarray:
    """Return (bars, 3) stationary AR(1) columns of unit variance."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((bars, 3))
    rows[1:] *= np.sqrt(1 - memory**2)
    for bar in range(1, bars):
        rows[bar] += memory * rows[bar - 1]
    return rows


def test_index_is_the_sum_by_hand():
    # A uniform training column; recent rows all in its lowest tenth: shares 1, 0 ... against 0.1 each, floor 1e-4.
    train = np.tile(np.arange(1000.0) % 100, 30)[:, None]
    recent = np.zeros((1000, 1))
    expected = (1 - 0.1) * np.log(1 / 0.1) + 9 * (1e-4 - 0.1) * np.log(1e-4 / 0.1)
    assert measure_drift(train, recent).index[0] == pytest.approx(expected, rel=1e-3)


def test_slow_features_without_change_breach_rarely_where_the_folk_limit_always_does():
    rows = slow(1, 150_000)
    train, rest = rows[:50_000], rows[50_000:]
    found = [measure_drift(train, rest[start : start + 1000]) for start in range(0, 100_000, 1000)]
    assert np.mean([drift.index.max() > 0.1 for drift in found]) > 0.9
    # 1 % by construction; 50 blocks that do not overlap say little about a 99 % quantile: 3 to 12 % were seen.
    assert np.mean([drift.breached for drift in found]) < 0.2


def test_shifted_feature_is_found_and_named():
    train, recent = slow(2, 20_000, memory=0.5), slow(3, 1000, memory=0.5)
    recent[:, 2] += 0.5
    drift = measure_drift(train, recent)
    assert drift.breached
    assert drift.feature == 2


def test_nothing_is_said_where_training_has_too_few_blocks_and_gaps_are_left_out():
    train = slow(4, 8_000)
    assert measure_drift(train[:4_000], slow(5, 1000)) is None
    assert measure_drift(train, np.full((1000, 3), np.nan)) is None
    holed = train.copy()
    holed[100:200] = np.nan
    assert np.isfinite(measure_drift(holed, slow(5, 1000)).ratio)
