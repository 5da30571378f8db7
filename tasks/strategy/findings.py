"""What the steps of a retrain found out about its model, all of it together, and the keys it lies under."""

from __future__ import annotations

from dataclasses import dataclass

from storage.authorship import Where
from storage.results import ResultStore
from tasks.strategy.contest import Contest, load_contest
from tasks.strategy.leak_suite import LeakReport
from tasks.strategy.out_of_sample import Evaluation, load_evaluation
from tasks.strategy.risk import RiskRecord
from tasks.strategy.speed import Speed


@dataclass(frozen=True, kw_only=True)
class StepKeys:
    """Keys of the steps' results in the result store.

    Attributes:
        evaluation: From `backtest_folds`.
        speed: From `measure_latency`.
        leaks: From `check_leaks`.
        contest: From `compare_baselines`.
        risk: From `foresee_risk`.
    """

    evaluation: str
    speed: str
    leaks: str
    contest: str
    risk: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """The results themselves.

    Attributes:
        evaluation: Predictions of unseen bars, their skill and their money.
        speed: Latency of one step, and how far the ways to run the model differ.
        leaks: Each leak check.
        contest: The model beside its baselines.
        risk: Forecasts of volatility beside EWMA's, HAR's and LightGBM's.
    """

    evaluation: Evaluation
    speed: Speed
    leaks: LeakReport
    contest: Contest
    risk: RiskRecord

    @classmethod
    def load(cls, work: Where, datasets: Where, keys: StepKeys) -> Findings:
        """Return the results under the keys.

        Args:
            work: Where intermediate results lie.
            datasets: Where datasets lie.
            keys: Of the results.
        """
        results = ResultStore(work)
        return cls(
            evaluation=load_evaluation(work, datasets, keys.evaluation),
            speed=results.load(keys.speed, Speed),
            leaks=results.load(keys.leaks, LeakReport),
            contest=load_contest(results, keys.contest),
            risk=RiskRecord.of(results.read(keys.risk)),
        )
