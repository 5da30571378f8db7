import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from storage.schema import ConfigError
from tasks.execution.accounting import Costs
from tasks.execution.decision import DecisionConfig, decide, decide_series, expected_return, packed

COSTS = Costs(commission=0.0009, slippage=0.0001)  # 10 bp a fill, 20 bp a round trip
MEANS = np.array([-1.0, 0.0, 1.0])  # a certain buy is worth +vol over a horizon of one bar
BP = 1e-4


def params(**config):
    return packed(DecisionConfig(**config), COSTS, MEANS, horizon=1)


def decide_mu(mu, position, params_, bars_held=1_000):
    """Decide on an expected return: all probability on one side, the return as the volatility."""
    return decide(float(mu < 0), 0.0, float(mu > 0), abs(mu), math.nan, position, bars_held, params_)


# Costs: 10 bp a fill. From flat a position must bring more than 20 bp; a position is left as soon as it is expected to
# lose; its opposite must bring 20 bp more than flat.
@pytest.mark.parametrize(
    ("mu_bp", "position", "target"),
    [
        (0, 0, 0),
        (19, 0, 0),
        (21, 0, 1),
        (-19, 0, 0),
        (-21, 0, -1),
        (1, 1, 1),
        (-1, 1, 0),
        (-19, 1, 0),
        (-21, 1, -1),
        (0, 1, 1),
        (-1, -1, -1),
        (1, -1, 0),
        (19, -1, 0),
        (21, -1, 1),
    ],
)
def test_value_rule_moves_when_the_move_pays_its_costs(mu_bp, position, target):
    assert decide_mu(mu_bp * BP, position, params()) == target


# 5 bp more to get in, 3 bp to get out; a flip pays both. It must also beat leaving: -mu > 20 + 5.
@pytest.mark.parametrize(
    ("mu_bp", "position", "target"),
    [(24, 0, 0), (26, 0, 1), (-2, 1, 1), (-4, 1, 0), (-24, 1, 0), (-26, 1, -1), (2, -1, -1), (4, -1, 0), (26, -1, 1)],
)
def test_value_rule_asks_for_its_margins_when_they_are_set(mu_bp, position, target):
    assert decide_mu(mu_bp * BP, position, params(enter_margin=5 * BP, exit_margin=3 * BP)) == target


@given(mu_bp=st.floats(-100, 100), position=st.sampled_from([-1, 0, 1]), enter=st.floats(0, 50), leave=st.floats(0, 50))
@settings(deadline=None, max_examples=300)
def test_value_rule_takes_the_best_target_when_all_are_written_out(mu_bp, position, enter, leave):
    """The rule by its definition, in whole numbers of costs: V(w) less the margins of what w closes and opens."""
    closed, opened = leave if position else 0.0, enter
    worth = {w: mu_bp * w - 10.0 * abs(w - position) - 10.0 * abs(w) for w in (-1, 0, 1)}
    worth = {w: v if w == position else v - closed - (opened if w else 0.0) for w, v in worth.items()}
    best = max(worth.values())
    runner_up = sorted(worth.values())[-2]
    target = decide_mu(mu_bp * BP, position, params(enter_margin=enter * BP, exit_margin=leave * BP))
    if best - runner_up > 1e-9:  # at a tie rounding decides which side is taken
        assert worth[target] == best


@given(
    probabilities=st.tuples(*[st.floats(0, 1)] * 3),
    vol=st.floats(0, 0.05),
    position=st.sampled_from([-1, 0, 1]),
    rule=st.sampled_from(["value", "argmax"]),
)
@settings(deadline=None, max_examples=200)
def test_decision_mirrors_when_buy_and_sell_change_places(probabilities, vol, position, rule):
    sell, hold, buy = probabilities
    there = decide(sell, hold, buy, vol, math.nan, position, 9, params(rule=rule))
    assert decide(buy, hold, sell, vol, math.nan, -position, 9, params(rule=rule)) == -there


