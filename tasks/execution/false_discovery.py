"""Correct p-values for multiple testing: of twenty markets without any skill about one shows p < 5 %."""

import numpy as np

from storage.schema import FloatArray

RATE = 0.05
"""False discovery rate: the expected share of false positives among the results that are kept."""


def adjusted_p_values(p_values: FloatArray) -> FloatArray:
    """Return p-values adjusted for multiple testing: keeping those <= q gives a false discovery rate <= q.

    Benjamini, Yekutieli 2001 (10.1214/aos/1013699998): p of rank j, times m (1 + 1/2 + ... + 1/m) / j, then the minimum
    of its own and every higher rank. The procedure of Benjamini and Hochberg is smaller by that sum, but it needs tests
    that are independent or positively dependent. Markets share their hours and often a network, so the dependence of
    their results is unknown; this procedure holds under any dependence.

    Args:
        p_values: (m,) of every test that was made, 0 to 1; 1 for a test that could not be computed.
    Returns:
        (m,) in the same order, at most 1.
    Raises:
        ValueError: One is not a number from 0 to 1.
    """
    if not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError(f"p-values must be 0 to 1 (1 where there is none), were {p_values.tolist()}")
    tests = len(p_values)
    ranks = np.arange(1, tests + 1)
    order = np.argsort(p_values)
    scaled = p_values[order] * tests * np.sum(1.0 / ranks) / ranks
    adjusted = np.empty(tests)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted
