"""Training tasks: one fold of a dataset into weights and predictions; and what they must beat, fitted alike.

A killed run finds what is finished by its key, whatever Prefect knows of it: so no Prefect cache, and no retry.
"""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.results import ResultStore
from storage.schema import DatasetRef
from storage.settings import Settings
from tasks.runs.progress import ProgressReport
from tasks.strategy import baselines, folds
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import load_samples


@task(cache_policy=NO_CACHE, task_run_name="train fold {index} of {data.market.symbol}, seed {recipe.fit_config.seed}")
def train_fold(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Train one fold, predict its unseen bars, and return the key of both; recipe and number as in `folds.train`."""
    settings, log = Settings.from_environment(), get_run_logger()
    work, key = ResultStore(settings.work), folds.fold_key(data, recipe, index)
    if work.finished(key):
        log.info(f"fold {index} was trained before key={key}")
        return key
    samples = load_samples(settings.datasets, data, recipe)
    with ProgressReport(f"fold {index + 1} of {recipe.models}") as progress:
        result = folds.train(samples, recipe, index, progress.update)
    work.save(key, result)
    log.info(f"trained fold={index} key={key} seconds={result.seconds:.1f} temperature={result.temperature:.3f}")
    return key


@task(cache_policy=NO_CACHE, task_run_name="train baselines {index} of {data.market.symbol}")
def train_baselines(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Fit what a fold's network must beat, and return the key of the predictions; see `baselines.train_baselines`."""
    settings, log = Settings.from_environment(), get_run_logger()
    work, key = ResultStore(settings.work), baselines.baselines_key(data, recipe, index)
    if work.finished(key):
        log.info(f"baselines {index} were trained before key={key}")
        return key
    samples = load_samples(settings.datasets, data, recipe)
    with ProgressReport(f"baselines of fold {index + 1} of {recipe.folds.folds}") as progress:
        result = baselines.train_baselines(samples, recipe, index, progress.update)
    work.save(key, result)
    took = " ".join(f"{name.replace(' ', '_')}={fact['seconds']:.1f}s" for name, fact in result.facts.items())
    log.info(f"trained baselines of fold={index} key={key} {took}")
    return key
