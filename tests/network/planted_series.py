"""A series with a law of its own in it, and the small network that is trained on it."""

import numpy as np
import torch

from storage.schema import FloatArray
from tasks.network.architecture import DSCConfig
from tasks.network.fit import Fitted
from tasks.network.fit_config import FitConfig
from tasks.network.series import Series

NETWORK = DSCConfig(
    input_features=3,
    hidden_channels=8,
    num_blocks=1,
    dropout=0.0,
    window=4,
    newest_step=True,
    linear_bypass=True,
)
QUICK = FitConfig(epochs=2, segment_bars=128, batch_segments=2)
TRAIN, VALIDATION = (10, 1_200), (1_210, 1_600)


def softmax(logits: FloatArray) -> FloatArray:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def true_probabilities(features: FloatArray) -> FloatArray:
    """Return the law of the labels: class 2 against 0 by the first feature, class 1 by an interaction of the others."""
    edge, gate = features[:, 0], np.sign(features[:, 1] * features[:, 2])
    return softmax(np.column_stack([-edge, 1.2 * gate, edge]))


def planted_series(bars: int, seed: int = 1) -> Series:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((bars, 3))
    p = true_probabilities(features)
    labels = (rng.random(bars)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    return Series(
        features=features * [1.0, 20.0, 0.01] + [0.0, 5.0, 1.0], labels=labels, segment=np.zeros(bars, np.int64)
    )


def weights_of(fitted: Fitted) -> dict[str, torch.Tensor]:
    return dict(fitted.model.state_dict())


def assert_same_weights(one: Fitted, other: Fitted) -> None:
    theirs = weights_of(other)
    for name, tensor in weights_of(one).items():
        assert torch.equal(tensor, theirs[name]), name
