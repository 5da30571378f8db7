"""Measure a stored version again: the same numbers must come out. Trains nothing."""

from __future__ import annotations

from prefect import flow

from flows.entry.command_line import run_by_hand
from flows.entry.form import form
from tasks.champion.remeasure import Reevaluation
from tasks.reevaluation import reevaluate


@flow(name="evaluate", flow_run_name="evaluate {version}")
@form
def evaluate(*, version: str) -> Reevaluation:
    """Verify a version's files, predict and backtest its unseen bars again, and compare with what it says of itself.

    Args:
        version: <source>/<market>/<version> as a retrain prints it.
    """
    comparison = reevaluate(version)
    print(comparison.table())
    return comparison


if __name__ == "__main__":
    run_by_hand(
        evaluate,
        (
            "flows.evaluate --version bybit/linear-BTCUSDT-5/20260101T001000Z-0a1b2c3d",
            "flows.evaluate --version sandbox:0a1b2c3d/linear-SYNTHUSDT-5/20260101T001000Z-0a1b2c3d",
        ),
    )
