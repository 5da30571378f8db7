"""Monitoring tasks: what is stored of each market, how old it is, and what serves it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from storage.artifacts import ArtifactStore
from storage.candles import CandleStore, Coverage
from storage.schema import ConfigError, utc_text
from storage.settings import Settings
from tasks.execution.expiry import ExpiryRule
from tasks.serving import served_champion


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """When something needs a person.

    Attributes:
        stale_bars: Bars that may be missing at the end of a market before it counts as stale; a replay has no present.
        expiry: When a champion is no longer served; a missed retrain before that, it is a complaint.
    """

    stale_bars: int = 3
    expiry: ExpiryRule = field(default_factory=ExpiryRule)

    def __post_init__(self) -> None:
        if self.stale_bars < 1:
            raise ConfigError(f"stale_bars must be >= 1, was {self.stale_bars!r}")


@dataclass(frozen=True, kw_only=True)
class MarketHealth:
    """One market.

    Attributes:
        market: Source and slug.
        bars: Stored candles.
        newest: Open time of the newest, UTC; "none" without candles.
        gaps: Bars recorded as missing.
        champion: Version in force, or "flat".
        complaints: What needs a person; empty when nothing does.
    """

    market: str
    bars: int
    newest: str
    gaps: int
    champion: str
    complaints: tuple[str, ...]

    def line(self) -> str:
        """Return everything in one line."""
        state = "; ".join(self.complaints) or "ok"
        return f"{self.market} bars={self.bars} newest={self.newest} gaps={self.gaps} champion={self.champion}: {state}"


@task(cache_policy=NO_CACHE, task_run_name="inspect markets")
def inspect_markets(limits: MonitorConfig) -> list[MarketHealth]:
    """Look at every stored market, and show what was found as a table in the Prefect UI."""
    settings = Settings.from_environment()
    models, now_ms = ArtifactStore(settings.artifact_url), int(time.time() * 1000)
    found = [health(row, models, limits, now_ms) for row in CandleStore(settings.database).coverage()]
    rows = [vars(market) | {"complaints": "; ".join(market.complaints) or "ok"} for market in found]
    create_table_artifact(rows, key="health", description="Every stored market")
    return found


def health(row: Coverage, models: ArtifactStore, limits: MonitorConfig, now_ms: int) -> MarketHealth:
    """Judge one market.

    Args:
        row: What is stored of it.
        models: Where its champion is.
        limits: When something needs a person.
        now_ms: UTC milliseconds.
    """
    complaints = []
    replayed = row.source.startswith("sandbox:")
    if row.last_ms is None:
        complaints.append("no candle is stored")
    elif not replayed:
        late = (row.market.floor(now_ms) - row.last_ms) // row.market.interval_ms - 1
        if late > limits.stale_bars:
            complaints.append(f"stale: {late} closed bars are missing at the end; run ingest")
    entry = models.champion(row.source, row.market.slug)
    if entry.ref is not None and not replayed:
        served = served_champion(models, row.source, row.market.slug, now_ms, limits.expiry)
        if served.ref is None:
            complaints.append(served.reason)
        elif served.missed and served.missed >= limits.expiry.most_missed - 1:
            complaints.append(f"one more missed retrain and champion {served.ref.version} expires; run retrain")
    return MarketHealth(
        market=f"{row.source}/{row.market.slug}",
        bars=row.bars,
        newest="none" if row.last_ms is None else utc_text(row.last_ms),
        gaps=row.gaps,
        champion=entry.ref.version if entry.ref else "flat",
        complaints=tuple(complaints),
    )
