"""Against the numbers of the papers and of simulations written down in the notes, and against closed forms."""

import math

import numpy as np
import pytest
from numba import njit
from scipy import stats

from tasks.execution.significance import (
    annualisation_factor,
    autocorrelations,
    bootstrap_means,
    deflated_sharpe,
    diebold_mariano,
    expected_max_sharpe,
    mean_variance,
    minimum_track_record,
    probabilistic_sharpe,
    sharpe_interval,
    sharpe_standard_error,
    stationary_bootstrap_test,
)


@njit
def autoregressive(noise, coefficient):
    values = np.empty_like(noise)
    values[0] = noise[0] / math.sqrt(1 - coefficient * coefficient)
    for t in range(1, len(noise)):
        values[t] = coefficient * values[t - 1] + noise[t]
    return values


def normal_returns(sharpe, length, seed=0):
    """Returns whose sample Sharpe ratio is exactly `sharpe`."""
    noise = np.random.default_rng(seed).standard_normal(length)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    return 0.01 * (noise + sharpe)


# --- Sharpe ratio -----------------------------------------------------------------------------------------------------


def test_sharpe_error_equals_the_formula_with_scipy_moments():
    returns = np.random.default_rng(1).standard_t(5, 700) * 0.01 + 0.001
    ratio = returns.mean() / returns.std(ddof=1)
    shape = 1 - stats.skew(returns) * ratio + (stats.kurtosis(returns, fisher=False) - 1) / 4 * ratio**2
    assert sharpe_standard_error(returns) == pytest.approx(math.sqrt(shape / 699), rel=1e-12)
    assert probabilistic_sharpe(returns, 0.01) == pytest.approx(
        stats.norm.cdf((ratio - 0.01) * math.sqrt(699) / math.sqrt(shape)), rel=1e-12
    )


def test_sharpe_error_equals_the_spread_of_simulated_ratios():
    """Fat tails and skew: 4,000 samples of 300 returns; the spread of the ratio is known to 1.1 %."""
    draws = np.random.default_rng(2).gamma(4.0, 1.0, (4_000, 300)) - 3.0
    ratios = draws.mean(axis=1) / draws.std(axis=1, ddof=1)
    errors = [sharpe_standard_error(row) for row in draws[:400]]
    assert np.mean(errors) == pytest.approx(ratios.std(), rel=0.05)


def test_probability_is_a_half_when_the_benchmark_is_the_ratio_itself():
    assert probabilistic_sharpe(normal_returns(0.1, 500), 0.1) == pytest.approx(0.5, abs=1e-9)


# The notes' table: formula / simulation 1.575/1.546, 2.276/2.248, 2.766/2.747, 3.255/3.237.
@pytest.mark.parametrize(
    ("trials", "formula", "simulation"),
    [(10, 1.575, 1.546), (50, 2.276, 2.248), (200, 2.766, 2.747), (1_000, 3.255, 3.237)],
)
def test_expected_maximum_equals_the_notes_table(trials, formula, simulation):
    assert expected_max_sharpe(trials, 1.0) == pytest.approx(formula, abs=5e-4)
    exact, _ = expected_maximum_of_normals(trials)
    assert exact == pytest.approx(simulation, abs=0.01)
    assert expected_max_sharpe(trials, 1.0) == pytest.approx(exact, rel=0.025)
    assert expected_max_sharpe(trials, 0.04) == pytest.approx(0.2 * formula, abs=1e-3)


def expected_maximum_of_normals(trials):
    """Integral of x over the density of the largest of `trials` normals."""
    grid = np.linspace(-9, 9, 200_001)
    density = trials * stats.norm.pdf(grid) * stats.norm.cdf(grid) ** (trials - 1)
    return np.trapezoid(grid * density, grid), np.trapezoid(density, grid)


def test_one_trial_needs_no_deflation():
    returns = normal_returns(0.05, 800)
    assert expected_max_sharpe(1, 1.0) == 0.0
    assert deflated_sharpe(returns, 1, 0.002) == probabilistic_sharpe(returns)


def test_best_of_fifty_worthless_strategies_passes_undeflated_and_fails_deflated():
    """The notes: PSR above 0.95 in 93.8 % and DSR in 0.0 % of searches, fat-tailed returns."""
    rng = np.random.default_rng(3)
    naive, deflated = 0, 0
    for _ in range(60):
        trials = rng.standard_t(5, (50, 1_000)) * 0.01
        ratios = trials.mean(axis=1) / trials.std(axis=1, ddof=1)
        best = trials[ratios.argmax()]
        naive += probabilistic_sharpe(best) > 0.95
        deflated += deflated_sharpe(best, 50, float(ratios.var(ddof=1))) > 0.95
    assert naive >= 49  # 93.8 % of 60 is 56.3, less four standard errors
    assert deflated <= 1


