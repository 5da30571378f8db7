"""What the folds' predictions were worth on the bars that none of their models had seen: skill, decisions, money."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np

from storage.authorship import Where
from storage.results import ResultStore
from storage.schema import DatasetRef, FloatArray, IntArray
from storage.sealed import shape_of
from tasks.execution.accounting import Costs
from tasks.execution.backtest import Positions, require_unseen
from tasks.execution.bars import Bars
from tasks.execution.comparison import Comparison, compare
from tasks.execution.decision import decide_series, shares_of
from tasks.execution.metrics import daily_returns
from tasks.execution.skill import Skill, measure_skill
from tasks.execution.slices import Slice, slices
from tasks.execution.track_record import TrackRecord, track_record
from tasks.market.labels import sample_uniqueness, scored
from tasks.market.volatility import forecast_volatility
from tasks.market.walk_forward import Span
from tasks.strategy.folds import FoldResult
from tasks.strategy.recipe import Recipe, decision_params
from tasks.strategy.samples import Samples, samples_of_run


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """What an evaluation is made from.

    Attributes:
        recipe: Presets filled in.
        folds: Keys of the trained folds.
    """

    data: DatasetRef
    recipe: Recipe
    folds: tuple[str, ...]


class Forecast(NamedTuple):
    """What models forecast of N bars, and which of them speaks of each.

    Attributes:
        probabilities: (N, 3), NaN where unknown.
        log_variance_ratio: (N,) of risk; NaN where unknown.
        class_means: (M, 3) of each model.
        model: (N,) number of the model that decides each bar; None: the only one.
    """

    probabilities: FloatArray
    log_variance_ratio: FloatArray
    class_means: FloatArray
    model: IntArray | None = None

    def since(self, bar: int) -> Self:
        """Return what is forecast of the bars from that one on."""
        model = None if self.model is None else self.model[bar:]
        return self._replace(
            probabilities=self.probabilities[bar:], log_variance_ratio=self.log_variance_ratio[bar:], model=model
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What the folds' models were worth on the bars that none of them had seen.

    Attributes:
        folds: What each training left behind; the last one is published, and has no predictions if it is a refit.
        unseen: Bars of all test blocks, one after the other.
        forecast: Of them, by each fold's model.
        decided: Position and share at each of their closes.
        slices: The money by year and by state of the market.
    """

    samples: Samples
    folds: tuple[FoldResult, ...]
    unseen: Span
    forecast: Forecast
    decided: Positions
    skill: Skill
    money: Comparison
    record: TrackRecord
    slices: tuple[Slice, ...]

    @property
    def probabilities(self) -> FloatArray:
        """(N, 3) on the unseen bars, NaN where unknown."""
        return self.forecast.probabilities

    @property
    def daily_returns(self) -> FloatArray:
        """(D,) net return of every UTC day."""
        result = self.money.model.result
        return daily_returns(result.equity, result.bars.start_ms)


def evaluate_folds(samples: Samples, recipe: Recipe, folds: Sequence[FoldResult]) -> Evaluation:
    """Put the folds' predictions of unseen bars together, decide on them, and measure skill and money.

    `folds` predict N bars together, of all tests in turn; a refit's is the last, and predicts none.

    Raises:
        LeakError: A fold's test begins before what its training knew ends, in whatever market of a pool.
        ConfigError: No unseen bar has a label and a forecast.
    """
    unseen = Span(start=samples.folds[0].test.start, stop=samples.folds[-1].test.stop)
    for fold in samples.folds:
        require_unseen(int(samples.dataset.candles.start_ms[fold.test.start]), **samples.training_end(fold))
    forecast = one_after_the_other(folds)

    def decide(costs: Costs) -> Positions:
        return decide_span(samples, replace(recipe, costs=costs), unseen, forecast)

    money = compare(
        bars_of(samples, unseen),
        decide,
        recipe.costs,
        recipe.backtest,
        bars_per_year=samples.dataset.ref.market.bars_per_year,
        **samples.training_end(samples.folds[0]),
    )
    result = money.model.result
    return Evaluation(
        samples=samples,
        folds=tuple(folds),
        unseen=unseen,
        forecast=forecast,
        decided=decide(recipe.costs),
        skill=_skill(samples, folds, forecast.probabilities, unseen),
        money=money,
        record=track_record(daily_returns(result.equity, result.bars.start_ms), money.model.metrics.num_trades),
        slices=slices(result, money.buy_and_hold.result, samples.dataset.vol[unseen.rows]),
    )


