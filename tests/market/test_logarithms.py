"""Against mpmath's logarithms, in as many digits as it takes."""

import mpmath
import numpy as np
from numba import njit

from tasks.market.logarithms import log_ratios


@njit
def logs_of_all(tops, bottoms, out):
    for i in range(0, len(tops), 4):
        out[i : i + 4] = log_ratios(
            (tops[i], tops[i + 1], tops[i + 2], tops[i + 3]),
            (bottoms[i], bottoms[i + 1], bottoms[i + 2], bottoms[i + 3]),
        )


def logs(tops, bottoms):
    out = np.empty(len(tops))
    logs_of_all(tops, bottoms, out)
    return out


def test_logarithms_are_within_a_unit_in_the_last_place_of_the_exact_ones():
    rng = np.random.default_rng(5)
    spread = np.repeat([1e-12, 1e-6, 1e-3, 1.0, 30.0, 200.0], 400)
    ratio = np.exp(rng.normal(size=spread.size) * spread)
    with mpmath.workdps(40):
        exact = [mpmath.log(float(x)) for x in ratio]
        errors = [
            float(abs(float(ours) - one)) / np.spacing(abs(float(one)))
            for ours, one in zip(logs(ratio, np.ones(ratio.size)), exact, strict=True)
        ]
    assert max(errors) < 1.0


def test_logarithm_of_a_ratio_is_that_of_the_rounded_quotient():
    tops, bottoms = np.random.default_rng(6).uniform(1e-3, 1e5, (2, 400))
    np.testing.assert_array_equal(logs(tops, bottoms), logs(tops / bottoms, np.ones(400)))


def test_powers_of_two_and_one_are_exact():
    powers = 2.0 ** np.arange(-600, 600)
    np.testing.assert_array_equal(logs(powers, powers), np.zeros(1200))
    np.testing.assert_allclose(logs(powers, np.ones(1200)), np.arange(-600, 600) * np.log(2), rtol=4e-16, atol=0)
