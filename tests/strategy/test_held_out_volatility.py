"""Risk of markets that a network never saw: rated beside rivals that never saw them either."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.results import ResultStore
from storage.schema import DatasetRef, FloatArray
from tasks.execution.vol_skill import VarianceForecast
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.network.vol_baselines import EWMA, HAR
from tasks.strategy import fold_training
from tasks.strategy.folds import FoldResult
from tasks.strategy.held_out_volatility import held_out_key, with_held_out
from tasks.strategy.leave_one_out import HeldOutMarket, held_out_markets
from tasks.strategy.pool import pooled_bars
from tasks.strategy.recipe import Recipe
from tasks.strategy.risk_rivals import RIVALS, rivals_of_market, rivals_of_pool
from tasks.strategy.samples import fold_bars, load_samples
from tasks.strategy.vol_forecast import NETWORK, VolForecastRecord, record_vol_forecasts
from tasks.strategy.vol_forecast_rule import VolForecastRule
from tasks.strategy.vol_windows import bars_to_learn_from, vol_windows
from tests.strategy.stored_candles import stored

BARS, HORIZON = 25 * 288, 24
OLD = ("ADAUSDT", "BTCUSDT", "SOLUSDT")
RECIPE = Recipe(
    folds=FoldConfig(folds=2),
    network=DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True, risk_head=True),
    fit=FitConfig(epochs=1, distil=0.0),
    risk=VolForecastRule(hours=2.0),
)


def candles(seed: int) -> FloatArray:
    """Return a market whose volatility comes and goes."""
    return generate(SyntheticMarket(kind="null", bars=BARS, tau=0.1, seed=seed)).matrix()


@pytest.fixture
def old_ones(tmp_path: Path) -> list[DatasetRef]:
    return [stored(tmp_path, candles(number), symbol) for number, symbol in enumerate(OLD)]


def forecast(place: Path, asked: DatasetRef, pool: list[DatasetRef]) -> dict[str, VarianceForecast]:
    recipe = RECIPE.pooled_on(pool)
    return rivals_of_pool(place, load_samples(place, asked, recipe), recipe)


def test_rivals_of_a_pool_of_one_market_are_that_market_s(tmp_path: Path, old_ones: list[DatasetRef]) -> None:
    recipe = RECIPE.pooled_on(old_ones[:1])
    samples = load_samples(tmp_path, old_ones[0], recipe)
    own = rivals_of_market(samples, recipe, vol_windows(samples.dataset, HORIZON), samples.folds[-1])
    pooled = rivals_of_pool(tmp_path, samples, recipe)
    assert list(pooled) == list(own) == [*RIVALS]
    for name in (EWMA, HAR):  # trees read inputs that are cut off at another bound
        np.testing.assert_allclose(pooled[name].mean, own[name].mean, rtol=1e-9)
        np.testing.assert_allclose(pooled[name].log, own[name].log, rtol=1e-9)


def test_rivals_are_set_right_by_what_they_missed_in_the_pool(tmp_path: Path, old_ones: list[DatasetRef]) -> None:
    recipe = RECIPE.pooled_on(old_ones[1:])
    said = forecast(tmp_path, old_ones[0], old_ones[1:])
    asked, *pool = (load_samples(tmp_path, data, recipe) for data in old_ones)
    missed = []
    for one in pool:
        bars = bars_to_learn_from(one.folds[-1], recipe.labels.horizon + 1, HORIZON)
        missed.append(vol_windows(one.dataset, HORIZON).log_ratio[bars])
    factor = np.nanmean(np.exp(np.concatenate(missed)))
    present = HORIZON * asked.dataset.vol[asked.folds[-1].test.rows] ** 2
    np.testing.assert_allclose(said[EWMA].mean, factor * present, rtol=1e-9)


@pytest.mark.promise(12)
def test_rivals_read_no_hour_of_the_test_in_any_market(tmp_path: Path, old_ones: list[DatasetRef]) -> None:
    before = forecast(tmp_path, old_ones[0], old_ones[1:])
    samples = load_samples(tmp_path, old_ones[0], RECIPE.pooled_on(old_ones[1:]))
    test_ms = samples.dataset.candles.start_ms[samples.folds[-1].test.start]
    changed = []
    for number, symbol in enumerate(OLD):
        other = candles(number)
        late = other[:, 0] >= test_ms + (BARS // 20) * 300_000 * (number == 0)  # of its own, what comes after some bars
        other[late, 1:5] *= np.exp(0.01 * np.random.default_rng(number).normal(size=(late.sum(), 1)))
        other[:, 2], other[:, 3] = other[:, 1:5].max(axis=1), other[:, 1:5].min(axis=1)
        changed.append(stored(tmp_path, other, symbol))
    after = forecast(tmp_path, changed[0], changed[1:])
    rows = slice(0, BARS // 20)
    for name in RIVALS:
        np.testing.assert_array_equal(after[name].mean[rows], before[name].mean[rows], err_msg=name)
        assert not np.array_equal(after[name].mean, before[name].mean)


@pytest.mark.promise(12)
def test_listing_is_rated_by_every_market_that_a_network_never_saw(tmp_path: Path, old_ones: list[DatasetRef]) -> None:
    listing = stored(tmp_path, candles(9)[BARS - 2_600 :], "NEWUSDT")
    recipe, work = RECIPE.pooled_on(old_ones), ResultStore(tmp_path / "work")

    def said(data: DatasetRef, by: Recipe) -> FoldResult:
        samples = load_samples(tmp_path, data, by)
        network = fold_training.train(pooled_bars(tmp_path, by, samples.folds[-1].index), by)
        return fold_training.of_market(network, fold_bars(samples, by, len(samples.folds) - 1), by)

    asked: list[HeldOutMarket] = []
    for one in held_out_markets(tmp_path, listing, recipe):
        key = f"fold-{one.data.market.symbol}"
        work.save(key, said(one.data, one.recipe))
        asked.append(replace(one, fold=key))
    samples = load_samples(tmp_path, listing, recipe)
    own = record_vol_forecasts(samples, recipe, [said(listing, recipe)], rivals_of_pool(tmp_path, samples, recipe))
    assert [score.name for score in VolForecastRecord.of(own).scores] == [NETWORK, *RIVALS]
    assert b"held_out" not in own["risk.json"]

    files = with_held_out(work, tmp_path, own, asked)
    record = VolForecastRecord.of(files)
    assert sorted(record.held_out) == [*OLD]
    assert replace(record, held_out={}) == VolForecastRecord.of(own)
    assert files["risk.parquet"] == own["risk.parquet"]
    for symbol, its in record.held_out.items():
        test = next(load_samples(tmp_path, one.data, one.recipe).folds[-1].test for one in asked
                    if one.data.market.symbol == symbol)  # fmt: skip
        assert its.windows == pytest.approx((len(test) - HORIZON) / HORIZON)
        assert [score.name for score in its.scores] == [NETWORK, *RIVALS]
    assert held_out_key("own", asked) != held_out_key("own", asked[:2])
