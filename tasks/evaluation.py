"""Evaluation tasks: how fast a trained model is, and what its predictions on unseen bars were worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.schema import CLASSES, DAY_MS, FEATURES, DatasetRef, FloatArray, IntArray, Market
from storage.settings import Settings
from storage.shared_results import results_at
from storage.snapshots import load_dataset
from storage.tables import parquet_bytes
from storage.trials import Trial, TrialLog
from storage.workfolder import WorkFolder, canonical_json
from tasks.execution.accounting import Bars, Costs
from tasks.execution.backtest import require_unseen
from tasks.execution.comparison import Comparison, compare
from tasks.execution.decision import decide_series
from tasks.execution.importance import Importance, permutation_importance
from tasks.execution.metrics import daily_returns, sharpe_ratio
from tasks.execution.skill import Skill, measure_skill
from tasks.execution.slices import Slice, slices
from tasks.execution.track_record import TrackRecord, track_record
from tasks.market.labels import UNKNOWN, sample_uniqueness
from tasks.market.samples import Fold, Span
from tasks.network.architecture import macs_per_bar, macs_per_window
from tasks.network.dsc import load_model
from tasks.network.export import check_parity, load_weights, onnx_graphs
from tasks.network.inference import predict_series
from tasks.network.latency import machine_fingerprint, measure_model, twins
from tasks.network.latency import measure_latency as time_networks
from tasks.network.segments import newest_run
from tasks.runs.progress import ProgressReport
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe, decision_params, recipe_document, recipe_of
from tasks.training import FoldResult, Samples, load_fold, load_samples

_IMPORTANCE_BARS = 8_192  # the newest unseen ones: enough labels for a thousandth of a nat
_IMPORTANCE_MACS = 1e11  # a few seconds; a large network gets fewer bars
_PERMUTATIONS = 5
_PARITY_BARS = 256  # beyond the context, of real features, for the comparison and the timing


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How fast the trained model is, on one thread, and how well the ways to run it agree.

    Attributes:
        machine: Processor, cores and versions that the timings belong to.
        parity: Largest difference of calibrated logits between any way and torch on windows.
        runtime: What `p50_us` to `p99_us` were taken with: the engine where the network allows it.
        p50_us, p95_us, p99_us: One new bar through the trained model, microseconds.
        rows: The separable network and its standard twin in every runtime, as `LatencyRow`.
        edges_us, calls: Histogram of the times behind `p50_us`; a bin's calls lie between two edges.
    """

    machine: dict[str, str | int]
    parity: float
    runtime: str
    p50_us: float
    p95_us: float
    p99_us: float
    rows: list[dict[str, Any]]
    edges_us: list[float]
    calls: list[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What the folds' models were worth on the bars that none of them had seen.

    Attributes:
        samples: The dataset, its labels and folds.
        folds: What each training left behind; the last one is published, and has no predictions if it is a refit.
        unseen: Bars of all test blocks, one after the other.
        probabilities: (N, 3) on them, NaN where unknown.
        class_means: (M, 3) of each fold's model.
        model: (N,) number of the model that predicts and decides each bar.
        target: (N,) decided position.
        skill: Of the probabilities.
        money: Of the decisions.
        record: What the money's days prove by themselves.
        slices: The money by year and by state of the market.
    """

    samples: Samples
    folds: tuple[FoldResult, ...]
    unseen: Span
    probabilities: FloatArray
    class_means: FloatArray
    model: IntArray
    target: NDArray[np.int8]
    skill: Skill
    money: Comparison
    record: TrackRecord
    slices: tuple[Slice, ...]

    @property
    def daily_returns(self) -> FloatArray:
        """(D,) net return of every UTC day."""
        result = self.money.model.result
        return daily_returns(result.equity, result.bars.start_ms)


def evaluate_folds(data: DatasetRef, recipe: Recipe, folds: Sequence[FoldResult]) -> Evaluation:
    """Put the folds' predictions of unseen bars together, decide on them, and measure skill and money."""
    samples = load_samples(data, recipe)
    unseen = Span(start=samples.folds[0].test.start, stop=samples.folds[-1].test.stop)
    for fold in samples.folds:
        require_unseen(int(samples.dataset.candles.start_ms[fold.test.start]), **seen_by(data, recipe, samples, fold))
    probabilities, class_means, model = one_after_the_other(folds)

    def decide(costs: Costs) -> NDArray[np.int8]:
        return decide_span(samples, replace(recipe, costs=costs), unseen, probabilities, class_means, model)

    money = compare(
        bars_of(data, samples, unseen),
        decide,
        recipe.costs,
        recipe.backtest,
        bars_per_year=data.market.bars_per_year,
        **seen_by(data, recipe, samples, samples.folds[0]),
    )
    result = money.model.result
    return Evaluation(
        samples=samples,
        folds=tuple(folds),
        unseen=unseen,
        probabilities=probabilities,
        class_means=class_means,
        model=model,
        target=decide(recipe.costs),
        skill=_skill(samples, folds, probabilities, unseen),
        money=money,
        record=track_record(daily_returns(result.equity, result.bars.start_ms), money.model.metrics.num_trades),
        slices=slices(result, money.buy_and_hold.result, samples.dataset.vol[unseen.rows]),
    )


def one_after_the_other(folds: Sequence[FoldResult]) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return probabilities (N, 3) on all unseen bars, class means (M, 3) of each model, and (N,) which model speaks."""
    probabilities = np.concatenate([fold.probabilities for fold in folds])
    class_means = np.array([fold.class_means for fold in folds])
    return probabilities, class_means, np.repeat(np.arange(len(folds)), [len(fold.probabilities) for fold in folds])


def bars_of(data: DatasetRef, samples: Samples, span: Span) -> Bars:
    """Return the bars of a span as an account sees them, funding included."""
    dataset = samples.dataset
    funding = (dataset.funding_ms, dataset.funding_rate)
    return Bars.of(dataset.candles[span.rows], data.market.interval_ms, funding)


def decide_span(
    samples: Samples,
    recipe: Recipe,
    span: Span,
    probabilities: FloatArray,
    class_means: FloatArray,
    model: IntArray | None = None,
) -> NDArray[np.int8]:
    """Return the positions that the recipe's rule takes on a span, from flat.

    Args:
        samples: The dataset and its labels.
        recipe: Rule, costs and horizon.
        span: N bars.
        probabilities: (N, 3) of the models.
        class_means: (M, 3) of each model.
        model: (N,) which model decides each bar; None: the only one.
    """
    market = samples.dataset.ref.market
    params = np.array([decision_params(recipe, market, means) for means in np.atleast_2d(class_means)])
    segment = samples.dataset.segment[span.rows]
    contiguous = np.concatenate([[False], segment[1:] == segment[:-1]])
    return decide_series(probabilities, samples.dataset.vol[span.rows], contiguous, params, model)


class Seen(TypedDict):
    """Up to where a model knows the market; argument names of `run_backtest`."""

    trained_until_ms: int
    label_span_ms: int


def seen_by(data: DatasetRef, recipe: Recipe, samples: Samples, fold: Fold) -> Seen:
    """Return the last bar that a fold's model was fitted on, its validation's, and how far that bar's label looks."""
    return {
        "trained_until_ms": int(samples.dataset.candles.start_ms[fold.validation.stop - 1]),
        "label_span_ms": (recipe.labels.horizon + 1) * data.market.interval_ms,
    }


def _skill(samples: Samples, folds: Sequence[FoldResult], probabilities: FloatArray, unseen: Span) -> Skill:
    priors = np.concatenate([np.tile(fold.prior, (len(fold.probabilities), 1)) for fold in folds])
    classes = samples.labels.classes[unseen.rows]
    known = (classes != UNKNOWN) & np.isfinite(probabilities).all(axis=1)
    rows = unseen.start + np.flatnonzero(known)
    return measure_skill(
        probabilities[known],
        classes[known],
        priors[known],
        samples.labels.forward_return[rows],
        overlap=samples.labels.horizon,
        effective_samples=float(sample_uniqueness(samples.labels, rows).sum()),
        seed=0,  # of a simulated perfect model; the figure is a mean over thousands of labels
    )


def measure_importance(recipe: Recipe, evaluation: Evaluation) -> tuple[Importance, ...]:
    """Return what each input is worth to the newest walk-forward fold's model, on its newest unseen bars."""
    samples, config = evaluation.samples, recipe.network_config
    test = samples.folds[-1].test
    model = load_model(config, load_weights(evaluation.folds[len(samples.folds) - 1].weights))
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(FEATURES[: config.input_features]):
        wave = name.partition("_")[0]
        groups.setdefault(f"hour of the {wave}" if wave in ("day", "week") else name, []).append(place)
    macs = macs_per_bar(config) if config.padding == "history" else macs_per_window(config)
    afforded = int(_IMPORTANCE_MACS / (_PERMUTATIONS * len(groups) * macs))
    first = max(test.start, test.stop - min(_IMPORTANCE_BARS, afforded))
    rows = slice(max(first - config.context + 1, 0), test.stop)  # what the first of them looks back on, too
    classes = samples.labels.classes[rows].copy()
    classes[: first - rows.start] = UNKNOWN
    return permutation_importance(
        lambda features: predict_series(model, features, samples.dataset.segment[rows]),
        samples.dataset.features[rows, : config.input_features],
        classes,
        groups,
        block=config.context,
        repeats=_PERMUTATIONS,
        seed=0,  # of which blocks change places
    )


@task(cache_policy=NO_CACHE, task_run_name="measure latency {data.market.symbol}")
def measure_latency(data: DatasetRef, recipe: Recipe, fold: str) -> str:
    """Prove that all ways to run a fold's model agree, time it beside its twins, and return the key of the figures.

    Raises:
        ArtifactError: Two ways to run the model disagree.
        DatasetError: No run of bars is long enough to compare them on.
    """
    settings, log, config = Settings.from_environment(), get_run_logger(), recipe.network_config
    work, machine = results_at(settings.work), machine_fingerprint()
    key = WorkFolder.key("latency", {"fold": fold, "code": code_behind("tasks.evaluation"), "machine": machine})
    if key in work:
        log.info(f"latency was measured before key={key}")
        return key
    weights = load_weights(load_fold(fold).weights)
    graphs = onnx_graphs(config, weights)
    dataset = load_dataset(settings.datasets, data)
    inputs = dataset.features[:, : config.input_features]
    features = inputs[newest_run(inputs, dataset.segment, config.context + _PARITY_BARS)]
    parity = check_parity(
        load_model(config, weights), features, window=graphs["model.onnx"], step=graphs.get("step.onnx")
    )
    with ProgressReport("latency") as progress:
        rows = time_networks(twins(config), on_progress=lambda done, of: progress.update(done / of))
        runtime, timing = measure_model(config, weights, features)
    edges_us, calls = timing.histogram()
    measured = Measured(
        machine=machine,
        parity=max(parity.values()),
        runtime=runtime,
        p50_us=timing.percentile_us(50),
        p95_us=timing.percentile_us(95),
        p99_us=timing.percentile_us(99),
        rows=[asdict(row) for row in rows],
        edges_us=edges_us,
        calls=calls,
    )
    work.save(key, {"latency.json": canonical_json(measured)})
    log.info(
        f"latency key={key} p50_us={measured.p50_us:.2f} p99_us={measured.p99_us:.2f} parity={measured.parity:.1e}"
    )
    return key


def load_measured(key: str) -> Measured:
    """Return what `measure_latency` left under `key`."""
    return Measured(**json.loads(results_at(Settings.from_environment().work).read(key, "latency.json")))


@task(cache_policy=NO_CACHE, task_run_name="backtest {data.market.symbol}")
def backtest_folds(data: DatasetRef, recipe: Recipe, folds: list[str]) -> str:
    """Backtest the folds' predictions of unseen bars net of costs, log the trial, and return the evaluation's key."""
    settings = Settings.from_environment()
    inputs = {"data": data, "recipe": recipe_document(recipe), "folds": folds}
    key = WorkFolder.key("evaluation", inputs)
    results_at(settings.work).save(key, {"inputs.json": canonical_json(inputs)})
    evaluation = load_evaluation(key)
    TrialLog(settings.artifact_url).append(_trial(trial_key(recipe, folds), data, recipe, evaluation))
    metrics, skill = evaluation.money.model.metrics, evaluation.skill
    get_run_logger().info(
        f"backtest key={key} bars={len(evaluation.unseen)} trades={metrics.num_trades} net={metrics.total_return:+.4f} "
        f"log_loss_skill={skill.log_loss_skill:+.5f} accuracy={skill.accuracy:.4f}"
    )
    return key


def trial_key(recipe: Recipe, folds: Sequence[str]) -> str:
    """Return the key of a trial, what was decided on unseen bars: other bounds of promotion are no other one.

    Args:
        recipe: Rule, costs and account.
        folds: Keys of the trained folds.
    """
    decided = {"folds": folds, "decision": recipe.decision_config, "costs": recipe.costs, "account": recipe.backtest}
    return WorkFolder.key("backtest", decided | {"code": code_behind("tasks.evaluation")})


def load_evaluation(key: str) -> Evaluation:
    """Return the evaluation that `backtest_folds` left under `key`.

    It is worked out once a process: what lies under the key is what it was made from, which takes a hundredth of its
    space and gives the same evaluation everywhere, in a second.
    """
    return _evaluation_of(Settings.from_environment().work, key)


@lru_cache(maxsize=1)  # a run asks for its own again and again, and for no other
def _evaluation_of(work: Path | str, key: str) -> Evaluation:
    inputs = json.loads(results_at(work).read(key, "inputs.json"))
    data = DatasetRef(**inputs["data"] | {"market": Market(**inputs["data"]["market"])})
    return evaluate_folds(data, recipe_of(inputs["recipe"]), [load_fold(fold) for fold in inputs["folds"]])


def _trial(key: str, data: DatasetRef, recipe: Recipe, evaluation: Evaluation) -> Trial:
    """Return the evaluation as the log of trials keeps it."""
    daily, start_ms = evaluation.daily_returns, evaluation.samples.dataset.candles.start_ms
    tried = {name: part for name, part in recipe.parts().items() if name not in ("promotion", "baselines")}
    return Trial(
        key=key,
        source=data.source,
        name=data.market.slug,
        dataset=data.id,
        first_day=int(start_ms[evaluation.unseen.start] // DAY_MS),
        daily_returns=tuple(daily.tolist()),
        sharpe_per_day=sharpe_ratio(daily, 1.0) or 0.0,
        made_from=json.loads(canonical_json(tried)) | {"code": code_behind("tasks.evaluation")},
    )


def backtest_numbers(evaluation: Evaluation) -> dict[str, Any]:
    """Return every number of an evaluation as plain JSON."""
    money, skill = evaluation.money, vars(evaluation.skill)
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in skill.items()}
    return {
        "metrics": {side.name: asdict(side.metrics) for side in (money.model, money.buy_and_hold, money.flat)},
        "by_costs": {side.name: asdict(side.metrics) for side in money.by_costs},
        "by_fee": {side.name: asdict(side.metrics) for side in money.by_fee},
        "redecided_by_costs": {side.name: asdict(side.metrics) for side in money.redecided_by_costs},
        "redecided_by_fee": {side.name: asdict(side.metrics) for side in money.redecided_by_fee},
        "by_delay": {side.name: asdict(side.metrics) for side in money.by_delay},
        "skill": plain | {"auc": list(evaluation.skill.auc)},
        "record": asdict(evaluation.record),
        "slices": {part.name: asdict(part) for part in evaluation.slices},
        "flags": list(money.model.result.flags),
    }


def backtest_files(evaluation: Evaluation) -> dict[str, bytes]:
    """Return what a version keeps of its backtest: the numbers, every prediction, the equity and the trades."""
    money, unseen = evaluation.money, evaluation.unseen
    candles = evaluation.samples.dataset.candles[unseen.rows]
    result = money.model.result
    predictions: dict[str, NDArray[Any]] = {
        "start_ms": candles.start_ms,
        **{f"p_{name}": evaluation.probabilities[:, i] for i, name in enumerate(CLASSES)},
        "label": evaluation.samples.labels.classes[unseen.rows],
        "target": evaluation.target,
    }
    closes = candles.start_ms + result.bars.interval_ms
    equity = {
        "time_ms": np.concatenate([candles.start_ms[:1], closes]),
        "model": result.equity,
        "buy_and_hold": money.buy_and_hold.result.equity,
    }
    return {
        "backtest.json": json.dumps(backtest_numbers(evaluation), indent=1, allow_nan=False).encode(),
        "predictions.parquet": parquet_bytes(predictions),
        "equity.parquet": parquet_bytes(equity),
        "trades.parquet": parquet_bytes(result.trades.columns()),
    }
