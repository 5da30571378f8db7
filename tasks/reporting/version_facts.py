"""What is known of a version that a session is held with: what its backtest promised, what it was trained on."""

from dataclasses import dataclass
from typing import Self

from storage.artifacts import ArtifactStore
from storage.authorship import Where
from storage.foreign import OTHERWISE, ParquetTable, refusing
from storage.schema import FloatArray, PipelineError, VersionRef
from storage.snapshots import load_dataset
from tasks.champion.manifest import Manifest, read_manifest, training_shares
from tasks.execution.metrics import daily_returns, max_drawdown


@dataclass(frozen=True, kw_only=True, eq=False)
class VersionFacts:
    """A version, beside what a session's journal says of it.

    Attributes:
        daily: (D,) net return of each day that was unseen when it was made.
        max_drawdown: Of its equity on them.
        prior: (3,) share of each class in its last training.
        trained_on: (T, F) features of its training bars; None where the dataset is not on this machine.
    """

    ref: VersionRef
    manifest: Manifest
    daily: FloatArray
    max_drawdown: float
    prior: FloatArray
    trained_on: FloatArray | None

    @classmethod
    def load(cls, store: ArtifactStore, datasets: Where, ref: VersionRef) -> Self:
        """Read them.

        Raises:
            ArtifactError: The version is unknown or damaged.
        """
        manifest = read_manifest(store, ref)
        with refusing(f"equity.parquet of version {ref} is not as it is written", *OTHERWISE):
            equity = ParquetTable(store.read(ref, "equity.parquet"))
            worth = equity.numbers("model", "double")
            start_ms = equity.moments("time_ms")[1:] - manifest.market.interval_ms
        try:
            trained = load_dataset(datasets, manifest.dataset)
            seen = trained.features[trained.candles.start_ms <= manifest.trained_until_ms]
        except PipelineError:
            seen = None
        return cls(
            ref=ref,
            manifest=manifest,
            daily=daily_returns(worth, start_ms),
            max_drawdown=max_drawdown(worth),
            prior=training_shares(store, ref),
            trained_on=seen,
        )
