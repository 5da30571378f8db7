"""A dataset as a recipe sees it: labels, folds, and what a network learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np

from storage.schema import FEATURES, ODD_FEATURES, DatasetError, DatasetRef, FloatArray, IntArray
from storage.snapshots import Dataset, load_dataset
from tasks.market.labels import Labels, label_bars, sample_uniqueness
from tasks.market.samples import Fold, refit_fold, walk_forward
from tasks.network.segments import Series
from tasks.strategy.recipe import Recipe


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """A dataset as a recipe sees it.

    Attributes:
        dataset: Its bars.
        labels: What came after each.
        folds: Walk-forward; the last one's weights are published.
        refit: Up to the last bar, for a recipe whose refit is published instead.
    """

    dataset: Dataset
    labels: Labels
    folds: tuple[Fold, ...]
    refit: Fold

    @property
    def series(self) -> Series:
        """What a network learns from."""
        return mirrored_series(self.dataset.features, self.labels, self.dataset.segment)

    def fold(self, index: int) -> Fold:
        """Return the walk-forward fold of that number, or the refit, which follows the last one."""
        return (*self.folds, self.refit)[index]


class TrainingEnd(TypedDict):
    """Up to where a model knows the market; argument names of `run_backtest`.

    Attributes:
        trained_until_ms: Open time of the last bar that it was fitted on, its validation's, UTC milliseconds.
        label_span_ms: How far that bar's label looks ahead.
    """

    trained_until_ms: int
    label_span_ms: int


def load_samples(datasets: Path | str, data: DatasetRef, recipe: Recipe) -> Samples:
    """Load a dataset and divide it as the recipe says.

    Args:
        datasets: Where datasets lie.
        data: Which one.
        recipe: Labels and folds.

    Raises:
        DatasetError: It is missing, corrupt, or too short for the folds.
    """
    dataset = load_dataset(datasets, data)
    labels = label_bars(dataset.candles.open, dataset.vol, dataset.segment, recipe.labels, recipe.costs.round_trip)
    ready = np.flatnonzero(np.isfinite(dataset.features).all(axis=1))
    if not len(ready):
        raise DatasetError(
            f"dataset {data.id} has no bar with features: every run without a gap is shorter than the warm-up, "
            "bars of halts not counted"
        )
    first_usable = int(ready[0]) + recipe.network_config.context - 1
    cut = (len(dataset.candles), first_usable, recipe.labels.horizon, recipe.folds)
    return Samples(dataset=dataset, labels=labels, folds=walk_forward(*cut), refit=refit_fold(*cut))


def mirrored_series(features: FloatArray, labels: Labels, segment: IntArray) -> Series:
    """Return a series whose mirror image is the market upside down: sell is buy, and odd features change their sign.

    Args:
        features: (T, F) in the order of `FEATURES`.
        labels: Of T bars.
        segment: (T,) number of the unbroken run of each bar.
    """
    signs = np.array([-1.0 if name in ODD_FEATURES else 1.0 for name in FEATURES])
    return Series(features=features, labels=labels.classes, segment=segment, signs=signs, label_span=labels.horizon + 1)


def fold_series(samples: Samples, recipe: Recipe, fold: Fold) -> Series:
    """Return what network and baselines alike learn a fold from: mirror signs and weights with it."""
    weights = sample_uniqueness(samples.labels, fold.train.rows) if recipe.folds.weights == "uniqueness" else None
    return replace(samples.series, weights=weights)


def training_end(samples: Samples, recipe: Recipe, fold: Fold) -> TrainingEnd:
    """Return the last bar that a fold's model was fitted on, its validation's, and how far that bar's label looks."""
    return {
        "trained_until_ms": int(samples.dataset.candles.start_ms[fold.validation.stop - 1]),
        "label_span_ms": (recipe.labels.horizon + 1) * samples.dataset.ref.market.interval_ms,
    }


def fold_spans(fold: Fold) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the train and validation bars of a fold as `fit` takes them."""
    return (fold.train.start, fold.train.stop), (fold.validation.start, fold.validation.stop)
