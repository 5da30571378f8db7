"""Which of many tests still count once they are counted: of twenty markets without any skill one shows p < 5 %."""

from __future__ import annotations

import numpy as np

from storage.schema import FloatArray

RATE = 0.05
"""False discovery rate: the expected share of what is by luck alone among all that is kept."""


def adjusted_p_values(p_values: FloatArray) -> FloatArray:
    """Return p-values set right for how many there are: who keeps those <= q has a false discovery rate <= q.

    Benjamini, Yekutieli 2001 (10.1214/aos/1013699998): p of rank j, times m (1 + 1/2 + ... + 1/m) / j, then the least
    of its own and every higher rank. Benjamini and Hochberg's is smaller by that sum, but needs tests that are
    independent, or positively dependent on each of those without skill. Markets share their hours, and often a network:
    how their leads depend on each other is not known, and this holds however they do.

    Args:
        p_values: (m,) of every test that was made, 0 to 1; one that came to nothing counts as 1.
    Returns:
        (m,) in the same order, at most 1.
    Raises:
        ValueError: One is no number from 0 to 1.
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
