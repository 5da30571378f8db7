"""Promise 6 for folds: no label of a part reads a bar of a later part."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from storage.schema import ConfigError, DatasetError, IntArray
from tasks.market.labels import LabelConfig, label_bars
from tasks.market.walk_forward import FoldConfig, Scheme, Span, calendar_length, folds_table, walk_forward

HOUR = 3_600_000
NEW_YEAR = 1_735_689_600_000  # 2025-01-01, UTC
# The newest fold, whose validation is not rounded, begins to learn before the first one.
LONG_VALIDATION = FoldConfig(folds=2, test_share=0.125, validation_share=0.28125, scheme="rolling")


def hours(bars: int, first_ms: int = NEW_YEAR) -> IntArray:
    return first_ms + HOUR * np.arange(bars)


def bounds(span: Span) -> tuple[int, int]:
    return span.start, span.stop


@pytest.mark.parametrize(
    ("scheme", "trains"),
    [
        ("anchored", [(100, 626), (100, 722), (100, 818), (100, 878)]),
        ("rolling", [(242, 626), (338, 722), (434, 818), (494, 878)]),  # 526 hours at most: 16 days
    ],
)
def test_folds_are_these_spans_when_counted_by_hand(scheme: Scheme, trains: list[tuple[int, int]]) -> None:
    # 1,000 usable bars, a share of 100 for each test and for validation; gap = 5 + 1 + 5 bars. The newest fold has its
    # shares; the others the 4 days that 100 hours hold. Bar 936 opens 5,032 * 4 days after 1970, the last such bar that
    # is at least 2 days before bar 1,000.
    folds = walk_forward(hours(1_100), HOUR, 100, 5, FoldConfig(folds=4, embargo=5, scheme=scheme))
    assert [bounds(fold.test) for fold in folds] == [(744, 840), (840, 936), (936, 1_000), (1_000, 1_100)]
    assert [bounds(fold.predicted) for fold in folds] == [(744, 888), (840, 984), (936, 1_080), (1_000, 1_100)]
    assert [bounds(fold.validation) for fold in folds] == [(637, 733), (733, 829), (829, 925), (889, 989)]
    assert [bounds(fold.train) for fold in folds] == trains
    assert [fold.index for fold in folds] == [0, 1, 2, 3]


@pytest.mark.parametrize("scheme", ["anchored", "rolling"])
def test_another_day_moves_the_newest_fold_alone_but_where_the_calendar_turns(scheme: Scheme) -> None:
    config, moved = FoldConfig(folds=4, scheme=scheme), []
    days = [walk_forward(hours(8_000 + 24 * day), HOUR, 100, 5, config) for day in range(120)]
    for before, now in itertools.pairwise(days):
        of = [
            {(bounds(fold.train), bounds(fold.validation), bounds(fold.predicted)) for fold in on}
            for on in (before, now)
        ]
        moved.append(len(of[1] - of[0]))
        assert now[-1].test.stop == before[-1].test.stop + 24
    # 800 hours of test: 32 days. In 120 days such a block begins three times or four, and then two folds are new.
    assert set(moved) <= {1, 2, 4}
    assert moved.count(1) >= len(moved) - 6


def test_bars_that_are_missing_leave_every_cut_where_it_is_in_time() -> None:
    start_ms = hours(1_100)
    kept = np.delete(start_ms, slice(500, 560))
    whole, holed = (walk_forward(times, HOUR, 100, 5, FoldConfig(folds=4)) for times in (start_ms, kept))
    for one, other in zip(whole, holed, strict=True):
        for part in ("train", "validation", "test", "predicted"):
            assert start_ms[getattr(one, part).start] == kept[getattr(other, part).start]


def test_labels_end_before_the_next_part_when_the_bars_between_are_missing() -> None:
    kept = np.delete(hours(1_100), slice(889, 893))  # in the gap of bars 888 to 893 before the newest validation
    (*_, newest) = walk_forward(kept, HOUR, 100, 5, FoldConfig(folds=4))
    assert newest.validation.start - newest.train.stop == 6


@pytest.mark.parametrize(
    ("length", "bar", "found"),
    [
        (HOUR, HOUR, 1), (5 * HOUR, HOUR, 4), (6 * HOUR, HOUR, 6), (11 * HOUR, HOUR, 8), (23 * HOUR, HOUR, 16),
        (24 * HOUR, HOUR, 24), (71 * HOUR, HOUR, 48), (72 * HOUR, HOUR, 72), (24 * 36 * HOUR, HOUR, 24 * 32),
        (24 * 48 * HOUR, HOUR, 24 * 48), (30 * 24 * HOUR, 168 * HOUR, 4 * 168),
    ],
)  # fmt: skip
def test_calendar_length_is_the_largest_that_fits(length: int, bar: int, found: int) -> None:
    assert calendar_length(length, bar) == found * HOUR


@pytest.mark.promise(6)
@settings(deadline=None, max_examples=150)
@example(bars=13_696, first_usable=1, horizon=1, config=LONG_VALIDATION)
@given(
    bars=st.integers(500, 20_000),
    first_usable=st.integers(0, 2_000),
    horizon=st.integers(1, 60),
    config=st.builds(
        FoldConfig,
        folds=st.integers(1, 8),
        test_share=st.floats(0.05, 0.6),
        validation_share=st.floats(0.05, 0.3),
        embargo=st.integers(0, 300),
        scheme=st.sampled_from(["anchored", "rolling"]),
    ),
)
def test_no_label_reads_a_later_part_whatever_the_division(
    bars: int, first_usable: int, horizon: int, config: FoldConfig
) -> None:
    try:
        folds = walk_forward(hours(bars), HOUR, first_usable, horizon, config)
    except DatasetError:
        assume(False)
    ones = np.ones(bars)
    label_end = label_bars(ones, ones, np.zeros(bars, np.int64), LabelConfig(horizon=horizon), 0.0).end
    for fold in folds:
        assert first_usable <= fold.train.start
        for earlier, later in ((fold.train, fold.validation), (fold.validation, fold.test)):
            assert label_end[earlier.rows].max() + config.embargo < later.start
            assert label_end[earlier.stop] + config.embargo >= later.start, "the gap is no wider than it must be"
        assert min(len(fold.train), len(fold.validation), len(fold.predicted)) >= 10 * horizon
        assert fold.predicted.start == fold.test.start
        assert fold.test.stop <= fold.predicted.stop <= bars
    assert folds[-1].test.stop == bars
    for fold, following in itertools.pairwise(folds):
        assert fold.test.stop == following.test.start
        if config.scheme == "rolling":
            assert len(fold.train) == len(following.train)
        else:
            assert fold.train.start == following.train.start


def test_walk_forward_refuses_a_series_too_short_and_says_by_how_much() -> None:
    text = (
        r"dataset too short for the folds: train of fold 1 would hold 34 bars, needs 120 \(10 labels of 12 bars\); "
        r"1,500 of 3,499 bars are usable, the rest warms up the features; ingest more bars, or ask for fewer folds"
    )
    config = FoldConfig(folds=1, test_share=0.6, validation_share=0.54 / 1.5)
    with pytest.raises(DatasetError, match=text):  # 1,500 - 900 test - 540 validation - 2 gaps of 13
        walk_forward(hours(3_499), HOUR, 1_999, 12, config)


@pytest.mark.parametrize("bars", [0, 1, 1_999, 2_000, 2_300])
def test_walk_forward_refuses_a_series_that_hardly_outlives_the_warm_up(bars: int) -> None:
    with pytest.raises(DatasetError, match="dataset too short for the folds"):
        walk_forward(hours(bars), HOUR, 1_999, 12, FoldConfig())


def test_walk_forward_refuses_a_horizon_below_one() -> None:
    with pytest.raises(ValueError, match="horizon must be >= 1 bar, was 0"):
        walk_forward(hours(10_000), HOUR, 0, 0, FoldConfig())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"folds": 0}, "folds must be >= 1, was 0"),
        ({"test_share": 0.0}, r"test_share must be in \(0, 1\), was 0\.0"),
        ({"validation_share": 1.0}, r"validation_share must be in \(0, 1\), was 1\.0"),
        ({"test_share": float("nan")}, r"test_share must be finite and in \(0, 1\), was nan"),
        (
            {"test_share": 0.7, "validation_share": 0.4},
            r"test_share \+ validation_share must leave bars to train on, was 1\.1 of 1",
        ),
        ({"embargo": -1}, "embargo must be >= 0, was -1"),
        ({"weights": "age"}, "weights must be equal or uniqueness, was 'age'"),
        ({"scheme": "expanding"}, "scheme must be anchored or rolling, was 'expanding'"),
    ],
)
def test_fold_config_refuses_what_divides_nothing(fields: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        FoldConfig(**fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def skfolio() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies, at import
        return pytest.importorskip("skfolio.model_selection", reason="skfolio, the oracle of the splits, is missing")


@pytest.mark.oracle
@pytest.mark.promise(6)
@pytest.mark.parametrize("scheme", ["anchored", "rolling"])
@pytest.mark.parametrize(("horizon", "embargo"), [(9, 0), (5, 7)])
def test_walk_forward_equals_skfolio_where_both_apply(skfolio: Any, scheme: Scheme, horizon: int, embargo: int) -> None:
    """skfolio has two parts a fold and steps by the second's length: so validation is as long as test here.

    It knows no calendar: tests of 96 minutes, and a last bar that ends with one of them, leave nothing to fix.
    """
    config = FoldConfig(folds=4, test_share=0.4, validation_share=0.1, embargo=embargo, scheme=scheme)
    start_ms = 96 * 60_000 * 100_000 + 60_000 * np.arange(960)
    folds = walk_forward(start_ms, 60_000, 0, horizon, config)
    gap, offset = horizon + 1 + embargo, folds[0].train.start
    oracle = skfolio.WalkForward(
        test_size=96, train_size=len(folds[0].train), purged_size=gap, expand_train=scheme == "anchored"
    )
    splits = list(oracle.split(np.zeros((folds[-1].validation.stop - offset, 1))))
    assert len(splits) == 4
    for fold, (train, validation) in zip(folds, splits, strict=True):
        np.testing.assert_array_equal(train + offset, np.arange(960)[fold.train.rows])
        np.testing.assert_array_equal(validation + offset, np.arange(960)[fold.validation.rows])
    tests = skfolio.WalkForward(test_size=96, train_size=96, purged_size=gap)
    start = folds[0].validation.start
    judged = list(tests.split(np.zeros((960 - start, 1))))
    for fold, (validation, test) in zip(folds, judged, strict=True):
        np.testing.assert_array_equal(validation + start, np.arange(960)[fold.validation.rows])
        np.testing.assert_array_equal(test + start, np.arange(960)[fold.test.rows])


@pytest.mark.promise(6)
def test_neighbours_foretell_a_random_walk_only_where_nothing_is_purged() -> None:
    horizon, bars = 60, 60_000
    opens = np.exp(np.cumsum(np.random.default_rng(5).normal(0, 1e-3, bars)))
    labels = label_bars(opens, np.ones(bars), np.zeros(bars, np.int64), LabelConfig(horizon=horizon, k=0.0), 0.0)
    up = labels.forward_return[: -horizon - 1] > 0
    (fold, *_) = walk_forward(hours(bars), HOUR, 0, horizon, FoldConfig())
    purged = fold.validation.start - (fold.train.stop - 1)  # bars from the last one of training to the first one after
    agreed = {lag: np.mean(up[lag:] == up[:-lag]) for lag in (10, purged)}
    # Returns that share 50 of 60 bars agree in sign with probability 1/2 + arcsin(5/6)/pi = 0.81; others with 1/2.
    # So many labels are as good as bars / horizon independent ones.
    assert agreed[10] == pytest.approx(0.81, abs=4 * np.sqrt(0.25 / (bars / horizon)))
    assert agreed[purged] == pytest.approx(0.50, abs=4 * np.sqrt(0.25 / (bars / horizon)))


def test_folds_table_names_the_dates_of_each_part() -> None:
    start_ms = hours(1_100)
    table = folds_table(walk_forward(start_ms, HOUR, 100, 5, FoldConfig(folds=4, embargo=5)), start_ms)
    assert len(table) == 12
    assert table[:3] == [
        {"fold": 1, "part": "train", "first": "2025-01-05T04:00Z", "last": "2025-01-27T01:00Z", "bars": 526},
        {"fold": 1, "part": "validation", "first": "2025-01-27T13:00Z", "last": "2025-01-31T12:00Z", "bars": 96},
        {"fold": 1, "part": "test", "first": "2025-02-01T00:00Z", "last": "2025-02-04T23:00Z", "bars": 96},
    ]
    assert [row["fold"] for row in table] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_span_has_no_bars_when_it_ends_before_it_starts() -> None:
    assert len(Span(start=5, stop=3)) == 0
