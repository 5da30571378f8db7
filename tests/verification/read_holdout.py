"""The first quarter of 2026: bars that no choice was made on. One command reads them, and logs every reading.

    python -m tests.verification.read_holdout bybit_linear_BTCUSDT_5m.parquet

The default recipe trains on what comes before 2026 and predicts the quarter, at 5 minutes (12 bars ahead) and at 15
(16), beside its baselines. What was found is printed, and appended to $DSC_HOME/holdout.jsonl: who reads the quarter
often, chooses by it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np

from storage.schema import DAY_MS, Candles
from storage.settings import Settings
from tasks.execution.significance import diebold_mariano
from tasks.execution.skill import log_losses, loss_lag
from tasks.market.features import build_features
from tasks.market.walk_forward import FoldConfig
from tasks.network.baselines import CLASSICAL
from tasks.network.latency import machine_fingerprint
from tasks.strategy.recipe import Recipe
from tests.verification.known_market import MINUTE_MS, recorded, walk

QUARTER_MS = (1_767_225_600_000, 1_775_001_600_000)  # 2026-01-01 to 2026-04-01
READINGS = {"5m": (5, 12), "15m": (15, 16)}  # minutes a bar, bars ahead


def read(candles: Candles, minutes: int, horizon: int) -> dict[str, Any]:
    """Return the log-loss of the network and of its baselines on the quarter, trained on what comes before it."""
    recipe = Recipe()
    features = build_features(candles.matrix(), minutes * MINUTE_MS)
    first = int(np.argmax(np.isfinite(features.values).all(axis=1))) + recipe.network_config.context - 1
    quarter = int((candles.start_ms >= QUARTER_MS[0]).sum())
    folds = FoldConfig(folds=1, test_share=quarter / (len(candles) - first))
    recipe = replace(recipe, folds=folds, labels=replace(recipe.labels, horizon=horizon))
    found = walk(candles, minutes * MINUTE_MS, recipe, CLASSICAL)
    assert candles.start_ms[found.rows.start] == QUARTER_MS[0]
    classes = found.labels.classes[found.rows]
    known = classes >= 0
    for p in found.probabilities.values():
        known &= np.isfinite(p).all(axis=1)
    losses = {name: log_losses(p[known], classes[known]) for name, p in found.probabilities.items()}
    losses["prior"] = log_losses(found.prior[found.fold[known]], classes[known])
    best = min(CLASSICAL, key=lambda name: losses[name].mean())
    lag = loss_lag(horizon, DAY_MS / (minutes * MINUTE_MS), int(known.sum()))
    tested = diebold_mariano(model_loss=losses["dsc"], reference_loss=losses[best], lag=lag)
    return {name: round(float(loss.mean()), 5) for name, loss in losses.items()} | {
        "labels": int(known.sum()),
        "better baseline": best,
        "p of the network's lead": None if tested is None else round(tested.p_value, 3),
    }


def read_holdout(candles: Path) -> None:
    """Read the quarter, print what was found, and log the reading.

    Args:
        candles: Parquet file of 5-minute candles that ends with the first quarter of 2026.
    """
    found = {
        name: read(recorded(candles, minutes, QUARTER_MS[1]), minutes, horizon)
        for name, (minutes, horizon) in READINGS.items()
    }
    entry = {"read_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}", "machine": machine_fingerprint(), "found": found}
    log = Settings.from_environment().prepare_home() / "holdout.jsonl"
    with log.open("a") as file:
        file.write(json.dumps(entry) + "\n")
    for name, numbers in found.items():
        print(name, " ".join(f"{what}={number}" for what, number in numbers.items()))
    print(f"{len(log.read_text().splitlines())} readings in {log}")


if __name__ == "__main__":
    app = cyclopts.App(result_action="return_value")
    app.default(read_holdout)
    app()
