"""A dataset as a recipe sees it: labels, folds, and what a network learns from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np

from storage.schema import (
    CLASSES,
    FEATURES,
    ODD_FEATURES,
    DatasetError,
    DatasetRef,
    FloatArray,
    IntArray,
    content_hash,
)
from storage.snapshots import Dataset, load_dataset
from tasks.execution.skill import class_shares
from tasks.market.labels import UNKNOWN, Labels, class_means, label_bars, sample_uniqueness
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

    def fold(self, index: int) -> Fold:
        """Return the walk-forward fold of that number, or the refit, which follows the last one."""
        return (*self.folds, self.refit)[index]


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldBars:
    """What a fold's models are made from, and nothing else: what lies before and after is not in it.

    Attributes:
        series: The bars, context before the first training bar included; labels of training and validation alone.
        train, validation: Half-open spans of its bars, as `fit` takes them.
        predicted: Its bars that the models predict.
        class_means: (3,) what each class earned in training, in units of vol * sqrt(horizon).
        prior: (3,) share of each class in training.
    """

    series: Series
    train: tuple[int, int]
    validation: tuple[int, int]
    predicted: slice
    class_means: FloatArray
    prior: FloatArray

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all of it: equal where another day's dataset holds the same bars."""
        series = self.series

        def parts() -> Iterator[bytes | memoryview]:
            spans = (*self.train, *self.validation, self.predicted.start, self.predicted.stop, series.label_span)
            yield " ".join(map(str, spans)).encode()
            for array in (series.features, series.labels, series.segment, series.signs, series.weights):
                yield b"" if array is None else np.ascontiguousarray(array).data.cast("B")
            yield from (self.class_means.tobytes(), self.prior.tobytes())

        return content_hash(parts())


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
    cut = (dataset.candles.start_ms, dataset.market.interval_ms, first_usable, recipe.labels.horizon, recipe.folds)
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


def fold_bars(samples: Samples, recipe: Recipe, index: int) -> FoldBars:
    """Return what a fold's models are made from; network and baselines alike, mirror signs and weights with it.

    Args:
        samples: The dataset as the recipe sees it.
        recipe: How labels are weighted, and how far back the network reads.
        index: Number of the walk-forward fold, from 0; the number of folds for the refit.
    """
    dataset, labels, fold = samples.dataset, samples.labels, samples.fold(index)
    first = max(fold.train.start - recipe.network_config.context + 1, 0)
    rows = slice(first, max(fold.predicted.stop, fold.validation.stop))
    train, validation, predicted = (
        slice(span.start - first, span.stop - first) for span in (fold.train, fold.validation, fold.predicted)
    )
    own = Labels(
        horizon=labels.horizon,
        classes=np.full(rows.stop - first, UNKNOWN),
        forward_return=labels.forward_return[rows],
        threshold=labels.threshold[rows],
        end=labels.end[rows] - first,
    )
    for part in (train, validation):  # a label of the test is nobody's to read, and the newest are not known yet
        own.classes[part] = labels.classes[rows][part]
    weights = sample_uniqueness(own, train) if recipe.folds.weights == "uniqueness" else None
    segment = dataset.segment[rows] - dataset.segment[first]
    known = own.classes[train]
    return FoldBars(
        series=replace(mirrored_series(dataset.features[rows], own, segment), weights=weights),
        train=(train.start, train.stop),
        validation=(validation.start, validation.stop),
        predicted=predicted,
        class_means=class_means(own, dataset.vol[rows], train),
        prior=class_shares(known[known >= 0], len(CLASSES)),
    )


def training_end(samples: Samples, recipe: Recipe, fold: Fold) -> TrainingEnd:
    """Return the last bar that a fold's model was fitted on, its validation's, and how far that bar's label looks."""
    return {
        "trained_until_ms": int(samples.dataset.candles.start_ms[fold.validation.stop - 1]),
        "label_span_ms": (recipe.labels.horizon + 1) * samples.dataset.ref.market.interval_ms,
    }
