"""A small home in which everything is whole, to be put hostile inputs into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from storage.artifacts import ArtifactStore
from storage.results import _DIGEST, ResultStore
from storage.schema import CANDLE_COLUMNS, DAY_MS, FEATURES, Candles, Market, Source, VersionRef
from storage.snapshots import Dataset, write_dataset
from storage.tables import parquet_bytes
from storage.trials import Trial, TrialLog
from tasks.network.architecture import DSCConfig
from tasks.network.dsc import DSCTradingModel
from tasks.network.export import weights_bytes
from tasks.strategy.recipe import Recipe
from tests.champion.example_manifest import METRICS, judged_against

SOURCE = Source("bybit")
NOW = datetime(2026, 1, 5, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
START_MS = 20_089 * DAY_MS  # 2025-01-01
NETWORK = DSCConfig(input_features=len(FEATURES), hidden_channels=4, num_blocks=1, window=4, linear_bypass=True)
EVIDENCE = {"champion": {"sharpe": 0.0}, "challenger": {"sharpe": METRICS.sharpe_ratio}}


def candles(bars: int) -> Candles:
    """Return plausible candles of five minutes."""
    rng = np.random.default_rng(1)
    opened, closed = 100 + rng.random((2, bars))
    return Candles(
        start_ms=START_MS + 300_000 * np.arange(bars),
        open=opened,
        high=np.maximum(opened, closed) + 0.1,
        low=np.minimum(opened, closed) - 0.1,
        close=closed,
        volume=rng.random(bars) + 1,
        turnover=rng.random(bars) + 100,
    )


@dataclass(frozen=True)
class Lab:
    """The home.

    Attributes:
        folder: Where it lies.
    """

    folder: Path

    @property
    def market(self) -> Market:
        """Whose versions are in it."""
        return Market()

    @property
    def models(self) -> ArtifactStore:
        """The versions."""
        return ArtifactStore(str(self.folder / "models"))

    @property
    def work(self) -> ResultStore:
        """Results."""
        return ResultStore(self.folder / "work")

    @property
    def market_folder(self) -> Path:
        """Where the versions of the market lie."""
        return self.folder / "models" / SOURCE / self.market.slug

    @cached_property
    def weights(self) -> bytes:
        """Of a small network, not trained."""
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return weights_bytes(DSCTradingModel(NETWORK).eval())

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        """A version's."""
        worth = np.linspace(1.0, 1.1, 600)
        folds = [{"prior": [0.3, 0.4, 0.3]}]
        return {
            "weights.safetensors": self.weights,
            "folds.json": json.dumps(folds).encode(),
            "equity.parquet": parquet_bytes({"time_ms": START_MS + 300_000 * np.arange(600), "model": worth}),
            "report.html": b"<p>nothing</p>",
        }

    @cached_property
    def champion(self) -> VersionRef:
        """A version that is promoted."""
        recipe = Recipe(network=NETWORK).resolved
        manifest = replace(judged_against(0), recipe=recipe, dataset=self.dataset.ref.id).document()
        ref = self.models.publish(SOURCE, self.market.slug, "0123abcd", self.files, manifest, NOW)
        self.models.promote(SOURCE, self.market.slug, ref, EVIDENCE, expected=0, now=NOW)
        return ref

    @cached_property
    def dataset(self) -> Dataset:
        """One that a version was made from."""
        bars, rng = candles(400), np.random.default_rng(2)
        made = Dataset(
            source=SOURCE, market=self.market, candles=bars, features=rng.random((400, len(FEATURES))),
            vol=rng.random(400), segment=np.zeros(400, np.int64), funding_ms=START_MS + 1_000 * np.arange(3),
            funding_rate=np.zeros(3), code_hash="c" * 64,
        )  # fmt: skip
        write_dataset(self.folder / "datasets", made)
        return made

    @cached_property
    def trial(self) -> Path:
        """The file of a logged trial."""
        made = Trial(
            key="trial-0123456789abcdef", source=SOURCE, name=self.market.slug, made_from={"a": 1}, dataset="d" * 16,
            first_day=20_000, daily_returns=(0.01, -0.01), sharpe_per_day=0.1,
        )  # fmt: skip
        TrialLog(str(self.folder / "models"), Trial).append(made)
        return self.market_folder / "trials" / f"{made.key}.json"

    def columns(self, bars: int = 50) -> dict[str, Any]:
        """Return the columns of a candle file."""
        made = candles(bars)
        return {name: getattr(made, name) for name in ("start_ms", *CANDLE_COLUMNS)}


def resealed_result(content: bytes) -> bytes:
    """Return the bytes of a result with the digest that they have now: whoever changed them can count too."""
    body = content[:-_DIGEST]
    return body + hashlib.sha256(body).hexdigest().encode()
