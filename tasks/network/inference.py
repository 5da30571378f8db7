"""A trained network over a whole series: what it says of every sample, and of every bar."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from storage.schema import FloatArray, IntArray
from tasks.network.dsc import DSCTradingModel
from tasks.network.segments import BarStream, stream_of
from tasks.network.series import UNKNOWN, Series

_BARS_AT_ONCE = 8_192  # bars per series pass: bounds memory whatever the series; longer passes are no faster


class SeriesForecast(NamedTuple):
    """What a network says of T bars.

    Attributes:
        probabilities: (T, K) float64, calibrated.
        log_variance_ratio: (T,) logarithm of the variance over the volatility horizon, as a multiple of what present
            volatility would bring; NaN throughout without a volatility head.
    """

    probabilities: FloatArray
    log_variance_ratio: FloatArray


def predict_series(model: DSCTradingModel, features: FloatArray, segment: IntArray) -> FloatArray:
    """Return the calibrated probabilities of every bar, (T, K); arguments and errors as in `forecast_series`."""
    return forecast_series(model, features, segment).probabilities


def forecast_series(model: DSCTradingModel, features: FloatArray, segment: IntArray) -> SeriesForecast:
    """Return everything that a network says of every bar, on one thread; NaN where it lacks its full, finite context.

    Of the (T, F or more) raw features the network reads the first F, as in training; `segment` numbers each bar's
    unbroken run.

    Raises:
        RuntimeError: The model is in training mode.
        ConfigError: Fewer features than the network reads.
    """
    if model.training:
        raise RuntimeError("predict_series needs the model in evaluation mode; call model.eval() first")
    series = Series(features=features, labels=np.zeros(len(features), np.int64), segment=segment)
    stream = stream_of(series.first(model.config.input_features), (0, len(features)), model.config.context)
    classes, bars = model.config.num_classes, stream.bars[(stream.labels != UNKNOWN).numpy()]
    found = SeriesForecast(np.full((len(features), classes), np.nan), np.full(len(features), np.nan))
    with torch_threads(1):
        outputs, _ = sample_logits(model, stream)
    found.probabilities[bars] = torch.softmax(outputs[:, :classes].double(), dim=1).numpy()
    if model.config.risk_head:
        found.log_variance_ratio[bars] = outputs[:, classes].numpy()
    return found


@torch.no_grad()
def sample_logits(model: DSCTradingModel, stream: BarStream) -> tuple[Tensor, Tensor]:
    """Return outputs (N, outputs), the calibrated logits first, and labels (N,) of a stream's samples.

    `model` is in evaluation mode.
    """
    context = model.config.context
    labels = stream.labels[context - 1 :]
    logits = [
        model.forward_series(stream.features[first : first + _BARS_AT_ONCE + context - 1])
        for first in range(0, len(labels), _BARS_AT_ONCE)
    ]
    if not logits:
        return stream.features.new_empty(0, model.config.outputs), labels
    sample = labels != UNKNOWN
    return torch.cat(logits)[sample], labels[sample]


@dataclass
class _Sharing:
    """How many blocks share torch's number of threads, that number, and the one before them."""

    free: Condition = field(default_factory=Condition)
    blocks: int = 0
    threads: int = 0
    before: int = 0


_SHARED = _Sharing()


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Give torch this many threads, and back what it had once nobody needs them any more.

    The number is the process's: who asks for the same one meanwhile shares it, who asks for another one waits, which a
    block inside this one must not.
    """
    with _SHARED.free:
        _SHARED.free.wait_for(lambda: _SHARED.blocks == 0 or _SHARED.threads == threads)
        if _SHARED.blocks == 0:
            _SHARED.before, _SHARED.threads = torch.get_num_threads(), threads
        _SHARED.blocks += 1
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        with _SHARED.free:
            _SHARED.blocks -= 1
            if _SHARED.blocks == 0:
                torch.set_num_threads(_SHARED.before)
                _SHARED.free.notify_all()
