"""The simple models that the network must beat, on the same inputs: logistic regression and gradient boosting.

Each sees the newest bar's scaled features, clipped as the network clips them, searches a grid of the same size, is
chosen by its log-loss on validation and calibrated there with one temperature, as the network is. What the network is
given to learn from they are given: weights of labels, and where the series has `signs` every point of the grid is
tried with the mirror image of every training label too. Every point is kept with its loss. The grid is searched on
every second bar, whose labels overlap those between, boosting's with larger steps too; the chosen point is fitted anew
on all of them. That is a third of the work, for the same choices or ones as good. scikit-learn and LightGBM are loaded
where they are used: a live engine needs neither.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from storage.schema import ConfigError, DatasetError, FloatArray, IntArray
from tasks.network.baseline_config import BaselineConfig
from tasks.network.calibration import best_temperature, series_scaler
from tasks.network.series import Series, finite_bars

LOGISTIC, BOOSTING = "logistic regression", "LightGBM"
CLASSICAL = (LOGISTIC, BOOSTING)
"""The classical baselines, by the name that every table gives them."""

MANY_BARS = 50_000
"""Of so many, one side of each says as much as both where labels overlap: on 55,000 to 82,000 bars both were as good
on bars not seen; of some 20,000 trees of one side were up to 2 mnat worse."""

_SEARCHED = 2  # a grid is searched on every second bar
_SEARCH_RATE = 4  # boosting's with so many times the shrinkage
_SEARCH_PATIENCE = 2  # and a patience divided by so much: with such steps it still reaches twice as far
_LEAST_PROBABILITY = 1e-12  # a logarithm is taken of it


@dataclass(frozen=True, kw_only=True)
class GridPoint:
    """One point of a grid.

    Attributes:
        setting: The grid's parameter and its value.
        validation_loss: Mean log-loss on validation before calibration, nat; of the search.
    """

    setting: str
    validation_loss: float
    chosen: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """A fitted simple model.

    Attributes:
        name: One of CLASSICAL.
        probabilities: (N, K) calibrated, on the bars asked for; NaN where a feature is unknown.
        temperature: Fitted on validation.
        seconds: Wall time.
    """

    name: str
    probabilities: FloatArray
    tried: tuple[GridPoint, ...]
    temperature: float
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class TabularSamples:
    """What a simple model is fitted on.

    Attributes:
        x: (N, F) scaled features.
        y: (N,) classes.
        weights: (N,) >= 0, how much each counts; None: all alike.
    """

    x: FloatArray
    y: IntArray
    weights: FloatArray | None


Predict = Callable[[FloatArray], FloatArray]
"""From (N, F) scaled features to (N, K) probabilities."""


class TabularSeries:
    """A series as simple models see it, a row a bar: the newest bar's features, scaled by the bars of `train`."""

    def __init__(self, series: Series, train: tuple[int, int], input_clip: float | None, num_classes: int) -> None:
        self._series = series
        self._mean, self._scale = series_scaler(series, train)
        self._bound = math.inf if input_clip is None else input_clip
        self._num_classes = num_classes

    def scaled(
        self, bars: IntArray, signs: FloatArray | float = 1.0, out: NDArray[np.float64] | None = None
    ) -> FloatArray:
        """Return (N, F) scaled features, of the mirror image where there are signs; in `out`, if it is given."""
        # Every step is in its place, for tables are large; "raise", the default, would fill a table beside `out`.
        features = self._series.features
        x = features[bars] if out is None else np.take(features, bars, axis=0, out=out, mode="clip")
        x *= signs
        x -= self._mean
        x /= self._scale
        return x.clip(-self._bound, self._bound, out=x)

    def known(self, bars: IntArray) -> IntArray:
        """Return those of the bars that have a label and all features."""
        labelled = bars[self._series.labels[bars] >= 0]
        return labelled[finite_bars(self._series.features)[labelled]]

    def samples(self, bars: IntArray, *, mirrored: bool = False) -> TabularSamples:
        """Return the samples of `known` bars, and the mirror image of each too if asked.

        Raises:
            DatasetError: There is none.
        """
        series, bars_asked = self._series, bars
        bars = self.known(bars)
        if not len(bars):
            span = f"[{bars_asked[0]}, {bars_asked[-1] + 1}]" if len(bars_asked) else "[]"
            raise DatasetError(f"bars {span} hold no labelled bar with features; ingest more bars")
        y, weights = series.labels[bars], None if series.weights is None else series.weights[bars]
        if not mirrored or series.signs is None:
            return TabularSamples(x=self.scaled(bars), y=y, weights=weights)
        x = np.empty((2 * len(bars), series.features.shape[1]))
        self.scaled(bars, out=x[: len(bars)])
        self.scaled(bars, series.signs, out=x[len(bars) :])
        y = np.concatenate([y, self._num_classes - 1 - y])
        return TabularSamples(x=x, y=y, weights=None if weights is None else np.tile(weights, 2))

    def samples_of_either_side(self, bars: IntArray) -> TabularSamples:
        """Return the samples of `known` bars, of every second one its mirror image instead, where there are signs.

        Labels overlap, so that both sides of each say little more; they take twice the work.

        Raises:
            DatasetError: There is none.
        """
        samples, signs = self.samples(bars), self._series.signs
        if signs is None:
            return samples
        samples.x[1::2] = self.scaled(self.known(bars)[1::2], signs)
        samples.y[1::2] = self._num_classes - 1 - samples.y[1::2]
        return samples


