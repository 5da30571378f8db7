"""Skill against labels: scikit-learn as the oracle, closed forms where there are some."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from sklearn import metrics as oracle

from storage.schema import ConfigError
from tasks.execution.significance import diebold_mariano
from tasks.execution.skill import (
    COVERAGES,
    calibration_error,
    class_shares,
    confusion_matrix,
    log_losses,
    loss_lag,
    macro_f1,
    measure_skill,
    reliability,
    roc_auc,
    side_losses,
)

CLASSES = 3


def forecasts(seed: int, samples: int = 4_000, sharpness: float = 1.0):
    """Return probabilities and labels drawn from them: perfectly calibrated by construction."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(samples, CLASSES))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random(samples)[:, None] > probabilities.cumsum(1)[:, :-1]).sum(1)
    return probabilities, labels


def measured(probabilities, labels, prior=(1 / 3, 1 / 3, 1 / 3), forward_return=None, **changes):
    settings = {"overlap": 1, "bars_per_day": 1.0, "effective_samples": float(len(labels)), "seed": 1} | changes
    forward_return = (labels - 1) * 0.001 if forward_return is None else forward_return
    return measure_skill(probabilities, labels, np.array(prior), forward_return, **settings)


def test_log_loss_brier_f1_and_confusion_equal_scikit_learn():
    probabilities, labels = forecasts(1)
    skill = measured(probabilities, labels)
    predicted = probabilities.argmax(1)
    assert skill.log_loss == pytest.approx(oracle.log_loss(labels, probabilities), rel=1e-12)
    assert skill.macro_f1 == pytest.approx(oracle.f1_score(labels, predicted, average="macro"), rel=1e-12)
    assert skill.accuracy == pytest.approx(oracle.accuracy_score(labels, predicted), rel=1e-12)
    np.testing.assert_array_equal(skill.confusion, oracle.confusion_matrix(labels, predicted))
    onehot = [oracle.brier_score_loss(labels == c, probabilities[:, c]) for c in range(CLASSES)]
    assert skill.brier == pytest.approx(sum(onehot), rel=1e-12)


def test_certain_and_wrong_forecast_costs_a_lot_but_not_infinity():
    losses = log_losses(np.array([[1.0, 0.0, 0.0]]), np.array([1]))
    assert losses[0] == pytest.approx(-np.log(1e-12))


def test_losses_depend_on_each_other_for_a_day_and_of_few_labels_for_less():
    assert loss_lag(12, 288.0, 38_000) == 288
    assert loss_lag(24, 24.0, 38_000) == 24  # hours ahead as long as a day
    assert loss_lag(12, 288.0, 2_000) == 100
    assert loss_lag(12, 288.0, 100) == 12


def test_test_of_a_lead_keeps_its_size_where_volatility_outlasts_a_label():
    """Leads of nothing that follow a state of eight hours, on 42 days of five minutes, at a nominal 5 %.

    The variance of their mean is 191 times one bar's; the 12 bars of a label's overlap see 23 of that.
    """
    rng, samples, runs, lasting = np.random.default_rng(3), 12_096, 300, math.exp(-1 / 96)
    rejected = {"overlap": 0, "a day": 0}
    for _ in range(runs):
        lead = lfilter([1.0], [1.0, -lasting], rng.standard_normal(samples + 2_000))[2_000:]
        for name, lag in (("overlap", 12), ("a day", loss_lag(12, 288.0, samples))):
            rejected[name] += diebold_mariano(model_loss=np.zeros(samples), reference_loss=lead, lag=lag).p_value < 0.05
    assert rejected["overlap"] / runs > 0.2
    assert rejected["a day"] / runs < 0.1


def test_prior_itself_has_no_skill():
    labels = np.tile([0, 1, 1, 2], 250)
    prior = np.array([0.25, 0.5, 0.25])
    skill = measured(np.tile(prior, (1_000, 1)), labels, prior)
    assert skill.log_loss_skill == 0.0
    assert skill.p_value is None  # no difference has no variance to compare it with
    assert skill.accuracy == skill.majority_accuracy == 0.5


def test_drawn_labels_show_skill_with_a_small_p_value():
    skill = measured(*forecasts(2))
    assert skill.log_loss_skill > 0.1
    assert skill.p_value < 1e-6


def test_shuffled_labels_show_no_skill():
    probabilities, labels = forecasts(3)
    shuffled = np.random.default_rng(0).permutation(labels)
    skill = measured(probabilities, shuffled)
    assert skill.log_loss_skill < 0
    assert skill.p_value > 0.5


