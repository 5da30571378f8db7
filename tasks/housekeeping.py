"""Housekeeping task: intermediate results and datasets that nobody needs any more make room."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.pruning import PruneRule, Removed, prune
from storage.settings import Settings


@task(cache_policy=NO_CACHE, task_run_name="prune home")
def prune_home(rule: PruneRule) -> Removed:
    """Remove from DSC_HOME what no version refers to and no run has used for long, and say what went."""
    log = get_run_logger()
    removed = prune(Settings.from_environment(), rule, log.warning)
    for line in removed.lines():
        log.info(f"pruned {line}")
    return removed
