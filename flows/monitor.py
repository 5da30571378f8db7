"""What needs a person: stale candles, gaps, a failed ingest, an old champion, a market that has changed, lost skill.

    python -m flows.monitor [--once]

By hand it looks once, said or not, and its exit status is 1 when something needs a person: for cron or a container's
health check.
"""

import sys
from typing import Annotated

from cyclopts import Parameter
from prefect import flow

from flows.entry.command_line import run_by_hand
from flows.entry.form import form
from storage.schema import Title
from storage.settings import Settings
from tasks.champion.health import MarketHealth, MonitorConfig
from tasks.monitoring import inspect_markets
from tasks.runs.stale_runs import end_stale_runs


@flow(name="monitor", flow_run_name="monitor")
@form
def monitor(
    *, limits: Annotated[MonitorConfig, Parameter(name="*"), Title("When something needs a person")] = MonitorConfig()
) -> list[MarketHealth]:
    """Print of each stored market what needs a person, then how fresh it is, gaps, last ingest, champion, drift, skill.

    Args:
        limits: When a market counts as stale or changed; how old a champion may be, DSC_RETRAIN_HOURS says.
    """
    end_stale_runs()
    markets = inspect_markets(limits)
    for market in markets:
        print(market.text())
    if not markets:
        print(f"no market is stored in {Settings.from_environment().home}; ingest one, or set DSC_HOME")
    return markets


if __name__ == "__main__":
    sys.argv = [word for word in sys.argv if word != "--once"]
    run_by_hand(
        monitor,
        ("flows.monitor", "flows.monitor --stale-bars 12"),
        status=lambda markets: int(not markets or any(market.complaints for market in markets)),
    )
