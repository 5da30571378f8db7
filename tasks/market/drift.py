"""Drift of recent bars from the training bars, by the population stability index.

The usual rule of thumb ("above 0.1") is wrong for autocorrelated features: without any change, 90 % of the blocks of a
slow feature exceed it. So the limit is a quantile of the same statistic over blocks of the training bars themselves.
With 50 non-overlapping blocks, 3 to 12 % of unchanged blocks exceed it: one breach is only a hint; two consecutive
breaches, of blocks that share no bar, are evidence.
"""

from dataclasses import dataclass

import numpy as np

from storage.schema import FloatArray

_BINS = 10
_FLOOR = 1e-4  # share of an empty bin, so that its logarithm exists
_QUANTILE = 0.99
_STRIDE = 4  # blocks of training bars overlap by three quarters; a smaller step would add hardly any information
_FEWEST_BLOCKS = 20  # with fewer blocks a 99 % quantile can't be estimated


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Distance of recent bars from the training bars.

    Attributes:
        ratio: Largest ratio of a feature's index to the feature's own limit.
        limit: Limit of `ratio`, which 1 of 100 blocks of the training bars exceeds, >= 1.
        feature: Number of the feature with the largest ratio.
        index: (F,) population stability index of each feature.
    """

    ratio: float
    limit: float
    feature: int
    index: FloatArray

    @property
    def breached(self) -> bool:
        """Whether `ratio` exceeds `limit`."""
        return self.ratio > self.limit


def measure_drift(train: FloatArray, recent: FloatArray) -> Drift | None:
    """Compare recent bars (m, F) with training bars (T, F), oldest first; rows that are not finite are left out.

    The result is None if the training bars have too few blocks of that length.
    """
    train, recent = (rows[np.isfinite(rows).all(axis=1)] for rows in (train, recent))
    length = len(recent)
    starts = np.arange(0, len(train) - length + 1, max(length // _STRIDE, 1))
    if not length or len(starts) < _FEWEST_BLOCKS:
        return None
    edges = np.quantile(train, np.linspace(0, 1, _BINS + 1)[1:-1], axis=0)
    base = _shares(train, edges)
    blocks = np.array([_index(base, _shares(train[start : start + length], edges)) for start in starts])
    limits = np.maximum(np.quantile(blocks, _QUANTILE, axis=0), _FLOOR)
    index = _index(base, _shares(recent, edges))
    ratios = index / limits
    worst = int(np.argmax(ratios))
    together = float(np.quantile((blocks / limits).max(axis=1), _QUANTILE))  # limit of the largest of F ratios
    return Drift(ratio=float(ratios[worst]), limit=max(together, 1.0), feature=worst, index=index)


def _shares(rows: FloatArray, edges: FloatArray) -> FloatArray:
    """Return (bins, F) shares of the rows between the edges (bins - 1, F)."""
    columns = [
        np.bincount(np.searchsorted(edges[:, column], rows[:, column], side="right"), minlength=_BINS)
        for column in range(rows.shape[1])
    ]
    shares: FloatArray = np.maximum(np.stack(columns, axis=1) / len(rows), _FLOOR)
    return shares


def _index(base: FloatArray, other: FloatArray) -> FloatArray:
    """Return (F,) sum over bins of (q - p) ln(q / p)."""
    index: FloatArray = ((other - base) * np.log(other / base)).sum(axis=0)
    return index
