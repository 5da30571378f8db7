import math

import numpy as np
import pytest

from tasks.network.calibration import best_temperature, scaler


def test_scaler_reads_finite_rows_and_leaves_a_constant_feature_at_scale_one() -> None:
    features = np.array([[1.0, 7.0], [3.0, 7.0], [np.nan, 7.0], [5.0, np.inf], [1e300, 7.0]])
    mean, scale = scaler(features)
    assert mean.tolist() == [2.0, 7.0]
    assert scale.tolist() == [1.0, 1.0]


def test_temperature_of_two_classes_is_the_closed_form() -> None:
    # Logits (0, 3), class 1 in 8 of 10 rows: sigmoid(3 / T) = 0.8 at T = 3 / ln 4.
    logits, labels = np.tile([0.0, 3.0], (10, 1)), np.array([1] * 8 + [0] * 2)
    assert best_temperature(logits, labels) == pytest.approx(3 / math.log(4))


def test_temperature_stays_in_its_bounds_when_logits_are_perfect_or_perverse() -> None:
    labels = np.array([0, 1, 2, 0])
    logits = np.eye(3)[labels]
    assert best_temperature(logits, labels) == pytest.approx(0.05)
    assert best_temperature(-logits, labels) == pytest.approx(20.0)
    assert best_temperature(1e6 * logits, labels) > 0  # no overflow
