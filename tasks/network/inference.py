"""A trained network over a whole series: logits of every sample, probabilities of every bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from storage.schema import FloatArray, IntArray
from tasks.network.dsc import DSCTradingModel
from tasks.network.segments import UNKNOWN, Series, Stream, stream_of

_BARS_AT_ONCE = 8_192  # bars per series pass: bounds memory whatever the series; longer passes are no faster


def predict_series(model: DSCTradingModel, features: FloatArray, segment: IntArray) -> FloatArray:
    """Return the calibrated probabilities of every bar, on one thread.

    Args:
        model: In evaluation mode, on the CPU.
        features: (T, F or more) raw features; the network reads the first F, as in training.
        segment: (T,) number of the unbroken run of each bar.

    Returns:
        (T, K) float64; NaN where the bar lacks its full, finite context.

    Raises:
        RuntimeError: The model is in training mode.
        ConfigError: Fewer features than the network reads.
    """
    if model.training:
        raise RuntimeError("predict_series needs the model in evaluation mode; call model.eval() first")
    series = Series(features=features, labels=np.zeros(len(features), np.int64), segment=segment)
    stream = stream_of(series.first(model.config.input_features), (0, len(features)), model.config.context)
    probabilities = np.full((len(features), model.config.num_classes), np.nan)
    with torch_threads(1):
        logits, _ = sample_logits(model, stream)
    probabilities[stream.bars[(stream.labels != UNKNOWN).numpy()]] = torch.softmax(logits.double(), dim=1).numpy()
    return probabilities


@torch.no_grad()
def sample_logits(model: DSCTradingModel, stream: Stream) -> tuple[Tensor, Tensor]:
    """Return the calibrated logits (N, K) and the labels (N,) of a stream's samples; `model` is in evaluation mode."""
    context = model.config.context
    labels = stream.labels[context - 1 :]
    logits = [
        model.forward_series(stream.features[first : first + _BARS_AT_ONCE + context - 1])
        for first in range(0, len(labels), _BARS_AT_ONCE)
    ]
    if not logits:
        return stream.features.new_empty(0, model.config.num_classes), labels
    sample = labels != UNKNOWN
    return torch.cat(logits)[sample], labels[sample]


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Give torch this many threads, and back what it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