def test_track_record_is_just_long_enough_to_pass():
    """At exactly that length the probabilistic Sharpe ratio equals one minus the level."""
    returns = normal_returns(0.1, 2_000)
    needed = minimum_track_record(returns)
    # Normal returns: 1 + (1 + 0.1^2 / 2) * (1.6449 / 0.1)^2
    assert needed == pytest.approx(1 + 1.005 * 270.55, rel=0.02)
    shape = sharpe_standard_error(returns) ** 2 * 1_999
    assert stats.norm.cdf(0.1 * math.sqrt(needed - 1) / math.sqrt(shape)) == pytest.approx(0.95, abs=1e-9)
    assert minimum_track_record(-returns) is None


@pytest.mark.parametrize("returns", [np.zeros(50), np.full(50, 0.001), np.array([0.01])])
def test_sharpe_statistics_are_undefined_when_returns_do_not_vary(returns):
    assert sharpe_standard_error(returns) is None
    assert probabilistic_sharpe(returns) is None
    assert deflated_sharpe(returns, 10, 0.01) is None
    assert minimum_track_record(returns) is None
    assert sharpe_interval(returns, 5.0) is None


# The notes: hours to days, AR(1).
@pytest.mark.parametrize(("rho", "factor"), [(-0.1, 5.39), (0.0, 4.90), (0.1, 4.45), (0.2, 4.04)])
def test_annualisation_factor_equals_lo_when_returns_are_autoregressive(rho, factor):
    assert annualisation_factor(rho ** np.arange(1, 24), 24) == pytest.approx(factor, abs=0.005)


def test_annualisation_factor_is_undefined_when_the_variance_vanishes():
    assert annualisation_factor(np.array([-0.9]), 2) == pytest.approx(2 / math.sqrt(2 - 1.8), rel=1e-12)
    assert annualisation_factor(np.array([-1.0]), 2) is None
    assert annualisation_factor(np.empty(0), 365) == pytest.approx(math.sqrt(365), rel=1e-12)


def test_autocorrelations_equal_numpy_correlations():
    values = autoregressive(np.random.default_rng(5).standard_normal(20_000), 0.4)
    found = autocorrelations(values, 3)
    expected = [np.corrcoef(values[lag:], values[:-lag])[0, 1] for lag in (1, 2, 3)]
    assert found == pytest.approx(expected, abs=1e-3)  # the two differ by their treatment of the ends
    assert found == pytest.approx([0.4, 0.16, 0.064], abs=0.03)
    assert autocorrelations(np.full(9, 0.1), 2) is None


# --- Diebold-Mariano --------------------------------------------------------------------------------------------------


def double_sum(values, weight):
    """Sum over all pairs of bars of the product of their deviations, weighted by their distance, over n^2."""
    centred = values - values.mean()
    apart = np.abs(np.subtract.outer(np.arange(len(values)), np.arange(len(values))))
    return centred @ weight(apart) @ centred / len(values) ** 2


def test_variance_of_a_mean_is_the_larger_of_the_plain_and_the_weighted_double_sum():
    overlapping = np.convolve(np.random.default_rng(6).standard_normal(64), np.ones(5), mode="valid")
    plain = double_sum(overlapping, lambda apart: apart <= 4)
    weighted = double_sum(overlapping, lambda apart: np.maximum(1 - apart / 5, 0))
    assert plain > weighted
    assert mean_variance(overlapping, 4) == pytest.approx(plain, rel=1e-12)
    alternating = np.tile([1.0, -1.0], 30) + 0.1 * overlapping
    assert double_sum(alternating, lambda apart: apart <= 1) < 0
    weighted = double_sum(alternating, lambda apart: np.maximum(1 - apart / 2, 0))
    assert mean_variance(alternating, 1) == pytest.approx(weighted, rel=1e-12)
    assert mean_variance(overlapping, 0) == pytest.approx(overlapping.var() / 60, rel=1e-12)


def test_diebold_mariano_finds_the_better_model():
    rng = np.random.default_rng(7)
    reference = rng.exponential(1.0, 5_000)
    model = reference - 0.02 + rng.normal(0, 0.5, 5_000)
    result = diebold_mariano(model_loss=model, reference_loss=reference, lag=0)
    assert result.mean_difference == pytest.approx((reference - model).mean(), rel=1e-12)
    statistic = result.mean_difference / result.standard_error
    assert statistic == pytest.approx(stats.ttest_1samp(reference - model, 0).statistic, rel=1e-3)
    assert result.p_value == pytest.approx(stats.norm.sf(statistic), rel=1e-9)
    assert result.p_value < 0.05 < diebold_mariano(model_loss=reference, reference_loss=model, lag=0).p_value


def test_diebold_mariano_keeps_its_size_only_with_the_lag_of_the_overlap():
    """Losses that overlap by 12 bars, no difference, at a nominal 5 %.

    The variance is n times 1 without a lag, 12 with it; Bartlett weights of lag 12 see 2/3 of that. So the rejections
    are P(z > 1.645 / sqrt(12)) = 32 %, 5 %, and 9 % had the weighted sum been taken.
    """
    rng = np.random.default_rng(8)
    rejected = {0: 0, 12: 0}
    for _ in range(600):
        overlapping = np.convolve(rng.standard_normal(4_011), np.ones(12), mode="valid")
        for lag in rejected:
            test = diebold_mariano(model_loss=np.zeros(4_000), reference_loss=overlapping, lag=lag)
            rejected[lag] += test.p_value < 0.05
    assert rejected[12] / 600 == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 600))
    assert rejected[0] / 600 == pytest.approx(0.32, abs=3 * math.sqrt(0.32 * 0.68 / 600))


