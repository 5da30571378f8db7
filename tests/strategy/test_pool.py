"""A pool: many markets, one network; hours that are to be forecast are read in no market."""

from dataclasses import replace

import numpy as np
import pytest

from storage.schema import FEATURES, ConfigError, DatasetError, LeakError
from tasks.execution.backtest import require_unseen
from tasks.market.labels import UNKNOWN
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.dsc import load_model
from tasks.network.fit import predict_series
from tasks.network.fit_config import FitConfig
from tasks.network.folding import load_weights
from tasks.network.segments import stream_of
from tasks.strategy import fold_training, pool
from tasks.strategy import samples as samples_room
from tasks.strategy.pool import pooled_bars, with_pool_passes
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import fold_bars, load_samples, pool_member
from tests.strategy.stored_candles import stored

DAY, BARS = 288, 25 * 288
LONG, OTHER, YOUNG = "BTCUSDT", "ADAUSDT", "SOLUSDT"
AGE = {LONG: 0, OTHER: 0, YOUNG: 9 * DAY}  # bars that the market is younger
RECIPE = Recipe(
    folds=FoldConfig(folds=3),
    network=DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True),
    fit=FitConfig(epochs=1),
)


def candles_of(symbol: str) -> np.ndarray:
    return generate(SyntheticMarket(bars=BARS, seed=[*AGE].index(symbol))).matrix()[AGE[symbol] :]


@pytest.fixture
def stored_pool(tmp_path):
    """Return a pool's recipe and its datasets by symbol, of the candles as they are or as `change` makes them."""

    def made(change=lambda symbol, candles: None):
        data = {}
        for symbol in AGE:
            candles = candles_of(symbol)
            change(symbol, candles)
            data[symbol] = stored(tmp_path, candles, symbol)
        return RECIPE.pooled_on([*data.values()]), data

    return made


@pytest.mark.promise(6)
@pytest.mark.parametrize("number", range(4))
def test_every_market_is_cut_at_the_same_hours_whatever_its_age(stored_pool, tmp_path, number):
    recipe, data = stored_pool()
    bars = pooled_bars(tmp_path, recipe, number)
    labelled = np.flatnonzero(bars.series.labels != UNKNOWN)
    times = bars.series.times
    learned, checked = labelled[labelled < bars.train[1]], labelled[labelled >= bars.validation[0]]
    span = RECIPE.labels.horizon + 1
    assert times[learned].max() + span < times[checked].min()
    for ref in data.values():
        samples = pool_member(tmp_path, ref, recipe)
        start_ms, bar = samples.dataset.candles.start_ms, ref.market.interval_ms
        if number < RECIPE.folds.folds:  # the refit is not judged, and its newest labels are not known
            assert samples.known_until_ms[number] == times[checked].max() * bar
            assert times[checked].max() + span < start_ms[samples.folds[number].test.start] // bar


@pytest.mark.promise(6)
@pytest.mark.promise(12)
def test_hours_of_the_test_are_read_in_no_market_by_what_the_network_is_made_from(stored_pool, tmp_path):
    recipe, data = stored_pool()
    samples = load_samples(tmp_path, data[LONG], recipe)
    before = [pooled_bars(tmp_path, recipe, number).digest for number in range(3)]
    test_ms = samples.dataset.candles.start_ms[samples.folds[1].test.start]

    def change(symbol, candles):
        candles[candles[:, 0] >= test_ms, 1:5] *= 1.01
        candles[candles[:, 0] >= test_ms, 5] *= 3.0

    changed, _ = stored_pool(change)
    after = [pooled_bars(tmp_path, changed, number).digest for number in range(3)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False]


@pytest.mark.promise(6)
def test_market_that_was_delisted_teaches_as_long_as_it_traded(stored_pool, tmp_path):
    recipe, data = stored_pool()
    samples = load_samples(tmp_path, data[LONG], recipe)
    newest, start_ms = samples.folds[-1], samples.dataset.candles.start_ms
    gone = stored(tmp_path, candles_of(OTHER)[: newest.validation.start], "GONEUSDT")
    left = [ref for symbol, ref in data.items() if symbol != OTHER]
    one, without = (pooled_bars(tmp_path, RECIPE.pooled_on(refs), 2) for refs in ([*left, gone], left))
    hours = start_ms[newest.train.rows] // samples.dataset.market.interval_ms
    taught = (np.isin(bars.series.times[: bars.train[1]], hours).sum() for bars in (one, without))
    assert next(taught) - next(taught) == len(hours)


