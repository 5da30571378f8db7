"""The model beside every baseline that it must beat, on the same unseen bars and at the same costs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from storage.foreign import parse_json
from storage.results import ResultStore
from storage.schema import CLASSES, FloatArray
from storage.tables import parquet_bytes, read_columns
from tasks.execution.backtest import BacktestResult, run_backtest
from tasks.execution.comparison_rows import ComparisonRow, comparison_row, rate_forecasts
from tasks.execution.metrics import Metrics, summarize
from tasks.execution.random_positions import RandomPositions, random_positions
from tasks.market.persistence import past_classes
from tasks.network.baselines import CLASSICAL
from tasks.strategy.baseline_folds import BaselineFold
from tasks.strategy.out_of_sample import Evaluation, bars_of, decide_span
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe

MODEL, PRIOR = "this model", "prior"


@dataclass(frozen=True, kw_only=True)
class BaselineComparison:
    """The model beside everything that it must beat.

    Attributes:
        table: The model first.
        random: The model among random timings of its own positions.
        facts: One entry a fold: name -> what the baseline tried and chose.
    """

    table: tuple[ComparisonRow, ...]
    random: RandomPositions
    facts: list[dict[str, Any]]

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return the table that `comparison_files` wrote as JSON."""
        document = parse_json(content)
        return cls(
            table=tuple(ComparisonRow(**line) for line in document["table"]),
            random=RandomPositions(**document["random"]),
            facts=document["folds"],
        )

    def named(self, name: str) -> ComparisonRow | None:
        """Return the line of that name, or None."""
        return next((line for line in self.table if line.name == name), None)

    @property
    def better_baseline(self) -> ComparisonRow:
        """The classical baseline with the smaller log-loss."""
        return self._best_of(CLASSICAL)

    @property
    def best_baseline(self) -> ComparisonRow:
        """Whoever of them and the prior has the smallest log-loss: the prior, where they learnt what was not there."""
        return self._best_of((*CLASSICAL, PRIOR))

    def _best_of(self, names: Sequence[str]) -> ComparisonRow:
        return min(
            (line for line in self.table if line.name in names),
            key=lambda line: np.inf if line.log_loss is None else line.log_loss,
        )


def comparison_key(recipe: Recipe, backtest: str, baselines: Sequence[Sequence[str]]) -> str:
    """Return the key of the table of the model and its baselines: everything that it depends on."""
    made_from = {"backtest": backtest, "baselines": baselines, "recipe": recipe.parts()}
    return ResultStore.key("contest", made_from | {"code": code_behind("tasks.strategy.baseline_comparison")})


def joined_forecasts(folds: Sequence[BaselineFold]) -> dict[str, FloatArray]:
    """Return name -> (N, 3) of every baseline on all unseen bars, fold after fold."""
    return {name: np.concatenate([fold.probabilities[name] for fold in folds]) for name in folds[0].probabilities}


def compare_with_baselines(
    recipe: Recipe,
    evaluation: Evaluation,
    forecasts: Mapping[str, FloatArray],
    facts: Sequence[dict[str, Any]],
) -> BaselineComparison:
    """Judge every baseline on the model's unseen bars, by the model's decision rule and at its costs.

    `forecasts` are the fitted ones', name -> (N, 3) on the unseen bars; `facts`, what each fold tried, stands beside
    the table.
    """
    samples, unseen, money = evaluation.samples, evaluation.unseen, evaluation.money
    prior = np.concatenate([np.tile(fold.prior, (len(fold.probabilities), 1)) for fold in evaluation.folds])
    bars, end = bars_of(samples, unseen), samples.training_end(samples.folds[0])

    def traded(probabilities: FloatArray) -> Metrics:
        return summarize(traded_by_rule(recipe, evaluation, probabilities), samples.dataset.ref.market.bars_per_year)

    classes = samples.labels.classes[unseen.rows]
    rated = rate_forecasts(
        MODEL,
        {MODEL: evaluation.probabilities, PRIOR: prior, **forecasts},
        classes,
        overlap=recipe.labels.horizon,
        bars_per_day=samples.dataset.ref.market.bars_per_day,
    )
    dataset = samples.dataset
    past = past_classes(dataset.candles.close, dataset.vol, dataset.segment, recipe.labels, recipe.costs.round_trip)[
        unseen.rows
    ]
    both = (past >= 0) & (classes >= 0)
    repeated = np.where((past >= 0)[:, None], np.eye(len(CLASSES))[past], np.nan)
    drawn = random_positions(bars, evaluation.decided, recipe.costs, recipe.backtest, **end)
    table = [
        comparison_row(MODEL, money.model.metrics, **rated[MODEL]),
        *(comparison_row(name, traded(p), **rated[name]) for name, p in forecasts.items()),
        comparison_row(PRIOR, traded(prior), **rated[PRIOR]),
        comparison_row("persistence", traded(repeated), accuracy=_share(past[both] == classes[both])),
        comparison_row(
            "persistence reversed",
            traded(repeated[:, ::-1]),
            accuracy=_share(len(CLASSES) - 1 - past[both] == classes[both]),
        ),
        ComparisonRow(
            name=f"random timing, median of {drawn.draws:,}",
            total_return=drawn.total_return,
            sharpe_ratio=drawn.sharpe_ratio,
        ),
        comparison_row("buy and hold", money.buy_and_hold.metrics),
        comparison_row("flat", money.flat.metrics),
    ]
    return BaselineComparison(table=tuple(table), random=drawn, facts=list(facts))


def traded_by_rule(recipe: Recipe, evaluation: Evaluation, probabilities: FloatArray) -> BacktestResult:
    """Trade a baseline's (N, 3) probabilities on the model's unseen bars, by its rule and at its costs."""
    samples, unseen = evaluation.samples, evaluation.unseen
    forecast = evaluation.forecast._replace(probabilities=probabilities)  # and sized as the model's
    decided = decide_span(samples, recipe, unseen, forecast)
    end = samples.training_end(samples.folds[0])
    bars = bars_of(samples, unseen)
    return run_backtest(bars, decided.target, recipe.costs, recipe.backtest, share=decided.share, **end)


def comparison_files(
    comparison: BaselineComparison, evaluation: Evaluation, forecasts: Mapping[str, FloatArray]
) -> dict[str, bytes]:
    """Return the table, and every baseline's predictions, as a version keeps them."""
    document = {
        "table": [asdict(line) for line in comparison.table],
        "random": asdict(comparison.random),
        "folds": comparison.facts,
    }
    columns: dict[str, NDArray[Any]] = {
        "start_ms": evaluation.samples.dataset.candles.start_ms[evaluation.unseen.rows],
        **{f"{name}: {one}": p[:, i] for name, p in forecasts.items() for i, one in enumerate(CLASSES)},
    }
    return {
        "baselines.json": json.dumps(document, indent=1, allow_nan=False).encode(),
        "baselines.parquet": parquet_bytes(columns),
    }


def stored_forecasts(content: bytes) -> dict[str, FloatArray]:
    """Return the predictions by baseline that `comparison_files` wrote as Parquet."""
    columns = read_columns(content)
    names = dict.fromkeys(name.rpartition(": ")[0] for name in columns if name != "start_ms")
    return {name: np.column_stack([columns[f"{name}: {one}"] for one in CLASSES]) for name in names}


def _share(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None
