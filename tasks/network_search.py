"""Search tasks: networks around a base, trained alike, ranked by log-loss on unseen bars."""

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.schema import DatasetRef
from storage.settings import Settings
from storage.trials import Candidate, Origin, TrialLog
from tasks.network.architecture import DSCConfig
from tasks.runs.page import put_table
from tasks.strategy.candidates import ranked, shape_text, table_text, try_candidate
from tasks.strategy.recipe import Recipe


# As with folds: a killed search finds its finished candidates in the log, by the hash of what they were made from.
@task(cache_policy=NO_CACHE, task_run_name="try {network.block} C={network.hidden_channels} seed {seed}")
def try_network(
    data: DatasetRef, recipe: Recipe, network: DSCConfig, seed: int, longest: DSCConfig, origin: Origin
) -> str:
    """Train a network fold by fold, log what it scores on their test bars, and return its key; see `try_candidate`."""
    settings = Settings.from_environment()
    searches = TrialLog(settings.models, Candidate)
    candidate = try_candidate(settings.datasets, searches, data, recipe, network, seed, longest, origin)
    get_run_logger().info(
        f"tried {shape_text(network)} seed={seed} log_loss={candidate.log_loss:.5f} key={candidate.key}"
    )
    return candidate.key


@task(cache_policy=NO_CACHE, task_run_name="rank networks {data.market.symbol}")
def rank_networks(data: DatasetRef, networks: Sequence[DSCConfig], tried: Sequence[Sequence[str]]) -> str:
    """Return the table of all networks, best log-loss first, and show it in the Prefect UI; see `ranked`."""
    searches = TrialLog(Settings.from_environment().models, Candidate)
    rows = ranked(searches, data, networks, tried)
    shown = [{"network": row["network"], "log-loss": row["log-loss"], "a bar, µs": row["p50 us"]} for row in rows]
    put_table("search", shown, f"Networks on {data.market}, by log-loss on unseen bars")
    return table_text(rows)
