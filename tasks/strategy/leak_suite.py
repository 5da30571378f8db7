"""The leak checks: whether features, labels, folds and training of a version knew the future."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from storage.results import ResultStore
from storage.schema import CLASSES, DAY_MS, FEATURES, FloatArray, IntArray
from tasks.execution.skill import class_shares
from tasks.market import leaks
from tasks.market.features import OUTPUTS, WARM_UP, build_features
from tasks.market.labels import LabelConfig, Labels, label_bars, scored
from tasks.market.leaks import Columns, LeakCheck, Learned
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import Fold, FoldConfig, Span, walk_forward
from tasks.network.architecture import DSCConfig
from tasks.network.dsc import DSCTradingModel, load_model
from tasks.network.fit import Fitted, Series, fit, predict_series
from tasks.network.fit_config import FitConfig
from tasks.network.folding import load_weights
from tasks.strategy.folds import LIBRARIES, FoldResult
from tasks.strategy.leak_report import LeakReport
from tasks.strategy.provenance import code_behind, version_of
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import Samples

_BARS = 4 * WARM_UP  # of real candles: enough for every ring and sum to turn over, and built in milliseconds
_NULL = SyntheticMarket(kind="null", bars=14_000, seed=11)
_PERMUTED = 12_000  # newest bars whose labels are permuted
_HALF = FoldConfig(folds=1, test_share=0.5, validation_share=0.1)
_PREDICTED = 400  # newest bars whose predictions are watched
# What is trained here asks about data, labels, folds and the training loop, so one small network serves every recipe:
# it starts at the logistic solution, which sees any planted answer, and is done in a second.
_NETWORK = DSCConfig(
    input_features=len(FEATURES),
    hidden_channels=8,
    num_blocks=2,
    kernel_size=3,
    window=16,
    newest_step=True,
    linear_bypass=True,
    padding="history",
)
_FIT = FitConfig(epochs=2, learning_rate=1e-3, segment_bars=640, batch_segments=1, weight_average=0.995)
_AGREE = 1e-5  # of probabilities: series passes of other lengths round differently in float32


def leak_checks(samples: Samples, interval_ms: int, recipe: Recipe, fold: FoldResult) -> Iterator[LeakCheck]:
    """Yield the checks of a fold's model, of its data and of the recipe that it came from."""
    candles = samples.dataset.candles[-_BARS:].matrix()
    features = feature_columns(interval_ms)
    yield remade_inputs(samples, interval_ms, recipe)
    yield leaks.prefix_invariance(features, candles, OUTPUTS, first=WARM_UP)
    yield leaks.future_perturbation(features, candles, OUTPUTS, first=WARM_UP)
    yield leaks.start_invariance(features, candles, OUTPUTS, WARM_UP)
    yield steady_predictions(load_model(recipe.network_config, load_weights(fold.weights)), candles, interval_ms)
    labels = label_columns(recipe.labels, recipe.costs.round_trip, interval_ms)
    yield leaks.label_span(labels, candles, recipe.labels.horizon)
    yield leaks.purged_folds(samples.folds, samples.labels.end)
    yield permuted_labels(samples, interval_ms)


def checks_of_code(work: ResultStore) -> Iterator[LeakCheck]:
    """Yield the checks of the code alone: of training, of chance, and whether a check sees a leak that is planted.

    They ask no market and no recipe, so they are found in `work` where the same code was checked before.
    """
    code, libraries = code_behind("tasks.strategy.leak_suite"), [version_of(name) for name in LIBRARIES]
    key = ResultStore.key("code-checks", {"code": code, "libraries": libraries})
    if work.finished(key):
        yield from work.load(key, LeakReport).checks
        return
    null, checks = feature_columns(_NULL.interval_ms), []
    for check in (isolated_training, lambda: random_walk(null), lambda: planted_leak(null)):
        checks.append(check())
        yield checks[-1]
    work.save(key, LeakReport(checks=tuple(checks)))


def remade_inputs(samples: Samples, interval_ms: int, recipe: Recipe) -> LeakCheck:
    """Make features and labels of the whole dataset again, and compare."""
    dataset, labels = samples.dataset, samples.labels
    candles, inputs = dataset.candles.matrix(), len(OUTPUTS) - 1
    classes = label_columns(recipe.labels, recipe.costs.round_trip, interval_ms)

    def tables() -> Iterator[tuple[FloatArray, FloatArray, Sequence[str]]]:  # in turn, for one of years is large
        made = build_features(candles, interval_ms)
        yield dataset.features, made.values, OUTPUTS[:inputs]
        yield dataset.vol[:, None], made.vol[:, None], OUTPUTS[inputs:]
        given = np.column_stack([labels.forward_return, labels.threshold, labels.classes])
        yield given, classes(candles), leaks.LABEL_COLUMNS

    return leaks.stored_inputs(tables())


def feature_columns(interval_ms: int) -> Columns:
    """Return what turns candles into features and volatility."""

    def columns(candles: FloatArray) -> FloatArray:
        features = build_features(candles, interval_ms)
        return np.column_stack([features.values, features.vol])

    return columns


def label_columns(config: LabelConfig, round_trip_cost: float, interval_ms: int) -> Columns:
    """Return what turns (T, 6) candles into (T, 3) labels: forward return, threshold, class."""

    def columns(candles: FloatArray) -> FloatArray:
        features = build_features(candles, interval_ms)
        labels = label_bars(candles[:, 1], features.vol, features.segment, config, round_trip_cost)
        return np.column_stack([labels.forward_return, labels.threshold, labels.classes])

    return columns


