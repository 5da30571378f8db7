"""Baseline tasks: what the model must beat, fitted on the same folds and paid at the same costs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.schema import CLASSES, DatasetRef, FloatArray
from storage.settings import Settings
from storage.shared_results import results_at
from storage.tables import parquet_bytes, read_columns
from storage.workfolder import WorkFolder, canonical_json
from tasks.evaluation import Evaluation, bars_of, decide_span, load_evaluation, seen_by
from tasks.execution.backtest import BacktestResult, run_backtest
from tasks.execution.metrics import Metrics, summarize
from tasks.execution.random_positions import RandomPositions, random_positions
from tasks.execution.rivals import Rival, rate_forecasts, rival
from tasks.market.persistence import past_classes
from tasks.network.architecture import parameters
from tasks.network.baselines import BOOSTING, CLASSICAL, LOGISTIC, fit_baseline
from tasks.network.export import weights_bytes
from tasks.network.fit import fit, predict_series
from tasks.reporting.markup import DASH, written
from tasks.runs.page import show_table
from tasks.runs.progress import ProgressReport
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe
from tasks.training import fold_inputs, lesson, load_samples

MODEL, PRIOR = "this model", "prior"
_TWIN = "the network's twin"
_PARTS = {LOGISTIC: (0.0, 0.1), BOOSTING: (0.1, 0.55), _TWIN: (0.55, 1.0)}  # of the time that a fold's baselines take
_LIBRARIES = ("scikit-learn", "lightgbm")


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineFold:
    """What fitting the baselines of one fold left behind.

    Attributes:
        probabilities: Name -> (N, 3) on the bars of the fold's test, NaN where unknown.
        facts: Name -> what was tried and chosen, plain JSON.
    """

    probabilities: Mapping[str, FloatArray]
    facts: Mapping[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """The model beside everything that it must beat.

    Attributes:
        table: The model first.
        random: The model among random timings of its own positions.
        facts: One entry a fold: name -> what the baseline tried and chose.
    """

    table: tuple[Rival, ...]
    random: RandomPositions
    facts: list[dict[str, Any]]

    def named(self, name: str) -> Rival | None:
        """Return the line of that name, or None."""
        return next((line for line in self.table if line.name == name), None)

    @property
    def better_baseline(self) -> Rival:
        """The classical baseline with the smaller log-loss."""
        return self._best_of(CLASSICAL)

    @property
    def best_baseline(self) -> Rival:
        """Whoever of them and the prior has the smallest log-loss: the prior, where they learnt what was not there."""
        return self._best_of((*CLASSICAL, PRIOR))

    def _best_of(self, names: Sequence[str]) -> Rival:
        return min(
            (line for line in self.table if line.name in names),
            key=lambda line: np.inf if line.log_loss is None else line.log_loss,
        )


def twin_name(recipe: Recipe) -> str:
    """Return the name of the network's twin."""
    return f"{recipe.network_config.twin.block} convolution twin"


