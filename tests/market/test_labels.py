"""Promise 6 for labels: each depends on the bars (t, t+1+H] and on the volatility known at t, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.schema import BUY, HOLD, SELL, ConfigError, FloatArray, IntArray
from tasks.market.features import build_features
from tasks.market.labels import UNKNOWN, LabelConfig, Labels, class_means, label_bars, sample_uniqueness
from tasks.market.synthetic import SyntheticMarket, generate

EVERY_BAR = slice(None)


def one_segment(bars: int) -> IntArray:
    return np.zeros(bars, np.int64)


def label_returns(log_opens: FloatArray, vol: FloatArray, config: LabelConfig, cost: float = 0.0) -> Labels:
    return label_bars(np.exp(log_opens), vol, one_segment(len(vol)), config, cost)


def test_label_is_the_return_from_the_next_open_over_the_horizon() -> None:
    #   bar              0      1      2      3      4      5
    opens = np.array([50.0, 100.0, 102.0, 103.0, 101.0, 100.0])
    vol = np.full(6, 0.01)
    # Threshold 1 * 0.01 * sqrt(2) = 1.41 %: +3.0 % is a buy, -1.0 % a hold, -3.0 % a sell.
    labels = label_bars(opens, vol, one_segment(6), LabelConfig(horizon=2, k=1.0), 0.0)
    np.testing.assert_allclose(labels.forward_return[:3], np.log([103 / 100, 101 / 102, 100 / 103]), rtol=1e-15)
    np.testing.assert_array_equal(labels.classes, [BUY, HOLD, SELL, UNKNOWN, UNKNOWN, UNKNOWN])
    np.testing.assert_allclose(labels.threshold, 0.01 * np.sqrt(2), rtol=1e-15)
    np.testing.assert_array_equal(labels.end, [3, 4, 5, 6, 7, 8])
    assert np.isnan(labels.forward_return[3:]).all()
    assert labels.horizon == 2


@pytest.mark.parametrize(
    ("vol", "cost", "multiple", "threshold"),
    [
        (0.01, 0.0022, 1.0, 0.02),  # k * vol * sqrt(4) binds
        (0.001, 0.0022, 1.0, 0.0022),  # one round trip binds
        (0.001, 0.0022, 1.5, 0.0033),
        (0.0, 0.0022, 0.0, 0.0),  # a flat market without a floor
    ],
)
def test_threshold_is_the_larger_of_volatility_and_cost(
    vol: float, cost: float, multiple: float, threshold: float
) -> None:
    config = LabelConfig(horizon=4, k=1.0, cost_floor_multiple=multiple)
    labels = label_returns(np.zeros(8), np.full(8, vol), config, cost)
    np.testing.assert_allclose(labels.threshold, threshold, rtol=1e-15)
    np.testing.assert_array_equal(labels.classes[:3], HOLD)


def test_label_is_hold_when_the_return_equals_the_threshold() -> None:
    opens = np.array([1.0, 1.0, 2.0, 1.0])
    floor = float(np.log(2.0))
    labels = label_bars(opens, np.zeros(4), one_segment(4), LabelConfig(horizon=1), floor)
    np.testing.assert_array_equal(labels.classes, [HOLD, HOLD, UNKNOWN, UNKNOWN])


@pytest.mark.promise(6)
@pytest.mark.parametrize("horizon", [1, 3, 12])
def test_label_changes_only_with_the_open_of_the_next_bar_and_of_its_end(horizon: int) -> None:
    rng = np.random.default_rng(horizon)
    log_opens = np.cumsum(rng.normal(0, 0.01, 60))
    vol = np.full(60, 0.01)
    config = LabelConfig(horizon=horizon)
    before = label_returns(log_opens, vol, config)
    for touched in range(60):
        other = log_opens.copy()
        other[touched] += 1.0
        after = label_returns(other, vol, config)
        same = (before.forward_return == after.forward_return) | np.isnan(before.forward_return)
        readers = {t for t in (touched - 1, touched - 1 - horizon) if 0 <= t < 60 - 1 - horizon}
        assert set(np.flatnonzero(~same)) == readers
        assert set(np.flatnonzero(before.classes != after.classes)) <= readers


@pytest.mark.promise(6)
@settings(deadline=None, max_examples=20)
@given(last=st.integers(2_100, 3_900), horizon=st.integers(1, 48), seed=st.integers(0, 100))
def test_labels_are_unchanged_when_everything_after_their_end_is_another(last: int, horizon: int, seed: int) -> None:
    config = LabelConfig(horizon=horizon)

    def labels_of(matrix: FloatArray) -> Labels:
        features = build_features(matrix, 300_000)
        return label_bars(matrix[:, 1], features.vol, features.segment, config, 0.0022)

    matrix = generate(SyntheticMarket(bars=4_000, seed=seed)).matrix()
    end = last + 1 + horizon
    other = matrix.copy()
    other[end + 1 :, 1:5] *= 2.0
    full, changed, cut = labels_of(matrix), labels_of(other), labels_of(matrix[: end + 1])
    for name in ("classes", "forward_return", "threshold"):
        expected = getattr(full, name)[: last + 1]
        np.testing.assert_array_equal(getattr(changed, name)[: last + 1], expected)
        np.testing.assert_array_equal(getattr(cut, name)[: last + 1], expected)
    if end < 4_000:
        assert cut.classes[last] != UNKNOWN
        assert labels_of(matrix[:end]).classes[last] == UNKNOWN, "it needs the bar at its end, no fewer"


def test_label_is_unknown_when_a_gap_or_the_end_lies_in_its_span() -> None:
    segment = np.array([0] * 6 + [1] + [2] * 5)
    labels = label_bars(np.ones(12), np.full(12, 0.01), segment, LabelConfig(horizon=2), 0.0)
    # t needs t .. t+3 in one segment: of 0..5 that leaves 0, 1, 2; of 7..11 it leaves 7, 8.
    np.testing.assert_array_equal(np.flatnonzero(labels.classes != UNKNOWN), [0, 1, 2, 7, 8])
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(labels.forward_return)), [0, 1, 2, 7, 8])


def test_label_is_unknown_when_volatility_is() -> None:
    vol = np.array([np.nan, 0.01, 0.01, 0.01])
    labels = label_bars(np.ones(4), vol, one_segment(4), LabelConfig(horizon=1), 0.001)
    np.testing.assert_array_equal(labels.classes, [UNKNOWN, HOLD, UNKNOWN, UNKNOWN])
    assert labels.forward_return[0] == 0.0, "what came is known, what counts as much is not"


def test_labels_are_all_unknown_when_the_series_is_shorter_than_the_span() -> None:
    for bars in (0, 1, 13):
        labels = label_bars(np.ones(bars), np.ones(bars), one_segment(bars), LabelConfig(horizon=12), 0.0)
        np.testing.assert_array_equal(labels.classes, np.full(bars, UNKNOWN))


def test_labels_are_quiet_when_an_invalid_bar_has_no_price() -> None:
    matrix = generate(SyntheticMarket(bars=6_000)).matrix()
    matrix[3_000, 1] = 0.0  # its logarithm would warn, and warnings are errors here
    features = build_features(matrix, 300_000)
    labels = label_bars(matrix[:, 1], features.vol, features.segment, LabelConfig(), 0.0022)
    known = np.flatnonzero(labels.classes != UNKNOWN)
    np.testing.assert_array_equal(known, [*range(1_999, 3_000 - 13), *range(5_000, 6_000 - 13)])


def test_classes_are_thirds_when_returns_are_gaussian() -> None:
    sigma, bars = 8e-4, 200_000
    market = SyntheticMarket(kind="null", sv=0.0, volatility=sigma, bars=bars, seed=11)
    labels = label_bars(generate(market).open, np.full(bars, sigma), one_segment(bars), LabelConfig(horizon=4), 0.0)
    shares = np.bincount(labels.classes[labels.classes != UNKNOWN]) / bars
    # Labels overlap 4-fold: 50,000 independent ones, standard error sqrt(2 / 9 / 50,000) = 0.0021; four of them.
    np.testing.assert_allclose(shares, 1 / 3, atol=0.0084)


def test_class_means_are_the_truncated_means_when_returns_are_gaussian() -> None:
    sigma, bars = 8e-4, 200_000
    market = SyntheticMarket(kind="null", sv=0.0, volatility=sigma, bars=bars, seed=12)
    vol = np.full(bars, sigma)
    labels = label_bars(generate(market).open, vol, one_segment(bars), LabelConfig(horizon=4), 0.0)
    # E[z | z > c] = density(c) / (1 - Phi(c)) = 0.36361 / 0.33334 at c = 0.4307.
    np.testing.assert_allclose(class_means(labels, vol, EVERY_BAR), [-1.0908, 0.0, 1.0908], atol=0.02)


def test_class_means_use_the_given_rows_and_no_others() -> None:
    #                             t: 0    1    2     3     4    5
    log_opens = np.array([0.0, 0.00, 0.04, 0.02, 0.08, 0.0, 9.0])
    vol = np.array([0.01, 0.01, 0.02, 0.02, 0.01, 0.01, 0.01])
    labels = label_returns(log_opens, vol, LabelConfig(horizon=1, k=1.0))
    np.testing.assert_array_equal(labels.classes, [BUY, SELL, BUY, SELL, BUY, UNKNOWN, UNKNOWN])
    # R / vol of t = 0 .. 3: 4, -2, 3, -4.
    np.testing.assert_allclose(class_means(labels, vol, slice(0, 4)), [-3.0, 0.0, 3.5], rtol=1e-12)
    np.testing.assert_allclose(class_means(labels, vol, np.array([0, 1])), [-2.0, 0.0, 4.0], rtol=1e-12)
    np.testing.assert_allclose(class_means(labels, vol, np.arange(7) == 3), [-4.0, 0.0, 0.0], rtol=1e-12)
    np.testing.assert_array_equal(class_means(labels, vol, slice(5, 7)), [0.0, 0.0, 0.0])


@pytest.mark.parametrize("hours", [1, 8, 16, 72])
def test_class_means_are_kept_when_the_market_halts(hours: int) -> None:
    """A halt leaves volatility as it was: else the move that ends it would count thousands of its units."""
    candles = generate(SyntheticMarket(bars=30_000, interval_ms=60_000)).matrix()
    at, end = 10_000, 10_000 + 60 * hours
    halted = candles.copy()
    halted[end:, 1:5] *= candles[at - 1, 4] / candles[end - 1, 4]
    halted[at:end, 1:] = [*[candles[at - 1, 4]] * 4, 0.0]
    means = []
    for matrix in (candles, halted):
        built = build_features(matrix, 60_000)
        labels = label_bars(matrix[:, 1], built.vol, built.segment, LabelConfig(), 0.0)
        means.append(class_means(labels, built.vol, EVERY_BAR))
    np.testing.assert_allclose(means[1], means[0], rtol=0.05, atol=0.02)


def test_class_means_leave_out_bars_of_a_flat_market() -> None:
    log_opens = np.array([0.0, 0.0, 0.04, 0.08, 0.08])
    labels = label_returns(log_opens, np.array([0.01, 0.0, 0.01, 0.01, 0.01]), LabelConfig(horizon=1, k=1.0))
    np.testing.assert_array_equal(labels.classes[:3], [BUY, BUY, HOLD])
    means = class_means(labels, np.array([0.01, 0.0, 0.01, 0.01, 0.01]), EVERY_BAR)
    np.testing.assert_allclose(means, [0.0, 0.0, 4.0], rtol=1e-12)


@pytest.mark.parametrize(("horizon", "mean"), [(5, 0.2002), (15, 0.0669), (60, 0.0169)])
def test_uniqueness_is_about_one_over_the_horizon_when_labels_follow_each_other(horizon: int, mean: float) -> None:
    bars = 5_000 + horizon + 1
    labels = label_bars(np.ones(bars), np.ones(bars), one_segment(bars), LabelConfig(horizon=horizon), 0.0)
    uniqueness = sample_uniqueness(labels, EVERY_BAR)
    assert uniqueness[:5_000].mean() == pytest.approx(mean, abs=5e-5)
    # Away from the ends every bar is shared by exactly `horizon` labels.
    np.testing.assert_allclose(uniqueness[horizon : 5_000 - horizon], 1 / horizon, rtol=1e-9)


def test_uniqueness_is_one_when_labels_do_not_overlap() -> None:
    labels = label_bars(np.ones(100), np.ones(100), one_segment(100), LabelConfig(horizon=6), 0.0)
    uniqueness = sample_uniqueness(labels, np.arange(0, 93, 6))
    np.testing.assert_allclose(uniqueness[:93:6], 1.0, rtol=1e-12)
    assert uniqueness.sum() == pytest.approx(16)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), horizon=st.integers(1, 9), share=st.floats(0.0, 1.0))
def test_uniqueness_equals_its_definition_bar_by_bar(seed: int, horizon: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    segment = np.cumsum(rng.random(80) < 0.05)
    labels = label_bars(np.ones(80), np.ones(80), segment, LabelConfig(horizon=horizon), 0.0)
    rows = rng.random(80) < share
    spans = {t: range(t + 1, t + 1 + horizon) for t in range(80) if rows[t] and labels.classes[t] != UNKNOWN}
    under_way = [sum(bar in span for span in spans.values()) for bar in range(80)]
    expected = [np.mean([1 / under_way[bar] for bar in spans[t]]) if t in spans else 0.0 for t in range(80)]
    np.testing.assert_allclose(sample_uniqueness(labels, rows), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"horizon": 0}, "horizon must be >= 1, was 0"),
        ({"k": -0.1}, "k must be >= 0, was -0.1"),
        ({"k": float("nan")}, "k must be finite and >= 0, was nan"),
        ({"cost_floor_multiple": float("inf")}, "cost_floor_multiple must be finite and >= 0, was inf"),
    ],
)
def test_label_config_refuses_what_makes_no_label(fields: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        LabelConfig(**fields)  # type: ignore[arg-type]


def test_label_bars_refuses_arrays_of_several_lengths() -> None:
    with pytest.raises(ValueError, match="open_, vol and segment must have one length, were 3, 4, 3"):
        label_bars(np.ones(3), np.ones(4), one_segment(3), LabelConfig(), 0.0)


@pytest.mark.parametrize("cost", [-0.001, float("nan"), float("inf")])
def test_label_bars_refuses_a_cost_that_is_none(cost: float) -> None:
    with pytest.raises(ValueError, match=f"round_trip_cost must be finite and >= 0, was {cost}"):
        label_bars(np.ones(3), np.ones(3), one_segment(3), LabelConfig(), cost)