@pytest.mark.parametrize(
    ("sell", "hold", "buy", "position", "target"),
    [
        (0.2, 0.3, 0.5, 0, 1),
        (0.2, 0.3, 0.5, -1, 1),
        (0.5, 0.3, 0.2, 1, -1),
        (0.2, 0.5, 0.3, 1, 1),
        (0.2, 0.5, 0.3, -1, -1),
        (0.2, 0.5, 0.3, 0, 0),
        (0.4, 0.2, 0.4, 1, 1),  # a tie is no signal
        (0.4, 0.4, 0.2, 0, 0),
    ],
)
def test_argmax_rule_follows_the_likeliest_class(sell, hold, buy, position, target):
    assert decide(sell, hold, buy, 0.001, math.nan, position, 9, params(rule="argmax")) == target


@pytest.mark.parametrize("rule", ["value", "argmax"])
@pytest.mark.parametrize("position", [-1, 0, 1])
@pytest.mark.parametrize("unknown", [math.nan, math.inf])
def test_decision_is_flat_when_a_probability_is_unknown(rule, position, unknown):
    for place in range(3):
        probabilities = [0.1, 0.1, 0.8]
        probabilities[place] = unknown
        assert decide(*probabilities, 0.01, math.nan, position, 1, params(rule=rule, min_hold=50)) == 0


def test_decision_is_flat_when_the_volatility_is_unknown():
    assert decide(0.0, 0.0, 1.0, math.nan, 0.01, 1, 100, params()) == 0


@pytest.mark.parametrize(("bars_held", "target"), [(1, 1), (11, 1), (12, -1)])
def test_position_is_kept_until_its_minimum_hold(bars_held, target):
    assert decide_mu(-50 * BP, 1, params(min_hold=12), bars_held) == target


@pytest.mark.parametrize("rule", ["value", "argmax"])
@pytest.mark.parametrize(("position", "target"), [(0, 0), (1, 0), (-1, 0)])
def test_sell_goes_flat_when_shorts_are_forbidden(rule, position, target):
    """Even a short from before, within its minimum hold, is left."""
    held = params(rule=rule, allow_short=False, min_hold=0 if position == 1 else 9)
    assert decide_mu(-50 * BP, position, held, bars_held=1) == target


def test_expected_return_weighs_class_means_in_units_of_volatility():
    # (0.2 * -1.1 + 0.3 * 0.05 + 0.5 * 1.2) * 0.001 * sqrt(4) = 0.395 * 0.002
    held = packed(DecisionConfig(), COSTS, np.array([-1.1, 0.05, 1.2]), horizon=4)
    assert expected_return(0.2, 0.3, 0.5, 0.001, held) == pytest.approx(0.00079, rel=1e-12)
    series = expected_return(np.array([0.2, 1.0]), np.array([0.3, 0.0]), np.array([0.5, 0.0]), np.full(2, 0.001), held)
    np.testing.assert_allclose(series, [0.00079, -0.0022], rtol=1e-12)


@pytest.mark.promise(10)
def test_decision_is_the_same_when_other_compiled_code_calls_it():
    @njit
    def tick(probabilities, vol, position, bars_held, held):
        return decide(probabilities[0], probabilities[1], probabilities[2], vol, math.nan, position, bars_held, held)

    assert tick(np.array([0.0, 0.0, 1.0]), 0.0021, 0, 0, params()) == 1
    assert tick(np.array([0.0, 0.0, 1.0]), 0.0019, 0, 0, params()) == 0


def test_series_holds_leaves_and_flips_as_the_table_says():
    #        mu, bp      held   target
    table = [
        (0, 0),  # flat
        (25, 1),  # flat   enter
        (5, 1),  # long   stay
        (-5, 1),  # long   2 bars held, minimum 3
        (-5, 0),  # long   3 bars held: leave
        (-30, -1),  # flat   enter short
        (30, -1),  # short  1 bar held
        (30, -1),  # short  2
        (30, 1),  # short  3: flip
    ]
    mu = np.array([row[0] for row in table]) * BP
    probabilities = np.stack([mu < 0, mu == 0, mu > 0], axis=1).astype(float)
    follows = np.arange(len(mu)) > 0
    targets = decide_series(probabilities, np.abs(mu), follows, params(min_hold=3))
    assert targets.tolist() == [row[1] for row in table]
    assert targets.dtype == np.int8