def one_after_the_other(folds: Sequence[FoldResult]) -> Forecast:
    """Return what the folds' models forecast of all unseen bars, each of its own test."""
    return Forecast(
        probabilities=np.concatenate([fold.probabilities for fold in folds]),
        log_variance_ratio=np.concatenate([fold.log_variance_ratio for fold in folds]),
        class_means=np.array([fold.class_means for fold in folds]),
        model=np.repeat(np.arange(len(folds)), [len(fold.probabilities) for fold in folds]),
    )


def bars_of(samples: Samples, span: Span) -> Bars:
    """Return the bars of a span as an account sees them, funding included."""
    dataset = samples.dataset
    funding = (dataset.funding_ms, dataset.funding_rate)
    return Bars.of(dataset.candles[span.rows], dataset.ref.market.interval_ms, funding)


def decide_span(samples: Samples, recipe: Recipe, span: Span, forecast: Forecast) -> Positions:
    """Return the positions that the recipe's rule takes on a span, from flat."""
    market, vol = samples.dataset.ref.market, samples.dataset.vol[span.rows]
    params = np.array([decision_params(recipe, market, means) for means in np.atleast_2d(forecast.class_means)])
    forecast_vol = forecast_volatility(vol, forecast.log_variance_ratio)
    segment = samples.dataset.segment[span.rows]
    contiguous = np.concatenate([[False], segment[1:] == segment[:-1]])
    target = decide_series(forecast.probabilities, vol, contiguous, params, forecast.model, forecast_vol)
    if recipe.decision_config.sizing == "fixed":
        return Positions(target)
    return Positions(target, shares_of(forecast_vol, params, forecast.model))


def _skill(samples: Samples, folds: Sequence[FoldResult], probabilities: FloatArray, unseen: Span) -> Skill:
    priors = np.concatenate([np.tile(fold.prior, (len(fold.probabilities), 1)) for fold in folds])
    classes = samples.labels.classes[unseen.rows]
    known = scored(classes, probabilities)
    rows = unseen.start + np.flatnonzero(known)
    return measure_skill(
        probabilities[known],
        classes[known],
        priors[known],
        samples.labels.forward_return[rows],
        overlap=samples.labels.horizon,
        bars_per_day=samples.dataset.ref.market.bars_per_day,
        effective_samples=float(sample_uniqueness(samples.labels, rows).sum()),
        seed=0,  # of a simulated perfect model; the figure is a mean over thousands of labels
    )


@lru_cache(maxsize=1)  # a run asks for its own again and again, and for no other
def load_evaluation(work: Where, datasets: Where, key: str) -> Evaluation:
    """Return the evaluation whose inputs lie under `key`.

    It is worked out once a process: what lies under the key is what it was made from, which takes a hundredth of its
    space and gives the same evaluation everywhere, in a second.
    """
    results = ResultStore(work)
    inputs = shape_of(EvaluationInputs).validate_json(results.read(key)["inputs.json"])
    samples = samples_of_run(datasets, inputs.data, inputs.recipe)
    folds = judged_folds(results, samples, inputs.folds)
    return evaluate_folds(samples, inputs.recipe, folds)


def judged_folds(work: ResultStore, samples: Samples, keys: Sequence[str]) -> list[FoldResult]:
    """Return the folds' results with the predictions of their tests.

    Raises:
        StoreError: A result is missing or damaged.
    """
    return [work.load(key, FoldResult).judged(samples.fold(index)) for index, key in enumerate(keys)]
