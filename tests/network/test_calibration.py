import math

import numpy as np
import pytest
import torch

from tasks.network.calibration import best_temperature, logistic_regression, scaler


def test_scaler_reads_finite_rows_and_leaves_a_constant_feature_at_scale_one() -> None:
    features = np.array([[1.0, 7.0], [3.0, 7.0], [np.nan, 7.0], [5.0, np.inf], [1e300, 7.0]])
    mean, scale = scaler(features)
    assert mean.tolist() == [2.0, 7.0]
    assert scale.tolist() == [1.0, 1.0]


@pytest.mark.oracle
def test_mirrored_logistic_regression_equals_the_plain_one_on_every_sample_and_its_mirror_image() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the oracle")
    rng = np.random.default_rng(3)
    z, signs = rng.standard_normal((600, 3)), np.array([-1.0, 1.0, 1.0])
    logits = np.column_stack([-z[:, 0], z[:, 1] - 0.3, z[:, 0] + 0.5])  # a law that has no mirror image
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    weight, bias = logistic_regression(
        torch.from_numpy(z), torch.from_numpy(labels), 3, penalty=5.0, signs=torch.from_numpy(signs)
    )
    doubled = np.concatenate([z, z * signs]), np.concatenate([labels, 2 - labels])
    # Twice the samples under the same penalty for each: C is 1 / (2 * 5).
    reference = linear_model.LogisticRegression(C=0.1, max_iter=1_000, tol=1e-10).fit(*doubled)
    ours = torch.softmax(torch.from_numpy(z) @ weight.T + bias, dim=1).numpy()
    np.testing.assert_allclose(ours, reference.predict_proba(z), rtol=0, atol=1e-5)


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


@pytest.mark.oracle
def test_logistic_regression_equals_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the oracle")
    rng = np.random.default_rng(0)
    z = rng.standard_normal((500, 4))
    labels = (z @ rng.standard_normal((4, 3)) + rng.gumbel(size=(500, 3))).argmax(axis=1)
    weight, bias = logistic_regression(torch.from_numpy(z), torch.from_numpy(labels), 3)
    reference = linear_model.LogisticRegression(tol=1e-10, max_iter=1_000).fit(z, labels)
    np.testing.assert_allclose(weight.numpy(), reference.coef_, atol=1e-4)
    expected = reference.intercept_ - reference.intercept_.mean()  # intercepts count up to a constant
    np.testing.assert_allclose((bias - bias.mean()).numpy(), expected, atol=1e-4)


def test_logistic_regression_of_separable_data_is_finite() -> None:
    z = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    weight, bias = logistic_regression(z, torch.tensor([0, 0, 1, 1]), 2)
    assert torch.isfinite(weight).all()
    assert torch.isfinite(bias).all()
    assert (z.double() @ weight.T + bias).argmax(1).tolist() == [0, 0, 1, 1]
