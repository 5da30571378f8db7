"""A pool: one network for many markets, learned from all their bars, cut at dates that they share.

A fold of a pool is one series: every market's training bars, each with the context before them, then every market's
validation bars likewise. No market is named in it. What moves one market moves the others in the same hour, so parts
are kept apart in time and not by rows, here and in the teacher: whoever is judged on an hour learns from nobody's.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from storage.authorship import Where
from storage.schema import CLASSES, DatasetError, FloatArray, LeakError
from tasks.execution.skill import class_shares
from tasks.market.labels import UNKNOWN, Labels, class_means
from tasks.market.walk_forward import Fold, Span
from tasks.network.calibration import scaler
from tasks.network.likeness import FEWEST, alike
from tasks.network.series import Series, finite_bars
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import BarRun, FoldBars, Samples, pool_member, run_of, vol_horizon

_MOST = 4.0  # so that an epoch learns from a quarter of the longest market's labels at least


def pooled_bars(datasets: Where, recipe: Recipe, number: int) -> FoldBars:
    """Return what the models of a pool's fold are made from.

    `number` is of the fold, from 0, oldest first; the number of folds for the refit.

    Raises:
        DatasetError: A dataset is missing or corrupt, or no market has bars to train or to validate on.
        LeakError: A training label reads an hour of a validation bar, of whatever market.
    """
    asked = _asked(datasets, recipe)
    members = _teachers(asked, recipe, number)
    folds = [samples.fold(number) for samples in members]
    learn = _runs(members, recipe, [(fold, fold.train) for fold in folds])
    check = _runs(members, recipe, [(fold, fold.validation) for fold in folds])
    if not (learn and check):
        raise DatasetError(f"no market of the pool has bars to learn fold {number + 1} from; ingest more history")
    joined = _joined([*learn, *check])
    stop, bars = sum(len(run.vol) for run in learn), len(joined.labels)
    _refuse_overlap(joined, stop)
    labels = _joined_labels([*learn, *check])
    known = joined.labels[:stop]
    return FoldBars(
        series=replace(joined, scaling=_scaling(learn)),
        train=(0, stop),
        validation=(stop, bars),
        log_ratio=np.concatenate([run.log_ratio for run in (*learn, *check)]),
        vol_horizon=vol_horizon(members[0], recipe),
        predicted=slice(bars, bars),
        class_means=class_means(labels, np.concatenate([run.vol for run in (*learn, *check)]), slice(0, stop)),
        prior=class_shares(known[known >= 0], len(CLASSES)),
        odd=tuple(samples.dataset.market.symbol for samples in asked if samples not in members),
    )


def teaching(datasets: Where, recipe: Recipe, number: int) -> list[Samples]:
    """Return the markets that a pool's fold learns from: all but those that are unlike the others.

    Raises:
        DatasetError: A dataset is missing or corrupt.
    """
    return _teachers(_asked(datasets, recipe), recipe, number)


def bars_for_listing(datasets: Where, recipe: Recipe, samples: Samples) -> FoldBars:
    """Return a pool's newest fold with the test of a market behind it that has no bars to learn from.

    It is for models that are fitted anew for each market; the pool's network is there.

    Raises:
        DatasetError, LeakError: As `pooled_bars` says.
    """
    fold = samples.folds[-1]
    pooled = pooled_bars(datasets, recipe, fold.index)
    first = max(fold.test.start - recipe.network_config.context + 1, 0)
    run = run_of(samples, recipe, fold, slice(first, fold.predicted.stop), slice(0, 0))
    own, series, bars = run.series, pooled.series, len(pooled.series.labels)
    weights = None if series.weights is None else np.concatenate([series.weights, np.zeros(len(own.labels))])
    return replace(
        pooled,
        series=replace(
            series,
            features=np.concatenate([series.features, own.features]),
            labels=np.concatenate([series.labels, own.labels]),
            segment=np.concatenate([series.segment, own.segment + series.segment[-1] + 1]),
            clock=np.concatenate([series.times, own.times]),
            weights=weights,
        ),
        log_ratio=np.concatenate([pooled.log_ratio, run.log_ratio]),
        predicted=slice(bars + fold.test.start - first, bars + len(own.labels)),
    )


def with_pool_passes(recipe: Recipe) -> Recipe:
    """Return the recipe with as many passes over a pool's bars as its network is trained for; no pool: as it is.

    The more markets, the less often each bar: of four markets at 5 minutes, 5 passes forecast as well as 9.
    """
    fit = recipe.fit_config
    passes = math.ceil(fit.epochs / math.sqrt(max(len(recipe.pool), 1)))
    return replace(recipe, fit=replace(fit, epochs=passes))


def _asked(datasets: Where, recipe: Recipe) -> list[Samples]:
    return [pool_member(datasets, one, recipe) for one in recipe.pool_datasets]


def _teachers(asked: Sequence[Samples], recipe: Recipe, number: int) -> list[Samples]:
    """Return the markets of a pool without those that are unlike the others."""
    young = [samples for samples in asked if not len(samples.fold(number).train)]  # they hold nothing to ask
    old = [samples for samples in asked if samples not in young]
    if len(old) < FEWEST:
        return [*asked]
    folds = [samples.fold(number) for samples in old]
    runs = _runs(old, recipe, [(fold, fold.train) for fold in folds])
    network = recipe.network_config
    series = [run.series.first(network.input_features) for run in runs]
    mean, scale = _scaling(runs)
    scaling = mean[: network.input_features], scale[: network.input_features]
    teaches = alike(series, scaling, network.input_clip)
    odd = [samples for samples, is_alike in zip(old, teaches, strict=True) if not is_alike]
    return [samples for samples in asked if samples not in odd]


def _runs(members: Sequence[Samples], recipe: Recipe, parts: Sequence[tuple[Fold, Span]]) -> list[BarRun]:
    """Return each market's bars of a span of its fold, with the context before them, whose labels are left out."""
    runs = []
    for samples, (fold, span) in zip(members, parts, strict=True):
        if len(span):
            first = max(span.start - recipe.network_config.context + 1, 0)
            labelled = slice(span.start - first, span.stop - first)
            runs.append(run_of(samples, recipe, fold, slice(first, span.stop), labelled))
    return runs