def test_calibrated_forecasts_have_the_calibration_error_of_chance_and_sharpened_ones_more():
    probabilities, labels = forecasts(4, samples=20_000)
    honest = measured(probabilities, labels)
    assert honest.calibration_error == pytest.approx(honest.perfect_calibration_error, abs=0.01)
    sharpened = probabilities**3 / (probabilities**3).sum(1, keepdims=True)
    boastful = measured(sharpened, labels)
    assert boastful.calibration_error > boastful.perfect_calibration_error + 0.05


def test_calibration_error_of_a_hand_made_table():
    # two bins: 3 labels said 0.6 and 1/3 right, 1 label said 0.9 and right: (3 * |0.6 - 1/3| + |0.9 - 1|) / 4
    confidence = np.array([0.6, 0.6, 0.6, 0.9])
    table = np.vstack(
        [reliability(confidence[:3], np.array([1.0, 0.0, 0.0]), 1), reliability(confidence[3:], np.ones(1), 1)]
    )
    assert calibration_error(table) == pytest.approx((3 * (0.6 - 1 / 3) + 0.1) / 4)


def test_reliability_has_as_many_bins_as_labels_when_labels_are_few():
    assert reliability(np.array([0.4, 0.5]), np.array([0.0, 1.0])).shape == (2, 3)


def test_macro_f1_counts_a_class_without_label_and_prediction_as_zero():
    assert macro_f1(confusion_matrix(np.array([0, 1]), np.array([0, 1]), 3)) == pytest.approx(2 / 3)


def test_class_shares_leave_no_class_impossible():
    shares = class_shares(np.array([1, 1, 1]), 3)
    np.testing.assert_allclose(shares, [1 / 6, 4 / 6, 1 / 6])


def test_accuracy_error_uses_labels_that_do_not_overlap():
    probabilities, labels = forecasts(5, samples=1_200)
    skill = measured(probabilities, labels, effective_samples=100.0)
    assert skill.accuracy_error == pytest.approx(np.sqrt(skill.accuracy * (1 - skill.accuracy) / 100))


def test_skill_refuses_what_are_no_probabilities():
    with pytest.raises(ConfigError, match="must be >= 0 and sum to 1"):
        measured(np.array([[0.5, 0.2, 0.2]]), np.array([0]))
    with pytest.raises(ConfigError, match="at least one label"):
        measured(np.empty((0, 3)), np.empty(0, np.int64))


def test_area_under_the_curve_equals_scikit_learn_ties_included():
    probabilities, labels = forecasts(6)
    skill = measured(probabilities, labels)
    expected = [oracle.roc_auc_score(labels == c, probabilities[:, c]) for c in range(CLASSES)]
    np.testing.assert_allclose(skill.auc, expected, rtol=1e-12)
    rounded = probabilities[:, 0].round(1)
    assert roc_auc(rounded, labels == 0) == pytest.approx(oracle.roc_auc_score(labels == 0, rounded), rel=1e-12)


def test_area_is_undefined_when_a_class_is_missing():
    assert roc_auc(np.array([0.1, 0.2]), np.array([True, True])) is None


def test_coverage_curve_rises_when_confidence_means_something():
    probabilities, labels = forecasts(7, samples=20_000)
    skill = measured(probabilities, labels)
    np.testing.assert_array_equal(skill.coverage[:, 0], COVERAGES)
    assert skill.coverage[0, 1] == pytest.approx(skill.accuracy)
    assert (np.diff(skill.coverage[:, 1]) > 0).all()
    # The most confident tenth by hand.
    top = np.argsort(-probabilities.max(1), kind="stable")[:2_000]
    assert skill.coverage[3, 1] == pytest.approx(np.mean(probabilities[top].argmax(1) == labels[top]))


def test_coverage_curve_counts_labels_that_do_not_overlap():
    skill = measured(*forecasts(8), effective_samples=400.0)
    accuracy = skill.coverage[1, 1]
    assert skill.coverage[1, 2] == pytest.approx(np.sqrt(accuracy * (1 - accuracy) / 200.0))


# --- direction --------------------------------------------------------------------------------------------------------


