"""What is asked of markets that a network never saw: it saw neither them nor the hours of their tests."""

from dataclasses import replace

import numpy as np
import pytest

from storage.results import ResultStore
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.strategy import fold_training
from tasks.strategy.leave_one_out import HeldOutMarket, evaluate_held_out, held_out_markets
from tasks.strategy.pool import bars_for_listing, pooled_bars
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import fold_bars, load_samples
from tests.strategy.stored_candles import stored

BARS = 25 * 288
OLD = ("ADAUSDT", "BTCUSDT", "SOLUSDT")
RECIPE = Recipe(
    folds=FoldConfig(folds=2),
    network=DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True),
    fit=FitConfig(epochs=1, distil=0.0),
)


def candles(seed: int, bars: int = BARS) -> np.ndarray:
    """Return the newest bars of a market that is as old as all others."""
    return generate(SyntheticMarket(bars=BARS, seed=seed)).matrix()[BARS - bars :]


@pytest.fixture
def old_ones(tmp_path):
    return [stored(tmp_path, candles(number), symbol) for number, symbol in enumerate(OLD)]


@pytest.fixture
def listing(tmp_path):
    return stored(tmp_path, candles(9, 2_600), "NEWUSDT")


def test_every_old_market_is_asked_of_a_network_of_the_others(tmp_path, old_ones, listing):
    gone = stored(tmp_path, candles(8)[:5_000], "GONEUSDT")  # delisted before the tests: it teaches, and is not asked
    recipe = RECIPE.pooled_on([*old_ones, listing, gone])
    found = tuple(held_out_markets(tmp_path, listing, recipe))
    assert sorted(one.data.market.symbol for one in found) == [*OLD]
    for one in found:
        own = f"{one.data.market.symbol}:{one.data.id}"
        assert set(recipe.pool) - set(one.recipe.pool) == {own}


@pytest.mark.promise(12)
def test_network_that_a_market_is_asked_of_saw_neither_it_nor_the_hours_of_its_test(tmp_path, old_ones, listing):
    before = tuple(held_out_markets(tmp_path, listing, RECIPE.pooled_on(old_ones)))
    samples = load_samples(tmp_path, before[0].data, before[0].recipe)
    test_ms = samples.dataset.candles.start_ms[samples.folds[-1].test.start]
    changed = []
    for number, symbol in enumerate(OLD):
        other = candles(number if symbol != before[0].data.market.symbol else 77)
        other[other[:, 0] >= test_ms, 1:5] *= 1.01
        changed.append(stored(tmp_path, other, symbol))
    after = tuple(held_out_markets(tmp_path, listing, RECIPE.pooled_on(changed)))
    newest = samples.folds[-1].index
    one, other = (pooled_bars(tmp_path, asked[0].recipe, newest).digest for asked in (before, after))
    assert one == other


def test_of_many_markets_several_are_left_out_at_once(tmp_path, old_ones, listing):
    more = [stored(tmp_path, candles(number), f"M{number}USDT") for number in range(10, 14)]
    found = tuple(held_out_markets(tmp_path, listing, RECIPE.pooled_on([*old_ones, *more])))
    assert len(found) == 7
    assert len({one.recipe.pool for one in found}) == 5
    for one in found:
        assert one.data.id not in one.recipe.pool_datasets


def test_what_happens_to_three_markets_at_once_is_counted_once(tmp_path):
    same = [stored(tmp_path, candles(3), symbol) for symbol in OLD]
    work = ResultStore(tmp_path / "work")
    recipe = RECIPE.pooled_on(same)
    samples = load_samples(tmp_path, same[0], recipe)
    newest = len(samples.folds) - 1
    trained = fold_training.train(fold_bars(samples, recipe, newest), recipe)
    work.save("fold-0", trained)
    each = [HeldOutMarket(data=data, recipe=recipe, fold="fold-0") for data in same]
    together, alone = (evaluate_held_out(work, tmp_path, asked, "replayed") for asked in (each, each[:1]))
    assert set(together.leads) == {*OLD}
    assert together.skill.log_loss == pytest.approx(alone.skill.log_loss)
    assert together.skill.p_value == pytest.approx(alone.skill.p_value, rel=0.2)  # its lag ends between two bars
    assert together.skill.direction_error == pytest.approx(alone.skill.direction_error, rel=0.1)
    assert together.skill.effective_samples == pytest.approx(alone.skill.effective_samples)
    assert together.metrics.total_return == pytest.approx(alone.metrics.total_return)
    assert together.metrics.num_trades == 3 * alone.metrics.num_trades
    np.testing.assert_allclose(together.daily, alone.daily)
    assert together.stressed_return < together.metrics.total_return
    assert (together.funding.booked, together.funding.due) == (0, 3 * alone.funding.due)
    assert not together.funding.is_whole


@pytest.mark.promise(6)
def test_listing_has_nothing_to_learn_from_and_is_judged_after_all_that_its_pool_knew(tmp_path, old_ones, listing):
    recipe = RECIPE.pooled_on(old_ones)
    old, new = (load_samples(tmp_path, data, recipe) for data in (old_ones[0], listing))
    assert (old.is_listing, new.is_listing) == (False, True)
    (fold,) = new.folds
    assert (fold.index, len(fold.train), len(fold.validation)) == (old.folds[-1].index, 0, 0)
    assert new.known_until_ms == old.known_until_ms
    assert new.dataset.candles.start_ms[fold.test.start] > new.known_until_ms[fold.index]
    assert np.isfinite(new.dataset.features[fold.test.start - RECIPE.network_config.context + 1 :]).all()


def test_rivals_of_a_listing_learn_what_its_network_learned_and_predict_its_own_bars(tmp_path, old_ones, listing):
    recipe = RECIPE.pooled_on(old_ones)
    samples = load_samples(tmp_path, listing, recipe)
    fold, pooled = samples.folds[-1], pooled_bars(tmp_path, recipe, samples.folds[-1].index)
    bars = bars_for_listing(tmp_path, recipe, samples)
    assert (bars.train, bars.validation) == (pooled.train, pooled.validation)
    learned = slice(0, bars.validation[1])
    np.testing.assert_array_equal(bars.series.features[learned], pooled.series.features)
    np.testing.assert_array_equal(bars.series.labels[learned], pooled.series.labels)
    np.testing.assert_array_equal(bars.series.features[bars.predicted], samples.dataset.features[fold.predicted.rows])
    assert (bars.series.labels[learned.stop :] == -1).all()
    assert bars.series.segment[learned.stop] > bars.series.segment[learned.stop - 1]


def test_a_listings_prior_is_of_its_pool(tmp_path, old_ones, listing):
    recipe = RECIPE.pooled_on(old_ones)
    samples = load_samples(tmp_path, listing, recipe)
    pooled = pooled_bars(tmp_path, recipe, samples.folds[-1].index)
    trained = fold_training.train(pooled, recipe)
    said = fold_training.of_market(trained, fold_bars(samples, recipe, 0), recipe)
    np.testing.assert_array_equal(said.prior, pooled.prior)
    assert said.probabilities.shape == (len(samples.folds[-1].predicted), 3)
    assert np.isfinite(said.probabilities).all()


def test_second_seed_is_asked_of_networks_of_the_same_markets(tmp_path, old_ones, listing):
    recipe = RECIPE.pooled_on(old_ones)
    first, second = (tuple(held_out_markets(tmp_path, listing, one)) for one in (recipe, recipe.second_seed))
    assert [replace(one, recipe=one.recipe.second_seed).recipe for one in first] == [one.recipe for one in second]
