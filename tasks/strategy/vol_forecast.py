"""What the volatility head forecasts, and how good that was on unseen bars beside forecasts without a network.

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
from storage.sealed import shape_of
from storage.tables import parquet_bytes, read_columns
from tasks.execution.vol_skill import VarianceForecast, VolScore, below_quantiles, beyond_usual, score_vol_forecasts
from tasks.strategy.folds import FoldResult
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe
from tasks.strategy.risk_rivals import RIVALS, rivals_of_market
from tasks.strategy.samples import Samples, vol_horizon
from tasks.strategy.vol_windows import VolWindows, vol_windows

NETWORK = "this model"


@dataclass(frozen=True, kw_only=True)
class VolForecastRecord:
    """What was forecast of volatility on unseen bars, and what came.

    Attributes:
        horizon: Bars of a window.
        windows: Unseen windows that do not overlap, of those that everybody speaks of.
        scores: The model first; none where it forecasts no volatility, or no window is known.
        below: Share of the windows at or below each of the model's forecast quantiles, `LEVELS`; none likewise.
        steadiness: Share of the windows whose risk was far beyond its usual one, as `beyond_usual` counts it, of
            positions of one size and of those that are sized by the model; none likewise. A bound on the size bounds
            the expected risk alike, and is left out.
        held_out: Symbol -> the record of a market that a network of the same pool never saw; the verdict on a new
            listing is theirs. None of any other market.
    """

    horizon: int
    windows: float
    scores: tuple[VolScore, ...]
    below: tuple[float, ...]
    steadiness: tuple[float, ...] = ()
    held_out: Mapping[str, VolForecastRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, files: dict[str, bytes]) -> VolForecastRecord:
        """Return the record that `record_vol_forecasts` wrote; before format 3 without steadiness."""
        return shape_of(cls).validate_python(parse_json(files["risk.json"]))

    def file(self) -> bytes:
        """Return it as risk.json."""
        document = asdict(self)
        if not self.held_out:  # a file as ever, for all but new listings
            del document["held_out"]
        return json.dumps(document, indent=1, allow_nan=False).encode()

    def named(self, name: str) -> VolScore | None:
        """Return the score of that name, or None."""
        return next((score for score in self.scores if score.name == name), None)


def vol_forecast_key(data: DatasetRef, recipe: Recipe, folds: Sequence[str]) -> str:
    """Return the key of the record: everything that it depends on, `folds` the trained folds' keys."""
    made_from = {
        "dataset": data.id,
        "folds": folds,
        "hours": recipe.risk.hours,
        "baselines": recipe.baselines,
        "code": code_behind("tasks.strategy.vol_forecast", known=("tasks.strategy.recipe",)),
    }
    return ResultStore.key("risk", made_from)


def record_vol_forecasts(
    samples: Samples, recipe: Recipe, folds: Sequence[FoldResult], rivals: Mapping[str, VarianceForecast] | None = None
) -> dict[str, bytes]:
    """Rate what the folds' models forecast on their unseen bars beside EWMA, HAR and LightGBM.

    `rivals` are what these forecast of the unseen bars; None lets them learn from the market's own. A refit's fold,
    which has no unseen bars, is left out.

    Returns:
        What a version keeps: the record as risk.json, and every forecast beside what came as risk.parquet.
    """
    windows = vol_windows(samples.dataset, vol_horizon(samples, recipe))
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


def rate_again(samples: Samples, recipe: Recipe, folds: Sequence[FoldResult], forecasts: bytes) -> VolForecastRecord:
    """Rate what a version's folds forecast once more, beside its rivals' forecasts as they are stored.

    `forecasts` is the version's risk.parquet.
    """
    windows, columns = vol_windows(samples.dataset, vol_horizon(samples, recipe)), read_columns(forecasts)
    rivals = {name: VarianceForecast(mean=columns[name], log=columns[f"{name}: ln RV"]) for name in RIVALS}
    record, _ = _rated(samples, windows, folds, {NETWORK: _of_network(samples, windows, folds), **rivals})
    return record


def _unseen(samples: Samples) -> slice:
    return slice(samples.folds[0].test.start, samples.folds[-1].test.stop)


def _joined(parts: Sequence[VarianceForecast]) -> VarianceForecast:
    return VarianceForecast(
        mean=np.concatenate([one.mean for one in parts]), log=np.concatenate([one.log for one in parts])
    )


def _of_network(samples: Samples, windows: VolWindows, folds: Sequence[FoldResult]) -> VarianceForecast:
    """Return what the folds' networks forecast of all unseen bars."""
    parts = []
    for fold, result in zip(samples.folds, folds, strict=False):
        log, head = windows.log_unit[fold.test.rows] + result.log_variance_ratio, result.risk
        parts.append(VarianceForecast(mean=np.exp(log), log=log + head.log_gap if head.windows else log * np.nan))
    return _joined(parts)


def _rated(
    samples: Samples, windows: VolWindows, folds: Sequence[FoldResult], told: Mapping[str, VarianceForecast]
) -> tuple[VolForecastRecord, FloatArray]:
    """Return what the forecasts of the unseen bars were worth, and what came of each."""
    realised = np.exp(windows.log_variance[_unseen(samples)])
    said = [numbers for one in told.values() for numbers in (one.mean, one.log)]
    known = np.isfinite(realised) & np.isfinite(said).all(axis=0)
    record = VolForecastRecord(
        horizon=windows.horizon, windows=float(known.sum() / windows.horizon), scores=(), below=()
    )
    if not known.any():
        return record, realised
    tests = zip(samples.folds, folds, strict=False)
    quantiles = np.concatenate([np.tile(result.risk.quantiles, (len(fold.test), 1)) for fold, result in tests])
    forecasts = {name: VarianceForecast(mean=one.mean[known], log=one.log[known]) for name, one in told.items()}
    below = below_quantiles(realised[known], forecasts[NETWORK].mean, quantiles[known])
    scores = score_vol_forecasts(realised[known], forecasts, windows.horizon)
    steadiness = beyond_usual(realised[known]), beyond_usual(realised[known] / forecasts[NETWORK].mean)
    return replace(record, scores=scores, below=tuple(below.tolist()), steadiness=steadiness), realised
