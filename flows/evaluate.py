"""Measure again: a stored version, whose numbers must come out again, or a session, beside the backtest of its candles.

Trains nothing.
"""

from prefect import flow

from flows.entry.command_line import run_by_hand
from flows.entry.form import form
from storage.schema import ConfigError
from tasks.champion.remeasure import Reevaluation
from tasks.live.session_review import SessionReview
from tasks.reevaluation import reevaluate, review


@flow(name="evaluate", flow_run_name="evaluate {version}{session}")
@form
def evaluate(*, version: str = "", session: str = "") -> Reevaluation | SessionReview:
    """Verify a version and backtest its unseen bars again, or replay a session and say why it differs from a backtest.

    Args:
        version: SOURCE/MARKET/VERSION, as a retrain prints it.
        session: Name of a session as it prints it, in place of a version.
    """
    if bool(version) == bool(session):
        raise ConfigError("either a version or a session must be named")
    if session:
        found = review(session)
        print(found.text())
        return found
    comparison = reevaluate(version)
    print(comparison.table())
    return comparison


if __name__ == "__main__":
    run_by_hand(
        evaluate,
        (
            "flows.evaluate \\\n    --version bybit/linear-BTCUSDT-5/20260101T001000Z-0a1b2c3d",
            "flows.evaluate --session paper-linear-SYNTHUSDT-5-20260101T001000Z",
        ),
        status=lambda found: int(isinstance(found, SessionReview) and found.unexplained > 0),
    )
