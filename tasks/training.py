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
from tasks.runs import cost
from tasks.runs.display import say
from tasks.runs.progress import ProgressReport
from tasks.strategy import baselines, folds
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import FoldBars, fold_bars, load_samples


@task(cache_policy=NO_CACHE, task_run_name="prepare fold {index} of {data.market.symbol}")
def prepare_fold(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Make what every network of a fold starts from, and return its key; see `folds.prepare_start`."""

    def make(bars: FoldBars, progress: ProgressReport) -> folds.StoredStart:
        return folds.StoredStart(start=folds.prepare_start(bars, recipe, progress.update))

    bars = _bars(data, recipe, index)
    return _made(folds.start_key(bars, recipe), f"start of fold {index + 1}", bars, make, is_beside=True)


@task(cache_policy=NO_CACHE, task_run_name="train fold {index} of {data.market.symbol}, seed {recipe.fit_config.seed}")
def train_fold(data: DatasetRef, recipe: Recipe, index: int, start: str) -> str:
    """Train one fold, predict its unseen bars, and return the key of both; `start` is of `prepare_fold`."""

    def make(bars: FoldBars, progress: ProgressReport) -> folds.FoldResult:
        return folds.train(bars, recipe, _start(start), progress.update)

    bars = _bars(data, recipe, index)
    return _made(
        folds.fold_key(bars, recipe), f"fold {index + 1} of {recipe.models}, seed {recipe.fit_config.seed}", bars, make
    )


@task(cache_policy=NO_CACHE, task_run_name="train baselines {index} of {data.market.symbol}")
def train_baselines(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Fit the simple models that a fold's network must beat, and return the key of their predictions."""

    def make(bars: FoldBars, progress: ProgressReport) -> baselines.BaselineFold:
        return baselines.train_baselines(bars, recipe, progress.update)

    bars = _bars(data, recipe, index)
    return _made(baselines.baselines_key(bars, recipe), f"baselines of fold {index + 1}", bars, make, is_beside=True)


@task(cache_policy=NO_CACHE, task_run_name="train twin {index} of {data.market.symbol}")
def train_twin(data: DatasetRef, recipe: Recipe, index: int, start: str) -> str:
    """Train the network's twin on a fold, and return the key of its predictions; `start` is of `prepare_fold`."""

    def make(bars: FoldBars, progress: ProgressReport) -> baselines.BaselineFold:
        return baselines.train_twin(bars, recipe, _start(start), progress.update)

    bars = _bars(data, recipe, index)
    return _made(baselines.baselines_key(bars, recipe, twin=True), f"twin of fold {index + 1}", bars, make)


def _bars(data: DatasetRef, recipe: Recipe, index: int) -> FoldBars:
    return fold_bars(load_samples(Settings.from_environment().datasets, data, recipe), recipe, index)


def _made(
    key: str,
    title: str,
    bars: FoldBars,
    make: Callable[[FoldBars, ProgressReport], Any],
    *,
    is_beside: bool = False,
) -> str:
    """Return the key of a result that was made before, or is now; `is_beside` another step, whose display it leaves."""
    log, work = get_run_logger(), ResultStore(Settings.from_environment().work)
    if work.finished(key):
        log.info(f"{title} was made before key={key}")
        say(f"{title} was made before from the same bars")
        cost.found(title)
        return key
    with ProgressReport(title, is_beside=is_beside) as progress:
        result = make(bars, progress)
    work.save(key, result)
    log.info(f"made {title} key={key}")
    return key


def _start(key: str) -> Start:
    return ResultStore(Settings.from_environment().work).load(key, folds.StoredStart).start
