"""The windows over which volatility is forecast: what came of each, and from which bars it may be learned."""

from dataclasses import dataclass

import numpy as np

from storage.schema import FloatArray, IntArray
from storage.snapshots import Dataset
from tasks.market.features import FLAT_VOL
from tasks.market.labels import realised_variance
from tasks.market.walk_forward import Fold


@dataclass(frozen=True, kw_only=True, eq=False)
class VolWindows:
    """The window after each bar of a dataset.

    Attributes:
        horizon: Bars of a window.
        log_variance: (T,) ln of the realised variance; NaN where unknown, or nothing moved.
        log_unit: (T,) ln of what present volatility would bring, horizon * vol^2; NaN where unknown, or flat.
    """

    horizon: int
    log_variance: FloatArray
    log_unit: FloatArray

    @property
    def log_ratio(self) -> FloatArray:
        """(T,) ln of the realised variance as a multiple of what present volatility would bring."""
        return self.log_variance - self.log_unit


def vol_windows(dataset: Dataset, horizon: int) -> VolWindows:
    """Return the window of `horizon` bars after each bar."""
    variance = realised_variance(dataset.candles.close, dataset.segment, horizon)
    moved, vol = variance > horizon * FLAT_VOL**2, dataset.vol >= FLAT_VOL  # NaN compares false
    return VolWindows(
        horizon=horizon,
        log_variance=np.log(np.where(moved, variance, np.nan)),
        log_unit=np.log(horizon * np.where(vol, dataset.vol, np.nan) ** 2),
    )


def bars_to_learn_from(fold: Fold, label_span: int, horizon: int) -> IntArray:
    """Return the training and validation bars of a fold whose windows end before anything unseen begins.

    What training has seen ends where the labels of validation do, `label_span` bars after their own.
    """
    seen = fold.validation.stop + label_span
    parts = (fold.train, fold.validation)
    return np.concatenate([np.arange(part.start, max(min(part.stop, seen - horizon), part.start)) for part in parts])
