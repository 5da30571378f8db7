"""Free space in DSC_HOME: what nobody needs any more goes, as it does after every retrain."""

from typing import Annotated

from cyclopts import Parameter
from prefect import flow

from flows.entry.command_line import run_by_hand
from flows.entry.form import form
from storage.pruning import PruneRule, Removed
from storage.schema import Title
from tasks.housekeeping import prune_home


@flow(name="prune", flow_run_name="prune")
@form
def prune(*, rule: Annotated[PruneRule, Parameter(name="*"), Title("What may go")] = PruneRule()) -> Removed:
    """Remove old results, versions that never were the champion and what they were made from; print what went.

    Candles stay, and so does every version that was the champion or that a session has used.

    Args:
        rule: What may go.
    """
    removed = prune_home(rule)
    print("\n".join(removed.lines()))
    return removed


if __name__ == "__main__":
    run_by_hand(prune, ("flows.prune", "flows.prune --keep-days 30"))
