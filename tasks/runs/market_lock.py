"""When a step waits for another one, and when it is tried again."""

import contextlib
from collections.abc import Iterator
from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.runtime import deployment

from storage.locks import exclusive
from storage.schema import Market, Source, TemporaryError, source_slug
from storage.settings import Settings
from tasks.runs.display import say

RETRAIN_WAIT_S = 4 * 3600.0  # longer than any retrain; whoever waits finds the other's folds and is done in a minute


def may_pass_later(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether a failed task is tried again: its error is temporary, and no person waits for the run."""
    if deployment.id is None:
        return False
    error = state.result(raise_on_failure=False)
    return isinstance(error, TemporaryError)


LATER: Any = {"retries": 3, "retry_delay_seconds": [10, 60, 120], "retry_condition_fn": may_pass_later}
"""How a task of a deployment is retried: temporary errors only, for three minutes; then the next run has it."""


@contextlib.contextmanager
def one_retrain_at_a_time(source: Source, market: Market) -> Iterator[None]:
    """Let one retrain of a market run at a time, whichever deployment or shell started it.

    A deployment's concurrency limit covers that one alone, and its slot can leak; this lock dies with its holder.

    Raises:
        StoreBusyError: Another one held it for hours.
    """

    def tell(waiting: str) -> None:
        get_run_logger().info(waiting)
        say(waiting)

    settings = Settings.from_environment()
    path = settings.prepare_home() / "locks" / f"retrain-{source_slug(source)}-{market.slug}"
    with exclusive(path, f"retraining {market} from {source}", RETRAIN_WAIT_S, tell):
        yield
