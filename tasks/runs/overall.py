"""How far a run is, all stages together: one bar in the Prefect UI, on the page of the run that was started."""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast
from uuid import UUID

from prefect.artifacts import ProgressArtifact, update_progress_artifact
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run

_EVERY_S = 2.0  # each update is a request to the API

_WEIGHTS = {"networks": 8.0, "baselines and leaks": 6.0, "markets": 14.0}
"""Parts of the time that stages took on a market of 30,000 bars, where six others took 6 together; 1 for any other."""


class OverallProgress:
    """The share of a run that is done, from the stages that it says it is in.

    `put` is told the share, 0 to 1, and a few words; it is not told more often than the UI can be asked.
    """

    def __init__(self, stages: Sequence[str], put: Callable[[float, str], None]) -> None:
        self._stages = tuple(stages)
        self._put = put
        self._at, self._part, self._parts = -1, 0, 1
        self._within = False
        self._told, self._told_at = 0.0, 0.0

    def stage(self, name: str, part: int, parts: int) -> None:
        """Take note that a stage begins, or a part of it; what was not planned is a step within the present one."""
        self._within = name not in self._stages
        if self._within or (
            parts == 1 < self._parts and self._stages[self._at] == name
        ):  # or the stage of a flow inside
            return
        self._at, self._part, self._parts = self._stages.index(name), part, max(parts, 1)
        self._tell(0.0, now=True)

    def advance(self, share: float) -> None:
        """Take note of how much of the present part is done, 0 to 1."""
        if self._at >= 0 and not self._within:
            self._tell(share, now=False)

    def _tell(self, within: float, *, now: bool) -> None:
        done = min((self._part + within) / self._parts, 1.0)
        weights = [_WEIGHTS.get(name, 1.0) for name in self._stages]
        share = (sum(weights[: self._at]) + weights[self._at] * done) / sum(weights)
        if share < self._told or not (now or time.monotonic() - self._told_at > _EVERY_S):
            return  # a bar that goes back, as when steps within a stage each begin anew, says nothing
        self._told, self._told_at = share, time.monotonic()
        part = f", {min(self._part + 1, self._parts)} of {self._parts}" if self._parts > 1 else ""
        self._put(share, f"{self._stages[self._at]}{part}" if share < 1.0 else "done")


class ProgressBar:
    """A bar on a run's page."""

    def __init__(self, run: UUID) -> None:
        self._run = run
        self._artifact: UUID | None = None

    def __call__(self, share: float, words: str) -> None:
        """Show a share, 0 to 1, and what is going on."""
        percent, said = round(100.0 * share, 1), f"The whole run: {words}"
        if self._artifact is None:
            made = ProgressArtifact(progress=percent, description=said, flow_run_id=self._run).create()
            self._artifact = cast(Artifact, made).id
        else:
            update_progress_artifact(self._artifact, progress=percent, description=said)


def root_run() -> UUID | None:
    """Return the run that was started by a person or a schedule, of which the present one may be a part."""
    run = flow_run.id
    return _root_of(run) if run else None


@lru_cache(maxsize=8)  # of a flow inside a flow it takes requests to find, each with a client of its own
def _root_of(run: str) -> UUID:
    return UUID(str(flow_run.root_flow_run_id))