def fit_baseline(
    name: str,
    series: Series,
    train: tuple[int, int],
    validation: tuple[int, int],
    test: slice,
    config: BaselineConfig,
    *,
    input_clip: float | None,
    num_classes: int,
    on_progress: Callable[[float], None] | None = None,
) -> Baseline:
    """Fit a simple model on `train`, choose and calibrate it on `validation`, and predict `test`.

    The spans are half-open, and purged by the caller; `input_clip` bounds the scaled features as the network's.
    `on_progress` is told the share of the grid that is done.

    Raises:
        ConfigError: The name is not known.
        DatasetError: A span has no labelled bar with features, or training lacks a class.
    """
    if name not in CLASSICAL:
        raise ConfigError(f"a baseline must be one of {', '.join(CLASSICAL)}, was {name!r}")
    started = time.perf_counter()
    table = TabularSeries(series, train, input_clip, num_classes)
    check = table.samples(np.arange(*validation))
    search = _logistic if name == LOGISTIC else partial(_boosting, num_classes)
    kinds = {"": False} if series.signs is None else {"": False, ", mirrored": True}

    def learned_from(kind: str, stride: int = 1) -> TabularSamples:
        bars = table.known(np.arange(*train))[::stride]
        few = name == LOGISTIC and stride == 1 and len(bars) >= MANY_BARS
        learn = table.samples_of_either_side(bars) if few and kinds[kind] else table.samples(bars, mirrored=kinds[kind])
        require_every_class(learn, train, num_classes)
        return learn

    found: list[_Point] = []
    with threadpool_limits(config.threads):  # BLAS's threads, waiting for a core, made a second's search take minutes
        for kind in kinds:
            for point in search(partial(learned_from, kind), replace(check, weights=None), config):
                found.append(replace(point, kind=kind))
                if on_progress is not None:
                    on_progress(len(found) / (len(kinds) * len(config.leaves)))
        best = int(np.argmin([point.loss for point in found]))
        predict = found[best].fitted(partial(learned_from, found[best].kind))
    temperature = best_temperature(_logits(predict(check.x)), check.y)
    x = table.scaled(np.arange(test.start, test.stop))
    known = np.isfinite(x).all(axis=1)
    probabilities = np.full((len(x), num_classes), np.nan)
    if known.any():
        probabilities[known] = _softmax(_logits(predict(x[known])) / temperature)
    return Baseline(
        name=name,
        probabilities=probabilities,
        tried=tuple(
            GridPoint(setting=point.setting + point.kind, validation_loss=point.loss, chosen=i == best)
            for i, point in enumerate(found)
        ),
        temperature=temperature,
        seconds=time.perf_counter() - started,
    )


def require_every_class(learn: TabularSamples, train: tuple[int, int], num_classes: int) -> None:
    """Refuse training bars that never show what is to be learned.

    Raises:
        DatasetError: A class has no label among them.
    """
    missing = np.flatnonzero(np.bincount(learn.y, minlength=num_classes) == 0)
    if len(missing):
        raise DatasetError(f"train bars {list(train)} hold no label of class {missing[0]}; use more bars")