def steady_predictions(model: DSCTradingModel, candles: FloatArray, interval_ms: int) -> LeakCheck:
    """Give the published model, in evaluation mode, other futures: what it has predicted stays.

    The candles are (T, 6), at least the features' warm-up and the model's context.
    """

    def probabilities(candles: FloatArray) -> FloatArray:
        features = build_features(candles, interval_ms)
        return predict_series(model, features.values, features.segment)

    settled = WARM_UP + model.config.context
    check = leaks.future_perturbation(
        probabilities,
        candles[-(settled + _PREDICTED) :],
        [f"p_{name}" for name in CLASSES],
        first=min(settled, len(candles) - 2),
        cuts=2,
        tolerance=_AGREE,
    )
    return replace(check, name="future perturbation, predictions")


def isolated_training() -> LeakCheck:
    """Train on a random walk with other validation and test bars: what they must not decide stays."""
    values, labels, fold, segment = _null_samples(feature_columns(_NULL.interval_ms))

    def learn(features: FloatArray, classes: IntArray) -> Learned:
        fitted = _quick_fit(features, classes, fold, segment)
        state = {name: tensor.double().numpy() for name, tensor in fitted.model.state_dict().items()}
        from_train = {name: state.pop(name) for name in ("feature_mean", "feature_scale")}
        shares = class_shares(classes[fold.train.rows], len(CLASSES))
        return Learned(from_train=from_train | {"class shares": shares}, from_validation=state)

    starts = {"validation_start": fold.validation.start, "test_start": fold.test.start}
    return leaks.train_isolation(learn, values, labels.classes, **starts)


def permuted_labels(samples: Samples, interval_ms: int) -> LeakCheck:
    """Train on the newest bars with labels of other days: directions are right by chance alone."""
    dataset, horizon = samples.dataset, samples.labels.horizon
    bars, oldest, newest = len(dataset.candles), samples.folds[0], samples.folds[-1]
    first = bars - max(_PERMUTED, 150 * horizon)
    if first > oldest.train.start:
        fold = walk_forward(dataset.candles.start_ms, interval_ms, first, horizon, _HALF)[0]
    elif samples.is_listing:
        first, fold = oldest.test.start, _parts_of(oldest, horizon)
    else:  # all there is, divided as the recipe does: halves of it could be too short
        first = oldest.train.start
        fold = replace(oldest, test=Span(start=oldest.test.start, stop=newest.test.stop))
    block = max(horizon, min(DAY_MS // interval_ms, (bars - first) // 20))
    classes = samples.labels.classes.copy()
    classes[first:] = leaks.permuted_in_blocks(classes[first:], block)
    labels = replace(samples.labels, classes=classes)
    return _chance("block-permuted labels", dataset.features, labels, fold, dataset.segment)


def _parts_of(fold: Fold, horizon: int) -> Fold:
    """Return a fold of a fold's test: half of it to learn from, a quarter each to validate and to test on."""
    start, stop, gap = fold.test.start, fold.test.stop, horizon + 1
    half, quarter = (start + stop) // 2, (start + 3 * stop) // 4
    return replace(
        fold,
        train=Span(start=start, stop=half - gap),
        validation=Span(start=half, stop=quarter - gap),
        test=Span(start=quarter, stop=stop),
    )


def random_walk(columns: Columns) -> LeakCheck:
    """Train on a random walk, one bar ahead, where many moves are independent: directions are right by chance alone."""
    return _chance("random-walk null", *_null_samples(columns))


def planted_leak(columns: Columns) -> LeakCheck:
    """Plant the next return among the features of a random walk: every check that could see it must."""
    leaky, candles = leaks.with_next_return(columns), generate(_NULL).matrix()[-_BARS:]
    return leaks.canary(
        [
            leaks.prefix_invariance(leaky, candles, OUTPUTS, first=WARM_UP, cuts=5),
            leaks.future_perturbation(leaky, candles, OUTPUTS, first=WARM_UP, cuts=1),
            random_walk(leaky),
        ]
    )


def _null_samples(columns: Columns) -> tuple[FloatArray, Labels, Fold, IntArray]:
    """Return (T, F) features, one-bar labels, one fold and (T,) the one segment of a random walk."""
    series = generate(_NULL)
    candles = series.matrix()
    values = columns(candles)
    segment = np.zeros(len(values), np.int64)
    labels = label_bars(candles[:, 1], values[:, -1], segment, LabelConfig(horizon=1, cost_floor_multiple=0.0), 0.0)
    first = WARM_UP + _NETWORK.context
    fold = walk_forward(series.start_ms, _NULL.interval_ms, first, 1, _HALF)[0]
    return values[:, :-1], labels, fold, segment


def _chance(name: str, features: FloatArray, labels: Labels, fold: Fold, segment: IntArray) -> LeakCheck:
    """Train on a fold's train, predict its test, and ask whether the directions are more than chance."""
    fitted = _quick_fit(features, labels.classes, fold, segment)
    probabilities = predict_series(fitted.model, features, segment)[fold.test.rows]
    classes = labels.classes[fold.test.rows]
    known = scored(classes, probabilities)
    return leaks.chance_direction(name, probabilities[known], classes[known], labels.horizon)


def _quick_fit(features: FloatArray, classes: IntArray, fold: Fold, segment: IntArray) -> Fitted:
    """Train the small network for a few steps."""
    series = Series(features=features, labels=classes, segment=segment)
    train, validation = ((span.start, span.stop) for span in (fold.train, fold.validation))
    return fit(_NETWORK, series, train, validation, _FIT)
