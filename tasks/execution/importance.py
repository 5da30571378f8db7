"""Permutation importance of each input: how much worse the forecast is when that input is shuffled.

As in Breiman 2001, on held-out bars, with two differences. Blocks of bars are permuted instead of single bars: an input
stays smooth within a block and loses only its relation to the market. And inputs that carry the same information, such
as the sine and cosine of the time of the week, are permuted together: permuting one of them alone would cost nothing,
since the others still give the hour.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from storage.schema import FloatArray, IntArray
from tasks.execution.skill import log_losses


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Importance of one input or one group of inputs.

    Attributes:
        loss: Log-loss with it permuted minus log-loss, nat, mean over the permutations; if negative, it did harm.
        spread: Standard deviation over the permutations, nat.
    """

    name: str
    loss: float
    spread: float


def permutation_importance(
    predict: Callable[[FloatArray], FloatArray],
    features: FloatArray,
    classes: IntArray,
    groups: Mapping[str, Sequence[int]],
    *,
    block: int,
    repeats: int,
    seed: int,
) -> tuple[Importance, ...]:
    """Return the importance of each group of inputs, the largest first; empty if no label is known.

    Args:
        predict: (T, F) features -> (T, K) probabilities, NaN where unknown.
        features: (T, F); bars with a NaN are not permuted.
        classes: (T,) true class, -1 where unknown.
        groups: Name -> columns that are permuted together.
        block: Bars per block, >= 1.
        repeats: Permutations of each group, >= 2.
    """
    ready = np.flatnonzero(np.isfinite(features).all(axis=1))
    known = (classes >= 0) & np.isfinite(predict(features)).all(axis=1)
    if not known.any():
        return ()

    def loss(changed: FloatArray) -> float:
        return float(log_losses(predict(changed)[known], classes[known]).mean())

    whole, rng = loss(features), np.random.default_rng(seed)
    blocks = np.array_split(ready, max(len(ready) // block, 1))
    found = []
    for name, columns in groups.items():
        lost = []
        for _ in range(repeats):
            moved = np.concatenate([blocks[place] for place in rng.permutation(len(blocks))])
            changed = features.copy()
            for column in columns:
                changed[ready, column] = features[moved, column]
            lost.append(loss(changed) - whole)
        found.append(Importance(name=name, loss=float(np.mean(lost)), spread=float(np.std(lost, ddof=1))))
    return tuple(sorted(found, key=lambda one: -one.loss))