_Samples = Callable[..., TabularSamples]
"""Makes the training samples, of every `stride`-th bar; anew at each call, so that no table outlives its use."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Point:
    """A point of a grid: its setting, its mean log-loss on validation, what returns its model of the samples given."""

    setting: str
    loss: float
    fitted: Callable[[_Samples], Predict]
    kind: str = ""


def _logistic(samples: _Samples, check: TabularSamples, config: BaselineConfig) -> Iterator[_Point]:
    learn, model = samples(_SEARCHED), None
    for strength in config.strengths:
        model = logistic(learn, strength * _SEARCHED, model)  # fewer samples, as strong a penalty for each
        loss = log_loss(model.predict_proba(check.x), check.y)
        yield _Point(setting=f"C={strength:g}", loss=loss, fitted=partial(_regression, strength, model))


def _regression(strength: float, near: Any, samples: _Samples) -> Predict:
    predict: Predict = logistic(samples(), strength, near).predict_proba
    return predict


def logistic(learn: TabularSamples, strength: float, near: Any = None) -> Any:
    """Return scikit-learn's logistic regression of the samples with C = `strength`.

    Begun from another one of much the same samples, `near`, half of the steps are left.
    """
    from sklearn.linear_model import LogisticRegression

    # Newton's steps: a Hessian of some 30 x 30 is solved exactly, in a quarter of the default solver's time.
    model = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=200, tol=1e-8, warm_start=True)
    if near is not None:
        model.coef_, model.intercept_ = near.coef_, near.intercept_
    return model.fit(learn.x, learn.y, sample_weight=learn.weights)


def _boosting(num_classes: int, samples: _Samples, check: TabularSamples, config: BaselineConfig) -> Iterator[_Point]:
    quick = replace(
        config,
        boosting_rate=min(_SEARCH_RATE * config.boosting_rate, 1.0),
        patience=-(-config.patience // _SEARCH_PATIENCE),
        leaf_bars=max(config.leaf_bars // _SEARCHED, 1),
    )
    thinned = Boosting(samples(_SEARCHED), check, num_classes, quick)
    for leaves in config.leaves:
        predict = thinned.grown(leaves)
        loss = log_loss(predict(check.x), check.y)
        yield _Point(
            setting=f"leaves={leaves}", loss=loss, fitted=partial(_boosted, num_classes, check, leaves, config)
        )


def _boosted(
    num_classes: int, check: TabularSamples, leaves: int, config: BaselineConfig, samples: _Samples
) -> Predict:
    return Boosting(samples(), check, num_classes, config).grown(leaves)


class Boosting:
    """LightGBM on one set of samples, which is binned once however often trees are grown from it.

    Trees are grown from `learn`, and `check` tells them to stop.
    """

    def __init__(self, learn: TabularSamples, check: TabularSamples, num_classes: int, config: BaselineConfig) -> None:
        import lightgbm

        self._lightgbm = lightgbm
        self._most_trees, self._patience = config.most_trees, config.patience
        self._parameters: dict[str, Any] = {
            "objective": "multiclass",
            "num_class": num_classes,
            "learning_rate": config.boosting_rate,
            "min_data_in_leaf": config.leaf_bars,
            "lambda_l2": 1.0,
            "max_bin": 63,  # finer cuts of one bar's features find noise
            "bin_construct_sample_cnt": 50_000,  # 800 bars a bin; four times as many are 70 MB for the same cuts
            "seed": config.seed,
            "num_threads": config.threads,
            "deterministic": True,
            "force_row_wise": True,  # else it times both layouts and may choose another one next time
            "verbose": -1,
        }
        # Binned now, so that only the bins are kept of a table that the caller lets go of.
        self._learn = lightgbm.Dataset(
            learn.x, learn.y, weight=learn.weights, params=dict(self._parameters)
        ).construct()
        self._check = lightgbm.Dataset(check.x, check.y, reference=self._learn)

    def grown(self, leaves: int, rows: IntArray | None = None, **options: Any) -> Predict:
        """Return what boosted trees of so many leaves say, grown from some samples; None: from all.

        Further options go by LightGBM's names.
        """
        trees = self.trees(leaves, rows, **options)
        return lambda x: np.asarray(trees.predict(x), np.float64)

    def trees(self, leaves: int, rows: IntArray | None = None, **options: Any) -> Any:
        """Return the lightgbm.Booster of `grown`."""
        stop = self._lightgbm.early_stopping(self._patience, verbose=False)
        parameters = {**self._parameters, "num_leaves": leaves, **options}
        learn = self._learn if rows is None else self._learn.subset(rows.tolist()).construct()
        return self._lightgbm.train(parameters, learn, self._most_trees, [self._check], callbacks=[stop])


def _logits(probabilities: FloatArray) -> FloatArray:
    return np.log(np.maximum(probabilities, _LEAST_PROBABILITY))


def _softmax(logits: FloatArray) -> FloatArray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def log_loss(probabilities: FloatArray, classes: IntArray) -> float:
    """Return the mean log-loss of (N, K) probabilities on (N,) classes, nat."""
    return float(-_logits(probabilities)[np.arange(len(classes)), classes].mean())