def test_series_starts_flat_when_a_bar_is_missing():
    """The accounting closes a position behind a gap, so 5 bp, enough to stay, are not enough to be in."""
    mu = np.array([25, 5, 5, 5]) * BP
    probabilities = np.tile([0.0, 0.0, 1.0], (4, 1))
    assert decide_series(probabilities, mu, np.array([False, True, True, True]), params()).tolist() == [1, 1, 1, 1]
    assert decide_series(probabilities, mu, np.array([False, True, False, True]), params()).tolist() == [1, 1, 0, 0]


def test_series_is_unchanged_when_its_columns_are_read_only_or_strided():
    rng = np.random.default_rng(3)
    wide = rng.dirichlet([1, 1, 1], 400).repeat(2, axis=0)
    probabilities, vol, follows = wide[::2], np.full(400, 0.004), np.arange(400) > 0
    expected = decide_series(probabilities.copy(), vol, follows, params())
    vol.flags.writeable = False
    assert np.array_equal(decide_series(probabilities, vol, follows, params()), expected)
    assert set(expected.tolist()) == {-1, 0, 1}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rule": "sign"}, "rule must be value or argmax, was 'sign'"),
        ({"enter_margin": -0.1}, "enter_margin must be >= 0, was -0.1"),
        ({"exit_margin": math.nan}, "exit_margin must be finite and >= 0, was nan"),
        ({"min_hold": -1}, "min_hold must be >= 0, was -1"),
    ],
)
def test_decision_config_is_refused_when_a_value_breaks_its_rule(config, message):
    with pytest.raises(ConfigError, match=message):
        DecisionConfig(**config)


def test_packing_is_refused_when_means_or_horizon_are_unusable():
    with pytest.raises(ConfigError, match=r"class_means must be three finite numbers \(sell, hold, buy\), were \[nan"):
        packed(DecisionConfig(), COSTS, np.array([math.nan, 0.0, 1.0]), horizon=12)
    with pytest.raises(ConfigError, match=r"class_means must be three finite numbers .*, were \[0.0, 1.0\]"):
        packed(DecisionConfig(rule="argmax"), COSTS, np.array([0.0, 1.0]), horizon=12)
    with pytest.raises(ConfigError, match="horizon must be a number of bars >= 1, was 0"):
        packed(DecisionConfig(), COSTS, MEANS, horizon=0)
    packed(DecisionConfig(rule="argmax"), COSTS, np.full(3, math.nan), horizon=12)  # argmax reads no means


def test_series_is_refused_when_shapes_differ():
    with pytest.raises(ValueError, match=r"T=4 as in vol, were \(4, 2\) and \(\(4,\), \(4,\), \(4,\)\)"):
        decide_series(np.zeros((4, 2)), np.zeros(4), np.zeros(4, np.bool_), params())
    with pytest.raises(ValueError, match=r"model must name rows 0\.\.0 of params, was 0\.\.1"):
        decide_series(np.zeros((2, 3)), np.zeros(2), np.zeros(2, np.bool_), params(), np.array([0, 1]))


def test_position_is_taken_over_when_another_model_decides_from_there():
    """5 bp are enough to stay and not enough to get in: the second model stays, because it knows what is held."""
    mu = np.array([25, 5, 5, 5]) * BP
    buys = np.tile([0.0, 0.0, 1.0], (4, 1))
    follows, model = np.arange(4) > 0, np.array([0, 0, 1, 1])
    patient, strict = params(), packed(DecisionConfig(), COSTS, np.array([1.0, 0.0, -1.0]), horizon=1)
    assert decide_series(buys, mu, follows, np.array([patient, patient]), model).tolist() == [1, 1, 1, 1]
    # For the strict one the same probabilities promise a loss of 5 bp: reason enough to leave.
    assert decide_series(buys, mu, follows, np.array([patient, strict]), model).tolist() == [1, 1, 0, 0]