def test_market_that_is_unlike_the_others_teaches_nobody(stored_pool, tmp_path, monkeypatch):
    recipe, data = stored_pool()
    alone = pooled_bars(tmp_path, recipe.pooled_on([data[LONG], data[YOUNG]]), 2)
    monkeypatch.setattr(pool, "alike", lambda *given: np.array([False, True, True]))  # the first is OTHER
    without = pooled_bars(tmp_path, recipe, 2)
    assert without.odd == (OTHER,)
    assert without.digest == alone.digest


@pytest.mark.parametrize(("away", "odd"), [(0.1, (OTHER,)), (0.0, ())])
def test_market_of_prints_that_return_at_once_teaches_nobody(stored_pool, tmp_path, away, odd):
    def change(symbol, candles):
        if symbol == OTHER:
            rng = np.random.default_rng(5)
            hit = np.flatnonzero(rng.random(len(candles) - 1) < 0.01)
            by = np.exp(rng.choice([-away, away], len(hit)))
            candles[hit, 4] *= by
            candles[hit + 1, 1] *= by
            candles[:, 2] = candles[:, 1:5].max(axis=1)
            candles[:, 3] = candles[:, 1:5].min(axis=1)

    recipe, _ = stored_pool(change)
    assert pooled_bars(tmp_path, recipe, 2).odd == odd


@pytest.mark.promise(19)
def test_pool_of_more_bars_than_memory_is_reckoned_with_is_refused_before_they_are_read(
    stored_pool, tmp_path, monkeypatch
):
    recipe, data = stored_pool()
    held = sum(BARS - age for age in AGE.values())
    monkeypatch.setattr(samples_room, "MOST_POOLED_BARS", held)
    pooled_bars(tmp_path, recipe, 2)
    monkeypatch.setattr(samples_room, "MOST_POOLED_BARS", held - 1)
    said = rf"a pool may have {held - 1:,} bars of all markets together, 3 markets have {held:,}; name fewer"
    for asks in (lambda: pooled_bars(tmp_path, recipe, 2), lambda: load_samples(tmp_path, data[LONG], recipe)):
        with pytest.raises(DatasetError, match=said):
            asks()


@pytest.mark.promise(6)
def test_markets_that_are_cut_each_by_its_own_share_are_refused(stored_pool, tmp_path, monkeypatch):
    recipe, _ = stored_pool()
    # The planted fault: a third of a young market's bars ago is another hour than of an old one's.
    monkeypatch.setattr(pool, "pool_member", lambda *given: load_samples(*given[:2], RECIPE))
    with pytest.raises(LeakError, match=r"a training label reads up to bar .* in another market; cut all markets"):
        pooled_bars(tmp_path, recipe, 2)


def test_no_sample_is_lost_where_markets_meet_and_none_reads_across(stored_pool, tmp_path):
    recipe, data = stored_pool()
    bars, context = pooled_bars(tmp_path, recipe, 1), RECIPE.network_config.context
    for span, name in ((bars.train, "train"), (bars.validation, "validation")):
        alone = []
        for ref in sorted(data.values(), key=lambda ref: ref.market.symbol):
            samples = pool_member(tmp_path, ref, recipe)
            own = fold_bars(samples, recipe, 1)
            stream = stream_of(own.series, getattr(own, name), context)
            alone.append((stream.features, stream.labels))
        joined = stream_of(bars.series, span, context)
        windows = [_windows(*one, context) for one in alone]
        np.testing.assert_array_equal(_windows(joined.features, joined.labels, context), np.concatenate(windows))


def _windows(features, labels, context):
    at = np.flatnonzero(labels.numpy() != UNKNOWN)
    return features.numpy()[at[:, None] + np.arange(1 - context, 1)]


def test_every_market_counts_alike_as_far_as_a_young_ones_bars_allow(stored_pool, tmp_path):
    recipe, _ = stored_pool()
    bars = pooled_bars(tmp_path, recipe, 2)
    times = bars.series.times[slice(*bars.train)]
    market = np.cumsum(np.diff(times, prepend=times[0]) < 0)  # time starts anew where the next market begins
    sums = np.bincount(market, bars.series.weights[slice(*bars.train)])
    assert len(sums) == 3
    np.testing.assert_allclose(sums, sums[0], rtol=1e-12)
    few = pooled_bars(tmp_path, recipe, 0)  # of the young market hardly a day
    weights = few.series.weights[: few.train[1]]
    assert weights.max() == pool._MOST


