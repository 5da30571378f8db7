"""Training tasks: one fold of a dataset into weights and predictions on bars that the fold never saw."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage import schema
from storage.schema import CLASSES, FEATURES, ODD_FEATURES, DatasetError, DatasetRef, FloatArray, IntArray, content_hash
from storage.settings import Settings
from storage.shared_results import results_at
from storage.snapshots import Dataset, load_dataset
from storage.workfolder import WorkFolder
from tasks.execution.skill import class_shares
from tasks.market.labels import Labels, class_means, label_bars, sample_uniqueness
from tasks.market.samples import Fold, refit_fold, walk_forward
from tasks.network.export import weights_bytes
from tasks.network.fit import Series, fit, predict_series
from tasks.runs.progress import ProgressReport
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe

_HERE = Path(__file__).parent
_LIBRARIES = ("numpy", "numba", "torch")


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """A dataset as a recipe sees it.

    Attributes:
        dataset: Its bars.
        labels: What came after each.
        folds: Walk-forward; the last one's weights are published.
        refit: Up to the last bar, for a recipe whose refit is published instead.
    """

    dataset: Dataset
    labels: Labels
    folds: tuple[Fold, ...]
    refit: Fold

    @property
    def series(self) -> Series:
        """What a network learns from."""
        return mirrored_series(self.dataset.features, self.labels, self.dataset.segment)

    def fold(self, index: int) -> Fold:
        """Return the walk-forward fold of that number, or the refit, which follows the last one."""
        return (*self.folds, self.refit)[index]


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldResult:
    """What training one fold left behind.

    Attributes:
        weights: The model, safetensors.
        class_means: (3,) what each class earned in training, in units of vol * sqrt(horizon).
        prior: (3,) share of each class in training.
        probabilities: (N, 3) on the bars of the fold's test, NaN where a bar lacks its context.
        history: Losses along the training, one entry a validation.
        best_steps: Step whose weights were kept, of each member.
        temperature: Of the calibration.
        seconds: Wall time of the training.
    """

    weights: bytes
    class_means: FloatArray
    prior: FloatArray
    probabilities: FloatArray
    history: list[dict[str, Any]]
    best_steps: list[int]
    temperature: float
    seconds: float

    def facts(self) -> dict[str, Any]:
        """Return everything but weights and predictions, as plain JSON."""
        arrays = {"class_means": self.class_means.tolist(), "prior": self.prior.tolist()}
        names = ("history", "best_steps", "temperature", "seconds")
        return arrays | {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, facts: Mapping[str, Any], weights: bytes, probabilities: FloatArray) -> FoldResult:
        """Return the result that `facts` was taken from, also where it has one network's `best_step`."""
        facts = dict(facts)
        if "best_step" in facts:
            facts["best_steps"] = [facts.pop("best_step")]
        arrays = {name: np.array(facts[name]) for name in ("class_means", "prior")}
        return cls(weights=weights, probabilities=probabilities, **facts | arrays)


def mirrored_series(features: FloatArray, labels: Labels, segment: IntArray) -> Series:
    """Return a series whose mirror image is the market upside down: sell is buy, and odd features change their sign.

    Args:
        features: (T, F) in the order of `FEATURES`.
        labels: Of T bars.
        segment: (T,) number of the unbroken run of each bar.
    """
    signs = np.array([-1.0 if name in ODD_FEATURES else 1.0 for name in FEATURES])
    return Series(features=features, labels=labels.classes, segment=segment, signs=signs, label_span=labels.horizon + 1)


def code_hash() -> str:
    """Return the hash of what machines that share a run must have alike: every file of tasks/, and the vocabulary."""
    files = sorted([*_HERE.rglob("*.py"), Path(schema.__file__)])
    return content_hash([part for path in files for part in (path.name.encode(), path.read_bytes())])


