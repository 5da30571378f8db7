"""The teacher: what it says of a bar, it says without that bar, its neighbours, and everything after training."""

from dataclasses import replace

import lightgbm
import numpy as np
import pytest

from storage.schema import FloatArray
from tasks.network.series import Series
from tasks.network.teacher import cross_fitted

BARS, TRAIN, VALIDATION = 3_000, (20, 2_420), (2_430, 2_900)
PARTS, SPAN = 4, 5
PART = slice(620, 1_220)  # the second of four


def series_of(seed: int = 0) -> Series:
    """Labels that lean on an interaction of two of three features."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(BARS, 3))
    score = np.where(features[:, 1] > 0, features[:, 0], -features[:, 0]) + rng.normal(size=BARS)
    return Series(
        features=features, labels=np.digitize(score, [-0.7, 0.7]), segment=np.zeros(BARS, np.int64), label_span=SPAN
    )


@pytest.fixture(params=["few bars", "many bars"])
def however_many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bars are told from both sides, many from either, of one table of bins."""
    if request.param == "many bars":
        monkeypatch.setattr("tasks.network.teacher.MANY_BARS", 0)


def taught(series: Series) -> FloatArray:
    return cross_fitted(series, TRAIN, VALIDATION, parts=PARTS, input_clip=5.0, num_classes=3)


def with_labels(series: Series, bars: slice) -> Series:
    """Return the series with other labels on some bars."""
    labels = series.labels.copy()
    labels[bars] = (labels[bars] + 1) % 3
    return replace(series, labels=labels)


@pytest.mark.promise(6)
@pytest.mark.usefixtures("however_many")
def test_a_part_is_spoken_of_without_its_own_labels_and_without_those_that_reach_into_it():
    series = series_of()
    said = taught(series)
    for bars in (PART, slice(PART.start - SPAN, PART.start), slice(PART.stop, PART.stop + SPAN)):
        other = taught(with_labels(series, bars))
        np.testing.assert_array_equal(other[PART], said[PART])
        assert not np.array_equal(other[1_820 : TRAIN[1]], said[1_820 : TRAIN[1]])  # the fourth learns from them


@pytest.mark.promise(6)
@pytest.mark.usefixtures("however_many")
def test_what_lies_beyond_the_label_span_is_learned_from():
    series = series_of()
    said = taught(series)
    for bars in (slice(PART.start - SPAN - 100, PART.start - SPAN), slice(PART.stop + SPAN, PART.stop + SPAN + 100)):
        assert not np.array_equal(taught(with_labels(series, bars))[PART], said[PART])


@pytest.mark.promise(6)
@pytest.mark.usefixtures("however_many")
def test_nothing_but_training_and_validation_bars_is_read():
    series = series_of()
    features = series.features.copy()
    outside = np.r_[0 : TRAIN[0], TRAIN[1] : VALIDATION[0], VALIDATION[1] : BARS]
    features[outside] *= -7
    changed = replace(series, features=features)
    for bars in (slice(0, TRAIN[0]), slice(TRAIN[1], VALIDATION[0]), slice(VALIDATION[1], BARS)):
        changed = with_labels(changed, bars)
    np.testing.assert_array_equal(taught(changed), taught(series))


def test_probabilities_are_those_of_trees_grown_by_hand():
    series = series_of()
    train = slice(*TRAIN)
    z = (series.features - series.features[train].mean(0)) / series.features[train].std(0)
    rows = np.r_[TRAIN[0] : PART.start - SPAN, PART.stop + SPAN : TRAIN[1]]
    reference = lightgbm.LGBMClassifier(
        n_estimators=400, num_leaves=4, learning_rate=0.15, min_child_samples=200, reg_lambda=1.0, max_bin=63,
        random_state=7, n_jobs=1, verbose=-1, deterministic=True, force_row_wise=True,
        use_quantized_grad=True,
    )  # fmt: skip
    check = slice(*VALIDATION)
    reference.fit(
        np.clip(z[rows], -5, 5), series.labels[rows], eval_X=np.clip(z[check], -5, 5), eval_y=series.labels[check],
        callbacks=[lightgbm.early_stopping(20, verbose=False)],
    )  # fmt: skip
    np.testing.assert_allclose(taught(series)[PART], reference.predict_proba(np.clip(z[PART], -5, 5)), atol=1e-12)


