"""A series cut into what training and prediction read: gap-free streams of bars, and segments of a stream.

A stream joins a span's finite bars end to end. A bar of it is a sample only if its whole context is there, unbroken:
where two runs meet, context - 1 bars lose their label, and nothing is computed across the seam that is ever read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

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

    def first(self, inputs: int) -> Series:
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


@dataclass(frozen=True, kw_only=True, eq=False)
class BarStream:
    """Bars of a span and of the context before it, without the bars that are not finite.

    Attributes:
        features: (P, F) float32.
        labels: (P,) int64, UNKNOWN where the bar is no sample.
        bars: (P,) int64 index of each row in the series.
        kept: (P,) chance that an epoch learns from the label, its weight over the largest; None: every epoch does.
    """

    features: Tensor
    labels: Tensor
    bars: IntArray
    kept: Tensor | None = None

    def to(self, device: str) -> BarStream:
        """Return the stream with its tensors on `device`."""
        kept = None if self.kept is None else self.kept.to(device)
        return BarStream(features=self.features.to(device), labels=self.labels.to(device), bars=self.bars, kept=kept)


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


def stream_of(series: Series, span: tuple[int, int], context: int) -> BarStream:
    """Return the stream of bars [start, stop): context may reach back before `start`, labels may not."""
    first = max(0, span[0] - context + 1)
    features = series.features[first : span[1]]
    finite = finite_bars(features)
    sample = ready_bars(features, series.segment[first : span[1]], context)
    sample[: span[0] - first] = False
    labels = np.where(sample, series.labels[first : span[1]], UNKNOWN)
    kept = None
    if series.weights is not None:
        weights = np.where(labels == UNKNOWN, 0.0, series.weights[first : span[1]])[finite]
        largest = weights.max(initial=0.0)
        kept = torch.from_numpy(weights / largest) if largest > 0 else None
    return BarStream(
        features=torch.from_numpy(features[finite].astype(np.float32)),
        labels=torch.from_numpy(labels[finite].astype(np.int64)),
        bars=first + np.flatnonzero(finite),
        kept=kept,
    )


def segment_starts(bars: int, segment_bars: int, phase: int) -> IntArray:
    """Return where the segments of one epoch start: every bar is in at least one, those at the ends perhaps in two.

    Args:
        bars: Bars to cover, >= segment_bars.
        segment_bars: Bars per segment.
        phase: First seam, in [0, segment_bars): drawn anew each epoch, so that seams fall elsewhere.
    """
    return np.unique(np.clip(np.arange(phase - segment_bars, bars, segment_bars), 0, bars - segment_bars))


def draw_segments(
    labels: IntArray, context: int, segment_bars: int, batch_segments: int, generator: torch.Generator, sides: int = 1
) -> Iterator[Tensor]:
    """Yield the first rows (b,) of the segments of every step without end, epoch after epoch, in the generator's order.

    A segment is `segment_length` labelled rows and the context - 1 before them. Segments without any label are left
    out.

    Args:
        labels: (P,) of a stream.
        context: Bars that one sample reads.
        segment_bars: Samples per segment.
        batch_segments: Segments per step, at most as many as an epoch has.
        generator: On the CPU.
        sides: How often the stream's rows stand one after the other: 2 with their mirror images behind them. Of a
            segment one side is drawn.
    """
    length = segment_length(len(labels), context, segment_bars)
    bars = len(labels) - context + 1
    count = min(batch_segments, -(-bars // length))
    labelled = np.concatenate([[0], np.cumsum(labels[context - 1 :] != UNKNOWN)])

    def epoch() -> Tensor:
        phase = int(torch.randint(length, (), generator=generator))
        starts = segment_starts(bars, length, phase)
        drawn = torch.from_numpy(starts[labelled[starts + length] > labelled[starts]])
        drawn = drawn[torch.randperm(len(drawn), generator=generator)]
        return drawn if sides == 1 else drawn + len(labels) * torch.randint(sides, drawn.shape, generator=generator)

    waiting = epoch()
    while True:
        while len(waiting) < count:
            waiting = torch.cat([waiting, epoch()])
        yield waiting[:count]
        waiting = waiting[count:]


def segment_length(rows: int, context: int, segment_bars: int) -> int:
    """Return the samples of one segment: a stream shorter than a segment is one shorter segment."""
    return min(segment_bars, rows - context + 1)
