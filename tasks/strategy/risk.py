"""What the risk head foresees, and what it was worth on unseen bars beside those who foresee risk without a network.

Every forecast is of the same windows and learned from the same bars; each is set right by what its logarithm fell short
of the mean there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from storage.foreign import parse_json
from storage.results import ResultStore
from storage.schema import DatasetRef, FloatArray, IntArray
from storage.tables import parquet_bytes
from tasks.execution.risk_skill import RiskForecast, RiskScore, below_quantiles, rate_risk
from tasks.market.samples import Fold
from tasks.market.volatility import har_inputs
from tasks.network.baselines import TabularSeries
from tasks.network.risk_baselines import EWMA, FEWEST_WINDOWS, HAR, TREES, har, trees
from tasks.strategy.folds import FoldResult
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe
from tasks.strategy.risk_windows import RiskWindows, bars_to_learn_from, risk_windows
from tasks.strategy.samples import Samples, mirrored_series, risk_horizon

NETWORK = "this model"


@dataclass(frozen=True, kw_only=True)
class RiskRecord:
    """What was foreseen of risk on unseen bars, and what came.

    Attributes:
        horizon: Bars of a window.
        windows: Unseen windows that do not overlap, of those that everybody speaks of.
        scores: The model first; none where it foresees no risk, or no window is known.
        below: Share of the windows at or below each of the model's foreseen quantiles, `LEVELS`; none likewise.
    """

    horizon: int
    windows: float
    scores: tuple[RiskScore, ...]
    below: tuple[float, ...]

    @classmethod
    def of(cls, files: dict[str, bytes]) -> RiskRecord:
        """Return the record that `record_risk` wrote."""
        document = parse_json(files["risk.json"])
        scores = tuple(RiskScore(**line) for line in document["scores"])
        return cls(**{**document, "scores": scores, "below": tuple(document["below"])})

    def named(self, name: str) -> RiskScore | None:
        """Return the score of that name, or None."""
        return next((score for score in self.scores if score.name == name), None)


def risk_key(data: DatasetRef, recipe: Recipe, folds: Sequence[str]) -> str:
    """Return the key of what was foreseen of risk: everything that it depends on, `folds` the trained folds' keys."""
    made_from = {
        "dataset": data.id,
        "folds": folds,
        "hours": recipe.risk.hours,
        "baselines": recipe.baselines,
        "code": code_behind("tasks.strategy.risk", known=("tasks.strategy.recipe",)),
    }
    return ResultStore.key("risk", made_from)


def record_risk(samples: Samples, recipe: Recipe, folds: Sequence[FoldResult]) -> dict[str, bytes]:
    """Rate what the folds' models foresaw on their unseen bars beside EWMA, HAR and LightGBM.

    Args:
        samples: The dataset as the recipe sees it.
        recipe: Horizon and network, and how trees are grown.
        folds: Of the walk-forward, oldest first, with the predictions of their tests; a refit after them, which has no
            unseen bars, is left out.
    Returns:
        What a version keeps: the record as risk.json, and every forecast beside what came as risk.parquet.
    """
    dataset = samples.dataset
    windows = risk_windows(dataset, risk_horizon(samples, recipe))
    told: dict[str, list[RiskForecast]] = {}
    quantiles = []
    for fold, result in zip(samples.folds, folds, strict=False):
        log = windows.log_unit[fold.test.rows] + result.log_variance_ratio
        head = result.risk
        said = {NETWORK: RiskForecast(mean=np.exp(log), log=log + head.log_gap if head.windows else log * np.nan)}
        with threadpool_limits(recipe.baselines.threads):
            rivals = _rivals(samples, recipe, windows, fold)
        for name, one in {**said, **rivals}.items():
            told.setdefault(name, []).append(one)
        quantiles.append(np.tile(head.quantiles, (len(fold.test), 1)))
    unseen = slice(samples.folds[0].test.start, samples.folds[-1].test.stop)
    mean = {name: np.concatenate([one.mean for one in parts]) for name, parts in told.items()}
    logs = {name: np.concatenate([one.log for one in parts]) for name, parts in told.items()}
    realised = np.exp(windows.log_variance[unseen])
    known = np.isfinite(realised) & np.isfinite([*mean.values(), *logs.values()]).all(axis=0)
    record = RiskRecord(horizon=windows.horizon, windows=float(known.sum() / windows.horizon), scores=(), below=())
    if known.any():
        forecasts = {name: RiskForecast(mean=mean[name][known], log=logs[name][known]) for name in mean}
        below = below_quantiles(realised[known], mean[NETWORK][known], np.concatenate(quantiles)[known])
        record = RiskRecord(
            horizon=windows.horizon,
            windows=record.windows,
            scores=rate_risk(realised[known], forecasts, windows.horizon),
            below=tuple(below.tolist()),
        )
    columns: dict[str, NDArray[Any]] = {"start_ms": dataset.candles.start_ms[unseen], "realised": realised, **mean}
    return {
        "risk.json": json.dumps(asdict(record), indent=1, allow_nan=False).encode(),
        "risk.parquet": parquet_bytes(columns),
    }


def _rivals(samples: Samples, recipe: Recipe, windows: RiskWindows, fold: Fold) -> dict[str, RiskForecast]:
    """Return what each rival foresees on a fold's test bars."""
    dataset, network = samples.dataset, recipe.network_config
    bars = bars_to_learn_from(fold, recipe.labels.horizon + 1, windows.horizon)
    log_ratio, log_unit, log_variance = windows.log_ratio, windows.log_unit, windows.log_variance
    if np.isfinite(log_ratio[bars]).sum() < FEWEST_WINDOWS * windows.horizon:
        silent = np.full(len(fold.test), np.nan)
        return dict.fromkeys((EWMA, HAR, TREES), RiskForecast(mean=silent, log=silent))
    inputs = har_inputs(dataset.candles.close, dataset.segment, dataset.ref.market.interval_ms)
    series = mirrored_series(dataset.features, samples.labels, dataset.segment).first(network.input_features)
    train = fold.train.start, fold.train.stop
    scaled = TabularSeries(series, train, network.input_clip, network.num_classes).scaled(np.arange(len(log_unit)))
    expected = {
        EWMA: log_unit,
        HAR: har(inputs, log_variance, bars),
        TREES: log_unit + trees(scaled, log_ratio, bars, windows.horizon, recipe.baselines),
    }
    return {name: _set_right(log, log_variance, bars, fold.test.rows) for name, log in expected.items()}


def _set_right(log: FloatArray, log_variance: FloatArray, bars: IntArray, test: slice) -> RiskForecast:
    """Return a forecast of the test bars, its logarithm and its mean set right by what was missed where it learned."""
    missed = (log_variance - log)[bars]
    missed = missed[np.isfinite(missed)]
    return RiskForecast(mean=np.exp(log[test]) * np.mean(np.exp(missed)), log=log[test] + missed.mean())
