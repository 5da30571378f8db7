"""Train on one market as a retrain does, in a process of its own, and print what was reached as one line of JSON.

Features, labels, folds, training and decisions are the project's; the market's optimum is its closed form.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from storage.schema import BUY, SELL, Candles, FloatArray, IntArray
from storage.tables import read_columns
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, run_backtest
from tasks.execution.bars import Bars
from tasks.execution.decision import DecisionConfig, decide_series, packed
from tasks.execution.skill import Skill, class_shares, log_losses, measure_skill
from tasks.market.features import Features, build_features
from tasks.market.labels import LabelConfig, Labels, class_means, label_bars, sample_uniqueness
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import Fold, FoldConfig, walk_forward
from tasks.network.baselines import CLASSICAL, LOGISTIC, fit_baseline
from tasks.network.fit import fit
from tasks.network.inference import predict_series
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import mirrored_series

MINUTE_MS = 60_000
_CALM = 8e-4  # volatility of a 5-minute bar, bitcoin's over a calm time
FREE = Costs(commission=0.0, slippage=0.0)
SMALL = BacktestConfig(position_fraction=1e-4)  # of equity: so little that positions keep one size


@dataclass(frozen=True, kw_only=True, eq=False)
class Walked:
    """A market after a retrain.

    Attributes:
        features, labels, folds: As the recipe makes them.
        rows: Bars of all test blocks.
        probabilities: Name -> (N, 3) on them; "dsc" is the network.
        prior, means: (folds, 3) class shares and class means in training.
        fold: (N,) number of the fold that each row belongs to.
    """

    features: Features
    labels: Labels
    folds: tuple[Fold, ...]
    rows: slice
    probabilities: dict[str, FloatArray]
    prior: FloatArray
    means: FloatArray
    fold: IntArray


def walk(
    candles: Candles, interval_ms: int, recipe: Recipe, baselines: tuple[str, ...] = (), vol: float | None = None
) -> Walked:
    """Train every fold of the recipe on the candles, and predict what it has not seen.

    Labels are in units of `vol`, where it is known; else, as in a retrain, of what the candles show of it.
    """
    features = build_features(candles.matrix(), interval_ms)
    unit = features.vol if vol is None else np.where(np.isfinite(features.vol), vol, np.nan)
    labels = label_bars(candles.open, unit, features.segment, recipe.labels, recipe.costs.round_trip)
    network = recipe.network_config
    first = int(np.argmax(np.isfinite(features.values).all(axis=1))) + network.context - 1
    folds = walk_forward(candles.start_ms, interval_ms, first, recipe.labels.horizon, recipe.folds)
    series = mirrored_series(features.values, labels, features.segment)
    parts: dict[str, list[FloatArray]] = {name: [] for name in ("dsc", *baselines)}
    for fold in folds:
        spans = [(span.start, span.stop) for span in (fold.train, fold.validation)]
        fitted = fit(network, series, *spans, recipe.fit_config)
        parts["dsc"].append(predict_series(fitted.model, features.values, features.segment)[fold.test.rows])
        for name in baselines:
            baseline = fit_baseline(
                name, series, *spans, fold.test.rows, recipe.baselines,
                input_clip=network.input_clip, num_classes=network.num_classes,
            )  # fmt: skip
            parts[name].append(baseline.probabilities)
    known = [labels.classes[fold.train.rows] for fold in folds]
    return Walked(
        features=features,
        labels=labels,
        folds=folds,
        rows=slice(folds[0].test.start, folds[-1].test.stop),
        probabilities={name: np.concatenate(part) for name, part in parts.items()},
        prior=np.array([class_shares(classes[classes >= 0], 3) for classes in known]),
        means=np.array([class_means(labels, features.vol, fold.train.rows) for fold in folds]),
        fold=np.repeat(np.arange(len(folds)), [len(fold.test) for fold in folds]),
    )


def direction(kind: str, k: float, bars: int, seed: int, test_share: float) -> dict[str, float]:
    """Return how often the next bar's direction was forecast, by the network and by logistic regression."""
    candles = generate(SyntheticMarket(kind=kind, k=k, bars=bars, seed=seed, volatility=_CALM))  # type: ignore[arg-type]  # from JSON
    labels = LabelConfig(horizon=1, cost_floor_multiple=0.0)
    recipe = Recipe(labels=labels, folds=FoldConfig(folds=1, test_share=test_share))
    found = walk(candles, 5 * MINUTE_MS, recipe, (LOGISTIC,))
    earned = found.labels.forward_return[found.rows]
    asked = np.isfinite(earned)
    for probabilities in found.probabilities.values():
        asked &= np.isfinite(probabilities).all(axis=1)
    hits = {
        name: float(np.mean((p[asked, BUY] > p[asked, SELL]) == (earned[asked] > 0)))
        for name, p in found.probabilities.items()
    }
    return hits | {"bars": int(asked.sum())}


def random_walks(seeds: list[int], bars: int) -> list[dict[str, Any]]:
    """Return what models that were trained on random walks look like to the promotion rule, and what they earn."""
    return [_random_walk(seed, bars) for seed in seeds]


