"""A dataset as a recipe sees it: labels, folds, and what a network learns from."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from storage.authorship import Where
from storage.schema import (
    CLASSES,
    FEATURES,
    ODD_FEATURES,
    ConfigError,
    DatasetError,
    DatasetRef,
    FloatArray,
    IntArray,
    Source,
    content_hash,
)
from storage.snapshots import Dataset, load_dataset
from tasks.execution.skill import class_shares
from tasks.market.labels import UNKNOWN, Labels, class_means, label_bars, sample_uniqueness
from tasks.market.walk_forward import (
    Fold,
    Span,
    TrainingEnd,
    cut_times,
    listing_fold,
    refit_fold,
    refuse_short,
    short_part,
    spans_of,
    walk_forward,
)
from tasks.network.series import Series
from tasks.strategy.recipe import Recipe
from tasks.strategy.vol_windows import bars_to_learn_from, vol_windows

MOST_POOLED_BARS = 6_000_000
"""Bars of all markets of a pool together. All of them are in memory while their network is trained, 1.1 kB a bar."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """A dataset as a recipe sees it.

    Attributes:
        folds: Walk-forward; the last one's weights are published.
        refit: Up to the last bar, for a recipe whose refit is published instead.
        known_until_ms: Of each fold and of the refit, the open time of the last bar that its model was fitted on, its
            validation's; of a pool, in any market. UTC milliseconds.
    """

    dataset: Dataset
    labels: Labels
    folds: tuple[Fold, ...]
    refit: Fold
    known_until_ms: tuple[int, ...]

    @property
    def is_listing(self) -> bool:
        """Whether no bar is left to learn from: what others taught its pool's network is all that speaks for it."""
        return not len(self.folds[-1].train)

    def fold(self, index: int) -> Fold:
        """Return the walk-forward fold of that number, or the refit, which follows the last one."""
        return (*self.folds, self.refit)[index]

    def training_end(self, fold: Fold) -> TrainingEnd:
        """Return the last bar that a fold's model was fitted on, in any market, and how far that bar's label looks."""
        span_ms = (self.labels.horizon + 1) * self.dataset.market.interval_ms
        return {"trained_until_ms": self.known_until_ms[fold.index], "label_span_ms": span_ms}


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldBars:
    """What a fold's models are made from, and nothing else: what lies before and after is not in it.

    Attributes:
        series: The bars, context before the first training bar included; labels of training and validation alone.
        train, validation: Half-open spans of its bars, as `fit` takes them.
        log_ratio: (T,) what a volatility head learns: ln of the variance realised over the volatility horizon, as a
            multiple of what present volatility would bring; NaN where unknown, and where the window reaches into what
            is unseen.
        vol_horizon: Bars of those windows.
        predicted: Its bars that the models predict; none of a pool's, whose markets are predicted each by itself.
        class_means: (3,) what each class earned in training, in units of vol * sqrt(horizon).
        prior: (3,) share of each class in training.
        odd: Markets of a pool, by symbol, that are unlike the others and teach nobody.
    """

    series: Series
    train: tuple[int, int]
    validation: tuple[int, int]
    log_ratio: FloatArray
    vol_horizon: int
    predicted: slice
    class_means: FloatArray
    prior: FloatArray
    odd: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all of it: equal where another day's dataset holds the same bars."""
        series = self.series

        def parts() -> Iterator[bytes | memoryview]:
            spans = (*self.train, *self.validation, self.predicted.start, self.predicted.stop)
            yield " ".join(map(str, (*spans, series.label_span, self.vol_horizon))).encode()
            scaling = (None, None) if series.scaling is None else series.scaling
            read = (series.features, series.labels, series.segment, series.signs, series.weights, series.clock)
            for array in (*read, *scaling):
                yield b"" if array is None else np.ascontiguousarray(array).data.cast("B")
            yield from (self.log_ratio.tobytes(), self.class_means.tobytes(), self.prior.tobytes())

        return content_hash(parts())


