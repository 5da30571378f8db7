"""Losses of variance forecasts against closed forms, and against a forecast whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tasks.execution.vol_skill import (
    LEVELS,
    VarianceForecast,
    below_quantiles,
    beyond_usual,
    exceeding,
    log_r2,
    qlike,
    score_vol_forecasts,
)


def forecast(mean):
    return VarianceForecast(mean=mean, log=np.log(mean))


def test_qlike_is_zero_for_the_truth_and_the_gaussian_likelihood_but_for_what_no_forecast_changes():
    realised = np.array([1e-4, 4e-4, 9e-4])
    np.testing.assert_allclose(qlike(realised, realised), 0.0, atol=1e-12)
    np.testing.assert_allclose(qlike(realised, 2 * realised), 0.5 - np.log(0.5) - 1, rtol=1e-12)
    other = np.array([2e-4, 3e-4, 5e-4])
    gaussian = [-2 * stats.norm.logpdf(np.sqrt(realised), scale=np.sqrt(f)) for f in (other, 7e-4)]
    np.testing.assert_allclose(qlike(realised, other) - qlike(realised, 7e-4), gaussian[0] - gaussian[1], rtol=1e-9)


def test_qlike_of_a_known_variance_is_that_of_a_chi_square():
    # RV / truth of h Gaussian returns is chi2(h) / h: E[ratio] = 1, E[ln ratio] = psi(h / 2) - ln(h / 2).
    h, of = 24, 200_000
    ratio = np.random.default_rng(1).chisquare(h, of) / h
    expected = np.log(h / 2) - float(stats.gamma(h / 2).expect(np.log))
    loss = qlike(ratio, np.ones(of))
    assert abs(loss.mean() - expected) < 4 * loss.std() / np.sqrt(of)


def test_qlike_is_least_at_the_expected_variance_however_noisy_reality_is():
    realised = np.random.default_rng(2).chisquare(3, 100_000)
    at = {scale: qlike(realised, np.full(len(realised), scale * realised.mean())).mean() for scale in (0.9, 1.0, 1.1)}
    assert at[1.0] < min(at[0.9], at[1.1])


def test_r2_of_the_logarithm_is_one_for_the_truth_nothing_for_the_mean_and_less_for_a_bias():
    realised = np.exp(np.random.default_rng(3).standard_normal(10_000))
    assert log_r2(realised, np.log(realised)) == 1.0
    assert log_r2(realised, np.full(10_000, np.log(realised).mean())) == pytest.approx(0.0, abs=1e-12)
    assert log_r2(realised, np.log(realised) + 1) == pytest.approx(1 - 1 / np.log(realised).var(), rel=1e-9)
    assert np.isnan(log_r2(np.ones(5), np.zeros(5)))


def test_far_beyond_counts_risk_and_not_variance():
    forecast = np.full(4, 1e-4)
    assert exceeding(np.array([1.4, 1.6, 0.2, 3.0]) ** 2 * 1e-4, forecast) == 0.5


def test_share_below_the_quantiles_is_their_level_for_draws_of_that_very_distribution():
    h, of = 24, 100_000
    ratio = np.random.default_rng(4).chisquare(h, of) / h
    quantiles = np.tile(stats.chi2(h).ppf(LEVELS) / h, (of, 1))
    np.testing.assert_allclose(below_quantiles(ratio * 3e-4, np.full(of, 3e-4), quantiles), LEVELS, atol=0.005)


def test_scores_name_the_better_forecast_and_its_luck():
    rng, h, of = np.random.default_rng(5), 12, 6_000
    variance = np.exp(0.5 * np.repeat(rng.standard_normal(of // 100), 100))
    squares = variance * rng.standard_normal(of) ** 2
    realised = np.convolve(squares, np.ones(h), "valid")
    truth = np.convolve(variance, np.ones(h), "valid")
    flat = np.full(len(realised), realised.mean())
    model, rival = score_vol_forecasts(realised, {"model": forecast(truth), "flat": forecast(flat)}, h)
    assert (model.name, model.lead, model.p_value) == ("model", None, None)
    assert rival.lead == pytest.approx(rival.qlike - model.qlike)
    assert rival.lead > 2 * rival.lead_error > 0
    assert rival.p_value < 0.01
    assert model.log_r2 > rival.log_r2


def test_lead_is_no_news_where_windows_overlap_as_far_as_the_horizon():
    # Two forecasts of one skill: with the overlap taken in, one in twenty looks better than it is, not one in four.
    rng, h, of, hits = np.random.default_rng(6), 24, 300, 0
    for _ in range(of):
        squares = rng.standard_normal(1_000 + h) ** 2
        realised = np.convolve(squares, np.ones(h), "valid")
        one, two = (np.full(len(realised), h * scale) for scale in (np.exp(0.1), _equally_bad(0.1)))
        _, rival = score_vol_forecasts(realised, {"one": forecast(one), "two": forecast(two)}, h)
        hits += rival.p_value < 0.05
    assert hits / of < 0.10  # nominally 0.05; 0.10 is 4 standard errors above


def _equally_bad(x):
    """Return the e^y below 1 whose expected loss, e^-y + y, is that of e^x above it."""
    from scipy.optimize import brentq

    return float(np.exp(brentq(lambda y: np.exp(-y) + y - np.exp(-x) - x, -1.0, -1e-6)))


def test_steadiness_counts_what_is_beyond_the_usual_whatever_its_scale():
    # The geometric mean of these risks is 1: two of eight are beyond one and a half of it.
    risk = np.array([1.6, 1 / 1.6, 2.0, 1 / 2.0, 1.4, 1 / 1.4, 1.0, 1.0])
    assert beyond_usual(risk**2) == beyond_usual(1e-6 * risk**2) == 0.25
    assert beyond_usual(np.full(5, 3.0)) == 0.0
