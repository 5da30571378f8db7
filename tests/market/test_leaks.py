"""The leak checks pass on honest code and fail, with the place and the cause, on each planted leak."""

from dataclasses import replace

import numpy as np
import pytest

from storage.schema import DatasetError
from tasks.market.features import OUTPUTS, WARM_UP, build_features
from tasks.market.labels import LabelConfig, label_bars
from tasks.market.leaks import (
    LeakCheck,
    Learned,
    canary,
    chance_direction,
    future_perturbation,
    label_span,
    permuted_in_blocks,
    prefix_invariance,
    purged_folds,
    start_invariance,
    stored_inputs,
    train_isolation,
    with_next_return,
)
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig, Span, walk_forward

INTERVAL_MS, HORIZON = 300_000, 5
CANDLES = generate(SyntheticMarket(kind="gated", bars=5_000, seed=3)).matrix()
CLOSE = 4


def features(candles):
    built = build_features(candles, INTERVAL_MS)
    return np.column_stack([built.values, built.vol])


def centred_mean(candles):
    """Return the honest features, with volume_ratio smoothed over the bar before and the bar after."""
    built = features(candles)
    built[1:-1, 3] = (built[:-2, 3] + built[1:-1, 3] + built[2:, 3]) / 3
    return built


def scaled_by_all(candles):
    """Return the features scaled by the mean and deviation of the whole series."""
    built = features(candles)
    return (built - np.nanmean(built, axis=0)) / np.nanstd(built, axis=0)


def cumulative_vwap(candles):
    """Return the features with the VWAP since wherever the file begins, as the source text has it."""
    built = features(candles)
    vwap = np.cumsum(candles[:, CLOSE] * candles[:, 5]) / np.cumsum(candles[:, 5])
    built[:, 8] = np.where(np.isfinite(built[:, 8]), np.log(candles[:, CLOSE] / vwap), np.nan)
    return built


def labels(candles, shift=0, horizon=HORIZON):
    """Return (T, 3) honest labels; `shift` bars late or early."""
    built = build_features(candles, INTERVAL_MS)
    open_ = np.roll(candles[:, 1], -shift)
    made = label_bars(open_, built.vol, built.segment, LabelConfig(horizon=horizon), 0.001)
    return np.column_stack([made.forward_return, made.threshold, made.classes])


@pytest.mark.promise(4)
def test_features_pass_every_invariance():
    checks = [
        prefix_invariance(features, CANDLES, OUTPUTS, first=WARM_UP),
        future_perturbation(features, CANDLES, OUTPUTS, first=WARM_UP),
        start_invariance(features, CANDLES, OUTPUTS, WARM_UP),
    ]
    assert [check.passed for check in checks] == [True, True, True]