def test_the_scale_is_that_of_the_market_in_the_middle_whatever_an_absurd_one_holds(stored_pool, tmp_path):
    def change(symbol, candles):
        if symbol == OTHER:  # bars twenty times as wide as the market moves
            candles[:, 2] *= 1.02
            candles[:, 3] *= 0.98

    place = FEATURES.index("range")
    _, scale = pooled_bars(tmp_path, stored_pool()[0], 1).series.scaling
    _, poisoned = pooled_bars(tmp_path, stored_pool(change)[0], 1).series.scaling
    assert scale[place] == pytest.approx(poisoned[place], rel=0.5)


@pytest.mark.promise(12)
def test_a_market_is_judged_after_the_last_bar_that_any_market_was_learned_from(stored_pool, tmp_path):
    # A market whose own bars end a day before the validation does still has that day known, from the others.
    recipe, data = stored_pool()
    samples = load_samples(tmp_path, data[LONG], recipe)
    (*_, newest) = samples.folds
    end = samples.training_end(newest)
    start_ms = samples.dataset.candles.start_ms
    assert end["trained_until_ms"] == start_ms[newest.validation.stop - 1]
    require_unseen(int(start_ms[newest.test.start]), **end)
    with pytest.raises(LeakError):
        require_unseen(int(start_ms[newest.test.start - 1]), **end)


def test_each_market_has_the_pools_weights_and_its_own_predictions_and_prior(stored_pool, tmp_path):
    recipe, data = stored_pool()
    trained = fold_training.train(pooled_bars(tmp_path, recipe, 1), recipe)
    assert trained.probabilities.shape == (0, 3)
    found = []
    for symbol in (LONG, OTHER):
        samples = load_samples(tmp_path, data[symbol], recipe)
        result = fold_training.of_market(trained, fold_bars(samples, recipe, 1), recipe)
        model, dataset = load_model(recipe.network_config, load_weights(trained.weights)), samples.dataset
        whole = predict_series(model, dataset.features, dataset.segment)[samples.folds[1].predicted.rows]
        np.testing.assert_allclose(result.probabilities, whole, rtol=0, atol=1e-6)
        assert result.weights == trained.weights
        found.append(result)
    assert not np.array_equal(found[0].prior, found[1].prior)


@pytest.mark.promise(12)
def test_a_young_market_outside_the_pool_has_the_folds_that_its_own_bars_reach(stored_pool, tmp_path):
    recipe, data = stored_pool()
    new = stored(tmp_path, candles_of(YOUNG)[2 * DAY :], "NEWUSDT")
    old, young = (load_samples(tmp_path, ref, recipe) for ref in (data[LONG], new))
    assert [fold.index for fold in old.folds] == [0, 1, 2]
    assert [fold.index for fold in young.folds] == [1, 2]
    assert young.training_end(young.folds[-1]) == old.training_end(old.folds[-1])


def test_a_market_too_young_to_be_judged_by_is_refused(stored_pool, tmp_path):
    recipe, _ = stored_pool()
    new = stored(tmp_path, generate(SyntheticMarket(bars=BARS)).matrix()[-2_300:], "NEWUSDT")
    with pytest.raises(DatasetError, match=r"by the dates of its pool test of fold 3 would hold 2.. bars, needs 360"):
        load_samples(tmp_path, new, recipe)


@pytest.mark.parametrize(("markets", "passes"), [(0, 9), (1, 9), (2, 7), (4, 5), (9, 3)])
def test_a_bar_is_passed_over_less_often_the_more_markets_there_are(markets, passes):
    recipe = replace(RECIPE, fit=FitConfig(epochs=9), pool=("BTCUSDT:0",) * markets)
    assert with_pool_passes(recipe).fit_config.epochs == passes


def test_a_pool_is_of_datasets_of_one_source_and_interval(stored_pool, tmp_path):
    recipe, data = stored_pool()
    with pytest.raises(ConfigError, match="every market of a pool must have its dataset, SOLUSDT had none"):
        load_samples(tmp_path, data[LONG], replace(recipe, pool=(*recipe.pool[:2], "SOLUSDT")))
