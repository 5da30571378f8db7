"""Frees disk space: removes intermediate results, versions, datasets and temporary files that are no longer needed."""

import stat
from collections.abc import Callable, Collection, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from storage.artifacts import ArtifactStore
from storage.bounds import Checked, NonNegativeInt, PositiveInt
from storage.results import Pruned, ResultStore
from storage.schema import ArtifactError, Title
from storage.settings import Settings
from storage.snapshots import prune_datasets
from storage.version_names import time_stamp


@dataclass(frozen=True, kw_only=True)
class PruneRule(Checked):
    """What may be removed.

    Attributes:
        keep_days: Days for which everything is kept after its last use; must be longer than the longest run.
        keep_datasets: Number of the most recently used datasets of each source and market that are always kept.
        version_days: Days for which a version is kept that was never the champion and that no session has used.
        keep_versions: Number of the newest versions of each source and market that are always kept.
    """

    keep_days: Annotated[float, Ge(1), Title("Days since last use")] = 7.0
    keep_datasets: Annotated[NonNegativeInt, Title("Datasets of a market that stay")] = 3
    version_days: Annotated[float, Ge(1)] = 30.0
    keep_versions: PositiveInt = 10


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What was removed: intermediate results, versions, datasets that no version needs, and files of failed runs."""

    results: Pruned
    versions: Pruned
    datasets: Pruned
    leftovers: Pruned

    def lines(self) -> list[str]:
        """Return what was removed, one line for each kind."""
        parts = {
            "work": self.results, "versions": self.versions, "datasets": self.datasets, "leftovers": self.leftovers
        }  # fmt: skip
        return [
            f"{name} removed={len(part.keys)} freed_mb={part.freed_bytes / 1e6:.1f} {' '.join(part.keys)}".rstrip()
            for name, part in parts.items()
        ]


def prune(
    settings: Settings,
    rule: PruneRule,
    warn: Callable[[str], None],
    used: Collection[str] | None = (),
    leftovers: Collection[Path] = (),
) -> Removed:
    """Remove what is no longer needed.

    Versions are removed from the home only: at a shared place it is unknown which versions other users' sessions need.
    `used` names the versions that sessions have used; None if unknown, and then no version is removed. `leftovers` are
    folders of files that no run reads again. `warn` is called with the reason if something is kept because of an error.
    """
    now = datetime.now(UTC)
    before = now - timedelta(days=rule.keep_days)
    store = ArtifactStore(settings.models)

    results = ResultStore(settings.work).prune(before)
    versions = Pruned(keys=(), freed_bytes=0)
    if settings.is_at_home and used is not None:
        versions = _expire(store, rule, now - timedelta(days=rule.version_days), used, warn)
    try:
        datasets = prune_datasets(settings.datasets, before, rule.keep_datasets, lambda: _needed(store))
    except ArtifactError as err:  # a manifest can't be read, so any dataset may be needed
        warn(f"every dataset is kept: {err}")
        datasets = Pruned(keys=(), freed_bytes=0)
    return Removed(
        results=results, versions=versions, datasets=datasets, leftovers=_clear(leftovers, before.timestamp())
    )


def _needed(store: ArtifactStore) -> Set[str]:
    """Return the ids of the datasets that versions were made from: their market's, and those of its pool."""
    needed: set[str] = set()
    for ref in (ref for source, name in store.markets() for ref in store.whole_versions(source, name)):
        document = store.manifest(ref)
        recipe, dataset = document.get("recipe"), document.get("dataset")
        pool = recipe.get("pool", []) if isinstance(recipe, dict) else []
        if not (isinstance(dataset, str) and isinstance(pool, list)):
            raise ArtifactError(f"manifest of {ref} does not say which datasets it needs; roll back or retrain")
        needed |= {dataset, *(str(member).rpartition(":")[2] for member in pool)}
    return needed


def _expire(
    store: ArtifactStore, rule: PruneRule, before: datetime, used: Collection[str], warn: Callable[[str], None]
) -> Pruned:
    gone, freed = [], 0
    for source, name in store.markets():
        try:
            stay = {entry.ref for entry in store.history(source, name)}
            for ref in store.whole_versions(source, name)[: -rule.keep_versions]:
                if ref not in stay and ref.version not in used and ref.made < time_stamp(before):
                    freed += store.expire(ref)
                    gone.append(str(ref))
        except ArtifactError as err:
            warn(f"older versions of {source}/{name} are kept: {err}")
    return Pruned(keys=tuple(gone), freed_bytes=freed)


def _clear(folders: Collection[Path], before_s: float) -> Pruned:
    gone, freed = [], 0
    for path in (path for folder in folders for path in sorted(folder.glob("*"))):
        with suppress(OSError):  # another run removed it first, or it belongs to another user
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_mtime < before_s:
                path.unlink()
                gone.append(path.name)
                freed += found.st_size
    return Pruned(keys=tuple(gone), freed_bytes=freed)