def test_features_pass_every_invariance_when_the_market_halts():
    candles = CANDLES.copy()
    candles[-WARM_UP : -WARM_UP // 2, 1:] = [*[candles[-WARM_UP - 1, 4]] * 4, 0.0]
    assert prefix_invariance(features, candles, OUTPUTS, first=WARM_UP).passed
    assert start_invariance(features, candles, OUTPUTS, WARM_UP, starts=30).passed


@pytest.mark.parametrize(
    ("leaky", "column"),
    [(with_next_return(features), "return_1"), (centred_mean, "volume_ratio"), (scaled_by_all, "return_1")],
    ids=["next return", "centred mean", "scaled by all"],
)
def test_feature_that_reads_on_is_named_with_bar_values_and_cause(leaky, column):
    prefix = prefix_invariance(leaky, CANDLES, OUTPUTS, first=WARM_UP, cuts=3)
    other = future_perturbation(leaky, CANDLES, OUTPUTS, first=WARM_UP, cuts=1)
    assert not prefix.passed
    assert not other.passed
    said = rf"{column} at bar [\d,]+ was \S+, became \S+ when "
    assert_matches(prefix.found, said + r"history ends there; it reads bars after \d+")
    assert_matches(other.found, said + r"the bars from \d+ on are (scaled|shuffled|erased); it reads bars after \d+")


def assert_matches(text, pattern):
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


def test_feature_that_depends_on_where_the_file_begins_is_named():
    check = start_invariance(cumulative_vwap, CANDLES, OUTPUTS, WARM_UP)
    assert not check.passed
    assert_matches(
        check.found,
        r"vwap_deviation at bar [\d,]+ was \S+, became \S+ when history starts at \d+; it remembers bars before",
    )
    assert prefix_invariance(cumulative_vwap, CANDLES, OUTPUTS, cuts=5).passed  # it reads no future: another fault


@pytest.mark.promise(6)
def test_label_reads_its_two_opens_and_nothing_else():
    assert label_span(labels, CANDLES, HORIZON).passed


@pytest.mark.parametrize(
    ("shift", "horizon", "cause"),
    [
        (1, HORIZON, "it reads beyond t \\+ 1 \\+ 5"),
        (0, HORIZON + 1, "it reads beyond t \\+ 1 \\+ 5"),
        (0, HORIZON - 1, "its horizon is shorter"),
        (-1, HORIZON + 1, "it reads a price from before its fill"),
    ],
    ids=["a bar late", "a longer horizon", "a shorter horizon", "from the decision's own open"],
)
def test_label_with_another_span_is_caught(shift, horizon, cause):
    check = label_span(lambda candles: labels(candles, shift, horizon), CANDLES, HORIZON)
    assert not check.passed
    assert_matches(check.found, cause)


@pytest.mark.promise(6)
def test_folds_pass_when_purged_and_fail_when_a_gap_is_one_bar_short():
    end = np.arange(5_000) + 1 + HORIZON
    folds = walk_forward(300_000 * np.arange(5_000), 300_000, WARM_UP, HORIZON, FoldConfig(folds=2))
    assert purged_folds(folds, end).passed
    first = folds[0]
    late = Span(start=first.train.start, stop=first.train.stop + 1)
    check = purged_folds([replace(first, train=late)], end)
    assert not check.passed
    start, last = first.validation.start, first.train.stop
    assert check.found.startswith(
        f"fold 1: the label of train bar {last} reads bar {start}, validation starts at {start}"
    )


def learn_honestly(values, classes):
    return Learned(
        from_train={"scaler": values[:300].mean(axis=0)}, from_validation={"weights": values[:400].std(axis=0)}
    )


@pytest.mark.parametrize(
    ("scaler_bars", "weight_bars", "said"),
    [
        (500, 400, r"scaler at place 0 was .* when the test bars from 400 on change; it is fitted on them"),
        (400, 400, r"scaler at place 0 was .* when the validation bars from 300 on change"),
        (300, 500, r"weights at place 0 was .* when the test bars from 400 on change"),
    ],
)
def test_fit_that_uses_later_bars_is_named(scaler_bars, weight_bars, said):
    values, classes = np.random.default_rng(0).standard_normal((500, 2)), np.zeros(500, np.int64)
    starts = {"validation_start": 300, "test_start": 400}
    assert train_isolation(learn_honestly, values, classes, **starts).passed

    def learn(values, classes):
        return Learned(
            from_train={"scaler": values[:scaler_bars].mean(axis=0)},
            from_validation={"weights": values[:weight_bars].std(axis=0)},
        )

    check = train_isolation(learn, values, classes, **starts)
    assert not check.passed
    assert_matches(check.found, said)


def probabilities_of(up):
    return np.column_stack([1.0 - up, np.zeros(len(up)), up]).astype(float)


def test_directions_are_chance_for_coins_and_a_leak_for_answers():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 3_000)
    coins = chance_direction("coins", probabilities_of(rng.random(3_000)), classes, overlap=1)
    assert coins.passed
    answers = chance_direction("answers", probabilities_of(classes == 2), classes, overlap=1)
    assert not answers.passed
    assert answers.found.startswith("100.00% of")
    # 3 of 5 right in 2,000 moves is far from chance, in the 20 independent ones of 100-bar labels it is not.
    better = probabilities_of(np.where(rng.random(3_000) < 0.2, classes == 2, rng.random(3_000) < 0.5))
    assert not chance_direction("better", better, classes, overlap=1).passed
    assert chance_direction("better", better, classes, overlap=100).passed


def test_directions_are_not_judged_without_a_move():
    assert not chance_direction("none", np.full((5, 3), 1 / 3), np.ones(5, np.int64), overlap=1).passed


def test_permuted_labels_keep_their_number_and_their_runs():
    values = np.repeat(np.arange(10), 5)
    permuted = permuted_in_blocks(values, 5)
    assert sorted(permuted) == sorted(values)
    assert (np.diff(permuted.reshape(10, 5), axis=1) == 0).all()
    assert not np.array_equal(permuted, values)


def test_canary_fails_when_a_check_misses_the_planted_leak():
    caught = LeakCheck(name="prefix invariance", passed=False, found="", wanted="")
    missed = LeakCheck(name="random-walk null", passed=True, found="", wanted="")
    assert canary([caught]).passed
    assert not canary([caught, missed]).passed
    assert canary([caught, missed]).found == "not caught by random-walk null"
    assert not canary([]).passed


def test_too_few_bars_are_refused_with_the_way_out():
    with pytest.raises(DatasetError, match="leak checks need bars behind bar 2000, they end before 100; ingest more"):
        prefix_invariance(features, CANDLES[:100], OUTPUTS, first=WARM_UP)


def test_inputs_that_are_not_what_the_candles_give_are_named():
    made = np.random.default_rng(3).normal(size=(50, 2))
    made[:5] = np.nan
    stored = made * (1 + 1e-13)  # as another processor rounds
    assert stored_inputs([(stored, made, ("a", "b"))]).passed
    stored[30, 1] = made[31, 1]
    found = stored_inputs([(stored, made, ("a", "b"))])
    assert not found.passed
    assert found.found.startswith("b at bar 30 was ")
