"""One fold as it is kept: what its networks start from, and what one predicts on bars that it never saw.

Without torch, which `fold_training` needs.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from storage.foreign import parse_json, read_arrays
from storage.results import ResultStore
from storage.schema import FloatArray
from tasks.execution.vol_skill import LEVELS
from tasks.market.walk_forward import Fold
from tasks.network.start import Start
from tasks.network.training_record import Progress, VolHeadFit
from tasks.strategy.provenance import code_behind, version_of
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import FoldBars

_START_ARRAYS = ("weight", "bias", "teacher")
_START_LIBRARIES = ("numpy", "numba", "scikit-learn", "lightgbm")
NO_HEAD = VolHeadFit(windows=0.0, log_gap=0.0, quantiles=(1.0,) * len(LEVELS))
"""How the volatility head of a network without one was solved."""
LIBRARIES = (*_START_LIBRARIES, "torch")
"""On whose versions the weights of a network depend."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldResult:
    """What training one fold left behind.

    Attributes:
        weights: The model, safetensors.
        class_means: (3,) what each class earned in training, in units of vol * sqrt(horizon).
        prior: (3,) share of each class in training.
        probabilities: (N, 3) on the bars that the fold predicts, NaN where a bar lacks its context.
        log_variance_ratio: (N,) what the volatility head forecasts there; NaN where a bar lacks its context, or without
            one.
        history: Losses along the training, of all members, oldest first.
        best_steps: Step whose weights were kept, of each member.
        seconds: Wall time of the training.
    """

    weights: bytes
    class_means: FloatArray
    prior: FloatArray
    probabilities: FloatArray
    log_variance_ratio: FloatArray
    risk: VolHeadFit
    history: tuple[Progress, ...]
    best_steps: tuple[int, ...]
    temperature: float
    seconds: float

    def judged(self, fold: Fold) -> Self:
        """Return the result with the predictions of the fold's test alone."""
        tested = slice(len(fold.test))
        said = self.probabilities[tested], self.log_variance_ratio[tested]
        return replace(self, probabilities=said[0], log_variance_ratio=said[1])

    def facts(self) -> dict[str, Any]:
        """Return everything but weights and predictions, as plain JSON."""
        return {
            "class_means": self.class_means.tolist(),
            "prior": self.prior.tolist(),
            "risk": asdict(self.risk),
            "history": [asdict(point) for point in self.history],
            "best_steps": self.best_steps,
            "temperature": self.temperature,
            "seconds": self.seconds,
        }

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any], weights: bytes, predictions: Mapping[str, FloatArray]) -> Self:
        """Return the result that `facts` was taken from; `predictions` are its arrays on the fold's test by name."""
        typed = {
            "class_means": np.array(facts["class_means"]),
            "prior": np.array(facts["prior"]),
            "risk": VolHeadFit(**facts["risk"] | {"quantiles": tuple(facts["risk"]["quantiles"])}),
            "history": tuple(Progress(**point) for point in facts["history"]),
            "best_steps": tuple(facts["best_steps"]),
        }
        return cls(weights=weights, **{**facts, **typed, **predictions})

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Self:
        """Return the result that `files` were made from."""
        predictions = read_arrays(files["predictions.npz"])
        return cls.of_facts(parse_json(files["fold.json"]), files["weights.safetensors"], predictions)

    def files(self) -> dict[str, bytes]:
        """Return the result as files."""
        arrays = io.BytesIO()
        np.savez(arrays, probabilities=self.probabilities, log_variance_ratio=self.log_variance_ratio)
        return {
            "weights.safetensors": self.weights,
            "predictions.npz": arrays.getvalue(),
            "fold.json": json.dumps(self.facts()).encode(),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredStart:
    """What the networks of a fold start from, as it is kept between the steps of a run."""

    start: Start

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Self:
        """Return the start that `files` were made from."""
        arrays, plain = read_arrays(files["arrays.npz"]), parse_json(files["start.json"])
        return cls(start=Start(**{**plain, **{name: arrays.get(name) for name in _START_ARRAYS}}))

    def files(self) -> dict[str, bytes]:
        """Return the start as files."""
        arrays, start = io.BytesIO(), self.start
        np.savez(arrays, **{name: array for name in _START_ARRAYS if (array := getattr(start, name)) is not None})
        plain = {"mirrored": start.mirrored, "seconds": start.seconds}
        return {"arrays.npz": arrays.getvalue(), "start.json": json.dumps(plain).encode()}


def start_key(bars: str, recipe: Recipe) -> str:
    """Return the key of what a fold's networks start from: every seed's, and the twin's, have the same."""
    network, how = recipe.network_config, recipe.fit_config
    made_from = {
        "bars": bars,
        "code": code_behind("tasks.network.start", "tasks.strategy.samples", known=("tasks.strategy.recipe",)),
        "libraries": [version_of(name) for name in _START_LIBRARIES],
        "network": [network.input_features, network.num_classes, network.input_clip, network.linear_bypass],
        "fit": [how.bypass_start, how.start_penalty, how.mirror_margin, how.distil > 0, how.teacher_parts, how.threads],
    }
    return ResultStore.key("start", made_from)


def fold_key(bars: str, recipe: Recipe) -> str:
    """Return the key of a fold's result: everything that its weights depend on; `bars` is the digest of the fold's."""
    return ResultStore.key("fold", {"bars": bars, **training_inputs(recipe)})


def training_inputs(recipe: Recipe) -> dict[str, Any]:
    """Return everything but a fold's bars that its weights depend on, by name."""
    return {
        # The recipe's part stands here.
        "code": code_behind("tasks.strategy.fold_training", known=("tasks.strategy.recipe",)),
        "libraries": [version_of(name) for name in LIBRARIES],
        "network": recipe.network_config,
        "fit": recipe.fit_config,
    }


def market_key(pooled: str, bars: FoldBars) -> str:
    """Return the key of what the pool's network of a key says of one market."""
    return ResultStore.key("fold", {"pooled": pooled, "bars": bars.digest})
