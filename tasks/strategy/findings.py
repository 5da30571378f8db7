"""What the steps of a retrain found out about its model, all of it together, and the keys it lies under."""

from dataclasses import dataclass
from typing import Self

from storage.authorship import Where
from storage.results import ResultStore
from tasks.strategy.baseline_comparison import BaselineComparison
from tasks.strategy.leak_report import LeakReport
from tasks.strategy.out_of_sample import Evaluation, load_evaluation
from tasks.strategy.speed import Speed
from tasks.strategy.vol_forecast import VolForecastRecord


@dataclass(frozen=True, kw_only=True)
class StepKeys:
    """Keys of the results of `Findings` in the result store."""

    evaluation: str
    speed: str
    leaks: str
    comparison: str
    risk: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """The results themselves.

    Attributes:
        speed: Latency of one step, and how far the ways to run the model differ.
    """

    evaluation: Evaluation
    speed: Speed
    leaks: LeakReport
    comparison: BaselineComparison
    risk: VolForecastRecord

    @classmethod
    def load(cls, work: Where, datasets: Where, keys: StepKeys) -> Self:
        """Return the results under the keys."""
        results = ResultStore(work)
        return cls(
            evaluation=load_evaluation(work, datasets, keys.evaluation),
            speed=results.load(keys.speed, Speed),
            leaks=results.load(keys.leaks, LeakReport),
            comparison=BaselineComparison.of(results.read(keys.comparison)["baselines.json"]),
            risk=VolForecastRecord.of(results.read(keys.risk)),
        )