def _joined(runs: Sequence[BarRun]) -> Series:
    """Return runs end to end as one series, each in segments of its own."""
    parts = [run.series for run in runs]
    segments, after = [], 0
    for part in parts:
        segments.append(part.segment + after)
        after = int(segments[-1][-1]) + 1
    return Series(
        features=np.concatenate([part.features for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        segment=np.concatenate(segments),
        signs=parts[0].signs,
        weights=_weights(parts),
        label_span=parts[0].label_span,
        clock=np.concatenate([part.times for part in parts]),
    )


def _scaling(runs: Sequence[BarRun]) -> tuple[FloatArray, FloatArray]:
    """Return the median of what scales each market's labelled bars: an absurd market decides nobody's scale."""
    known = [run.series.features[run.labels.classes != UNKNOWN] for run in runs]
    each = [scaler(features) for features in known if finite_bars(features).any()]
    if not each:
        raise DatasetError("no market of the pool has a labelled bar with features; ingest more history")
    mean, scale = (np.median(np.array(parts), axis=0) for parts in zip(*each, strict=True))
    return mean, scale


def _weights(parts: Sequence[Series]) -> FloatArray | None:
    """Return (T,) what makes every market's labels of one weight together, as far as `_MOST` allows; None: they are."""
    own = [(part.labels != UNKNOWN) * (1.0 if part.weights is None else part.weights) for part in parts]
    sums = np.array([weights.sum() for weights in own])
    most = sums.max()
    factors = np.minimum(most / np.maximum(sums, most / _MOST), _MOST)
    if (factors == 1.0).all() and all(part.weights is None for part in parts):
        return None
    return np.concatenate([weights * factor for weights, factor in zip(own, factors, strict=True)])


def _joined_labels(runs: Sequence[BarRun]) -> Labels:
    """Return the labels of runs end to end."""
    labels = [run.labels for run in runs]
    return Labels(
        horizon=labels[0].horizon,
        classes=np.concatenate([part.classes for part in labels]),
        forward_return=np.concatenate([part.forward_return for part in labels]),
        threshold=np.concatenate([part.threshold for part in labels]),
        end=np.concatenate([part.end for part in labels]),
    )


def _refuse_overlap(series: Series, stop: int) -> None:
    """Refuse a series in whose first `stop` rows a label reads an hour of a labelled row that follows."""
    labelled = series.labels != UNKNOWN
    learned, checked = series.times[:stop][labelled[:stop]], series.times[stop:][labelled[stop:]]
    if len(learned) and len(checked) and learned.max() + series.label_span >= checked.min():
        raise LeakError(
            f"a training label reads up to bar {learned.max() + series.label_span} of the clock, validation starts at "
            f"bar {checked.min()} in another market; cut all markets of a pool at the same times"
        )
