"""Training tasks: one fold of a dataset into weights and predictions; and what they must beat, fitted alike.

A killed run finds what is finished by its key, whatever Prefect knows of it: so no Prefect cache, and no retry.
torch's random numbers and its number of threads belong to the process, so whoever calls runs one of `train_fold` and
`train_twin` at a time; `prepare_fold` and `train_baselines` know no torch and may run beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.results import ResultStore
from storage.schema import DatasetRef
from storage.settings import Settings
from tasks.network.start import Start
from tasks.runs.progress import ProgressReport
from tasks.strategy import baselines, folds
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import Samples, load_samples


@task(cache_policy=NO_CACHE, task_run_name="prepare fold {index} of {data.market.symbol}")
def prepare_fold(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Make what every network of a fold starts from, and return its key; see `folds.prepare_start`."""

    def make(samples: Samples, progress: ProgressReport) -> folds.StoredStart:
        return folds.StoredStart(start=folds.prepare_start(samples, recipe, index, progress.update))

    key = folds.start_key(data, recipe, index)
    return _made(key, f"start of fold {index + 1}", data, recipe, make, is_beside=True)


@task(cache_policy=NO_CACHE, task_run_name="train fold {index} of {data.market.symbol}, seed {recipe.fit_config.seed}")
def train_fold(data: DatasetRef, recipe: Recipe, index: int, start: str) -> str:
    """Train one fold, predict its unseen bars, and return the key of both; `start` is of `prepare_fold`."""

    def make(samples: Samples, progress: ProgressReport) -> folds.FoldResult:
        return folds.train(samples, recipe, index, _start(start), progress.update)

    key = folds.fold_key(data, recipe, index)
    return _made(key, f"fold {index + 1} of {recipe.models}", data, recipe, make)


@task(cache_policy=NO_CACHE, task_run_name="train baselines {index} of {data.market.symbol}")
def train_baselines(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Fit the simple models that a fold's network must beat, and return the key of their predictions."""

    def make(samples: Samples, progress: ProgressReport) -> baselines.BaselineFold:
        return baselines.train_baselines(samples, recipe, index, progress.update)

    key = baselines.baselines_key(data, recipe, index)
    return _made(key, f"baselines of fold {index + 1}", data, recipe, make, is_beside=True)


@task(cache_policy=NO_CACHE, task_run_name="train twin {index} of {data.market.symbol}")
def train_twin(data: DatasetRef, recipe: Recipe, index: int, start: str) -> str:
    """Train the network's twin on a fold, and return the key of its predictions; `start` is of `prepare_fold`."""

    def make(samples: Samples, progress: ProgressReport) -> baselines.BaselineFold:
        return baselines.train_twin(samples, recipe, index, _start(start), progress.update)

    key = baselines.baselines_key(data, recipe, index, twin=True)
    return _made(key, f"twin of fold {index + 1}", data, recipe, make)


def _made(
    key: str,
    title: str,
    data: DatasetRef,
    recipe: Recipe,
    make: Callable[[Samples, ProgressReport], Any],
    *,
    is_beside: bool = False,
) -> str:
    """Return the key of a result that was made before, or is now; `is_beside` another step, whose display it leaves."""
    settings, log = Settings.from_environment(), get_run_logger()
    work = ResultStore(settings.work)
    if work.finished(key):
        log.info(f"{title} was made before key={key}")
        return key
    samples = load_samples(settings.datasets, data, recipe)
    with ProgressReport(title, is_beside=is_beside) as progress:
        result = make(samples, progress)
    work.save(key, result)
    log.info(f"made {title} key={key}")
    return key


def _start(key: str) -> Start:
    return ResultStore(Settings.from_environment().work).load(key, folds.StoredStart).start