def test_loss_of_the_side_equals_scikit_learn_on_what_moved():
    probabilities, labels = forecasts(9)
    skill = measured(probabilities, labels, (0.3, 0.5, 0.2))
    moved = labels != 1
    sides = probabilities[moved][:, [0, 2]] / probabilities[moved][:, [0, 2]].sum(1, keepdims=True)
    ours = oracle.log_loss(labels[moved] == 2, sides[:, 1])
    prior = oracle.log_loss(labels[moved] == 2, np.full(moved.sum(), 0.4))
    assert prior > np.log(2)
    assert side_losses(probabilities, labels)[moved].mean() == pytest.approx(ours, rel=1e-12)
    assert (side_losses(probabilities, labels)[~moved] == 0).all()
    assert skill.direction_skill == pytest.approx(np.log(2) - ours, rel=1e-12)
    assert skill.direction_accuracy == pytest.approx(oracle.accuracy_score(labels[moved] == 2, sides[:, 1] > 0.5))
    assert skill.moves == moved.sum()
    assert skill.direction_p_value < 1e-6


def foretells_holds(seed: int, overlap: int, samples: int = 3_000, tilt: float = 0.2):
    """Probabilities that know when nothing will move and guess the side, and labels that overlap."""
    rng = np.random.default_rng(seed)
    quiet = np.clip(0.5 + 0.3 * np.sin(np.arange(samples) / 200), 0.1, 0.9)
    steps = np.convolve(rng.standard_normal(samples + overlap - 1), np.ones(overlap), mode="valid")
    guess = 0.5 + tilt * np.sin(np.arange(samples) / 50 + rng.uniform(0, 2 * np.pi))  # as persistent as features are
    probabilities = np.column_stack([(1 - quiet) * (1 - guess), quiet, (1 - quiet) * guess])
    labels = np.where(rng.random(samples) < quiet, 1, np.where(steps > 0, 2, 0))
    return probabilities, labels


@pytest.mark.parametrize("overlap", [1, 12])
def test_direction_of_a_random_walk_is_found_in_one_of_twenty_however_well_holds_are_forecast(overlap):
    forecast, found = 0, 0
    for seed in range(200):
        skill = measured(*foretells_holds(seed, overlap, tilt=0.02), (0.25, 0.5, 0.25), overlap=overlap)
        forecast += skill.p_value < 0.05
        found += skill.direction_p_value < 0.05
    assert forecast == 200
    assert found <= 0.05 * 200 + 3 * np.sqrt(0.05 * 0.95 * 200)


def test_direction_is_undefined_when_nothing_moved_and_when_the_sides_are_the_priors():
    still = measured(np.tile([0.2, 0.6, 0.2], (100, 1)), np.ones(100, np.int64))
    assert (still.moves, still.direction_skill, still.direction_p_value, still.direction_accuracy) == (0,) + (None,) * 3
    assert (still.edge_bp, still.edge_interval_bp, still.edge_text) == (None, None, "undefined")
    labels = np.tile([0, 1, 2, 2], 25)
    same = measured(np.tile([0.1, 0.7, 0.2], (100, 1)), labels, (0.2, 0.4, 0.4))
    assert (same.direction_skill, same.direction_p_value, same.direction_reference) == (None, None, "prior")
    assert same.direction_accuracy == pytest.approx(2 / 3)


def test_direction_that_is_certain_of_holds_names_no_side():
    losses = side_losses(np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]), np.array([2, 1]))
    np.testing.assert_allclose(losses, [np.log(2), 0.0])


OVERLAP, THRESHOLD = 12, 1.5  # bars that a label spans; the move that counts, where a bar moves by 1
RISEN = (0.35 * 0.7, 0.3, 0.65 * 0.7)


def turned_market(seed: int, forecast: float, samples: int = 6_000):
    """A market that rose in training, 65 moves of 100, and falls now.

    The model learnt that it rises, and keeps some of it; `forecast` is the correlation of its other half with what a
    label's bars will do.
    """
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal(samples + OVERLAP - 1)
    ahead = np.convolve(steps, np.ones(OVERLAP), mode="valid")
    noise = np.convolve(rng.standard_normal(samples + OVERLAP - 1), np.ones(OVERLAP), mode="valid")
    view = (forecast * ahead + np.sqrt(1 - forecast**2) * noise) / np.sqrt(OVERLAP)
    up = 1 / (1 + np.exp(-(0.25 + 1.5 * forecast * view)))
    forward = 1e-3 * (ahead - 0.35)
    labels = np.where(forward > 1e-3 * THRESHOLD, 2, np.where(forward < -1e-3 * THRESHOLD, 0, 1))
    return np.column_stack([0.7 * (1 - up), np.full(samples, 0.3), 0.7 * up]), labels, forward