def load_samples(datasets: Where, data: DatasetRef, recipe: Recipe) -> Samples:
    """Load a dataset and divide it as the recipe says.

    Returns:
        With all folds of the recipe; in a pool a young market has those that its bars reach, and a new listing, which
        has none to learn from, the newest one's test alone.

    Raises:
        DatasetError: It is missing, corrupt, or too short for the folds; or its pool has too many bars.
    """
    if recipe.pool:
        samples = pool_member(datasets, data, recipe)
        short = [short_part(fold, recipe.labels.horizon) for fold in samples.folds]
        if short[-1]:
            bars, usable = _usable(samples.dataset, recipe)
            listed = listing_fold(samples.folds[-1], bars - usable, recipe.labels.horizon)
            if isinstance(listed, str):
                refuse_short(f"by the dates of its pool {listed}", bars, usable)
            return replace(samples, folds=(listed,))
        begins = max((number + 1 for number, why in enumerate(short) if why), default=0)  # a young market's newest
        return replace(samples, folds=samples.folds[begins:])
    dataset, labels = _labelled(datasets, data, recipe)
    bars, usable = _usable(dataset, recipe)
    start_ms, bar = dataset.candles.start_ms, dataset.market.interval_ms
    folds = walk_forward(start_ms, bar, bars - usable, recipe.labels.horizon, recipe.folds)
    refit = refit_fold(folds[-1])
    known = tuple(int(start_ms[fold.validation.stop - 1]) for fold in (*folds, refit))
    return Samples(dataset=dataset, labels=labels, folds=folds, refit=refit, known_until_ms=known)


def samples_of_run(datasets: Where, data: DatasetRef, recipe: Recipe) -> Samples:
    """Return `load_samples` of these, read once for all steps of a run: every fold asks, and two at a time.

    Arguments and errors as in `load_samples`.
    """
    return _newest_loaded(datasets, data, recipe.resolved)  # what is stored of a recipe is resolved, and as good


_newest_loaded = lru_cache(maxsize=1)(load_samples)


def pool_member(datasets: Where, data: DatasetRef | str, recipe: Recipe) -> Samples:
    """Load a dataset and divide it at the dates of the recipe's pool, be the parts as short as they may.

    Arguments and errors as in `load_samples`.
    """
    dataset, labels = _labelled(datasets, data, recipe)
    bars, usable = _usable(dataset, recipe)
    start_ms, bar = dataset.candles.start_ms, dataset.market.interval_ms
    context = recipe.network_config.context
    asked = [_usable_times(datasets, one, context, dataset.source, bar) for one in recipe.pool_datasets]
    if (held := sum(one.bars for one in asked)) > MOST_POOLED_BARS:
        raise DatasetError(
            f"a pool may have {MOST_POOLED_BARS:,} bars of all markets together, {len(asked)} markets have {held:,}; "
            "name fewer of them (--pool BTCUSDT,SOLUSDT), use the newest bars of each (--days 365) or longer bars"
        )
    first_ms, end_ms = min(one.first_ms for one in asked), max(one.end_ms for one in asked)
    cuts = cut_times(first_ms, end_ms, bar, recipe.labels.horizon, recipe.folds)
    cuts = (*cuts, refit_fold(cuts[-1]))

    def spans(cut: Fold) -> Fold:
        fold = spans_of(cut, start_ms, recipe.labels.horizon + 1 + recipe.folds.embargo)
        train = Span(start=max(fold.train.start, bars - usable), stop=fold.train.stop)
        return replace(fold, train=train)

    *folds, refit = (spans(cut) for cut in cuts)
    known = tuple(cut.validation.stop - bar for cut in cuts)
    return Samples(dataset=dataset, labels=labels, folds=tuple(folds), refit=refit, known_until_ms=known)


class _Usable(NamedTuple):
    """When the first bar with features and context opens and the last one closes, and how many bars there are."""

    first_ms: int
    end_ms: int
    bars: int


@lru_cache(maxsize=1_024)  # a dataset is what its id says, and is asked for by every fold of every market of its pool
def _usable_times(datasets: Where, data: str, context: int, source: Source, bar: int) -> _Usable:
    """Return what a pool asks of one of its markets; times in UTC milliseconds."""
    dataset = load_dataset(datasets, data)
    if (dataset.source, dataset.market.interval_ms) != (source, bar):
        raise ConfigError(
            f"markets of a pool must have one source and interval, {dataset.market} from {dataset.source} has another"
        )
    ready, start_ms = _first_ready(dataset), dataset.candles.start_ms
    first = len(start_ms) - 1 if ready is None else min(ready + context - 1, len(start_ms) - 1)
    return _Usable(int(start_ms[first]), int(start_ms[-1]) + bar, len(start_ms))


def _labelled(datasets: Where, data: DatasetRef | str, recipe: Recipe) -> tuple[Dataset, Labels]:
    dataset = load_dataset(datasets, data)
    labels = label_bars(dataset.candles.open, dataset.vol, dataset.segment, recipe.labels, recipe.costs.round_trip)
    return dataset, labels


