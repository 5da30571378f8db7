"""A series cut into what training and prediction read: gap-free streams of bars, and segments of a stream.

A stream joins a span's finite bars end to end. A bar of it is a sample only if its whole context is there, unbroken:
where two runs meet, context - 1 bars lose their label, and nothing is computed across the seam that is ever read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from storage.schema import IntArray
from tasks.network.series import UNKNOWN, Series, finite_bars, ready_bars


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

    def to(self, device: str) -> Self:
        """Return the stream with its tensors on `device`."""
        kept = None if self.kept is None else self.kept.to(device)
        return replace(self, features=self.features.to(device), labels=self.labels.to(device), kept=kept)


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
