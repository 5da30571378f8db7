"""What a run costs this machine: wall and CPU seconds of each stage, and the most memory that its process held."""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage took.

    Attributes:
        wall_s: Seconds that passed.
        cpu_s: Seconds of CPU time of the process, all threads together; Prefect's server is another process.
    """

    stage: str
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run took until now.

    Attributes:
        stages: In the order in which they began; one that comes again adds to what it took before.
        peak_mb: The most memory that the process has held since it started, MB.
        found: Steps that took nothing, since their results were there: made from the same bars before.
    """

    stages: tuple[StageCost, ...]
    peak_mb: float
    found: tuple[str, ...] = ()

    @property
    def wall_s(self) -> float:
        """Seconds of all stages."""
        return sum(one.wall_s for one in self.stages)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all stages."""
        return sum(one.cpu_s for one in self.stages)


class CostMeter:
    """Measures the stages of a run."""

    def __init__(self, stages: Sequence[str] = ()) -> None:
        self.begin(stages)

    def begin(self, stages: Sequence[str]) -> None:
        """Measure a run of these stages; whatever else begins is part of the present one."""
        self._stages = frozenset(stages)
        self._took: dict[str, tuple[float, float]] = {}
        self._found: list[str] = []
        self._name = ""
        self._began = 0.0, 0.0

    def stage(self, name: str) -> None:
        """Take note that a stage begins, which ends the one before."""
        if name in self._stages:
            self._close()
            self._name = name

    def found(self, step: str) -> None:
        """Take note that the result of a step was there."""
        self._found.append(step)

    def so_far(self) -> Cost:
        """Return what was taken, the present stage included."""
        self._close()
        return Cost(
            stages=tuple(StageCost(stage=name, wall_s=wall, cpu_s=cpu) for name, (wall, cpu) in self._took.items()),
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # kilobytes on Linux
            found=tuple(sorted(self._found)),  # two threads tell of them
        )

    def _close(self) -> None:
        now = time.monotonic(), time.process_time()
        if self._name:
            wall, cpu = self._took.get(self._name, (0.0, 0.0))
            self._took[self._name] = wall + now[0] - self._began[0], cpu + now[1] - self._began[1]
        self._began = now


METER = CostMeter()
"""Of the run that this process is at."""