def test_of_many_bars_every_second_one_is_told_as_its_mirror_image(monkeypatch):
    # Of even bars, class 0 has the feature below zero and class 1 above; of odd ones, the images of just these.
    monkeypatch.setattr("tasks.network.teacher.MANY_BARS", 0)
    series, train = series_of(), slice(*TRAIN)
    even, below = np.arange(BARS) % 2 == TRAIN[0] % 2, series.features[:, 0] < 0
    labels = np.where(even | (np.arange(BARS) >= VALIDATION[0]), np.where(below, 0, 1), np.where(below, 1, 2))
    mirrored = replace(series, labels=labels, signs=np.array([-1.0, 1.0, 1.0]))
    clear = below[train] & (np.abs(series.features[train, 0]) > 0.2)
    assert (taught(mirrored)[train][clear, 0] > 0.95).all()
    assert (taught(replace(mirrored, signs=None))[train][clear, 0] < 0.9).all()


def test_bars_without_a_label_or_a_feature_and_bars_outside_training_have_no_teacher():
    series = series_of()
    labels, features = series.labels.copy(), series.features.copy()
    labels[700], features[800] = -1, np.nan
    said = taught(replace(series, labels=labels, features=features))
    missing = np.flatnonzero(np.isnan(said).any(axis=1))
    assert missing.tolist() == [*range(TRAIN[0]), 700, 800, *range(TRAIN[1], BARS)]
    np.testing.assert_allclose(said[TRAIN[0] : 700].sum(axis=1), 1)


def test_a_part_whose_neighbours_are_all_within_reach_has_no_teacher():
    series = replace(series_of(), label_span=BARS)
    assert np.isnan(taught(series)).all()


def test_teacher_knows_more_than_class_shares_of_bars_it_has_not_seen():
    series = series_of()
    train = slice(*TRAIN)
    p, labels = taught(series)[train], series.labels[train]
    shares = np.bincount(labels) / len(labels)
    assert -np.log(p[np.arange(len(p)), labels]).mean() < -np.log(shares[labels]).mean() - 0.05


@pytest.mark.promise(6)
@pytest.mark.usefixtures("however_many")
def test_of_two_markets_a_part_is_spoken_of_without_its_hours_in_either():
    # One market's bars after the other's, hour by hour the same: what happened in an hour, happened to both.
    one = series_of()
    hours = np.arange(TRAIN[0], TRAIN[1])
    rows = np.concatenate([hours, hours, np.arange(*VALIDATION)])
    series = replace(one, features=one.features[rows], labels=one.labels[rows], segment=one.segment[rows], clock=rows)
    spans = (0, 2 * len(hours)), (2 * len(hours), len(rows))

    def said_of(series: Series) -> FloatArray:
        return cross_fitted(series, *spans, parts=PARTS, input_clip=5.0, num_classes=3)

    first = slice(PART.start - TRAIN[0], PART.stop - TRAIN[0])
    second = slice(first.start + len(hours), first.stop + len(hours))
    said = said_of(series)
    np.testing.assert_array_equal(said[first], said[second])
    for bars in (second, slice(second.start - SPAN, second.start), slice(second.stop, second.stop + SPAN)):
        np.testing.assert_array_equal(said_of(with_labels(series, bars))[first], said[first])
    # Cut by rows, it has seen the hour in the other market: half of what it is then told of is a copy.
    by_rows = replace(series, clock=None)
    assert not np.array_equal(said_of(with_labels(by_rows, second))[first], said_of(by_rows)[first])
