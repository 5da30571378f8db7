"""Room on the disk: intermediate results and datasets that nobody needs any more."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from annotated_types import Ge

from storage.artifacts import ArtifactStore
from storage.bounds import Checked, NonNegativeInt
from storage.results import Pruned, ResultStore
from storage.schema import ArtifactError, Market, Source
from storage.settings import Settings
from storage.snapshots import prune_datasets


@dataclass(frozen=True, kw_only=True)
class PruneRule(Checked):
    """What may go.

    Attributes:
        keep_days: Days since its last use for which anything stays: more than the longest run takes.
        keep_datasets: Datasets of each source and market that stay, those used last, whatever their age.
    """

    keep_days: Annotated[float, Ge(1)] = 7.0
    keep_datasets: NonNegativeInt = 3


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What made room: intermediate results, and datasets that no version was made from."""

    results: Pruned
    datasets: Pruned

    def lines(self) -> list[str]:
        """Return what went, one line a folder."""
        parts = {"work": self.results, "datasets": self.datasets}
        return [
            f"{name} removed={len(part.keys)} freed_mb={part.freed_bytes / 1e6:.1f} {' '.join(part.keys)}".rstrip()
            for name, part in parts.items()
        ]


def prune(settings: Settings, rule: PruneRule, warn: Callable[[str], None]) -> Removed:
    """Remove what no version refers to and no run has used for long.

    Args:
        settings: Where everything lies.
        rule: What may go.
        warn: Is told why something is kept that could have gone.
    """
    before = datetime.now(UTC) - timedelta(days=rule.keep_days)
    store = ArtifactStore(settings.artifact_url)

    def referred(source: Source, market: Market) -> Set[str]:
        return {str(store.manifest(ref)["dataset"]) for ref in store.versions(source, market.slug)}

    results = ResultStore(settings.work).prune(before)
    try:
        datasets = prune_datasets(settings.datasets, before, rule.keep_datasets, referred)
    except ArtifactError as err:  # what a version refers to can't be read, so every dataset may be needed
        warn(f"every dataset is kept: {err}")
        datasets = Pruned(keys=(), freed_bytes=0)
    return Removed(results=results, datasets=datasets)
