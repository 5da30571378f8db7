"""Promises 4 and 5 for features: nothing later, and nothing long past, changes them; bar by bar equals all at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.contracts import validate_features
from storage.schema import FEATURES, ODD_FEATURES, FloatArray
from tasks.market.features import (
    CLIP,
    FARTHEST,
    FLAT_VOL,
    OUTPUTS,
    WARM_UP,
    Features,
    advance,
    build_features,
    halted_bars,
    new_state,
)
from tasks.market.synthetic import SyntheticMarket, generate

INTERVAL_MS = 300_000
START, OPEN, HIGH, LOW, CLOSE, VOLUME = range(6)


def market(bars: int, seed: int = 1, interval_ms: int = INTERVAL_MS) -> FloatArray:
    return generate(SyntheticMarket(kind="gated", bars=bars, seed=seed, interval_ms=interval_ms)).matrix()


def constant_market(bars: int, price: float = 100.0, volume: float = 20.0) -> FloatArray:
    matrix = np.full((bars, 6), price)
    matrix[:, START] = 1_735_689_600_000 + INTERVAL_MS * np.arange(bars)
    matrix[:, VOLUME] = volume
    return matrix


def with_halt(matrix: FloatArray, at: int, bars: int) -> FloatArray:
    """The market with `bars` bars from `at` on in which nothing trades; after them its returns are what they were."""
    halted, last = matrix.copy(), matrix[at - 1, CLOSE]
    halted[at:, OPEN:VOLUME] *= last / matrix[min(at + bars, len(matrix)) - 1, CLOSE]
    halted[at : at + bars, OPEN:VOLUME] = last
    halted[at : at + bars, VOLUME] = 0.0
    return halted


def rough_market() -> FloatArray:
    """9,000 bars with a gap, a NaN bar, bars without trades, a halt, and a fall of 0.68 in log, as ADAUSDT had one."""
    matrix = market(9_000)
    matrix[500::97, VOLUME] = 0.0
    matrix[2_500:, OPEN:VOLUME] *= np.exp(-0.68)
    matrix[2_500, OPEN] = matrix[2_500, HIGH] = matrix[2_499, CLOSE]
    matrix[6_000, CLOSE] = np.nan
    matrix = with_halt(matrix, 8_100, 150)
    return np.delete(matrix, slice(3_000, 3_007), axis=0)


def outputs(features: Features) -> FloatArray:
    """(T, 12): values, vol and segment side by side."""
    return np.column_stack([features.values, features.vol, features.segment])


def require_equal(expected: FloatArray, actual: FloatArray, tolerance: float, cause: str) -> None:
    """Fail with the column, the bar and the first values that differ, and the likely cause."""
    same = (np.abs(actual - expected) <= tolerance) | (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    if not same.all():
        bar, column = np.argwhere(~same)[0]
        pytest.fail(
            f"{(*OUTPUTS, 'segment')[column]} differs at row {bar}: "
            f"{actual[bar, column]!r}, was {expected[bar, column]!r} ({cause})"
        )


def require_prefix_invariance(build: Callable[[FloatArray, int], Features], matrix: FloatArray) -> None:
    full = outputs(build(matrix, INTERVAL_MS))
    for stop in np.random.default_rng(0).integers(1, len(matrix), 60):
        cut = outputs(build(matrix[:stop], INTERVAL_MS))
        require_equal(full[:stop], cut, 0.0, f"it reads bars after {stop - 1}")


@pytest.mark.promise(4)
def test_features_are_unchanged_when_the_future_is_cut_off() -> None:
    require_prefix_invariance(build_features, rough_market())


@pytest.mark.promise(4)
@pytest.mark.parametrize("change", ["scaled", "shuffled", "nan", "gap"])
def test_features_are_unchanged_when_the_future_is_another(change: str) -> None:
    matrix = rough_market()
    full = outputs(build_features(matrix, INTERVAL_MS))
    rng = np.random.default_rng(0)
    for stop in rng.integers(WARM_UP, len(matrix) - 1, 20):
        other = matrix.copy()
        if change == "scaled":
            other[stop:, OPEN:VOLUME] *= 3.0
        elif change == "shuffled":
            other[stop:, OPEN:] = rng.permutation(other[stop:, OPEN:])
        elif change == "nan":
            other[stop:, OPEN:] = np.nan
        else:
            other[stop:, START] += INTERVAL_MS
        changed = outputs(build_features(other, INTERVAL_MS))
        require_equal(full[:stop], changed[:stop], 0.0, f"it reads bars after {stop - 1}")
        assert not np.array_equal(full[stop:], changed[stop:], equal_nan=True)


def test_invariance_check_fails_when_a_feature_is_the_next_return() -> None:
    def leaky(matrix: FloatArray, interval_ms: int) -> Features:
        features = build_features(matrix, interval_ms)
        features.values[:-1, 0] = features.values[1:, 0]
        return features

    with pytest.raises(pytest.fail.Exception, match=r"return_1 differs at row \d+: .* \(it reads bars after \d+\)"):
        require_prefix_invariance(leaky, market(6_000))


@pytest.mark.promise(4)
@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**16),
    start=st.integers(1, 3_000),
    interval_ms=st.sampled_from([60_000, 300_000, 3_600_000, 86_400_000, 604_800_000]),
    jump=st.sampled_from([0.0, -0.68]),
)
def test_features_are_unchanged_when_history_starts_later(seed: int, start: int, interval_ms: int, jump: float) -> None:
    matrix = market(7_000, seed, interval_ms)
    matrix[start - 1 :, OPEN:VOLUME] *= np.exp(jump)  # within the part that the later start has not seen
    full = outputs(build_features(matrix, interval_ms))[start:]
    later = outputs(build_features(matrix[start:], interval_ms))
    assert np.isnan(later[: WARM_UP - 1, :-1]).all()
    require_equal(full[WARM_UP - 1 :], later[WARM_UP - 1 :], 1e-9, f"it remembers bars before {start} for too long")


@pytest.mark.promise(4)
def test_features_are_unchanged_when_history_starts_within_a_market_that_stood_still() -> None:
    matrix = market(9_000)
    matrix[3_000:6_000, OPEN:VOLUME] = matrix[2_999, CLOSE]
    matrix[6_000, OPEN] = matrix[2_999, CLOSE]
    matrix[6_000:, OPEN:VOLUME] *= matrix[2_999, CLOSE] / matrix[6_000, OPEN]
    full = outputs(build_features(matrix, INTERVAL_MS))
    for start in (1_500, 2_900, 3_500, 4_500):
        later = outputs(build_features(matrix[start:], INTERVAL_MS))
        require_equal(full[start + WARM_UP - 1 :], later[WARM_UP - 1 :], 1e-9, "it remembers what moved before")


@pytest.mark.promise(4)
@pytest.mark.skipif("DSC_TEST_DATA" not in os.environ, reason="DSC_TEST_DATA names no folder of real candles")
def test_features_of_real_candles_are_unchanged_when_history_starts_after_the_fall_of_october_2025() -> None:
    path = Path(os.environ["DSC_TEST_DATA"], "candles", "bybit_linear_ADAUSDT_5m.parquet")
    frame = pd.read_parquet(path, columns=["start_ms", "open", "high", "low", "close", "volume"])
    matrix = frame.to_numpy(np.float64)
    full = outputs(build_features(matrix, INTERVAL_MS))
    fall = int(np.argmin(np.diff(np.log(matrix[:, CLOSE])))) + 1
    assert np.isfinite(full[WARM_UP - 1 :]).all()
    assert full[-1, -1] == 0, "real candles without a gap are one segment"
    for start in (fall, fall + 1, fall + 777):
        later = outputs(build_features(matrix[start:], INTERVAL_MS))
        require_equal(full[start + WARM_UP - 1 :], later[WARM_UP - 1 :], 1e-9, "it remembers the fall")


@pytest.mark.promise(5)
def test_features_equal_the_batch_when_advanced_bar_by_bar() -> None:
    matrix = rough_market()
    batch = outputs(build_features(matrix, INTERVAL_MS))
    state, out, segment = new_state(INTERVAL_MS), np.empty(len(OUTPUTS)), -1
    for bar, candle in enumerate(matrix):
        segment += advance(state, candle, out)
        np.testing.assert_array_equal([*out, segment], batch[bar], err_msg=f"row {bar}")
    assert segment == 3  # the gap, the NaN bar, the bar after it


@pytest.mark.promise(5)
@settings(deadline=None, max_examples=10)
@given(cut=st.integers(0, 8_000))
def test_features_go_on_alike_when_the_state_was_copied(cut: int) -> None:
    matrix = rough_market()[: cut + 500]
    batch = outputs(build_features(matrix, INTERVAL_MS))
    state, out = new_state(INTERVAL_MS), np.empty(len(OUTPUTS))
    for candle in matrix[:cut]:
        advance(state, candle, out)
    restored = state.copy()
    for candle in matrix[cut : cut + 100]:
        advance(state, candle, out)  # the original goes on and must not disturb its copy
    for bar in range(cut, len(matrix)):
        advance(restored, matrix[bar], out)
        np.testing.assert_array_equal(out, batch[bar, :-1], err_msg=f"row {bar}")


def test_features_are_nan_exactly_while_a_segment_warms_up() -> None:
    features = build_features(market(5_000), INTERVAL_MS)
    assert np.isnan(features.values[: WARM_UP - 1]).all()
    assert np.isnan(features.vol[: WARM_UP - 1]).all()
    assert np.isfinite(features.values[WARM_UP - 1 :]).all()
    assert np.isfinite(features.vol[WARM_UP - 1 :]).all()
    assert (features.segment == 0).all()


@pytest.mark.parametrize("steps", [2, 500, 0, -3])
def test_segment_restarts_when_a_bar_does_not_follow_the_one_before(steps: int) -> None:
    matrix = market(7_000)
    matrix[3_000:, START] += (steps - 1) * INTERVAL_MS
    features = build_features(matrix, INTERVAL_MS)
    np.testing.assert_array_equal(features.segment, np.repeat([0, 1], [3_000, 4_000]))
    alone = build_features(matrix[3_000:], INTERVAL_MS)
    np.testing.assert_array_equal(features.values[3_000:], alone.values)
    np.testing.assert_array_equal(features.vol[3_000:], alone.vol)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((column, np.nan) for column in range(6)),
        *((column, np.inf) for column in range(6)),
        *((column, 0.0) for column in (OPEN, HIGH, LOW, CLOSE)),
        *((column, -1.0) for column in (OPEN, HIGH, LOW, CLOSE, VOLUME)),
        *((column, 1e200) for column in (OPEN, HIGH, LOW, CLOSE, VOLUME)),
        (LOW, 1e-300),
        (HIGH, 1.0),
    ],
)
def test_segment_restarts_when_a_candle_is_none(column: int, value: float) -> None:
    matrix = market(4_700)
    matrix[2_500, column] = value
    features = build_features(matrix, INTERVAL_MS)
    np.testing.assert_array_equal(features.segment, np.repeat([0, 1, 2], [2_500, 1, 2_199]))
    assert np.isnan(features.values[2_500 : 2_500 + WARM_UP]).all()
    np.testing.assert_array_equal(features.values[2_501:], build_features(matrix[2_501:], INTERVAL_MS).values)


def test_segment_restarts_when_an_invalid_candle_is_sent_again_in_order() -> None:
    good = market(2_600)
    bad = good[2_500].copy()
    bad[CLOSE] = np.nan
    features = build_features(np.insert(good, 2_500, bad, axis=0), INTERVAL_MS)
    np.testing.assert_array_equal(features.segment, np.repeat([0, 1, 2], [2_500, 1, 100]))


def test_log_volume_keeps_no_rounding_when_its_ring_comes_round() -> None:
    matrix = market(9_000)
    later = 2 * WARM_UP  # whole rounds, so that both runs sum the same numbers in the same order
    full = build_features(matrix, INTERVAL_MS).values[later + WARM_UP :, 9]
    np.testing.assert_array_equal(full, build_features(matrix[later:], INTERVAL_MS).values[WARM_UP:, 9])


@pytest.mark.promise(4)
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), halt=st.integers(1, 5_000), lead=st.integers(-5_000, WARM_UP))
def test_features_are_unchanged_when_history_starts_before_or_within_a_halt(seed: int, halt: int, lead: int) -> None:
    at = 2_500
    matrix = with_halt(market(at + halt + WARM_UP + 500, seed), at, halt)
    start = at - max(lead, -halt)
    full = outputs(build_features(matrix, INTERVAL_MS))[start:]
    later = outputs(build_features(matrix[start:], INTERVAL_MS))
    known = np.isfinite(later[:, 0])
    assert known[-500:].all(), "WARM_UP bars after the halt it must be warm"
    require_equal(full[known], later[known], 1e-9, "it remembers what was before the start for too long")


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**16),
    hours=st.integers(1, 72),
    minutes=st.sampled_from([1, 5, 60]),
    share=st.floats(0, 1),
)
def test_ordinary_bars_keep_their_scale_when_the_market_halts(
    seed: int, hours: int, minutes: int, share: float
) -> None:
    bars, halt = 30_000, hours * 60 // minutes
    at = 2_500 + int(share * (bars - 3_000 - halt))
    halted = build_features(with_halt(market(bars, seed, minutes * 60_000), at, halt), minutes * 60_000)
    ordinary = np.delete(halted.values, slice(at, at + halt + 200), axis=0)  # vol would need 200 bars to recover
    # A scaler divides by the standard deviation of every bar that has features.
    ratio = np.nanstd(ordinary, axis=0) / np.nanstd(halted.values, axis=0)
    np.testing.assert_allclose(ratio, 1.0, rtol=0, atol=0.1, err_msg=f"{halt} bars from {at} on")
    assert halted_bars(halted.vol, halted.segment) == max(halt - 10, 0)


@pytest.mark.parametrize("fall", [0.05, 0.8, 0.99])
def test_features_keep_their_contract_when_a_crash_is_followed_by_a_halt_of_the_day(fall: float) -> None:
    matrix = market(4_200, interval_ms=60_000)  # the crash begins at 01:20 UTC
    matrix[2_960:, OPEN:VOLUME] *= 1 - fall
    matrix[2_960, OPEN] = matrix[2_960, HIGH] = matrix[2_959, CLOSE]
    features = build_features(with_halt(matrix, 2_970, 1_200), 60_000)
    validate_features(features.values, features.vol, matrix[:, START].astype(np.int64), 60_000)
    assert np.isnan(features.values[2_980:4_170]).all()
    after = features.values[4_170:, FEATURES.index("vwap_deviation")]
    assert np.abs(after).max() < 2 * np.abs(np.log(1 - fall)) / features.vol[2_979]


def test_features_go_on_as_before_when_a_halt_ends() -> None:
    matrix = market(6_000)
    halted = with_halt(matrix, 4_000, 500)
    halted[4_500:, 1:] = matrix[4_000:-500, 1:]
    short = with_halt(matrix, 4_000, 10)
    short[4_010:, 1:] = matrix[4_000:-10, 1:]
    one, other = (build_features(candles, INTERVAL_MS) for candles in (halted, short))
    own = [column for column, name in enumerate(FEATURES) if not name.startswith(("vwap", "week_", "day_"))]
    np.testing.assert_array_equal(one.values[4_500:, own], other.values[4_010:-490, own])
    np.testing.assert_array_equal(one.vol[4_500:], other.vol[4_010:-490])
    assert np.isnan(one.values[4_010:4_500]).all()
    assert (one.segment == 0).all()


def test_a_bar_that_moves_or_trades_ends_the_silence() -> None:
    matrix = with_halt(market(4_000), 3_000, 40)
    matrix[3_010, VOLUME] = 1.0
    matrix[3_025:, OPEN:VOLUME] *= 1.001
    known = np.isfinite(build_features(matrix, INTERVAL_MS).vol[2_990:3_050])
    left_out = np.flatnonzero(~known) + 2_990
    assert left_out.tolist() == [*range(3_021, 3_025), *range(3_036, 3_040)]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_range_and_vwap_deviation_are_bounded_when_hardly_anything_moves_after_a_fall(sign: float) -> None:
    matrix = constant_market(4_000)
    matrix[1::2, OPEN:VOLUME] *= 1 + 1e-6
    matrix[3_000:, OPEN:VOLUME] *= np.exp(sign * 0.5)
    matrix[3_500:, HIGH] *= 1.01
    features = build_features(matrix, INTERVAL_MS)
    assert np.isfinite(features.values[WARM_UP - 1 :]).all()
    assert features.values[:, FEATURES.index("range")][3_800] == FARTHEST
    assert np.nanmax(sign * features.values[:, FEATURES.index("vwap_deviation")]) <= FARTHEST


def test_features_are_zero_when_the_market_is_flat() -> None:
    matrix = constant_market(2_500)
    matrix[:, HIGH], matrix[:, LOW] = 101.0, 99.0
    features = build_features(matrix, INTERVAL_MS)
    np.testing.assert_array_equal(features.vol[WARM_UP - 1 :], 0.0)
    own = [column for column, name in enumerate(FEATURES) if not name.startswith(("vol_level", "week_", "day_"))]
    np.testing.assert_allclose(features.values[WARM_UP - 1 :, own], 0.0, rtol=0, atol=1e-12)  # log_volume: mean of logs
    np.testing.assert_allclose(features.values[WARM_UP - 1 :, FEATURES.index("vol_level")], np.log(1e-5))


def test_features_return_to_zero_when_a_fall_is_followed_by_silence() -> None:
    matrix = constant_market(6_000)
    matrix[2_500:, OPEN:VOLUME] *= np.exp(-0.68)
    matrix[2_500, OPEN] = matrix[2_500, HIGH] = 100.0
    features = build_features(matrix, INTERVAL_MS)
    at_fall = dict(zip(FEATURES, features.values[2_500], strict=True))
    assert np.isfinite(features.values[WARM_UP - 1 :]).all()
    # One squared return is all the EWMA holds: vol^2 = (2 / 101) * 0.68^2, so return_1 = -sqrt(101 / 2).
    assert at_fall["return_1"] == pytest.approx(-np.sqrt(50.5), abs=1e-12)
    assert at_fall["volatility"] == pytest.approx(np.log(np.sqrt(1 / 20) * np.sqrt(50.5)), abs=1e-12)
    assert at_fall["rsi"] == -0.5
    assert features.values[2_519, 2] > -CLIP
    assert features.values[2_520, 2] == -CLIP, "20 bars after the fall no return is left in the short mean"
    silent = np.flatnonzero((features.vol < FLAT_VOL) & (np.arange(6_000) > 2_500))
    np.testing.assert_array_equal(features.values[silent][:, [0, 1, 2, 4, 5, 6, 7, 8]], 0.0)
    # sqrt(2 / 101) * 0.68 * (99 / 101)^(n / 2) < 1e-8 from n = 16.0740 / 0.0100003 = 1,607.4 on.
    assert silent[0] == 2_500 + 1_608


def test_slow_volatility_forgets_a_fall_to_the_last_digit_when_it_leaves_the_window() -> None:
    matrix = market(6_000)
    matrix[2_500:, OPEN:VOLUME] *= np.exp(-0.68)
    full = build_features(matrix, INTERVAL_MS).values[:, FEATURES.index("vol_2000")]
    later = build_features(matrix[2_501:], INTERVAL_MS).values[:, FEATURES.index("vol_2000")]
    # vol itself remembers the fall: (99 / 101)^2000 of it is 2e-14 of a feature here, a tenth of that 115 bars later.
    np.testing.assert_allclose(full[4_617:], later[2_116:], rtol=0, atol=1e-14)


def test_odd_features_change_their_sign_and_no_others_when_the_market_is_upside_down() -> None:
    matrix = generate(SyntheticMarket(kind="gated", bars=6_000, seed=1, volatility=8e-4)).matrix()  # small moves
    upside_down = matrix.copy()
    upside_down[:, OPEN:VOLUME] = 1e4 / matrix[:, [OPEN, LOW, HIGH, CLOSE]]
    one, other = (build_features(candles, INTERVAL_MS).values[WARM_UP - 1 :] for candles in (matrix, upside_down))
    for column, name in enumerate(FEATURES):
        sign = -1 if name in ODD_FEATURES else 1
        # Sums of prices are not sums of their inverses, so that some agree only as far as moves are small.
        np.testing.assert_allclose(one[:, column], sign * other[:, column], rtol=0.05, atol=0.05, err_msg=name)


def test_volume_features_hit_their_floor_when_a_bar_has_no_trades() -> None:
    matrix = market(3_000)
    matrix[2_500, VOLUME] = 0.0
    matrix[2_600, VOLUME] = 1e-150  # as good as none
    features = build_features(matrix, INTERVAL_MS)
    for bar in (2_500, 2_600):
        assert features.values[bar, 3] == features.values[bar, 9] == -5.0
    assert np.isfinite(features.values[WARM_UP - 1 :]).all()


def test_features_are_finite_when_nothing_ever_trades() -> None:
    matrix = market(2_500)
    matrix[:, VOLUME] = 0.0
    features = build_features(matrix, INTERVAL_MS)
    assert np.isfinite(features.values[WARM_UP - 1 :]).all()
    np.testing.assert_array_equal(features.values[WARM_UP - 1 :, 8], 0.0)  # no VWAP to deviate from


HOSTILE_BAR = st.tuples(
    st.floats(-99, 99),  # log10 of the close
    st.floats(0, 1),  # how far high and low go beyond, as a share of what is allowed
    st.one_of(st.just(0.0), st.floats(0, 1e100), st.just(5e-324)),
)


@settings(deadline=None, max_examples=60)
@given(hostile=st.lists(HOSTILE_BAR, min_size=1, max_size=80), still=st.integers(0, 2_600))
def test_features_are_finite_when_candles_are_barely_possible(
    hostile: list[tuple[float, float, float]], still: int
) -> None:
    matrix = constant_market(WARM_UP + len(hostile) + still)
    for bar, (log_price, reach, volume) in enumerate(hostile, WARM_UP - 1):
        open_, close = matrix[bar - 1, CLOSE], 10.0**log_price
        high, low = max(open_, close) * 10 ** (reach / 2), min(open_, close) * 10 ** (-reach / 2)
        matrix[bar, OPEN:] = open_, high, low, close, volume
    matrix[WARM_UP - 1 + len(hostile) :, OPEN:VOLUME] = 10.0 ** hostile[-1][0]
    features = build_features(matrix, INTERVAL_MS)
    assert (features.segment == 0).all()
    assert np.isfinite(features.values[WARM_UP - 1 :]).all()
    assert np.isfinite(features.vol[WARM_UP - 1 :]).all()


def test_features_are_empty_when_there_are_no_bars() -> None:
    features = build_features(np.empty((0, 6)), INTERVAL_MS)
    assert features.values.shape == (0, len(FEATURES))
    assert features.vol.shape == features.segment.shape == (0,)


def test_build_features_leaves_its_input_alone() -> None:
    matrix = market(2_100)
    before = matrix.copy()
    build_features(matrix, INTERVAL_MS)
    np.testing.assert_array_equal(matrix, before)


def test_build_features_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match=r"matrix must be \(T, 6\), start_ms open .* was \(3, 5\)"):
        build_features(np.ones((3, 5)), INTERVAL_MS)


def test_new_state_refuses_an_interval_below_one() -> None:
    with pytest.raises(ValueError, match="interval_ms must be >= 1, was 0"):
        new_state(0)


def test_outputs_are_the_schema_s_features_and_the_volatility() -> None:
    assert (*FEATURES, "vol") == OUTPUTS
