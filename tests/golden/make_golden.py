"""Make the golden home of today's format: `python -m tests.golden.make_golden`, once, when `FORMAT` is raised.

A small market's champion with the dataset that it was made from, as a back-up would hold them. Formats are kept: an
archive is never made anew, and code of a later day serves and measures again what lies in every one of them. A change
of what is written raises `FORMAT`, reads the format before as it was meant, and adds an archive.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path

from flows.entry.server import server_at_hand
from flows.pipeline import pipeline
from storage.artifacts import FORMAT, ArtifactStore
from storage.schema import Market
from storage.settings import Settings
from tasks.exchange.connection import ExchangeConfig
from tasks.market.synthetic import SyntheticMarket
from tasks.market.walk_forward import FoldConfig
from tasks.network.fit_config import FitConfig
from tasks.strategy.promotion_rule import PromotionRule
from tasks.strategy.recipe import Recipe

MARKET = Market(interval="240")
EXCHANGE = ExchangeConfig(
    synthetic=SyntheticMarket(bars=4_500, interval_ms=MARKET.interval_ms, volatility=8e-3, k=0.3, psi=0.9)
)
# Every bound is wide open: what is kept is how a champion is stored, not what earns it.
ANYTHING = PromotionRule(
    min_days=1e-9,
    min_trades=0,
    significance=0.999,
    drawdown_ratio=1e9,
    max_drawdown=1e9,
    calibration_margin=9.0,
    baseline_margin=9.0,
    deflated_sharpe=1e-9,
)


def golden_path(number: int) -> Path:
    """Return where the golden home of a format lies."""
    return Path(__file__).parent / f"format-{number}.tar.xz"


def restore(home: Path, number: int = FORMAT) -> ArtifactStore:
    """Restore the golden home of a format, the present one by default; needs DSC_HOME to be `home`."""
    with tarfile.open(golden_path(number)) as tar:
        tar.extractall(home, filter="data")
    return ArtifactStore(Settings.from_environment().models)


def main() -> None:
    """Run the main job in a home of its own and pack what it stored."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["DSC_HOME"] = home
        os.environ.pop("DSC_ARTIFACT_URL", None)
        recipe = Recipe(folds=FoldConfig(folds=2), fit=FitConfig(epochs=1), promotion=ANYTHING)
        with server_at_hand(Path(home)):
            verdict = pipeline(market=MARKET, exchange=EXCHANGE, recipe=recipe)
        if not verdict.promoted:
            raise SystemExit(f"the golden version must be champion, was {verdict.text()}")
        with tarfile.open(golden_path(FORMAT), "w:xz") as tar:
            for folder in ("models", "datasets"):
                tar.add(Path(home) / folder, folder)


if __name__ == "__main__":
    main()
