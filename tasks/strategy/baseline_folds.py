"""What the model must beat, fitted on the same folds: logistic regression, boosting, and the network's own twin."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from storage.foreign import parse_json, read_arrays
from storage.results import ResultStore, canonical_json
from storage.schema import FloatArray
from tasks.market.walk_forward import Fold
from tasks.network.architecture import parameters
from tasks.network.baselines import BOOSTING, CLASSICAL, LOGISTIC, fit_baseline
from tasks.strategy.folds import FoldResult, training_inputs
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import FoldBars

_PARTS = {LOGISTIC: (0.0, 0.3), BOOSTING: (0.3, 1.0)}  # of the time that a fold's simple models take


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineFold:
    """What fitting the baselines of one fold left behind.

    Attributes:
        probabilities: Name -> (N, 3) on the bars that the fold predicts, NaN where unknown.
        facts: Name -> what was tried and chosen, plain JSON.
    """

    probabilities: Mapping[str, FloatArray]
    facts: Mapping[str, dict[str, Any]]

    def judged(self, fold: Fold) -> Self:
        """Return the result with the predictions of the fold's test alone."""
        return replace(self, probabilities={name: p[: len(fold.test)] for name, p in self.probabilities.items()})

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Self:
        """Return the result that `files` were made from."""
        return cls(probabilities=read_arrays(files["predictions.npz"]), facts=parse_json(files["baselines.json"]))

    def files(self) -> dict[str, bytes]:
        """Return the result as files."""
        arrays = io.BytesIO()
        np.savez(arrays, **self.probabilities)  # type: ignore[arg-type]  # numpy's stub takes names for its own options
        return {"baselines.json": canonical_json(dict(self.facts)), "predictions.npz": arrays.getvalue()}


def joined_baselines(parts: Sequence[BaselineFold]) -> BaselineFold:
    """Return everything that was fitted on one fold."""
    probabilities = {name: p for part in parts for name, p in part.probabilities.items()}
    return BaselineFold(
        probabilities=probabilities, facts={name: fact for part in parts for name, fact in part.facts.items()}
    )


def twin_name(recipe: Recipe) -> str:
    """Return the name of the network's twin."""
    return f"{recipe.network_config.twin.block} convolution twin"


def baselines_key(bars: str, recipe: Recipe) -> str:
    """Return the key of a fold's simple models: everything that they depend on; `bars` is the digest of the fold's."""
    made_from = {
        "bars": bars,
        "fold": training_inputs(recipe),
        "baselines": recipe.baselines,
        "code": code_behind("tasks.strategy.baseline_folds", known=("tasks.strategy.recipe",)),
    }
    return ResultStore.key("baselines", made_from)


def train_baselines(
    bars: FoldBars, recipe: Recipe, on_progress: Callable[[float, str], None] = lambda share, note: None
) -> BaselineFold:
    """Fit logistic regression and boosting on one fold, and predict its unseen bars."""
    network = recipe.network_config
    series = bars.series.first(network.input_features)
    probabilities: dict[str, FloatArray] = {}
    facts: dict[str, dict[str, Any]] = {}

    def part(name: str) -> Callable[[float], None]:
        begin, end = _PARTS[name]
        on_progress(begin, name)
        return lambda share: on_progress(begin + (end - begin) * share, name)

    for name in CLASSICAL:
        fitted = fit_baseline(
            name,
            series,
            bars.train,
            bars.validation,
            bars.predicted,
            recipe.baselines,
            input_clip=network.input_clip,
            num_classes=network.num_classes,
            on_progress=part(name),
        )
        probabilities[name] = fitted.probabilities
        tried = [asdict(one) for one in fitted.tried]
        facts[name] = {"tried": tried, "temperature": fitted.temperature, "seconds": fitted.seconds}
    return BaselineFold(probabilities=probabilities, facts=facts)


def twin_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe whose network is the twin, trained as the network is."""
    return replace(recipe, network=recipe.network_config.twin, fit=recipe.fit_config)


def twin_key(fold: str) -> str:
    """Return the key of the twin as a baseline; `fold` is the key of what was trained by the `twin_recipe`."""
    return ResultStore.key("twin", {"fold": fold, "code": code_behind("tasks.strategy.baseline_folds")})


def twin_fold(recipe: Recipe, result: FoldResult) -> BaselineFold:
    """Return what `folds.train` made of a fold by the `twin_recipe` as a baseline."""
    facts = {
        "tried": [],
        "temperature": result.temperature,
        "seconds": result.seconds,
        "parameters": parameters(recipe.network_config.twin),
        "weights_bytes": len(result.weights),
        "best_steps": result.best_steps,
    }
    return BaselineFold(probabilities={twin_name(recipe): result.probabilities}, facts={twin_name(recipe): facts})
