"""Progress of a step: on the display of a run by hand, a line a tenth in the log, and in the UI's bar of the run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from tasks.runs.display import advance


class Tell(Protocol):
    """Is told the share that is done, 0 to 1, and a short note such as the present loss."""

    def __call__(self, share: float, note: str = "") -> None:
        """Show it."""


@contextmanager
def progress_of(title: str, *, is_beside: bool = False) -> Iterator[Tell]:
    """Report how far a step is; one that is beside another, which the display shows, is in the log alone."""
    last_tenth = 0

    def tell(share: float, note: str = "") -> None:
        nonlocal last_tenth
        share = min(max(share, 0.0), 1.0)
        if not is_beside:
            advance(share, note)
        if int(share * 10) > last_tenth:
            last_tenth = int(share * 10)
            _log(f"{title}: {share:.0%} {note}".rstrip())

    yield tell
    if not is_beside:
        advance(1.0)


def _log(line: str) -> None:
    try:
        get_run_logger().info(line)
    except MissingContextError:  # called outside a run: progress is not worth failing for
        print(line, file=sys.stderr)
