"""Progress of a step: on the display of a run by hand, a line a tenth in the log, and in the UI's bar of the run."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from tasks.runs import display as run_display


class ProgressReport:
    """Reports how far a step is, between 0 and 1.

    Args:
        title: What is going on, a few words.
        is_beside: Whether another step is on the display meanwhile; this one is then in the log alone.
    """

    def __init__(self, title: str, *, is_beside: bool = False) -> None:
        self._title = title
        self._is_beside = is_beside
        self._last_tenth = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._is_beside:
            run_display.advance(1.0)

    def update(self, share: float, note: str = "") -> None:
        """Show that `share` (0 to 1) is done, with a short note such as the present loss."""
        share = min(max(share, 0.0), 1.0)
        if not self._is_beside:
            run_display.advance(share, note)
        if int(share * 10) > self._last_tenth:
            self._last_tenth = int(share * 10)
            self._log(f"{self._title}: {share:.0%} {note}".rstrip())

    @staticmethod
    def _log(line: str) -> None:
        try:
            get_run_logger().info(line)
        except MissingContextError:  # called outside a run: progress is not worth failing for
            print(line, file=sys.stderr)
