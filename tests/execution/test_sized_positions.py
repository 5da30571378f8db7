"""How large a position is opened where it is sized by forecast volatility, and that nothing trades because it moves."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.schema import ConfigError
from tasks.execution.accounting import Costs, account_rules, size_of, sized
from tasks.execution.backtest import BacktestConfig, run_backtest
from tasks.execution.decision import DecisionConfig, decide, decide_series, packed, share_of, shares_of

MEANS = np.array([-1.0, 0.0, 1.0])
YEAR = 10_000  # bars: 100 times a bar's volatility is a year's
UNSEEN = {"trained_until_ms": None, "label_span_ms": 0}
BUY, SELL = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)
UNKNOWN = (math.nan, math.inf, 0.0, -0.01)


def params(target_vol=0.5, **config):
    rule = DecisionConfig(**{"sizing": "volatility", "target_vol": target_vol} | config)
    return packed(rule, Costs(), MEANS, 1, YEAR)


@pytest.mark.promise(10)
@given(forecast=st.floats(1e-9, 1e9), target_vol=st.floats(1e-3, 1e3))
def test_share_is_at_most_all_and_where_it_is_less_the_expected_risk_is_the_target(forecast, target_vol):
    share = share_of(forecast, params(target_vol))
    assert 0.0 < share <= 1.0
    if share < 1.0:
        assert 100 * share * forecast == pytest.approx(target_vol, rel=1e-12)
    else:
        assert 100 * forecast <= target_vol * (1 + 1e-12)


def test_half_a_position_is_taken_where_twice_the_target_is_forecast():
    assert share_of(0.01, params(0.5)) == 0.5  # 1 % a bar is 100 % a year
    assert shares_of(np.array([0.02, 0.01, 0.005, 0.001, math.nan]), params(0.5)).tolist() == [0.25, 0.5, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("forecast", [*UNKNOWN, 0.004])
def test_fixed_sizing_takes_a_whole_position_whatever_is_forecast(forecast):
    rule = params(sizing="fixed")
    assert share_of(forecast, rule) == 1.0
    assert decide(*BUY, 0.1, forecast, 0, 1, rule) == 1


@pytest.mark.promise(15)
@pytest.mark.parametrize("rule", ["value", "argmax"])
@pytest.mark.parametrize("forecast", UNKNOWN)
def test_unknown_volatility_opens_nothing_and_keeps_what_is_held(rule, forecast):
    by = params(rule=rule)
    assert decide(*BUY, 0.1, 0.01, 0, 1, by) == 1
    assert decide(*BUY, 0.1, forecast, 0, 1, by) == 0
    assert decide(*BUY, 0.1, forecast, 1, 9, by) == 1
    assert decide(*SELL, 0.1, forecast, 1, 9, by) == 0  # a flip closes alone
    assert decide(math.nan, 0.0, 1.0, 0.1, forecast, 1, 9, by) == 0


def test_each_model_of_a_series_sizes_by_its_own_target():
    both = np.stack([params(0.5), params(0.25)])
    assert shares_of(np.full(3, 0.01), both, np.array([0, 1, 0])).tolist() == [0.5, 0.25, 0.5]


@pytest.fixture
def traded(make_bars):
    """(bars, targets, shares, forecast, result) of a random walk that is traded often, a tenth of it unforeseen."""
    rng = np.random.default_rng(11)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 4e-3, 800)))
    bars = make_bars(np.append(100.0, close[:-1]), close)
    forecast = 0.006 * np.exp(rng.normal(0.0, 0.8, 800))
    forecast[rng.random(800) < 0.1] = np.nan
    probabilities, by = rng.dirichlet([1.0, 1.0, 1.0], 800), params(0.5, min_hold=3)
    targets = decide_series(probabilities, np.full(800, 0.01), bars.contiguous, by, forecast_vol=forecast)
    shares = shares_of(forecast, by)
    costs = Costs(commission=1e-4, slippage=1e-4)
    return bars, targets, shares, forecast, run_backtest(bars, targets, costs, BacktestConfig(), share=shares, **UNSEEN)


def test_every_position_is_opened_at_its_share_and_keeps_its_quantity(traded):
    bars, targets, shares, forecast, result = traded
    opened = [t for t in range(1, len(bars)) if targets[t - 1] and targets[t - 1] != (targets[t - 2] if t > 1 else 0)]
    assert len(opened) > 60
    for t in opened[:-1]:
        exposure = abs(result.quantity[t]) * bars.open[t] / result.equity[t]  # marked at the close before: the open
        assert exposure == pytest.approx(0.95 * shares[t - 1], rel=1e-12)
        if shares[t - 1] < 1.0:
            assert 100 * exposure * forecast[t - 1] == pytest.approx(0.95 * 0.5, rel=1e-12)
    held = [(a, b) for a, b, t in zip(result.quantity, result.quantity[1:], targets, strict=False) if a * b > 0]
    same = sum(a == b for a, b in held)
    assert same == len(held) > 200


def test_shares_move_no_decision_that_is_known_to_be_sizeable(traded):
    _, targets, _, forecast, _ = traded
    turns = [t for t, (before, after) in enumerate(pairwise(targets), 1) if after not in (0, before)]
    assert np.isfinite(forecast[turns]).all()


def test_whole_shares_are_the_backtest_without_any(traded):
    bars, targets, *_ = traded
    plain, whole = (
        run_backtest(bars, targets, Costs(), BacktestConfig(), share=share, **UNSEEN)
        for share in (None, np.ones(len(bars)))
    )
    np.testing.assert_array_equal(plain.equity, whole.equity)


def test_share_of_a_number_of_coins_is_that_many_fewer():
    by = sized(account_rules(0.95, 4.0, Costs()), 0.25)
    assert size_of(-1, 1_000.0, 10.0, by) == -1.0
    assert size_of(1, 1_000.0, 10.0, sized(account_rules(0.95, 4.0, Costs()), 0.0)) == 0.0


@pytest.mark.parametrize("share", [np.full(800, 1.5), np.full(800, math.nan), np.ones(3)], ids=["1.5", "NaN", "3"])
def test_share_that_is_none_is_refused(traded, share):
    bars, targets, *_ = traded
    with pytest.raises(ValueError, match=r"share must be \(800,\) numbers in 0\.\.1, was"):
        run_backtest(bars, targets, Costs(), BacktestConfig(), share=share, **UNSEEN)


def test_sizing_by_volatility_asks_how_long_a_bar_is():
    with pytest.raises(ConfigError, match="bars_per_year must be known where positions are sized by volatility"):
        packed(DecisionConfig(sizing="volatility"), Costs(), MEANS, 1)
    with pytest.raises(ConfigError, match="target_vol must be > 0, was 0"):
        DecisionConfig(target_vol=0.0)
    with pytest.raises(ConfigError, match="sizing must be fixed or volatility, was 'kelly'"):
        DecisionConfig(sizing="kelly")
