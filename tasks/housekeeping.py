"""Housekeeping task: what nobody needs any more makes room."""

from collections.abc import Callable, Collection
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings

from storage.pruning import PruneRule, Removed, prune
from storage.schema import StoreError
from storage.settings import Settings
from tasks.journal.journal_reader import JournalReader


@task(cache_policy=NO_CACHE, task_run_name="prune home")
def prune_home(rule: PruneRule) -> Removed:
    """Remove from DSC_HOME what no version refers to and no run has used for long, and say what went."""
    log, settings = get_run_logger(), Settings.from_environment()
    pickles = get_current_settings().results.local_storage_path  # of failed runs' exceptions: our tasks keep no result
    removed = prune(
        settings,
        rule,
        log.warning,
        used=_used(settings.home, log.warning),
        leftovers=[pickles] if pickles.is_relative_to(settings.home) else [],
    )
    for line in removed.lines():
        log.info(f"pruned {line}")
    return removed


def _used(home: Path, warn: Callable[[str], None]) -> Collection[str] | None:
    """Return the names of the versions that sessions have used; None where a journal can't tell."""
    used: set[str] = set()
    for path in (home / "sessions").glob("*.sqlite"):
        try:
            with JournalReader.of(path) as reader:
                used |= reader.versions()
        except StoreError as err:
            warn(f"every version is kept: {err}")
            return None
    return used
