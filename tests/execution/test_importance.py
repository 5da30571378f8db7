"""Importance: what a forecast is known to use is found, what it ignores is worth nothing."""

import numpy as np
import pytest

from tasks.execution.importance import permutation_importance

GROUPS = {"used": [0], "waves": [1, 2], "ignored": [3]}


def softmax(logits):
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def market(bars=6_000):
    """Return features, a forecast that uses the first three of them, and classes drawn from that very forecast."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(bars, 4))
    angle = np.arange(bars) / 37.0
    features[:, 1], features[:, 2] = np.sin(angle), np.cos(angle)

    def predict(x):
        return softmax(np.column_stack([-2.0 * x[:, 0], np.zeros(len(x)), 2.0 * x[:, 0] + x[:, 1] + x[:, 2]]))

    classes = (rng.random((bars, 1)) > predict(features).cumsum(axis=1)[:, :-1]).sum(axis=1)
    return features, predict, classes


def found(features, predict, classes, **options):
    settings = {"block": 25, "repeats": 4, "seed": 1} | options
    return {one.name: one for one in permutation_importance(predict, features, classes, GROUPS, **settings)}


def test_input_that_decides_is_worth_most_and_one_that_is_ignored_nothing():
    worth = found(*market())
    assert list(worth) == ["used", "waves", "ignored"]
    assert worth["used"].loss > 0.5
    assert 0.05 < worth["waves"].loss < worth["used"].loss
    assert (worth["ignored"].loss, worth["ignored"].spread) == (0.0, 0.0)


def test_loss_is_what_a_permutation_costs_by_hand():
    """With two blocks a permutation leaves them or swaps them, so each loss is one of two known numbers."""
    features, predict, classes = market(40)
    swapped = features.copy()
    swapped[:, 0] = np.r_[features[20:, 0], features[:20, 0]]
    rows = np.arange(40)
    cost = np.log(predict(features)[rows, classes]).mean() - np.log(predict(swapped)[rows, classes]).mean()
    worth = found(features, predict, classes, block=20, repeats=12)["used"].loss
    assert worth / cost * 12 == pytest.approx(round(worth / cost * 12), abs=1e-9)
    assert 0 < worth / cost < 1


def test_bars_without_features_or_labels_stay_out():
    features, predict, classes = market()
    features[:300] = np.nan
    classes[-300:] = -1
    worth = found(features, predict, classes)
    assert np.isfinite([one.loss for one in worth.values()]).all()
    assert worth["used"].loss > 0.5


def test_nothing_is_said_where_no_label_is_known():
    features, predict, classes = market(100)
    assert found(features, predict, np.full(100, -1)) == {}
    assert found(np.full_like(features, np.nan), predict, classes) == {}


def test_same_seed_gives_the_same_numbers_and_leaves_the_features_alone():
    features, predict, classes = market(1_000)
    before = features.copy()
    assert found(features, predict, classes) == found(features, predict, classes)
    assert found(features, predict, classes) != found(features, predict, classes, seed=2)
    np.testing.assert_array_equal(features, before)
