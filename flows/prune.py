"""Free space in DSC_HOME: what no version refers to and no run has used for long goes."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from prefect import flow

from flows.entry.command_line import run_by_hand
from flows.entry.form import form
from storage.pruning import PruneRule, Removed
from tasks.housekeeping import prune_home


@flow(name="prune", flow_run_name="prune")
@form
def prune(*, rule: Annotated[PruneRule, Parameter(name="*")] = PruneRule()) -> Removed:
    """Remove intermediate results and datasets that nobody needs, and print what went. Candles and versions stay.

    Args:
        rule: What may go.
    """
    removed = prune_home(rule)
    print("\n".join(removed.lines()))
    return removed


if __name__ == "__main__":
    run_by_hand(prune, ("flows.prune", "flows.prune --keep-days 30"))