def test_diebold_mariano_is_undefined_when_losses_differ_by_a_constant():
    assert diebold_mariano(model_loss=np.ones(50), reference_loss=np.ones(50), lag=3) is None
    assert diebold_mariano(model_loss=np.ones(50), reference_loss=np.full(50, 1.1), lag=3) is None


# --- stationary bootstrap ---------------------------------------------------------------------------------------------


def test_bootstrap_variance_equals_the_closed_form():
    """Resampled values i apart share a block with probability (1 - p)^i, and are then neighbours on the circle.

    So the mean has variance (R(0) + 2 * sum over i of (1 - i/n) * (1 - p)^i * R(i)) / n with R the circular
    autocovariance (Politis, Romano 1994). 20,000 draws know it to 1 %.
    """
    values = autoregressive(np.random.default_rng(9).standard_normal(120), 0.6)
    length, restart = 120, 0.5
    centred = values - values.mean()
    lags = np.arange(1, length)
    circular = np.array([centred @ np.roll(centred, lag) / length for lag in range(length)])
    expected = (circular[0] + 2 * np.sum((1 - lags / length) * (1 - restart) ** lags * circular[1:])) / length
    means = bootstrap_means(values[:, None], 2.0, draws=20_000, seed=1)[:, 0]
    assert means.var() == pytest.approx(expected, rel=0.04)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * math.sqrt(expected / 20_000))


def test_bootstrap_keeps_the_columns_of_a_row_together():
    values = np.random.default_rng(10).standard_normal((200, 1))
    means = bootstrap_means(np.hstack([values, 2 * values + 1]), 7.0, draws=50, seed=1)
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0] + 1, rtol=0, atol=1e-12)


def test_bootstrap_is_the_same_when_the_seed_is():
    difference = np.random.default_rng(11).standard_normal(300)
    first = stationary_bootstrap_test(difference, 20.0, draws=200, seed=5)
    assert first == stationary_bootstrap_test(difference, 20.0, draws=200, seed=5)
    assert first != stationary_bootstrap_test(difference, 20.0, draws=200, seed=6)


def test_bootstrap_p_value_is_never_zero():
    assert stationary_bootstrap_test(np.random.default_rng(12).normal(5, 1, 300), 10.0, draws=99) == 0.01


def test_bootstrap_keeps_its_size_only_with_blocks_that_outlast_the_dependence():
    """The notes, AR(1) 0.3 at a nominal 5 %: 11.0 % with blocks of one bar, 5.3 % with 20. And power with an edge."""
    rng = np.random.default_rng(13)
    short, long, found = 0, 0, 0
    for seed in range(400):
        noise = autoregressive(rng.standard_normal(500), 0.3)
        short += stationary_bootstrap_test(noise, 1.0, draws=200, seed=seed) <= 0.05
        long += stationary_bootstrap_test(noise, 20.0, draws=200, seed=seed) <= 0.05
        # 0.08 standard deviations over 1,500 bars: power 0.76 to 0.93
        edge = rng.standard_normal(1_500) + 0.08
        found += stationary_bootstrap_test(edge, 20.0, draws=200, seed=seed) <= 0.05
    assert short >= 0.075 * 400  # 11 % less two standard errors
    assert long <= 0.085 * 400  # 5.3 % and three standard errors
    assert found >= 0.76 * 400


def test_sharpe_interval_covers_the_standard_error_of_independent_returns():
    returns = normal_returns(0.1, 1_000)
    low, high = sharpe_interval(returns, 1.0)
    assert (high - low) / 2 == pytest.approx(1.96 * sharpe_standard_error(returns), rel=0.1)
    assert (high + low) / 2 == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("days_held", [1, 3])
def test_sharpe_interval_of_a_single_trade_counts_resamples_without_it_as_nothing(days_held):
    returns = np.zeros(143)
    returns[70 : 70 + days_held] = [0.02, 0.01, 0.014][:days_held]
    low, high = sharpe_interval(returns, 5.0)
    assert low == 0.0  # a third of the resamples lacks the trade
    assert high > returns.mean() / returns.std(ddof=1)
    loss_low, loss_high = sharpe_interval(-returns, 5.0)
    assert (loss_low, loss_high) == pytest.approx((-high, 0.0), abs=1e-12)


@pytest.mark.parametrize(
    ("difference", "mean_block", "message"),
    [
        (np.zeros(9), 0.5, "mean_block must be >= 1 bar, was 0.5"),
        (np.zeros(9), math.nan, "mean_block must be >= 1 bar, was nan"),
        (np.array([0.0, math.nan]), 2.0, r"at least one row of finite numbers, were \(2, 1\)"),
        (np.empty(0), 2.0, r"at least one row of finite numbers, were \(0, 1\)"),
    ],
)
def test_bootstrap_is_refused_when_its_input_is_unusable(difference, mean_block, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_means(difference[:, None], mean_block, draws=10, seed=1)