def baselines_key(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Return the key of a fold's baselines: everything that they depend on."""
    made_from = {
        "fold": fold_inputs(data, recipe, index),
        "baselines": recipe.baselines,
        "libraries": [version(name) for name in _LIBRARIES],
        "code": code_behind("tasks.strategy.contest"),
    }
    return WorkFolder.key("baselines", made_from)


def rivals_key(recipe: Recipe, backtest: str, baselines: Sequence[str]) -> str:
    """Return the key of the table of the model and its baselines: everything that it depends on.

    Args:
        recipe: How the model was made.
        backtest: Key of its evaluation.
        baselines: Keys of the baselines of each fold.
    """
    made_from = {"backtest": backtest, "baselines": baselines, "recipe": recipe.parts()}
    return WorkFolder.key("rivals", made_from | {"code": code_behind("tasks.strategy.contest")})


# As with the network's folds: a killed run finds what is finished by its key, so no Prefect cache, and no retry.
@task(cache_policy=NO_CACHE, task_run_name="train baselines {index} of {data.market.symbol}")
def train_baselines(data: DatasetRef, recipe: Recipe, index: int) -> str:
    """Fit logistic regression, boosting and the network's twin on one fold, and return the key of their predictions.

    Args:
        data: The dataset.
        recipe: Labels, folds, network and training of the model; what the baselines may try.
        index: Number of the walk-forward fold, from 0.
    """
    log, work = get_run_logger(), results_at(Settings.from_environment().work)
    key = baselines_key(data, recipe, index)
    if key in work:
        log.info(f"baselines {index} were trained before key={key}")
        return key
    samples = load_samples(data, recipe)
    dataset, fold, network = samples.dataset, samples.folds[index], recipe.network_config
    series = lesson(samples, recipe, fold).first(network.input_features)
    train, validation = ((span.start, span.stop) for span in (fold.train, fold.validation))
    probabilities: dict[str, FloatArray] = {}
    facts: dict[str, dict[str, Any]] = {}
    with ProgressReport(f"baselines of fold {index + 1} of {recipe.folds.folds}") as progress:
        for name in CLASSICAL:
            fitted = fit_baseline(
                name,
                series,
                train,
                validation,
                fold.test.rows,
                recipe.baselines,
                input_clip=network.input_clip,
                num_classes=network.num_classes,
                on_progress=_part(progress, name),
            )
            probabilities[name] = fitted.probabilities
            facts[name] = {
                "tried": [asdict(one) for one in fitted.tried],
                "temperature": fitted.temperature,
                "seconds": fitted.seconds,
            }
        if recipe.baselines.twin:
            name, shape = twin_name(recipe), network.twin
            update = _part(progress, _TWIN)
            twin = fit(shape, series, train, validation, recipe.fit_config, on_progress=lambda now: update(now.share))
            probabilities[name] = predict_series(twin.model, dataset.features, dataset.segment)[fold.test.rows]
            facts[name] = {
                "tried": [],
                "temperature": twin.temperature,
                "seconds": twin.seconds,
                "parameters": parameters(shape),
                "weights_bytes": len(weights_bytes(twin.model)),
                "best_steps": twin.best_steps,
            }
    arrays = io.BytesIO()
    np.savez(arrays, **probabilities)  # type: ignore[arg-type]  # numpy's stub takes the names for its own options
    work.save(key, {"baselines.json": canonical_json(facts), "predictions.npz": arrays.getvalue()})
    took = " ".join(f"{name.replace(' ', '_')}={fact['seconds']:.1f}s" for name, fact in facts.items())
    log.info(f"trained baselines of fold={index} key={key} {took}")
    return key


def _part(progress: ProgressReport, name: str) -> Callable[[float], None]:
    """Return what takes the share of one baseline that is done, and shows that of them all."""
    begin, end = _PARTS[name]
    progress.update(begin, name)
    return lambda share: progress.update(begin + (end - begin) * share, name)


def load_baselines(key: str) -> BaselineFold:
    """Return what `train_baselines` left under `key`."""
    work = results_at(Settings.from_environment().work)
    with np.load(io.BytesIO(work.read(key, "predictions.npz")), allow_pickle=False) as arrays:
        probabilities = dict(arrays)
    return BaselineFold(probabilities=probabilities, facts=json.loads(work.read(key, "baselines.json")))


@task(cache_policy=NO_CACHE, task_run_name="compare baselines of {data.market.symbol}")
def compare_baselines(data: DatasetRef, recipe: Recipe, backtest: str, baselines: list[str]) -> str:
    """Put the model beside its baselines on the bars that none of them had seen, and return the key of the table.

    Args:
        data: The dataset.
        recipe: How the model was made.
        backtest: Key of its evaluation, from `backtest_folds`.
        baselines: Keys of the baselines of each fold.
    """
    key = rivals_key(recipe, backtest, baselines)
    work = results_at(Settings.from_environment().work)
    parts = [load_baselines(one) for one in baselines]
    forecasts = {name: np.concatenate([part.probabilities[name] for part in parts]) for name in parts[0].probabilities}
    evaluation = load_evaluation(backtest)
    found = rivals_of(data, recipe, evaluation, forecasts, [dict(part.facts) for part in parts])
    work.save(key, rivals_files(found, evaluation, forecasts))
    best = found.better_baseline
    lead = "undefined" if best.lead is None else f"{best.lead:+.5f}"
    get_run_logger().info(
        f"baselines key={key} better={best.name!r} log_loss={best.log_loss:.5f} lead_of_model={lead} "
        f"random_percentile={found.random.percentile:.3f}"
    )
    rows = [
        {
            "": line.name,
            "log-loss": DASH if line.log_loss is None else written(line.log_loss, "nat"),
            "net return": written(line.total_return, "signed share"),
        }
        for line in found.table
    ]
    show_table("baselines", data.source, data.market, rows, "The model beside what it must beat, unseen bars")
    return key


def load_rivals(key: str) -> tuple[Rivals, dict[str, bytes]]:
    """Return what `compare_baselines` left under `key`: the table, and the files that a version keeps of it."""
    work = results_at(Settings.from_environment().work)
    files = {name: work.read(key, name) for name in ("baselines.json", "baselines.parquet")}
    return rivals_from(files["baselines.json"]), files


def rivals_from(content: bytes) -> Rivals:
    """Return the table that `rivals_files` wrote."""
    document = json.loads(content)
    return Rivals(
        table=tuple(Rival(**line) for line in document["table"]),
        random=RandomPositions(**document["random"]),
        facts=document["folds"],
    )


def rivals_files(rivals: Rivals, evaluation: Evaluation, forecasts: Mapping[str, FloatArray]) -> dict[str, bytes]:
    """Return the table, and every baseline's predictions, as a version keeps them."""
    document = {
        "table": [asdict(line) for line in rivals.table],
        "random": asdict(rivals.random),
        "folds": rivals.facts,
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
    """Return the predictions by baseline that `rivals_files` wrote as Parquet."""
    columns = read_columns(content)
    names = dict.fromkeys(name.rpartition(": ")[0] for name in columns if name != "start_ms")
    return {name: np.column_stack([columns[f"{name}: {one}"] for one in CLASSES]) for name in names}


def rivals_of(
    data: DatasetRef,
    recipe: Recipe,
    evaluation: Evaluation,
    forecasts: Mapping[str, FloatArray],
    facts: Sequence[dict[str, Any]],
) -> Rivals:
    """Judge every baseline on the model's unseen bars, by the model's decision rule and at its costs.

    Args:
        data: The dataset.
        recipe: Rule, costs and labels.
        evaluation: The model's own.
        forecasts: Name -> (N, 3) probabilities of the fitted baselines on the unseen bars.
        facts: What each fold tried, kept beside the table.
    """
    samples, unseen, money = evaluation.samples, evaluation.unseen, evaluation.money
    prior = np.concatenate([np.tile(fold.prior, (len(fold.probabilities), 1)) for fold in evaluation.folds])
    bars, seen = bars_of(data, samples, unseen), seen_by(data, recipe, samples, samples.folds[0])

    def traded(probabilities: FloatArray) -> Metrics:
        return summarize(traded_by_rule(data, recipe, evaluation, probabilities), data.market.bars_per_year)

    classes = samples.labels.classes[unseen.rows]
    rated = rate_forecasts(
        MODEL,
        {MODEL: evaluation.probabilities, PRIOR: prior, **forecasts},
        classes,
        overlap=recipe.labels.horizon,
    )
    dataset = samples.dataset
    past = past_classes(dataset.candles.close, dataset.vol, dataset.segment, recipe.labels, recipe.costs.round_trip)[
        unseen.rows
    ]
    both = (past >= 0) & (classes >= 0)
    repeated = np.where((past >= 0)[:, None], np.eye(len(CLASSES))[past], np.nan)
    drawn = random_positions(bars, evaluation.target, recipe.costs, recipe.backtest, **seen)
    table = [
        rival(MODEL, money.model.metrics, rated[MODEL]),
        *(rival(name, traded(p), rated[name]) for name, p in forecasts.items()),
        rival(PRIOR, traded(prior), rated[PRIOR]),
        rival("persistence", traded(repeated), accuracy=_share(past[both] == classes[both])),
        rival(
            "persistence reversed",
            traded(repeated[:, ::-1]),
            accuracy=_share(len(CLASSES) - 1 - past[both] == classes[both]),
        ),
        Rival(
            name=f"random timing, median of {drawn.draws:,}",
            total_return=drawn.total_return,
            sharpe_ratio=drawn.sharpe_ratio,
        ),
        rival("buy and hold", money.buy_and_hold.metrics),
        rival("flat", money.flat.metrics),
    ]
    return Rivals(table=tuple(table), random=drawn, facts=list(facts))


def traded_by_rule(
    data: DatasetRef, recipe: Recipe, evaluation: Evaluation, probabilities: FloatArray
) -> BacktestResult:
    """Trade a baseline's (N, 3) probabilities on the model's unseen bars, by its rule and at its costs."""
    samples, unseen = evaluation.samples, evaluation.unseen
    target = decide_span(samples, recipe, unseen, probabilities, evaluation.class_means, evaluation.model)
    seen = seen_by(data, recipe, samples, samples.folds[0])
    return run_backtest(bars_of(data, samples, unseen), target, recipe.costs, recipe.backtest, **seen)


def _share(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None