def test_direction_has_no_lead_when_the_market_turned_and_the_model_only_forgot_a_part_of_the_drift():
    for seed in range(10):
        probabilities, labels, forward = turned_market(seed, 0.0)
        skill = measured(probabilities, labels, RISEN, forward, overlap=OVERLAP)
        moved, rose = labels != 1, labels[labels != 1] == 2
        ours = oracle.log_loss(rose, probabilities[moved, 2] / 0.7)
        assert oracle.log_loss(rose, np.full(moved.sum(), 0.65)) - ours > 0.02  # what passed for skill
        assert skill.direction_reference == "50:50"
        assert skill.direction_skill == pytest.approx(np.log(2) - ours, rel=1e-9)
        assert skill.direction_skill < 0
        assert skill.direction_p_value > 0.5
        assert skill.edge_bp < 0


def test_direction_has_a_lead_when_the_market_turned_and_the_model_forecasts_it():
    for seed in range(10):
        probabilities, labels, forward = turned_market(seed, 0.6)
        skill = measured(probabilities, labels, RISEN, forward, overlap=OVERLAP)
        assert skill.direction_reference == "50:50"
        assert skill.direction_skill > 0
        assert skill.direction_p_value < 0.001
        assert skill.edge_interval_bp[0] > 0


@pytest.mark.parametrize(("prior", "reference"), [(RISEN, "50:50"), ((0.385, 0.3, 0.315), "prior")])
def test_direction_is_the_same_however_well_holds_are_forecast(prior, reference):
    unaware, labels, forward = turned_market(0, 0.2)
    hold = np.where(labels == 1, 0.9, 0.1)
    aware = np.column_stack([(1 - hold) * unaware[:, 0] / 0.7, hold, (1 - hold) * unaware[:, 2] / 0.7])
    guessed, known = (measured(p, labels, prior, forward, overlap=OVERLAP) for p in (unaware, aware))
    assert known.log_loss < guessed.log_loss - 0.3
    assert known.direction_reference == guessed.direction_reference == reference
    for name in ("skill", "error", "p_value", "accuracy"):  # of equal sides, but for rounding
        assert getattr(known, f"direction_{name}") == pytest.approx(getattr(guessed, f"direction_{name}"), rel=1e-9)


def test_direction_is_measured_against_the_prior_when_that_is_better_than_a_coin():
    probabilities, labels = forecasts(10)
    drifting = np.where(np.random.default_rng(0).random(len(labels)) < 0.5, 2, labels)
    assert measured(probabilities, drifting, (0.1, 0.3, 0.6)).direction_reference == "prior"


def test_edge_of_a_move_is_the_mean_of_what_its_named_side_earned():
    up, down, neither = [0.1, 0.3, 0.6], [0.6, 0.3, 0.1], [0.4, 0.2, 0.4]
    probabilities = np.array([up, up, down, down, up, neither])
    labels = np.array([2, 0, 0, 2, 1, 2])
    forward = np.array([30.0, -10.0, -40.0, 20.0, 5.0, 7.0]) * 1e-4
    skill = measured(probabilities, labels, forward_return=forward, overlap=1)
    # +30 right, -10 wrong, +40 right, -20 wrong, 0 where no side was named; the hold earns nobody anything.
    assert skill.edge_bp == pytest.approx(40.0 / 5)


def test_interval_of_the_edge_holds_nothing_for_nineteen_of_twenty_models_without_any_however_labels_overlap():
    def overlapping(rng, bars):
        return np.convolve(rng.standard_normal(3_000 + bars - 1), np.ones(bars), mode="valid")

    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        forward = 1e-3 * overlapping(rng, OVERLAP)
        side = 0.5 + 0.1 * np.sign(overlapping(rng, 50))  # as persistent as features are
        labels = np.where(forward > 1e-3 * THRESHOLD, 2, np.where(forward < -1e-3 * THRESHOLD, 0, 1))
        probabilities = np.column_stack([0.7 * (1 - side), np.full(len(labels), 0.3), 0.7 * side])
        low, high = measured(probabilities, labels, forward_return=forward, overlap=OVERLAP).edge_interval_bp
        covered += low < 0 < high
    assert covered == pytest.approx(0.95 * 200, abs=3 * np.sqrt(0.05 * 0.95 * 200))
