"""Track records: closed forms where there are some, simulation where there are none."""

import math

import numpy as np
import pytest

from tasks.execution.metrics import sharpe_ratio
from tasks.execution.track_record import deflate_sharpe, track_record

TRADES = 200  # enough to be judged by


def days(seed: int, count: int = 400, mean: float = 0.001, rho: float = 0.0):
    rng = np.random.default_rng(seed)
    noise = rng.normal(0.0, 0.01, count)
    for day in range(1, count):
        noise[day] += rho * noise[day - 1]
    return mean + noise


def test_record_of_independent_days_needs_no_correction_of_lo():
    ratios = []
    for seed in range(20):
        record = track_record(days(seed, 2_000), TRADES)
        ratios.append(record.sharpe_lo / record.sharpe_ratio)
        assert record.low < record.sharpe_ratio < record.high
    # Ten estimated autocorrelations of sd 1/sqrt(2000) move the ratio by 0.07; the mean of 20 ratios by 0.016.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.05)


def test_autocorrelated_days_are_worth_less_by_los_factor():
    # AR(1) with rho = 0.3: eta over sqrt(q) tends to sqrt((1 - rho) / (1 + rho)) = 0.734 for q large.
    ratios = [track_record(days(seed, 4_000, mean=0.002, rho=0.3), TRADES) for seed in range(10)]
    assert np.mean([one.sharpe_lo / one.sharpe_ratio for one in ratios]) == pytest.approx(0.734, abs=0.04)


def test_probability_that_the_ratio_is_above_zero_is_one_half_without_a_mean():
    daily = days(1)
    assert track_record(daily - daily.mean(), TRADES).probabilistic == pytest.approx(0.5, abs=1e-9)


def test_record_of_nothing_is_undefined_not_zero():
    record = track_record(np.zeros(50), TRADES)
    assert (record.sharpe_ratio, record.sharpe_lo, record.probabilistic, record.days_needed) == (None,) * 4
    assert (record.low, record.high) == (None, None)


def test_days_too_few_for_an_interval_have_none():
    assert track_record(days(4, 19), TRADES).low is None
    assert track_record(days(4, 20), TRADES).low is not None


def test_single_trial_is_not_deflated():
    daily = days(2)
    single = deflate_sharpe(daily, np.array([sharpe_ratio(daily, 1.0)]), trades=TRADES)
    assert single.expected_best == 0.0
    assert single.deflated == pytest.approx(track_record(daily, TRADES).probabilistic, abs=1e-12)


def test_best_of_fifty_worthless_strategies_looks_good_alone_and_not_among_its_kind():
    # The check of the evaluation notes: PSR(0) > 0.95 for most winners, DSR > 0.95 for hardly any.
    fooled_alone, fooled = [], []
    for seed in range(30):
        returns = np.random.default_rng(seed).standard_t(5, (500, 50)) * 0.01
        tried = np.array([sharpe_ratio(column, 1.0) for column in returns.T])
        best = returns[:, tried.argmax()]
        fooled_alone.append(track_record(best, TRADES).probabilistic > 0.95)
        fooled.append(deflate_sharpe(best, tried, trades=TRADES).deflated > 0.95)
    assert np.mean(fooled_alone) > 0.8
    assert np.mean(fooled) < 0.1


@pytest.mark.parametrize("crowd", ["never traded", "clones"])
def test_crowd_that_is_no_other_strategy_does_not_make_the_winner_look_rare(crowd):
    fooled = []
    for seed in range(60):
        returns = np.random.default_rng(seed).standard_t(5, (180, 50)) * 0.01
        tried = np.array([sharpe_ratio(column, 1.0) for column in returns.T])
        more = np.zeros(1_000) if crowd == "never traded" else np.full(1_000, np.median(tried))
        best = returns[:, tried.argmax()]
        fooled.append(deflate_sharpe(best, np.concatenate([tried, more]), trades=TRADES).deflated > 0.95)
    assert np.mean(fooled) < 0.05


def test_strategies_that_were_looked_at_elsewhere_count():
    daily = days(2)
    alone, among = (
        deflate_sharpe(daily, np.array([sharpe_ratio(daily, 1.0)]), others, trades=TRADES) for others in (0, 15)
    )
    assert (alone.trials, among.trials) == (1, 16)
    # One of sixteen worthless ones shows 1.80 standard errors by luck alone.
    assert among.expected_best == pytest.approx(1.80 * math.sqrt(365 / (len(daily) - 1)), rel=0.01)
    assert among.deflated < alone.deflated


def test_more_trials_of_the_same_spread_expect_more_of_luck():
    daily = days(3)
    few, many = (deflate_sharpe(daily, np.tile([-0.05, 0.05], count), trades=TRADES) for count in (5, 50))
    assert (few.trials, many.trials) == (10, 100)
    assert few.expected_best < many.expected_best
    assert few.deflated > many.deflated


def test_record_of_too_few_trades_has_neither_interval_nor_probability():
    daily = days(5)
    tried = np.array([sharpe_ratio(daily, 1.0)])
    few, enough = (track_record(daily, trades) for trades in (29, 30))
    assert few.sharpe_ratio == enough.sharpe_ratio
    assert (few.low, few.high, few.probabilistic, few.days_needed) == (None,) * 4
    assert few.caveat == "too few trades to judge: 29 of 30"
    assert deflate_sharpe(daily, tried, trades=29).deflated is None
    assert None not in (enough.low, enough.high, enough.probabilistic, enough.days_needed)
    assert enough.caveat == ""
    assert deflate_sharpe(daily, tried, trades=30).deflated is not None


def test_record_of_too_few_days_says_so():
    assert track_record(days(4, 19), TRADES).caveat == "no interval: too few days that differ"
