"""Promise 6 for folds: no label of a part reads a bar of a later part."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from storage.schema import ConfigError, DatasetError
from tasks.market.labels import LabelConfig, label_bars
from tasks.market.samples import FoldConfig, Scheme, Span, folds_table, walk_forward


def bounds(span: Span) -> tuple[int, int]:
    return span.start, span.stop


@pytest.mark.parametrize(
    ("scheme", "trains"),
    [
        ("anchored", [(100, 578), (100, 678), (100, 778), (100, 878)]),
        ("rolling", [(100, 578), (200, 678), (300, 778), (400, 878)]),
    ],
)
def test_folds_are_these_spans_when_counted_by_hand(scheme: Scheme, trains: list[tuple[int, int]]) -> None:
    # 1,000 usable bars: 400 of test in 4 blocks of 100, 100 of validation; gap = 5 + 1 + 5 bars.
    folds = walk_forward(1_100, 100, 5, FoldConfig(folds=4, embargo=5, scheme=scheme))
    assert [bounds(fold.test) for fold in folds] == [(700, 800), (800, 900), (900, 1_000), (1_000, 1_100)]
    assert [bounds(fold.validation) for fold in folds] == [(589, 689), (689, 789), (789, 889), (889, 989)]
    assert [bounds(fold.train) for fold in folds] == trains
    assert [fold.index for fold in folds] == [0, 1, 2, 3]


@pytest.mark.promise(6)
@settings(deadline=None, max_examples=150)
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
        folds = walk_forward(bars, first_usable, horizon, config)
    except DatasetError:
        assume(False)
    ones = np.ones(bars)
    label_end = label_bars(ones, ones, np.zeros(bars, np.int64), LabelConfig(horizon=horizon), 0.0).end
    for fold in folds:
        assert first_usable <= fold.train.start
        for earlier, later in ((fold.train, fold.validation), (fold.validation, fold.test)):
            assert label_end[earlier.rows].max() + config.embargo < later.start
            assert label_end[earlier.stop] + config.embargo >= later.start, "the gap is no wider than it must be"
        assert min(len(fold.train), len(fold.validation), len(fold.test)) >= 10 * horizon
    assert folds[-1].test.stop == bars
    for fold, following in itertools.pairwise(folds):
        assert fold.test.stop == following.test.start
        assert len(fold.test) == len(following.test)
        if config.scheme == "rolling":
            assert len(fold.train) == len(following.train)
        else:
            assert fold.train.start == following.train.start


def test_walk_forward_refuses_a_series_too_short_and_says_by_how_much() -> None:
    text = (
        r"dataset too short for the folds: train of fold 1 would hold 24 bars, needs 120 \(10 labels of 12 bars\); "
        r"1,500 of 3,499 bars are usable, the rest warms up the features; ingest more bars, or ask for fewer folds"
    )
    with pytest.raises(DatasetError, match=text):  # 1,500 - 900 test - 550 validation - 2 gaps of 13
        walk_forward(3_499, 1_999, 12, FoldConfig(test_share=0.6, validation_share=0.55 / 1.5))


@pytest.mark.parametrize("bars", [0, 1, 1_999, 2_000, 2_300])
def test_walk_forward_refuses_a_series_that_hardly_outlives_the_warm_up(bars: int) -> None:
    with pytest.raises(DatasetError, match="dataset too short for the folds"):
        walk_forward(bars, 1_999, 12, FoldConfig())


def test_walk_forward_refuses_a_horizon_below_one() -> None:
    with pytest.raises(ValueError, match="horizon must be >= 1 bar, was 0"):
        walk_forward(10_000, 0, 0, FoldConfig())


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
@pytest.mark.parametrize(("horizon", "embargo"), [(10, 0), (5, 7)])
def test_walk_forward_equals_skfolio_where_both_apply(skfolio: Any, scheme: Scheme, horizon: int, embargo: int) -> None:
    """skfolio has two parts a fold and steps by the second's length: so validation is as long as test here."""
    config = FoldConfig(folds=4, test_share=0.4, validation_share=0.1, embargo=embargo, scheme=scheme)
    folds = walk_forward(1_000, 0, horizon, config)
    gap = horizon + 1 + embargo
    first = folds[0].train
    oracle = skfolio.WalkForward(
        test_size=100, train_size=len(first), purged_size=gap, expand_train=scheme == "anchored"
    )
    splits = list(oracle.split(np.zeros((folds[-1].validation.stop, 1))))
    assert len(splits) == 4
    for fold, (train, validation) in zip(folds, splits, strict=True):
        np.testing.assert_array_equal(train, np.arange(1_000)[fold.train.rows])
        np.testing.assert_array_equal(validation, np.arange(1_000)[fold.validation.rows])
    tests = skfolio.WalkForward(test_size=100, train_size=100, purged_size=gap)
    judged = list(tests.split(np.zeros((1_000 - folds[0].validation.start, 1))))
    for fold, (validation, test) in zip(folds, judged, strict=True):
        start = folds[0].validation.start
        np.testing.assert_array_equal(validation + start, np.arange(1_000)[fold.validation.rows])
        np.testing.assert_array_equal(test + start, np.arange(1_000)[fold.test.rows])


@pytest.mark.promise(6)
def test_neighbours_foretell_a_random_walk_only_where_nothing_is_purged() -> None:
    horizon, bars = 60, 60_000
    opens = np.exp(np.cumsum(np.random.default_rng(5).normal(0, 1e-3, bars)))
    labels = label_bars(opens, np.ones(bars), np.zeros(bars, np.int64), LabelConfig(horizon=horizon, k=0.0), 0.0)
    up = labels.forward_return[: -horizon - 1] > 0
    (fold, *_) = walk_forward(bars, 0, horizon, FoldConfig())
    purged = fold.validation.start - (fold.train.stop - 1)  # bars from the last one of training to the first one after
    agreed = {lag: np.mean(up[lag:] == up[:-lag]) for lag in (10, purged)}
    # Returns that share 50 of 60 bars agree in sign with probability 1/2 + arcsin(5/6)/pi = 0.81; others with 1/2.
    # So many labels are as good as bars / horizon independent ones.
    assert agreed[10] == pytest.approx(0.81, abs=4 * np.sqrt(0.25 / (bars / horizon)))
    assert agreed[purged] == pytest.approx(0.50, abs=4 * np.sqrt(0.25 / (bars / horizon)))


def test_folds_table_names_the_dates_of_each_part() -> None:
    start_ms = 1_735_689_600_000 + 3_600_000 * np.arange(1_100)  # hours from 2025-01-01
    folds = walk_forward(1_100, 100, 5, FoldConfig(folds=4, embargo=5))
    table = folds_table(folds, start_ms)
    assert len(table) == 12
    assert table[:3] == [
        {"fold": 1, "part": "train", "first": "2025-01-05T04:00Z", "last": "2025-01-25T01:00Z", "bars": 478},
        {"fold": 1, "part": "validation", "first": "2025-01-25T13:00Z", "last": "2025-01-29T16:00Z", "bars": 100},
        {"fold": 1, "part": "test", "first": "2025-01-30T04:00Z", "last": "2025-02-03T07:00Z", "bars": 100},
    ]
    assert [row["fold"] for row in table] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_span_has_no_bars_when_it_ends_before_it_starts() -> None:
    assert len(Span(start=5, stop=3)) == 0
