"""A labelled series, and which of its bars can be read: NumPy alone, for whoever needs no network."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from storage.schema import BoolArray, ConfigError, DatasetError, FloatArray, IntArray

UNKNOWN = -1
"""Label of a bar that is no sample: unknown class, or no full finite context."""

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """A labelled series, oldest bar first.

    Attributes:
        features: (T, F) raw features; NaN where not ready.
        labels: (T,) class of each bar, -1 where unknown.
        segment: (T,) number of the unbroken run of bars that each bar belongs to.
        signs: (F,) what each feature is multiplied by where the classes are read in reverse: -1 if it changes its
            sign, 1 if it stays. None where the classes have no such mirror image.
        weights: (T,) >= 0, how much each label counts in training; None: all alike.
        label_span: Bars after its own that a label reads, >= 0: what is left out around bars that are held out.
        clock: (T,) when each bar opened, in bars since some moment: of several markets in one series, rows of one hour
            have one number. None: one market without a hole, row after row.
        scaling: (F,) mean and (F,) scale of the features; None: those of the training bars.
    """

    features: FloatArray
    labels: IntArray
    segment: IntArray
    signs: FloatArray | None = None
    weights: FloatArray | None = None
    label_span: int = 0
    clock: IntArray | None = None
    scaling: tuple[FloatArray, FloatArray] | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2:
            raise ValueError(f"features must be (T, F), was {self.features.shape}")
        lengths = (len(self.features), len(self.labels), len(self.segment))
        if len(set(lengths)) != 1:
            raise ValueError(f"features, labels and segment must have one length, were {lengths}")
        if self.signs is not None and not (
            self.signs.shape == self.features.shape[1:] and (np.abs(self.signs) == 1).all()
        ):
            raise ValueError(f"signs must be {self.features.shape[1]} of -1 or 1, were {self.signs}")
        if self.weights is not None and not (self.weights.shape == self.labels.shape and (self.weights >= 0).all()):
            raise ValueError(f"weights must be ({len(self.labels)},) numbers >= 0, were {self.weights.shape}")
        if self.clock is not None and self.clock.shape != self.labels.shape:
            raise ValueError(f"clock must be ({len(self.labels)},) numbers of bars, was {self.clock.shape}")
        if self.label_span < 0:
            raise ValueError(f"label_span must be >= 0 bars, was {self.label_span!r}")

    def first(self, inputs: int) -> Self:
        """Return the series with its first `inputs` features: a network reads as many as it has inputs.

        Raises:
            ConfigError: There are fewer.
        """
        if inputs > self.features.shape[1]:
            raise ConfigError(
                f"input_features must be at most the series' {self.features.shape[1]} features, was {inputs}"
            )
        return replace(
            self,
            features=self.features[:, :inputs],
            signs=None if self.signs is None else self.signs[:inputs],
            scaling=None if self.scaling is None else (self.scaling[0][:inputs], self.scaling[1][:inputs]),
        )

    @property
    def times(self) -> IntArray:
        """(T,) when each bar opened, in bars."""
        return np.arange(len(self.labels)) if self.clock is None else self.clock


def finite_bars(features: FloatArray) -> BoolArray:
    """Return (T,) whether every feature of a bar is finite, in float32, which the network computes in."""
    return np.asarray(((features <= _LARGEST) & (features >= -_LARGEST)).all(axis=1))


def ready_bars(features: FloatArray, segment: IntArray, context: int) -> BoolArray:
    """Return (T,) whether the `context` bars that end at each bar are finite and of one segment."""
    bars = np.arange(len(features))
    finite = finite_bars(features)
    starts = np.ones(len(features), np.bool_)
    starts[1:] = segment[1:] != segment[:-1]
    run_start = np.maximum.accumulate(np.where(starts, bars, 0))
    after_bad = np.maximum.accumulate(np.where(finite, 0, bars + 1))
    ready: BoolArray = bars - np.maximum(run_start, after_bad) + 1 >= context
    return ready


def newest_run(features: FloatArray, segment: IntArray, bars: int) -> slice:
    """Return the newest `bars` consecutive bars that are finite and of one segment.

    Raises:
        DatasetError: There is no such run.
    """
    ends = np.flatnonzero(ready_bars(features, segment, bars))
    if not len(ends):
        raise DatasetError(f"{bars} consecutive bars with features are needed, no run is that long; ingest more bars")
    return slice(int(ends[-1]) - bars + 1, int(ends[-1]) + 1)
