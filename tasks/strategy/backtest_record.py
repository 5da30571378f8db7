"""An evaluation as it is kept: the numbers and files of a version, and the line in the log of trials."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.results import ResultStore, canonical_json
from storage.schema import CLASSES, DAY_MS, DatasetRef
from storage.tables import parquet_bytes
from storage.trials import Origin, Trial
from tasks.execution.metrics import sharpe_ratio
from tasks.strategy.out_of_sample import Evaluation
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe

_BEHIND = "tasks.strategy.fold_training", "tasks.strategy.out_of_sample"


def trial_key(recipe: Recipe, folds: Sequence[str]) -> str:
    """Return the key of a trial, what was decided on unseen bars: other bounds of promotion are no other one."""
    decided = {"folds": folds, "decision": recipe.decision_config, "costs": recipe.costs, "account": recipe.backtest}
    return ResultStore.key("backtest", decided | {"code": code_behind(*_BEHIND)})


def trial_of(
    key: str,
    data: DatasetRef,
    recipe: Recipe,
    evaluation: Evaluation,
    origin: Origin,
    last_days: float | None = None,
) -> Trial:
    """Return the evaluation as the log of trials keeps it.

    `last_days` is the length of a range that moves with its end: where it starts today nobody has chosen. None: its
    first bar was, and another one is another trial.
    """
    daily, start_ms = evaluation.daily_returns, evaluation.samples.dataset.candles.start_ms
    tried = {name: part for name, part in recipe.parts().items() if name not in ("promotion", "baselines")}
    tried["pool"] = [one.symbol for one in recipe.members]
    tried["bars"] = {"first_day": int(start_ms[0] // DAY_MS)} if last_days is None else {"last_days": last_days}
    return Trial(
        key=key,
        source=data.source,
        name=data.market.slug,
        origin=origin,
        dataset=data.id,
        first_day=int(start_ms[evaluation.unseen.start] // DAY_MS),
        daily_returns=tuple(daily.tolist()),
        sharpe_per_day=sharpe_ratio(daily, 1.0) or 0.0,
        made_from=json.loads(canonical_json(tried)) | {"code": code_behind(*_BEHIND)},
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
        "target": evaluation.decided.target,
        "log_variance_ratio": evaluation.forecast.log_variance_ratio,
    }
    if evaluation.decided.share is not None:
        predictions["share"] = evaluation.decided.share
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
