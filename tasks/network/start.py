"""What every network of a fold starts from and is told: no seed enters it, so members, seeds and the twin share one."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from storage.schema import ConfigError, FloatArray, LeakError
from tasks.network.architecture import DSCConfig
from tasks.network.baselines import MANY_BARS, TabularSeries, log_loss, logistic, require_every_class
from tasks.network.fit_config import FitConfig
from tasks.network.series import Series
from tasks.network.teacher import cross_fitted


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """What the training of a network begins with.

    Attributes:
        mirrored: Whether the mirror image of every sample is learned from too.
        weight: (K, F) the logistic solution on the newest bar's scaled features, the start of the bypass; None: zero.
        bias: (K,) its intercepts; None without `weight`.
        teacher: (T, K) what the teacher says of each bar, NaN where it is silent; None without a teacher.
        seconds: Wall time that it took.
    """

    mirrored: bool
    weight: FloatArray | None
    bias: FloatArray | None
    teacher: NDArray[np.float32] | None
    seconds: float


def prepare(
    config: DSCConfig,
    series: Series,
    train: tuple[int, int],
    validation: tuple[int, int],
    fit_config: FitConfig,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Start:
    """Solve the logistic start on bars [start, stop) of `train`, and let trees of them teach each other's bars.

    Mirror images are learned from unless the logistic start is worse for it on `validation`, which the caller purges.
    Of the network's shape only what it reads and says matters, of the options nothing of the training loop.
    `on_progress` is told the share that is done, 0 to 1.

    Raises:
        ConfigError: Spans outside the series or empty; fewer features than the network reads.
        LeakError: `validation` starts before `train` stops.
        DatasetError: No labelled bar with features in a span, or a class without one in training.
    """
    started = time.perf_counter()
    series = series.first(config.input_features)
    require_spans(series, train, validation)
    table = TabularSeries(series, train, config.input_clip, config.num_classes)
    check = table.samples(np.arange(*validation))
    mirrored = series.signs is not None and fit_config.mirror_margin is not None
    weight, bias = None, None
    if config.linear_bypass and fit_config.bypass_start == "logistic":
        with threadpool_limits(fit_config.threads):
            chosen = _regression(table, train, config.num_classes, fit_config, mirrored=False)
            if mirrored:
                both = _regression(table, train, config.num_classes, fit_config, mirrored=True, near=chosen)
                plain_loss, loss = (log_loss(one.predict_proba(check.x), check.y) for one in (chosen, both))
                mirrored = loss - plain_loss <= (fit_config.mirror_margin or 0.0)
                chosen = both if mirrored else chosen
            weight, bias = _weights(chosen)
    teacher = None
    if fit_config.distil:
        teacher = cross_fitted(
            series if mirrored else replace(series, signs=None),
            train,
            validation,
            parts=fit_config.teacher_parts,
            input_clip=config.input_clip,
            num_classes=config.num_classes,
            threads=fit_config.threads,
            on_progress=on_progress,
        ).astype(np.float32)
    took = time.perf_counter() - started
    return Start(mirrored=mirrored, weight=weight, bias=bias, teacher=teacher, seconds=took)


def require_spans(series: Series, train: tuple[int, int], validation: tuple[int, int]) -> None:
    """Refuse spans that the series does not hold, and a validation that begins within the training.

    Raises:
        ConfigError, LeakError: As `prepare` says.
    """
    for name, (start, stop) in (("train", train), ("validation", validation)):
        if not 0 <= start < stop <= len(series.labels):
            raise ConfigError(
                f"{name} must be a span within the series' {len(series.labels)} bars, was [{start}, {stop})"
            )
    if validation[0] < train[1]:
        raise LeakError(f"validation starts at bar {validation[0]}, before train stops at bar {train[1]}")


def _regression(
    table: TabularSeries,
    train: tuple[int, int],
    num_classes: int,
    fit_config: FitConfig,
    *,
    mirrored: bool,
    near: Any = None,
) -> Any:
    """Return scikit-learn's logistic regression of the training bars; every label counts alike."""
    bars = table.known(np.arange(*train))
    one_side = mirrored and len(bars) >= MANY_BARS
    samples = table.samples_of_either_side(bars) if one_side else table.samples(bars, mirrored=mirrored)
    samples = replace(samples, weights=None)
    require_every_class(samples, train, num_classes)
    # As strong for a bar with one side or both; of two classes there is one line, whose halves have half its square.
    sides = 2 if mirrored and not one_side else 1
    strength = (2 if num_classes == 2 else 1) / (fit_config.start_penalty * sides)
    return logistic(samples, strength, near)


def _weights(model: Any) -> tuple[FloatArray, FloatArray]:
    """Return (K, F) weights and (K,) intercepts; of two classes, half of the one line for each, reversed."""
    if len(model.coef_) > 1:
        return model.coef_, model.intercept_
    return np.concatenate([-model.coef_, model.coef_]) / 2, np.concatenate([-model.intercept_, model.intercept_]) / 2