def fair_walks(seeds: list[int], bars: int) -> list[dict[str, float]]:
    """Return what log-loss makes of random walks in which nothing can be forecast, not even how much they will move.

    Volatility is constant, and labels are in its own units: an estimate's noise, which features see, would be forecast.
    """
    return [_fair_walk(seed, bars) for seed in seeds]


def _fair_walk(seed: int, bars: int) -> dict[str, float]:
    market = SyntheticMarket(kind="null", bars=bars, seed=seed, sv=0.0, volatility=_CALM)
    recipe = Recipe(folds=FoldConfig(folds=1), labels=LabelConfig(cost_floor_multiple=0.0))
    found = walk(generate(market), 5 * MINUTE_MS, recipe, vol=market.volatility)
    skill = _skill_of(found, recipe)
    return {"skill": skill.log_loss_skill, "p_value": 1.0 if skill.p_value is None else skill.p_value}


def _skill_of(found: Walked, recipe: Recipe) -> Skill:
    p, classes = found.probabilities["dsc"], found.labels.classes[found.rows]
    known = (classes >= 0) & np.isfinite(p).all(axis=1)
    rows = found.rows.start + np.flatnonzero(known)
    effective = float(sample_uniqueness(found.labels, rows).sum())
    return measure_skill(
        p[known], classes[known], found.prior[found.fold[known]], found.labels.forward_return[rows],
        overlap=recipe.labels.horizon, bars_per_day=288.0, effective_samples=effective, seed=0,
    )  # fmt: skip


def _random_walk(seed: int, bars: int) -> dict[str, Any]:
    recipe = Recipe(folds=FoldConfig(folds=1))
    candles = generate(SyntheticMarket(kind="null", bars=bars, seed=seed, volatility=_CALM))
    found = walk(candles, 5 * MINUTE_MS, recipe)
    skill, p = _skill_of(found, recipe), found.probabilities["dsc"]
    # Trading every forecast, as if trading cost nothing: what is left without costs is luck, and with them a loss.
    rule = packed(DecisionConfig(), FREE, found.means[0], recipe.labels.horizon)
    traded = candles[found.rows]
    market = Bars.of(traded, 5 * MINUTE_MS)
    target = decide_series(p, found.features.vol[found.rows], market.contiguous, rule)
    result = run_backtest(market, target, recipe.costs, SMALL, trained_until_ms=None, label_span_ms=0)
    size = SMALL.position_fraction * SMALL.initial_capital
    return {
        "log_loss_skill": skill.log_loss_skill,
        "log_loss_p_value": skill.p_value,
        "direction_skill": skill.direction_skill,
        "direction_p_value": skill.direction_p_value,
        "direction_accuracy": skill.direction_accuracy,
        "moves": skill.moves,
        "gross": result.gross_profit / size,
        "costs": (result.fees_paid + result.slippage_paid) / size,
        "net": float(result.equity[-1] - result.equity[0]) / size,
    }


def real_gap(file: str, minutes: int, horizon: int, stop_ms: int) -> dict[str, float]:
    """Return the test log-loss of the network and of both baselines on recorded candles before `stop_ms`."""
    candles = recorded(Path(file), minutes, stop_ms)
    recipe = Recipe()
    recipe = replace(recipe, labels=replace(recipe.labels, horizon=horizon))
    found = walk(candles, minutes * MINUTE_MS, recipe, CLASSICAL)
    classes = found.labels.classes[found.rows]
    known = classes >= 0
    for p in found.probabilities.values():
        known &= np.isfinite(p).all(axis=1)
    losses = {name: float(log_losses(p[known], classes[known]).mean()) for name, p in found.probabilities.items()}
    prior = log_losses(found.prior[found.fold[known]], classes[known])
    return losses | {"prior": float(prior.mean()), "labels": int(known.sum())}


def recorded(file: Path, minutes: int, stop_ms: int) -> Candles:
    """Return a file's 5-minute candles before `stop_ms`, as candles of so many minutes."""
    columns = read_columns(file.read_bytes())
    names = ("start_ms", "open", "high", "low", "close", "volume", "turnover")
    step = minutes // 5
    matrix = {name: columns[name][columns["start_ms"] < stop_ms] for name in names}
    return Candles(**(matrix if step == 1 else _resampled(matrix, step)))


def _resampled(columns: dict[str, Any], step: int) -> dict[str, Any]:
    """Return candles of `step` bars each; the file has no gap, and begins on the grid."""
    bars = len(columns["start_ms"]) // step
    parts = {name: column[: bars * step].reshape(bars, step) for name, column in columns.items()}
    return {
        "start_ms": parts["start_ms"][:, 0],
        "open": parts["open"][:, 0],
        "high": parts["high"].max(axis=1),
        "low": parts["low"].min(axis=1),
        "close": parts["close"][:, -1],
        "volume": parts["volume"].sum(axis=1),
        "turnover": parts["turnover"].sum(axis=1),
    }


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    measures = {one.__name__: one for one in (direction, random_walks, fair_walks, real_gap)}
    print(json.dumps(measures[asked.pop("measure")](**asked)))
