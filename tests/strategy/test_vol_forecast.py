"""What is recorded of forecast volatility: from bars that it may know, of windows that nobody learned from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.schema import FEATURES, ConfigError, FloatArray
from storage.tables import read_columns
from tasks.execution.decision import DecisionConfig
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import Fold, FoldConfig, Span
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.strategy.backtest_record import backtest_files
from tasks.strategy.fold_training import train
from tasks.strategy.folds import FoldResult
from tasks.strategy.out_of_sample import evaluate_folds
from tasks.strategy.pool import pooled_bars
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import Samples, fold_bars, load_samples
from tasks.strategy.vol_forecast import VolForecastRecord, rate_again, record_vol_forecasts
from tasks.strategy.vol_forecast_rule import VolForecastRule
from tasks.strategy.vol_windows import bars_to_learn_from, vol_windows
from tests.strategy.stored_candles import stored

NETWORK = DSCConfig(
    input_features=len(FEATURES), hidden_channels=8, num_blocks=1, window=4, newest_step=True, linear_bypass=True,
    risk_head=True,
)  # fmt: skip
RECIPE = Recipe(
    network=NETWORK,
    fit=FitConfig(epochs=1, distil=0.0),
    folds=FoldConfig(folds=2, cut="shares"),
    risk=VolForecastRule(hours=2.0),
)
LAW = SyntheticMarket(kind="null", bars=9_000, tau=0.1)


def samples_of(place: Path, candles: FloatArray, recipe: Recipe = RECIPE) -> Samples:
    return load_samples(place, stored(place, candles), recipe)


def trained(samples: Samples, recipe: Recipe = RECIPE) -> list[FoldResult]:
    results = [train(fold_bars(samples, recipe, index), recipe) for index in range(len(samples.folds))]
    return [result.judged(fold) for result, fold in zip(results, samples.folds, strict=True)]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return samples_of(tmp_path_factory.mktemp("risk"), generate(LAW).matrix())


@pytest.fixture(scope="module")
def folds(samples: Samples) -> list[FoldResult]:
    return trained(samples)


def fold(train: tuple[int, int], validation: tuple[int, int]) -> Fold:
    spans = [Span(start=start, stop=stop) for start, stop in (train, validation)]
    test = Span(start=400, stop=500)
    return Fold(index=0, train=spans[0], validation=spans[1], test=test, predicted=test)


@pytest.mark.promise(6)
@pytest.mark.promise(12)
@pytest.mark.parametrize(("horizon", "last"), [(1, 299), (13, 299), (14, 298), (24, 288), (110, 199), (288, 24)])
def test_windows_that_are_learned_from_end_where_the_labels_of_validation_do(horizon: int, last: int) -> None:
    bars = bars_to_learn_from(fold((20, 200), (213, 300)), 13, horizon)
    assert (bars[0], bars[-1]) == (20, last)
    assert bars[-1] + horizon <= 299 + 13


def test_no_bar_is_learned_from_where_the_horizon_outlasts_training() -> None:
    assert len(bars_to_learn_from(fold((20, 200), (213, 300)), 13, 1_000)) == 0


def test_record_names_everybody_on_the_same_windows_and_the_head_beats_present_volatility(
    samples: Samples, folds: list[FoldResult]
) -> None:
    files = record_vol_forecasts(samples, RECIPE, folds)
    record = VolForecastRecord.of(files)
    assert [score.name for score in record.scores] == ["this model", "EWMA-100", "HAR", "LightGBM"]
    tested = sum(len(one.probabilities) for one in folds)
    assert record.windows == pytest.approx((tested - 24) / 24)
    ewma = record.named("EWMA-100")
    assert ewma is not None
    assert ewma.p_value is not None
    assert ewma.p_value < 0.05
    columns = read_columns(files["risk.parquet"])
    everybody = [score.name for score in record.scores]
    assert list(columns) == ["start_ms", "realised", *everybody, *(f"{name}: ln RV" for name in everybody)]
    assert len(columns["start_ms"]) == tested


def test_risk_of_positions_sized_by_the_head_is_steadier_than_of_one_size(
    samples: Samples, folds: list[FoldResult]
) -> None:
    files = record_vol_forecasts(samples, RECIPE, folds)
    record, columns = VolForecastRecord.of(files), read_columns(files["risk.parquet"])
    known = np.isfinite([columns["realised"], columns["this model"]]).all(axis=0)  # unseen bars alone are in the file
    fixed, sized = np.sqrt(columns["realised"][known]), np.sqrt(columns["realised"] / columns["this model"])[known]
    beyond = [np.mean(risk > 1.5 * np.exp(np.log(risk).mean())) for risk in (fixed, sized)]
    assert record.steadiness == pytest.approx(tuple(beyond), rel=1e-12)
    assert beyond[0] > beyond[1]


def test_stored_forecasts_are_rated_again_as_they_were(samples: Samples, folds: list[FoldResult]) -> None:
    files = record_vol_forecasts(samples, RECIPE, folds)
    again = rate_again(samples, RECIPE, folds, files["risk.parquet"])
    assert again == VolForecastRecord.of(files)
    surer = [replace(one, log_variance_ratio=one.log_variance_ratio - 0.1) for one in folds]
    other = rate_again(samples, RECIPE, surer, files["risk.parquet"])
    assert [one.qlike == two.qlike for one, two in zip(other.scores, again.scores, strict=True)] == [False] + [True] * 3


def test_forecast_on_record_is_the_heads_over_the_horizon(samples: Samples, folds: list[FoldResult]) -> None:
    columns = read_columns(record_vol_forecasts(samples, RECIPE, folds)["risk.parquet"])
    rows = slice(samples.folds[0].test.start, samples.folds[-1].test.stop)
    ratio = np.exp(np.concatenate([one.log_variance_ratio for one in folds]))
    np.testing.assert_allclose(columns["this model"], 24 * samples.dataset.vol[rows] ** 2 * ratio, rtol=1e-9)


@pytest.mark.promise(12)
def test_nobody_learns_anything_of_the_test(samples: Samples, folds: list[FoldResult], tmp_path: Path) -> None:
    newest = samples.folds[-1].test
    candles = generate(LAW).matrix()
    candles[newest.start :, 1:5] *= 3.0
    jumped = samples_of(tmp_path, candles)
    (*_, before), (*_, after) = folds, trained(jumped)
    assert before.weights == after.weights
    assert before.risk == after.risk
    # A rival that had learned of the jump would say something else of the bars before it.
    said = [
        read_columns(record_vol_forecasts(one, RECIPE, results)["risk.parquet"])
        for one, results in ((samples, folds), (jumped, [*folds[:-1], after]))
    ]
    older = slice(len(samples.folds[0].test))
    for name in ("this model", "EWMA-100", "HAR", "LightGBM"):
        np.testing.assert_array_equal(said[0][name][older], said[1][name][older], err_msg=name)


@pytest.mark.promise(6)
def test_a_pool_learns_from_every_market_s_windows_and_from_none_that_reaches_beyond(tmp_path: Path) -> None:
    data = [
        stored(tmp_path, generate(replace(LAW, seed=seed)).matrix(), symbol)
        for seed, symbol in enumerate(("BTCUSDT", "SOLUSDT"))
    ]
    recipe = replace(RECIPE, risk=VolForecastRule(hours=6.0)).pooled_on(data)
    own = [fold_bars(load_samples(tmp_path, one, recipe), recipe, 0).log_ratio for one in data]
    together = pooled_bars(tmp_path, recipe, 0)
    assert len(together.log_ratio) == len(together.series.labels)
    known = [np.sort(one[np.isfinite(one)]) for one in (together.log_ratio, np.concatenate(own))]
    np.testing.assert_array_equal(*known)


def test_version_without_a_head_and_one_with_too_few_windows_are_not_measured(samples: Samples) -> None:
    for recipe in (
        replace(RECIPE, network=replace(NETWORK, risk_head=False)),
        replace(RECIPE, risk=VolForecastRule(hours=24.0)),  # 288 bars: 18 windows to learn from
    ):
        assert VolForecastRecord.of(record_vol_forecasts(samples, recipe, trained(samples, recipe))).scores == ()


@pytest.mark.promise(12)
def test_backtest_opens_what_each_fold_s_own_network_forecasts_and_fixed_sizing_is_as_if_none_did(
    samples: Samples, folds: list[FoldResult]
) -> None:
    rule = DecisionConfig(rule="argmax", sizing="volatility", target_vol=0.3)
    sized, fixed, deaf = (
        evaluate_folds(samples, replace(RECIPE, decision=replace(rule, sizing=sizing)), results)
        for sizing, results in (
            ("volatility", folds),
            ("fixed", folds),
            ("fixed", [replace(one, log_variance_ratio=one.log_variance_ratio * np.nan) for one in folds]),
        )
    )
    np.testing.assert_array_equal(fixed.money.model.result.equity, deaf.money.model.result.equity)
    assert fixed.decided.share is None
    assert "share" not in read_columns(backtest_files(fixed)["predictions.parquet"])
    vol, ratio = samples.dataset.vol[sized.unseen.rows], np.concatenate([one.log_variance_ratio for one in folds])
    yearly = vol * np.exp(ratio / 2) * np.sqrt(samples.dataset.ref.market.bars_per_year)
    np.testing.assert_allclose(sized.decided.share, np.minimum(1.0, 0.3 / yearly), rtol=1e-12)
    np.testing.assert_array_equal(sized.decided.target, fixed.decided.target)
    result = sized.money.model.result
    turns = np.flatnonzero(np.diff(sized.decided.target)) + 1
    opened = turns[(sized.decided.target[turns] != 0) & (turns + 1 < len(result.target) - 1)]
    first, jump = result.bars.open[opened + 1], result.bars.open[opened + 1] - result.bars.close[opened]
    usual = 0.95 * (result.equity[opened + 1] + result.quantity[opened] * jump)
    worth = np.abs(result.quantity[opened + 1]) * first
    np.testing.assert_allclose(worth / usual, sized.decided.share[opened], rtol=1e-9)
    assert len(opened) > 20
    stored = read_columns(backtest_files(sized)["predictions.parquet"])
    np.testing.assert_array_equal(stored["share"], sized.decided.share)


def test_recipe_that_sizes_by_what_its_network_does_not_forecast_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="a network must forecast volatility where it sizes by it, was risk_head=False"
    ):
        replace(RECIPE, network=replace(NETWORK, risk_head=False), decision=DecisionConfig(sizing="volatility"))


def test_fold_comes_back_from_its_files_with_its_head(folds: list[FoldResult]) -> None:
    again = FoldResult.of(folds[0].files())
    assert again.risk == folds[0].risk
    np.testing.assert_array_equal(again.log_variance_ratio, folds[0].log_variance_ratio)


def test_flat_market_and_gaps_have_no_window(samples: Samples) -> None:
    dataset = samples.dataset
    vol = dataset.vol.copy()
    vol[5_000] = 0.0
    segment = dataset.segment.copy()
    segment[6_000:] += 1
    windows = vol_windows(replace(dataset, vol=vol, segment=segment), 24)
    assert np.isnan(windows.log_ratio[5_000])
    assert np.isfinite(windows.log_ratio[5_001])
    assert np.isnan(windows.log_variance[5_976:6_000]).all()
    assert np.isfinite(windows.log_variance[[5_975, 6_000]]).all()
