"""Who may teach: markets of one law, and none whose law is another."""

from dataclasses import replace

import numpy as np
import pytest

from tasks.network.likeness import alike
from tasks.network.series import Series

BARS, SPAN, FEATURES = 12_000, 5, 6
SCALING = np.zeros(FEATURES), np.ones(FEATURES)


def market(seed: int, *, bars: int = BARS, weight: float = 0.7, feature: int = 0, returned: float = 0.0) -> Series:
    """Return a market whose side leans on one of its features, and of whose moves the next bar takes a share back."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(bars, FEATURES))
    beside = np.sqrt(returned / 2) * rng.normal(size=bars + 1)  # how far a price lies beside a martingale
    features[:, 0] = np.sqrt(1 - returned) * features[:, 0] + np.diff(beside)
    score = weight * features[:, feature] + rng.normal(size=bars)
    clock = np.arange(BARS - bars, BARS)
    return Series(
        features=features, labels=np.digitize(score, [-0.5, 0.5]), segment=np.zeros(bars, np.int64),
        label_span=SPAN, clock=clock,
    )  # fmt: skip


def asked(*markets: Series) -> list[bool]:
    return alike(markets, SCALING, 5.0).tolist()


THREE = [market(seed) for seed in range(3)]


def test_markets_of_one_law_teach_each_other():
    assert asked(*THREE, market(3)) == [True] * 4


@pytest.mark.parametrize("weight", [0.0, -0.7])
def test_market_in_which_what_the_others_know_misleads_does_not_teach(weight):
    assert asked(*THREE, market(3, weight=weight)) == [True, True, True, False]


def test_market_that_is_forecast_by_what_means_nothing_elsewhere_does_not_teach():
    # It shares the others' law, so nothing misleads in it; what it has beside that would be believed everywhere.
    both = market(3)
    score = both.features[:, 0] * 0.7 + 3.0 * both.features[:, 1] + np.random.default_rng(9).normal(size=BARS)
    assert asked(*THREE, replace(both, labels=np.digitize(score, [-0.5, 0.5]))) == [True, True, True, False]


def test_market_whose_moves_return_at_once_does_not_teach():
    assert asked(*THREE, market(3, returned=0.3)) == [True, True, True, False]
    assert asked(*THREE, market(3, returned=0.1)) == [True] * 4  # as of markets themselves


def test_moves_that_return_everywhere_are_no_oddity_and_a_gap_is_no_return():
    assert asked(*(market(seed, returned=0.3) for seed in range(4))) == [True] * 4
    broken = market(3, returned=0.6)
    apart = replace(broken, segment=np.arange(BARS))  # no bar follows another
    assert asked(*THREE, apart) == [True] * 4


def test_where_most_are_odd_nobody_is():
    assert asked(*THREE[:2], market(2, weight=-0.7), market(3, weight=-0.7)) == [True] * 4


def test_young_market_is_not_refused_by_chance():
    assert asked(*THREE, market(3, bars=200)) == [True] * 4


def test_of_two_nobody_can_say_which_is_the_odd_one():
    assert asked(THREE[0], market(1, weight=-0.7)) == [True, True]


def test_bars_without_label_or_features_are_not_asked():
    features, labels = THREE[0].features.copy(), THREE[0].labels.copy()
    features[::3], labels[1::3] = np.nan, -1
    assert asked(replace(THREE[0], features=features, labels=labels), *THREE[1:]) == [True] * 3
