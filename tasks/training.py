"""Training tasks: one fold of a dataset into weights and predictions; and what they must beat, fitted alike.

A killed run finds what is finished by its key, whatever Prefect knows of it: so no Prefect cache, and no retry.
Two networks at a time would need the memory of both, so whoever calls runs one of `train_fold` and `train_twin` after
the other; `prepare_fold` and `train_baselines` may run beside them. torch is imported where one is trained: a command
that ends early does without it, and a run has it while its server starts.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.authorship import Where
from storage.results import ResultStore
from storage.schema import DatasetRef
from storage.settings import Settings
from tasks.runs.display import found
from tasks.runs.progress import Tell, progress_of
from tasks.strategy import baseline_folds
from tasks.strategy.folds import FoldResult, StoredStart, fold_key, market_key, start_key
from tasks.strategy.pool import bars_for_listing, pooled_bars, with_pool_passes
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import FoldBars, fold_bars, samples_of_run


def _named(name: str) -> Callable[..., str]:
    """Return what names a run of a task; folds count from 1 there, as in its log and in the report."""

    def named(parameters: dict[str, Any]) -> str:  # by this name Prefect gives them
        return name.format(fold=parameters["index"] + 1, **parameters)

    return named


@task(cache_policy=NO_CACHE, task_run_name=_named("prepare fold {fold} of {data.market.symbol}"))
def prepare_fold(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Make what every network of a fold starts from, and return its key; see `prepare_start`."""
    from tasks.strategy.fold_training import prepare_start

    digest, bars = _learned_from(data, recipe, index)
    return _made(
        start_key(digest, recipe),
        f"start of fold {index + 1}",
        lambda tell: StoredStart(start=prepare_start(bars(), recipe, tell)),
        is_beside=True,
    )


@task(
    cache_policy=NO_CACHE,
    task_run_name=_named("train fold {fold} of {data.market.symbol}, seed {recipe.fit_config.seed}"),
)
def train_fold(data: DatasetRef, recipe: Recipe, index: int, start: str) -> str:
    """Train one fold, predict its unseen bars, and return the key of both.

    Of a pool the first market trains, and the others find what it trained. `index` is of the market's walk-forward
    fold, from 0, the number of folds for the refit; `start` from `prepare_fold`.

    Raises:
        DatasetError: A dataset is missing or damaged, or too short for the folds.
        LeakError: A training label reads an hour of a validation bar.
    """
    return _network(data, recipe, recipe, index, start, f"fold {index + 1}, seed {recipe.fit_config.seed}")


@task(cache_policy=NO_CACHE, task_run_name=_named("train baselines of fold {fold} of {data.market.symbol}"))
def train_baselines(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Fit the simple models that a fold's network must beat, and return the key.

    They learn from the market's own bars; of a new listing, which has none, from the pool's, as the network does.
    """
    datasets = Settings.from_environment().datasets
    samples = samples_of_run(datasets, data, recipe)
    alone = not samples.is_listing
    bars = fold_bars(samples, recipe, index) if alone else bars_for_listing(datasets, recipe, samples)
    return _made(
        baseline_folds.baselines_key(bars.digest, recipe),
        f"baselines of fold {index + 1}",
        lambda tell: baseline_folds.train_baselines(bars, recipe, tell),
        is_beside=True,
    )


@task(cache_policy=NO_CACHE, task_run_name=_named("train twin of fold {fold} of {data.market.symbol}"))
def train_twin(data: DatasetRef, recipe: Recipe, index: int, start: str) -> str:
    """Train the network's twin on a fold, and return the key of its predictions; `start` is of `prepare_fold`."""
    work = ResultStore(Settings.from_environment().work)
    fold = _network(data, recipe, baseline_folds.twin_recipe(recipe), index, start, f"twin of fold {index + 1}")
    key = baseline_folds.twin_key(fold)
    work.save(key, baseline_folds.twin_fold(recipe, work.load(fold, FoldResult)))
    return key


def fold_count(data: DatasetRef, recipe: Recipe) -> int:
    """Return how many walk-forward folds a market has: as many as the recipe, but for a young one of a pool."""
    if not recipe.pool:
        return recipe.folds.folds
    return len(samples_of_run(Settings.from_environment().datasets, data, recipe).folds)


def _network(data: DatasetRef, recipe: Recipe, of: Recipe, index: int, start: str, title: str) -> str:
    """Return the key of a network on a fold of the recipe, trained before or now by the recipe `of`, which is its own.

    The twin's own has the same bars, but it is another recipe: asked for by it, the dataset would be read once more.
    """
    from tasks.strategy.fold_training import of_market, train

    digest, bars = _learned_from(data, recipe, index)
    passed = with_pool_passes(of)
    work = ResultStore(Settings.from_environment().work)
    key = _made(
        fold_key(digest, passed),
        title,
        lambda tell: train(bars(), passed, work.load(start, StoredStart).start, tell),
    )
    if not recipe.pool:
        return key
    own = fold_bars(samples_of_run(Settings.from_environment().datasets, data, recipe), recipe, index)
    ours = market_key(key, own)
    if not work.finished(ours):
        work.save(ours, of_market(work.load(key, FoldResult), own, of))
    return ours


def _learned_from(data: DatasetRef, recipe: Recipe, index: int) -> tuple[str, Callable[[], FoldBars]]:
    """Return the digest of what the network of a fold learns from, the market's bars or its pool's, and what has it."""
    datasets = Settings.from_environment().datasets
    samples = samples_of_run(datasets, data, recipe)
    if recipe.pool:
        number = samples.fold(index).index
        return _pool_digest(datasets, recipe, number), lambda: pooled_bars(datasets, recipe, number)
    bars = fold_bars(samples, recipe, index)
    return bars.digest, lambda: bars


@lru_cache(maxsize=256)  # every market of a pool asks, and each time all their bars would be read
def _pool_digest(datasets: Where, recipe: Recipe, number: int) -> str:
    bars = pooled_bars(datasets, recipe, number)
    if bars.odd:
        get_run_logger().warning(
            f"fold {number + 1} of the pool does not learn from {', '.join(bars.odd)}: it is unlike the others and "
            "would harm them; are its candles a market's?"
        )
    return bars.digest


def _made(key: str, title: str, make: Callable[[Tell], Any], *, is_beside: bool = False) -> str:
    """Return the key of a result that was made before, or is now; `is_beside` another step, whose display it leaves."""
    log, work = get_run_logger(), ResultStore(Settings.from_environment().work)
    if work.finished(key):
        log.info(f"{title} was made before key={key}")
        found(title)
        return key
    with progress_of(title, is_beside=is_beside) as tell:
        result = make(tell)
    work.save(key, result)
    log.info(f"made {title} key={key}")
    return key
