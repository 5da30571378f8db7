"""What the risk head foresees, and what it was worth on unseen bars beside those who foresee risk without a network.

Every forecast is of the same windows and learned from the same bars; each is set right by what its logarithm fell short
of the mean there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.foreign import parse_json
from storage.results import ResultStore
from storage.schema import DatasetRef, FloatArray
from storage.tables import parquet_bytes, read_columns
from tasks.execution.risk_skill import RiskForecast, RiskScore, below_quantiles, beyond_usual, rate_risk
from tasks.strategy.folds import FoldResult
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe
from tasks.strategy.risk_rivals import RIVALS, rivals_of_market
from tasks.strategy.risk_windows import RiskWindows, risk_windows
from tasks.strategy.samples import Samples, risk_horizon

NETWORK = "this model"


@dataclass(frozen=True, kw_only=True)
class RiskRecord:
    """What was foreseen of risk on unseen bars, and what came.

    Attributes:
        horizon: Bars of a window.
        windows: Unseen windows that do not overlap, of those that everybody speaks of.
        scores: The model first; none where it foresees no risk, or no window is known.
        below: Share of the windows at or below each of the model's foreseen quantiles, `LEVELS`; none likewise.
        steadiness: Share of the windows whose risk was far beyond its usual one, as `beyond_usual` counts it, of
            positions of one size and of those that are sized by the model; none likewise. A bound on the size bounds
            the expected risk alike, and is left out.
        strangers: Symbol -> the record of a market that a network of the same pool never saw; the verdict on a new
            listing is theirs. None of any other market.
    """

    horizon: int
    windows: float
    scores: tuple[RiskScore, ...]
    below: tuple[float, ...]
    steadiness: tuple[float, ...] = ()
    strangers: Mapping[str, RiskRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, files: dict[str, bytes]) -> RiskRecord:
        """Return the record that `record_risk` wrote."""
        return cls._of_document(parse_json(files["risk.json"]))

    @classmethod
    def _of_document(cls, document: Mapping[str, Any]) -> RiskRecord:
        scores = tuple(RiskScore(**line) for line in document["scores"])
        parts = {name: tuple(document.get(name, ())) for name in ("below", "steadiness")}  # format 2 has the first
        strangers = {symbol: cls._of_document(one) for symbol, one in document.get("strangers", {}).items()}
        return cls(**{**document, "scores": scores, **parts, "strangers": strangers})

    def file(self) -> bytes:
        """Return it as risk.json."""
        document = asdict(self)
        if not self.strangers:  # a file as ever, for all but new listings
            del document["strangers"]
        return json.dumps(document, indent=1, allow_nan=False).encode()

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


def record_risk(
    samples: Samples, recipe: Recipe, folds: Sequence[FoldResult], rivals: Mapping[str, RiskForecast] | None = None
) -> dict[str, bytes]:
    """Rate what the folds' models foresaw on their unseen bars beside EWMA, HAR and LightGBM.

    Args:
        samples: The dataset as the recipe sees it.
        recipe: Horizon and network, and how trees are grown.
        folds: Of the walk-forward, oldest first, with the predictions of their tests; a refit after them, which has no
            unseen bars, is left out.
        rivals: What these foresee of the unseen bars; None lets them learn from the market's own.
    Returns:
        What a version keeps: the record as risk.json, and every forecast beside what came as risk.parquet.
    """
    windows = risk_windows(samples.dataset, risk_horizon(samples, recipe))
    if rivals is None:
        parts = [rivals_of_market(samples, recipe, windows, fold) for fold in samples.folds]
        rivals = {name: _joined([one[name] for one in parts]) for name in RIVALS}
    told = {NETWORK: _of_network(samples, windows, folds), **rivals}
    record, realised = _rated(samples, windows, folds, told)
    columns: dict[str, NDArray[Any]] = {
        "start_ms": samples.dataset.candles.start_ms[_unseen(samples)],
        "realised": realised,
        **{name: one.mean for name, one in told.items()},
        **{f"{name}: ln RV": one.log for name, one in told.items()},
    }
    return {
        "risk.json": record.file(),
        "risk.parquet": parquet_bytes(columns),
    }


def rate_again(samples: Samples, recipe: Recipe, folds: Sequence[FoldResult], forecasts: bytes) -> RiskRecord:
    """Rate what a version's folds foresaw once more, beside its rivals' forecasts as they are stored.

    Args:
        samples: The dataset as the recipe sees it.
        recipe: Horizon and network.
        folds: With the predictions of their tests, as in `record_risk`.
        forecasts: The version's risk.parquet.
    """
    windows, columns = risk_windows(samples.dataset, risk_horizon(samples, recipe)), read_columns(forecasts)
    rivals = {name: RiskForecast(mean=columns[name], log=columns[f"{name}: ln RV"]) for name in RIVALS}
    record, _ = _rated(samples, windows, folds, {NETWORK: _of_network(samples, windows, folds), **rivals})
    return record


def _unseen(samples: Samples) -> slice:
    return slice(samples.folds[0].test.start, samples.folds[-1].test.stop)


def _joined(parts: Sequence[RiskForecast]) -> RiskForecast:
    return RiskForecast(
        mean=np.concatenate([one.mean for one in parts]), log=np.concatenate([one.log for one in parts])
    )


def _of_network(samples: Samples, windows: RiskWindows, folds: Sequence[FoldResult]) -> RiskForecast:
    """Return what the folds' networks foresee of all unseen bars."""
    parts = []
    for fold, result in zip(samples.folds, folds, strict=False):
        log, head = windows.log_unit[fold.test.rows] + result.log_variance_ratio, result.risk
        parts.append(RiskForecast(mean=np.exp(log), log=log + head.log_gap if head.windows else log * np.nan))
    return _joined(parts)


def _rated(
    samples: Samples, windows: RiskWindows, folds: Sequence[FoldResult], told: Mapping[str, RiskForecast]
) -> tuple[RiskRecord, FloatArray]:
    """Return what the forecasts of the unseen bars were worth, and what came of each."""
    realised = np.exp(windows.log_variance[_unseen(samples)])
    said = [numbers for one in told.values() for numbers in (one.mean, one.log)]
    known = np.isfinite(realised) & np.isfinite(said).all(axis=0)
    record = RiskRecord(horizon=windows.horizon, windows=float(known.sum() / windows.horizon), scores=(), below=())
    if not known.any():
        return record, realised
    tests = zip(samples.folds, folds, strict=False)
    quantiles = np.concatenate([np.tile(result.risk.quantiles, (len(fold.test), 1)) for fold, result in tests])
    forecasts = {name: RiskForecast(mean=one.mean[known], log=one.log[known]) for name, one in told.items()}
    below = below_quantiles(realised[known], forecasts[NETWORK].mean, quantiles[known])
    scores = rate_risk(realised[known], forecasts, windows.horizon)
    steadiness = beyond_usual(realised[known]), beyond_usual(realised[known] / forecasts[NETWORK].mean)
    return replace(record, scores=scores, below=tuple(below.tolist()), steadiness=steadiness), realised