def _usable(dataset: Dataset, recipe: Recipe) -> tuple[int, int]:
    """Return how many bars there are, and how many from the first on that has features and a network's context."""
    ready = _first_ready(dataset)
    if ready is None:
        raise DatasetError(
            f"dataset {dataset.ref.id} has no bar with features: every run without a gap is shorter than the warm-up, "
            "bars of halts not counted"
        )
    bars = len(dataset.candles)
    return bars, bars - ready - recipe.network_config.context + 1


def _first_ready(dataset: Dataset) -> int | None:
    """Return the first bar that has features; None where there is none."""
    warm = np.flatnonzero(np.isfinite(dataset.vol))  # to ask it of each feature of each bar takes 35 bytes a bar
    return next((int(bar) for bar in warm if np.isfinite(dataset.features[bar]).all()), None)


def mirrored_series(features: FloatArray, labels: Labels, segment: IntArray) -> Series:
    """Return a series whose mirror image is the market upside down: sell is buy, and odd features change their sign.

    The features are (T, F) in the order of `FEATURES`, `segment` numbers each bar's unbroken run.
    """
    signs = np.array([-1.0 if name in ODD_FEATURES else 1.0 for name in FEATURES])
    return Series(features=features, labels=labels.classes, segment=segment, signs=signs, label_span=labels.horizon + 1)


def fold_bars(samples: Samples, recipe: Recipe, index: int) -> FoldBars:
    """Return what a fold's models are made from; network and baselines alike, mirror signs and weights with it.

    `index` is of the walk-forward fold, from 0; the number of folds for the refit.
    """
    fold = samples.fold(index)
    first = max(fold.train.start - recipe.network_config.context + 1, 0)
    rows = slice(first, max(fold.predicted.stop, fold.validation.stop))
    train, validation, predicted = (
        slice(span.start - first, span.stop - first) for span in (fold.train, fold.validation, fold.predicted)
    )
    run = run_of(samples, recipe, fold, rows, train, validation)
    known = run.labels.classes[train]
    return FoldBars(
        series=run.series,
        train=(train.start, train.stop),
        validation=(validation.start, validation.stop),
        log_ratio=run.log_ratio,
        vol_horizon=vol_horizon(samples, recipe),
        predicted=predicted,
        class_means=class_means(run.labels, run.vol, train),
        prior=class_shares(known[known >= 0], len(CLASSES)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class BarRun:
    """Consecutive bars of a market.

    Attributes:
        series: As a network reads them, with the labels of some of them.
        labels: The same labels, with what they were made from.
        vol: (N,) volatility per bar.
        log_ratio: (N,) as in `FoldBars`.
    """

    series: Series
    labels: Labels
    vol: FloatArray
    log_ratio: FloatArray


def vol_horizon(samples: Samples, recipe: Recipe) -> int:
    """Return the volatility horizon in bars of a market."""
    return recipe.risk.horizon(samples.dataset.market.interval_ms)


def run_of(samples: Samples, recipe: Recipe, fold: Fold, rows: slice, *labelled: slice) -> BarRun:
    """Return rows of a dataset with the labels of some parts of them alone.

    `labelled` are parts of `rows`, counted from the first, that keep their labels; weights are of the first part's.
    """
    dataset, labels = samples.dataset, samples.labels
    own = Labels(
        horizon=labels.horizon,
        classes=np.full(rows.stop - rows.start, UNKNOWN),
        forward_return=labels.forward_return[rows],
        threshold=labels.threshold[rows],
        end=labels.end[rows] - rows.start,
    )
    windows = vol_windows(dataset, vol_horizon(samples, recipe))
    learned = bars_to_learn_from(fold, labels.horizon + 1, windows.horizon)
    known, log_ratio = np.full(len(dataset.vol), np.nan), np.full(rows.stop - rows.start, np.nan)
    known[learned] = windows.log_ratio[learned]
    for part in labelled:  # a label of the test is nobody's to read, and the newest are not known yet
        own.classes[part] = labels.classes[rows][part]
        log_ratio[part] = known[rows][part]
    weights = sample_uniqueness(own, labelled[0]) if recipe.folds.weights == "uniqueness" else None
    segment = dataset.segment[rows]
    series = mirrored_series(dataset.features[rows], own, segment - segment[:1])
    clock = dataset.candles.start_ms[rows] // dataset.market.interval_ms
    series = replace(series, weights=weights, clock=clock)
    return BarRun(series=series, labels=own, vol=dataset.vol[rows], log_ratio=log_ratio)
