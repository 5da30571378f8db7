"""Adjusted p-values against SciPy's, a case worked by hand, and what the rate promises."""

import numpy as np
import pytest
from scipy import stats

from tasks.execution.false_discovery import RATE, adjusted_p_values


def test_three_markets_are_adjusted_as_by_hand():
    # m (1 + 1/2 + 1/3) = 5.5: 0.01 * 5.5 / 1; 0.03 * 5.5 / 2 = 0.0825; 0.5 * 5.5 / 3 = 0.9167.
    np.testing.assert_allclose(adjusted_p_values(np.array([0.5, 0.01, 0.03])), [0.5 * 5.5 / 3, 0.055, 0.0825])


def test_higher_rank_with_a_smaller_product_lowers_those_below_it():
    # 0.02 * 3 / 1 = 0.06 and 0.021 * 3 / 2 = 0.0315: the first is as good as the second.
    np.testing.assert_allclose(adjusted_p_values(np.array([0.02, 0.021])), [0.0315, 0.0315])


@pytest.mark.parametrize("markets", [1, 2, 7, 400])
def test_adjusted_p_values_equal_scipys(markets):
    found = np.random.default_rng(markets).uniform(size=markets) ** 3
    found[: markets // 3] = found[-1]  # ties
    np.testing.assert_allclose(
        adjusted_p_values(found), stats.false_discovery_control(found, method="by"), rtol=1e-12, atol=0
    )


def test_no_test_at_all_has_nothing_to_adjust():
    assert adjusted_p_values(np.array([])).shape == (0,)


def test_what_is_kept_by_luck_stays_below_the_rate_when_markets_move_together():
    # 10 of 20 markets have skill; every statistic shares half of its variance with the others.
    rng, markets, draws = np.random.default_rng(5), 20, 4_000
    skill = np.where(np.arange(markets) < 10, 0.0, 4.0)
    false = []
    for _ in range(draws):
        statistic = skill + (rng.normal() + rng.normal(size=markets)) / np.sqrt(2)
        kept = adjusted_p_values(stats.norm.sf(statistic)) <= RATE
        false.append(kept[:10].sum() / max(kept.sum(), 1))
    assert np.mean(false) + 3 * np.std(false) / np.sqrt(draws) < RATE
    assert kept[10:].any()  # it keeps something at all


@pytest.mark.parametrize("wrong", [-0.1, 1.1, np.nan])
def test_what_is_no_p_value_is_refused(wrong):
    with pytest.raises(ValueError, match="p-values must be 0 to 1"):
        adjusted_p_values(np.array([0.5, wrong]))
