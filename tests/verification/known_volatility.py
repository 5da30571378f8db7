"""What the volatility head reaches on real candles, and where the variance is a known process; one process each.

python tests/verification/known_volatility.py '{"measure": "volatility", "file": "...", "minutes": 60, ...}'
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from storage.schema import END_OF_TIME_MS, Candles, FloatArray, Market, Source
from storage.snapshots import Dataset, write_dataset
from tasks.execution.vol_skill import qlike
from tasks.market.features import build_features
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig
from tasks.strategy.fold_training import prepare_start, train
from tasks.strategy.folds import FoldResult
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import Samples, fold_bars, load_samples
from tasks.strategy.vol_forecast import record_vol_forecasts
from tasks.strategy.vol_windows import vol_windows
from tests.verification.known_market import recorded

FOLDS = 2


def samples_of(
    candles: Candles, market: Market, recipe: Recipe, test_from_ms: int, place: str
) -> tuple[Samples, Recipe]:
    """Return the candles as the recipe sees them, its folds set so that tests begin at `test_from_ms`."""
    built = build_features(candles.matrix(), market.interval_ms)
    first = int(np.argmax(np.isfinite(built.values).all(axis=1))) + recipe.network_config.context - 1
    tested = int((candles.start_ms >= test_from_ms).sum())
    shares = FoldConfig(folds=FOLDS, test_share=tested / (len(candles) - first), cut="shares")
    dataset = Dataset(
        source=Source("bybit"), market=market, candles=candles, features=built.values, vol=built.vol,
        segment=built.segment, funding_ms=np.array([], np.int64), funding_rate=np.array([]), code_hash="",
    )  # fmt: skip
    recipe = replace(recipe, folds=shares)
    return load_samples(place, write_dataset(place, dataset), recipe), recipe


def trained(samples: Samples, recipe: Recipe, seeds: int) -> list[list[FoldResult]]:
    """Return every seed's folds, each fold's from one start."""
    bars = [fold_bars(samples, recipe, index) for index in range(FOLDS)]
    starts = [prepare_start(one, recipe) for one in bars]
    found = []
    for _ in range(seeds):
        results = [train(one, recipe, start) for one, start in zip(bars, starts, strict=True)]
        found.append([result.judged(fold) for result, fold in zip(results, samples.folds, strict=True)])
        recipe = recipe.second_seed
    return found


def volatility(file: str, symbol: str, interval: str, test_from_ms: int, seeds: int) -> list[str]:
    """Return each seed's volatility record from `test_from_ms` on, as JSON."""
    market = Market(symbol=symbol, interval=interval)  # type: ignore[arg-type]  # from JSON
    candles = recorded(Path(file), 5, END_OF_TIME_MS)  # 5: as they are in the file
    with tempfile.TemporaryDirectory() as place:
        samples, recipe = samples_of(candles, market, Recipe(), test_from_ms, place)
    return [
        record_vol_forecasts(samples, recipe, folds)["risk.json"].decode() for folds in trained(samples, recipe, seeds)
    ]


def planted(bars: int, seed: int, hours: float) -> dict[str, float]:
    """Return QLIKE on a market of known law: of a constant, of the head, and of who knows the law and sees volume."""
    law = SyntheticMarket(kind="null", bars=bars, seed=seed, tau=0.2)
    candles, market = generate(law), Market(symbol="SYNTHUSDT", interval="5")
    recipe = replace(Recipe(), risk=replace(Recipe().risk, hours=hours))
    with tempfile.TemporaryDirectory() as place:
        samples, recipe = samples_of(candles, market, recipe, int(candles.start_ms[bars * 2 // 3]), place)
    (folds,) = trained(samples, recipe, 1)
    windows = vol_windows(samples.dataset, recipe.risk.horizon(market.interval_ms))
    rows = slice(samples.folds[0].test.start, samples.folds[-1].test.stop)
    realised = np.exp(windows.log_variance)
    said = np.exp(windows.log_unit[rows] + np.concatenate([fold.log_variance_ratio for fold in folds]))
    before = realised[: rows.start - windows.horizon]
    told = {
        "constant": np.full(len(said), np.nanmean(before)),
        "head": said,
        "law": expected_variance(law, candles, windows.horizon)[rows],
    }
    known = np.isfinite(realised[rows]) & np.isfinite(said)
    return {name: float(qlike(realised[rows][known], one[known]).mean()) for name, one in told.items()}


def expected_variance(law: SyntheticMarket, candles: Candles, horizon: int) -> FloatArray:
    """Return the variance that who knows the law expects of the next `horizon` bars, having seen every volume so far.

    ln v - 3 = beta h + tau nu, and h is an AR(1) process: a Kalman filter knows h as well as volumes can tell, with the
    mean m and the variance p; h in i bars is normal with mean phi^i m and variance phi^2i p + sv^2 (1 - phi^2i) /
    (1 - phi^2), and sigma^2 = volatility^2 exp(h - Var(h) / 4).
    """
    whole = law.sv**2 / (1 - law.phi**2)
    mean, variance = 0.0, whole
    i = np.arange(1, horizon + 1)
    decay = law.phi**i
    out = np.empty(len(candles))
    for bar, seen in enumerate(np.log(candles.volume) - 3.0):
        gain = variance * law.beta / (law.beta**2 * variance + law.tau**2)
        mean, variance = mean + gain * (seen - law.beta * mean), (1 - gain * law.beta) * variance
        spread = decay**2 * variance + whole * (1 - decay**2)
        out[bar] = law.volatility**2 * np.exp(decay * mean + spread / 2 - whole / 4).sum()
        mean, variance = law.phi * mean, law.phi**2 * variance + law.sv**2
    return out


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    measures = {one.__name__: one for one in (volatility, planted)}
    print(json.dumps(measures[asked.pop("measure")](**asked)))
