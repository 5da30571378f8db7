"""What a fold is made from: nothing else changes its key, and anything of it does."""

from dataclasses import replace

import numpy as np
import pytest

from tasks.market.features import WARM_UP
from tasks.market.labels import UNKNOWN
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.strategy.folds import fold_key
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import FoldBars, fold_bars, load_samples, samples_of_run
from tests.strategy.stored_candles import stored

DAY = 288  # bars
BARS = 25 * DAY
RECIPE = Recipe(folds=FoldConfig(folds=3), network=DSCConfig(window=8))
CANDLES = generate(SyntheticMarket(bars=BARS + 3 * DAY)).matrix()


@pytest.fixture
def bars_of(tmp_path):
    """Return what makes the folds of candles: all of them, and the refit."""

    def made(candles, recipe=RECIPE) -> list[FoldBars]:
        samples = load_samples(tmp_path, stored(tmp_path, candles), recipe)
        return [fold_bars(samples, recipe, index) for index in range(recipe.folds.folds + 1)]

    return made


def keys(bars: list[FoldBars], recipe=RECIPE) -> list[str]:
    return [fold_key(one.digest, recipe) for one in bars]


def test_another_day_leaves_the_keys_of_all_folds_but_the_newest_and_the_refit(bars_of):
    before, now = (keys(bars_of(CANDLES[:bars])) for bars in (BARS, BARS + DAY))
    assert before[:2] == now[:2]
    assert not {*before[2:]} & {*now[2:]}


def test_steps_of_a_run_share_one_dataset_whether_their_recipe_names_a_preset_or_spells_it_out(tmp_path):
    named = replace(RECIPE, network=None, preset="default")
    data = stored(tmp_path, CANDLES)
    assert named != named.resolved
    assert samples_of_run(tmp_path, data, named) is samples_of_run(tmp_path, data, named.resolved)


@pytest.mark.promise(6)
def test_labels_beyond_training_and_validation_are_unknown_to_a_fold(bars_of):
    for bars in bars_of(CANDLES[:BARS]):
        labelled = np.flatnonzero(bars.series.labels != UNKNOWN)
        within = np.zeros(len(bars.series.labels), bool)
        within[slice(*bars.train)] = within[slice(*bars.validation)] = True
        assert within[labelled].all()
        assert len(labelled) > 0.9 * within.sum()


def test_key_is_of_every_bar_that_the_fold_reads_and_of_no_other(bars_of):
    first, *_ = bars_of(CANDLES[:BARS])
    start = WARM_UP - 1  # the first bar with features is the first of its context
    read = len(first.series.labels)

    def moved(bar: int) -> list[str]:
        candles = CANDLES[:BARS].copy()
        candles[bar, 1:5] *= 1.0001
        return keys(bars_of(candles))

    unmoved = keys(bars_of(CANDLES[:BARS]))
    assert moved(start + read)[0] == unmoved[0]
    for bar in (start + read - 1, start + first.validation[1], start + first.train[0]):
        assert moved(bar)[0] != unmoved[0]


@pytest.mark.parametrize(
    "change",
    [
        {"labels": replace(RECIPE.labels, horizon=11)},
        {"costs": replace(RECIPE.costs, commission=0.002)},
        {"folds": replace(RECIPE.folds, embargo=1)},
        {"folds": replace(RECIPE.folds, weights="uniqueness")},
        {"network": replace(RECIPE.network_config, window=9)},
    ],
)
def test_key_is_of_everything_in_the_recipe_that_decides_what_is_learned(bars_of, change):
    recipe = replace(RECIPE, **change)
    changed, same = keys(bars_of(CANDLES[:BARS], recipe), recipe), keys(bars_of(CANDLES[:BARS]))
    assert not {*changed} & {*same}


def test_key_is_not_of_where_a_dataset_begins_if_the_means_begin_their_rounds_alike(bars_of):
    # Sums over 20 and over 2,000 bars are taken in the order of their rings, so that a start that is no whole round
    # later changes the last bit of four features; what else looks back has forgotten its start to the last bit.
    rolling = replace(RECIPE, folds=FoldConfig(folds=3, scheme="rolling"))
    longer = generate(SyntheticMarket(bars=BARS + WARM_UP)).matrix()
    whole, later, odd = (bars_of(longer[cut:], rolling)[2] for cut in (0, WARM_UP, WARM_UP - 1))
    for one, same in ((later, True), (odd, False)):
        rows = min(len(one.series.features), len(whole.series.features))
        assert (one.series.features[-rows:].tobytes() == whole.series.features[-rows:].tobytes()) is same
        np.testing.assert_allclose(one.series.features[-rows:], whole.series.features[-rows:], rtol=0, atol=1e-12)
