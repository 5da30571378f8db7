"""What each input is worth to a forecast: how much worse it gets without that input's news.

Permutation importance as Breiman 2001 has it, on bars that no training saw, with two differences. Blocks of bars change
places, not single bars: an input keeps its own course within a block, so that what is lost is its link to the market
and not its smoothness. And inputs that say one thing together, such as the waves of the week, change places together:
alone each is missed by nobody, since the others still tell the hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from storage.schema import FloatArray, IntArray
from tasks.execution.skill import log_losses


@dataclass(frozen=True, kw_only=True)
class Importance:
    """What one input, or a group of them, is worth.

    Attributes:
        name: Of the input or the group.
        loss: Log-loss with it permuted less log-loss, nat, mean over the permutations; negative: it misled.
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
    """Return what each group of inputs is worth, the most valuable first; nothing where no label is known.

    Args:
        predict: (T, F) features -> (T, K) probabilities, NaN where unknown.
        features: (T, F); bars that lack one stay where they are.
        classes: (T,) true class, -1 where unknown.
        groups: Name -> columns that change places together.
        block: Bars that stay together, >= 1.
        repeats: Permutations of each group, >= 2.
        seed: Of the permutations.
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
