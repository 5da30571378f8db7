"""Progress of a step: on the display of a run by hand, a line a tenth in the log, an artifact in the Prefect UI."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from tasks import run_display

_ARTIFACT_EVERY_S = 2.0  # each update is a request to the API


class ProgressReport:
    """Reports how far a step is, between 0 and 1.

    Args:
        title: What is going on, a few words.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._last_artifact = 0.0
        self._last_tenth = 0
        self._artifact: UUID | None = None

    def __enter__(self) -> Self:
        self._artifact = cast(UUID, create_progress_artifact(progress=0.0, description=self._title))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._artifact is not None:
            update_progress_artifact(self._artifact, progress=100.0)

    def update(self, share: float, note: str = "") -> None:
        """Show that `share` (0 to 1) is done, with a short note such as the present loss."""
        share = min(max(share, 0.0), 1.0)
        run_display.advance(share, note)
        if int(share * 10) > self._last_tenth:
            self._last_tenth = int(share * 10)
            self._log(f"{self._title}: {share:.0%} {note}".rstrip())
        if self._artifact is not None and time.monotonic() - self._last_artifact > _ARTIFACT_EVERY_S:
            self._last_artifact = time.monotonic()
            update_progress_artifact(self._artifact, progress=share * 100.0)

    @staticmethod
    def _log(line: str) -> None:
        try:
            get_run_logger().info(line)
        except MissingContextError:  # called outside a run: progress is not worth failing for
            print(line, file=sys.stderr)
