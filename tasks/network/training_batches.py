"""What the members of a network are told, step by step: inputs, the probabilities that they should have given, dropout.

Everything that training leaves to chance is drawn here, for each member from a seed of its own: so a member learns the
same whoever learns beside it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from storage.schema import FloatArray
from tasks.network.dsc import DSCTradingModel
from tasks.network.fit_config import FitConfig
from tasks.network.segments import BarStream, draw_segments, segment_length
from tasks.network.series import UNKNOWN


class TrainingBatch(NamedTuple):
    """One step of M members on b segments each.

    Attributes:
        z: (M, T, b, F) scaled inputs, with their noise, clipped.
        told: (M, K, T', b) probabilities to learn at the bars that have their context; zero where there is no label.
        keep: (M, H, C, b) what dropout leaves of the head's inputs.
    """

    z: Tensor
    told: Tensor
    keep: Tensor


class TrainingBatches:
    """The batches of M members, without end."""

    def __init__(
        self,
        model: DSCTradingModel,
        stream: BarStream,
        config: FitConfig,
        seeds: Sequence[int],
        teacher: NDArray[np.float32] | None = None,
        signs: FloatArray | None = None,
    ) -> None:
        """Prepare a stream for members like `model`.

        Args:
            model: One of them: its scaler is all members'.
            config: How to train; its seed is not read.
            seeds: Of each member.
            teacher: (P, K) what it says of each bar of the stream, NaN where it is silent; None without a teacher.
            signs: (F,) of a mirror image, which is drawn as often as the market; None without.
        """
        self._shape, self._config, device = model.config, config, config.device
        context, rows = self._shape.context, len(stream.labels)
        mean, scale = model.feature_mean.cpu(), model.feature_scale.cpu()
        told, kept = _told(stream.labels, teacher, self._shape.num_classes, config), stream.kept
        z = stream.features.new_empty((rows if signs is None else 2 * rows, len(mean)))
        torch.sub(stream.features, mean, out=z[:rows]).div_(scale)
        if signs is not None:
            mirror = torch.from_numpy(signs.astype(np.float32))
            torch.mul(stream.features, mirror, out=z[rows:]).sub_(mean).div_(scale)
            told = torch.cat([told, told.flip(1)])
            kept = None if kept is None else kept.repeat(2)
        self._z, self._told = z.to(device), told.to(device)
        self._kept = kept
        length = segment_length(rows, context, config.segment_bars)
        self._window = torch.arange(length + context - 1)[:, None]
        self._orders = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._chances = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        labels, sides = stream.labels.numpy(), 1 if signs is None else 2
        self._segments = [
            draw_segments(labels, context, config.segment_bars, config.batch_segments, order, sides)
            for order in self._orders
        ]

    def __next__(self) -> TrainingBatch:
        """Return the next step's."""
        shape = self._shape
        starts = torch.stack([next(segments) for segments in self._segments])  # (M, b)
        rows = starts[:, None] + self._window  # (M, T, b)
        last = rows[:, shape.context - 1 :]
        told = self._rows_of(self._told, last)  # (M, T', b, K)
        if self._kept is not None:  # drawn, not multiplied: the loss of a step stays a plain mean
            drawn = torch.stack([torch.rand(last.shape[1:], generator=order) for order in self._orders])
            told *= (drawn < self._kept[last])[..., None].to(told.device)
        if shape.padding == "zeros":  # nothing is shared: every window is a segment of one sample
            told = told.flatten(1, 2)[:, None]
            rows = rows.unfold(1, shape.context, 1).permute(0, 3, 1, 2).flatten(2)
        z = self._rows_of(self._z, rows)
        if self._config.input_noise:
            noise = torch.empty_like(z)
            for own, chance in zip(noise, self._chances, strict=True):
                own.normal_(generator=chance)
            z.add_(noise, alpha=self._config.input_noise)
        if shape.input_clip is not None:
            z.clamp_(-shape.input_clip, shape.input_clip)
        return TrainingBatch(z, told.permute(0, 3, 1, 2), self._dropout(rows.shape[2]))

    @staticmethod
    def _rows_of(table: Tensor, rows: Tensor) -> Tensor:
        """Return table[rows]; by flat rows it is several times as fast."""
        return table.index_select(0, rows.flatten().to(table.device)).view(*rows.shape, -1)

    def _dropout(self, segments: int) -> Tensor:
        shape = self._shape
        heads = 2 if shape.newest_step else 1
        keep = self._z.new_empty(len(self._chances), heads, shape.hidden_channels, segments)
        if not shape.dropout:
            return keep.fill_(1.0)
        for own, chance in zip(keep, self._chances, strict=True):
            own.bernoulli_(1 - shape.dropout, generator=chance)
        return keep.div_(1 - shape.dropout)


def _told(labels: Tensor, teacher: NDArray[np.float32] | None, classes: int, config: FitConfig) -> Tensor:
    """Return (P, K) what each bar is to be told: teacher and label, or the label where no teacher is; zero for none."""
    told = functional.one_hot(labels.clamp(min=0), classes).float()
    if teacher is not None:
        said = torch.from_numpy(teacher)
        told = torch.where(said.isnan(), told, torch.lerp(told, said, config.distil))
    told = torch.lerp(told, torch.full_like(told, 1 / classes), config.label_smoothing)
    told[labels == UNKNOWN] = 0.0
    return told