def load_samples(data: DatasetRef, recipe: Recipe) -> Samples:
    """Load a dataset and divide it as the recipe says.

    Raises:
        DatasetError: It is missing, corrupt, or too short for the folds.
    """
    dataset = load_dataset(Settings.from_environment().datasets, data)
    labels = label_bars(dataset.candles.open, dataset.vol, dataset.segment, recipe.labels, recipe.costs.round_trip)
    ready = np.flatnonzero(np.isfinite(dataset.features).all(axis=1))
    if not len(ready):
        raise DatasetError(
            f"dataset {data.id} has no bar with features: every run without a gap is shorter than the warm-up, "
            "bars of halts not counted"
        )
    first_usable = int(ready[0]) + recipe.network_config.context - 1
    cut = (len(dataset.candles), first_usable, recipe.labels.horizon, recipe.folds)
    return Samples(dataset=dataset, labels=labels, folds=walk_forward(*cut), refit=refit_fold(*cut))


def lesson(samples: Samples, recipe: Recipe, fold: Fold) -> Series:
    """Return what the network and whoever it is compared with learn a fold from: mirror signs and weights with it."""
    weights = sample_uniqueness(samples.labels, fold.train.rows) if recipe.folds.weights == "uniqueness" else None
    return replace(samples.series, weights=weights)


def load_fold(key: str) -> FoldResult:
    """Return the result that `train_fold` left under `key`."""
    work = results_at(Settings.from_environment().work)
    with np.load(io.BytesIO(work.read(key, "predictions.npz")), allow_pickle=False) as arrays:
        probabilities = arrays["probabilities"]
    return FoldResult.of(json.loads(work.read(key, "fold.json")), work.read(key, "weights.safetensors"), probabilities)


# A killed run finds its finished folds by their key, whatever Prefect knows of them: so no Prefect cache, and no retry.
@task(cache_policy=NO_CACHE, task_run_name="train fold {index} of {data.market.symbol}, seed {recipe.fit_config.seed}")
def train_fold(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Train one fold, predict its unseen bars, and return the key of both.

    Args:
        data: The dataset.
        recipe: Labels, folds, network and training.
        index: Number of the fold, from 0; the number of folds for the refit.
    """
    log = get_run_logger()
    work = results_at(Settings.from_environment().work)
    key = fold_key(data, recipe, index)
    if key in work:
        log.info(f"fold {index} was trained before key={key}")
        return key
    samples = load_samples(data, recipe)
    dataset, labels, fold = samples.dataset, samples.labels, samples.fold(index)
    series = lesson(samples, recipe, fold)
    with ProgressReport(f"fold {index + 1} of {recipe.models}") as progress:
        fitted = fit(
            recipe.network_config,
            series,
            (fold.train.start, fold.train.stop),
            (fold.validation.start, fold.validation.stop),
            recipe.fit_config,
            on_progress=lambda now: progress.update(now.share, f"validation {now.validation_loss:.4f}"),
        )
    test = fold.test.rows
    probabilities = predict_series(fitted.model, dataset.features, dataset.segment)[test]
    known = labels.classes[fold.train.rows]
    result = FoldResult(
        weights=weights_bytes(fitted.model),
        class_means=class_means(labels, dataset.vol, fold.train.rows),
        prior=class_shares(known[known >= 0], len(CLASSES)),
        probabilities=probabilities,
        history=[asdict(point) for point in fitted.history],
        best_steps=list(fitted.best_steps),
        temperature=fitted.temperature,
        seconds=fitted.seconds,
    )
    arrays = io.BytesIO()
    np.savez(arrays, probabilities=probabilities)
    files = {
        "weights.safetensors": result.weights,
        "predictions.npz": arrays.getvalue(),
        "fold.json": json.dumps(result.facts()).encode(),
    }
    work.save(key, files)
    log.info(
        f"trained fold={index} key={key} seconds={fitted.seconds:.1f} mirrored={fitted.mirrored} "
        f"temperature={fitted.temperature:.3f}"
    )
    return key


def fold_key(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Return the key of a fold's result: everything that its weights depend on."""
    return WorkFolder.key("fold", fold_inputs(data, recipe, index))


def fold_inputs(data: DatasetRef, recipe: Recipe, index: int) -> dict[str, Any]:
    """Return everything that the weights of a fold depend on, by name."""
    return {
        "dataset": data.id,
        "code": code_behind("tasks.training", known=("tasks.strategy.recipe",)),  # the recipe's part stands here
        "libraries": [version(name) for name in _LIBRARIES],
        "labels": recipe.labels,
        "round_trip": recipe.costs.round_trip,
        "folds": recipe.folds,
        "network": recipe.network_config,
        "fit": recipe.fit_config,
        "index": index,
    }
