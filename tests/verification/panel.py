"""`make verify-panel`: one network for many markets against one a market, on recorded candles; figures in verify.json.

    python -m tests.verification.panel

All learn from bars before the holdout and are compared by log-loss on it: the pool's network, the market's own, one of
the pool without the market, and LightGBM as the pipeline fits it on the market's own bars. Gains are in nats, with
standard errors that count how long losses depend on each other, a day; markets of one hour are averaged before. The
holdouts have been read before, so nothing here confirms a choice. A bar that is missed is written down first and fails
then. Costs are 10 bp and 1 bp.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np

from storage.schema import (
    DAY_MS,
    END_OF_TIME_MS,
    INTERVAL_MS,
    Candles,
    DatasetRef,
    FloatArray,
    IntArray,
    Interval,
    Market,
    Source,
    utc_text,
)
from storage.settings import Settings
from storage.snapshots import Dataset, write_dataset
from tasks.execution.accounting import Costs
from tasks.execution.skill import log_losses
from tasks.market.features import build_features
from tasks.market.walk_forward import FoldConfig
from tasks.network.baselines import BOOSTING
from tasks.strategy import fold_training
from tasks.strategy.baseline_folds import train_baselines
from tasks.strategy.pool import pooled_bars, with_pool_passes
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import FoldBars, Samples, fold_bars, load_samples
from tests.verification.known_market import recorded

FILE_NAME = "verify.json"
BARS = {"panel_gain_alts": 0.0020, "panel_gain_btc": -0.0010, "panel_vs_lightgbm": 0.0005, "panel_1h_gain": 0.0005}
"""What each figure must be at least, nats."""
SEEDS = (7, 17, 27)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Markets of one interval, and where their holdout begins.

    Attributes:
        name: Of the candle files.
        interval: Bybit's code.
        symbols: The markets.
        holdout_ms: Open time of the holdout's first bar, UTC milliseconds.
        horizon: Bars ahead.
    """

    name: str
    interval: Interval
    symbols: tuple[str, ...]
    holdout_ms: int
    horizon: int


PANELS = {
    "5m": Panel(
        name="5m",
        interval="5",
        symbols=("BTCUSDT", "SOLUSDT", "BNBUSDT", "ADAUSDT"),
        holdout_ms=1_770_854_400_000,  # 2026-02-12
        horizon=12,
    ),
    "1h": Panel(
        name="1h",
        interval="60",
        symbols=("BTCUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT"),
        holdout_ms=1_705_968_000_000,  # 2024-01-23
        horizon=4,
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """What was forecast of one market's holdout.

    Attributes:
        clock: (N,) when each labelled bar opened, in bars.
        losses: Name -> (N,) log-loss of pool, own, the pool without it, LightGBM and prior, mean of the seeds, nats.
    """

    clock: IntArray
    losses: Mapping[str, FloatArray]

    def gain(self, over: str) -> FloatArray:
        """(N,) how much less the pool's network loses than another."""
        return self.losses[over] - self.losses["pool"]


def stored(datasets: Path, candles: Candles, market: Market) -> DatasetRef:
    """Store recorded candles as a dataset."""
    built = build_features(candles.matrix(), market.interval_ms)
    return write_dataset(
        datasets,
        Dataset(
            source=Source("bybit"), market=market, candles=candles, features=built.values, vol=built.vol,
            segment=built.segment, funding_ms=np.zeros(0, np.int64), funding_rate=np.zeros(0), code_hash="",
        ),
    )  # fmt: skip


def read_panel(panel: Panel, candles: Path, seeds: Sequence[int]) -> tuple[dict[str, Read], dict[str, float]]:
    """Train on what comes before the holdout and predict it.

    Args:
        panel: Markets and dates.
        candles: Folder of the recorded candles.
        seeds: Of the networks; each is trained once with each.

    Returns:
        What was forecast by market; and CPU seconds of the pooled networks, of the single ones, and of all baselines.
    """
    with tempfile.TemporaryDirectory() as folder:
        datasets = Path(folder)
        data = {}
        for symbol in panel.symbols:
            file = candles / f"bybit_linear_{symbol}_{panel.name}.parquet"
            series = recorded(file, 5, END_OF_TIME_MS)  # as they are
            data[symbol] = stored(datasets, series, Market(symbol=symbol, interval=panel.interval))
        recipe = Recipe(costs=Costs(commission=0.001, slippage=0.0001)).pooled_on([*data.values()])
        recipe = replace(recipe, labels=replace(recipe.labels, horizon=panel.horizon))
        recipe = _cut_at(datasets, next(iter(data.values())), recipe, panel.holdout_ms)
        samples = {symbol: load_samples(datasets, ref, recipe) for symbol, ref in data.items()}
        own = {symbol: fold_bars(one, recipe, 0) for symbol, one in samples.items()}
        joined = pooled_bars(datasets, recipe, 0)
        others = {}
        for symbol in data:
            rest = [ref for name, ref in data.items() if name != symbol]
            without = _cut_at(datasets, rest[0], recipe.pooled_on(rest), panel.holdout_ms)
            others[symbol] = pooled_bars(datasets, without, 0)
        return _read(panel, samples, own, joined, others, recipe, seeds)


def _read(
    panel: Panel,
    samples: Mapping[str, Samples],
    own: Mapping[str, FoldBars],
    joined: FoldBars,
    others: Mapping[str, FoldBars],
    recipe: Recipe,
    seeds: Sequence[int],
) -> tuple[dict[str, Read], dict[str, float]]:
    took = {"pooled": 0.0, "single": 0.0, "baselines": 0.0, "without": 0.0}

    def timed(name: str, call: Any, *given: Any) -> Any:
        began = time.process_time()
        found = call(*given)
        took[name] += time.process_time() - began
        print(f"{panel.name} {name}: {time.process_time() - began:,.0f} CPU s", file=sys.stderr, flush=True)
        return found

    predicted: dict[str, dict[str, list[FloatArray]]] = {symbol: {"pool": [], "own": []} for symbol in own}
    pool_start = timed("pooled", fold_training.prepare_start, joined, recipe)
    starts = {symbol: timed("single", fold_training.prepare_start, bars, recipe) for symbol, bars in own.items()}
    for seed in seeds:
        seeded = replace(recipe, fit=replace(recipe.fit_config, seed=seed))
        network = timed("pooled", fold_training.train, joined, with_pool_passes(seeded), pool_start)
        for symbol, bars in own.items():
            predicted[symbol]["pool"].append(fold_training.of_market(network, bars, seeded).probabilities)
            alone = timed("single", fold_training.train, bars, seeded, starts[symbol])
            predicted[symbol]["own"].append(alone.probabilities)
    found = {}
    for symbol, bars in own.items():
        held_out = timed("without", fold_training.train, others[symbol], with_pool_passes(recipe))
        predicted[symbol]["without it"] = [fold_training.of_market(held_out, bars, recipe).probabilities]
        trees = timed("baselines", train_baselines, bars, recipe).probabilities[BOOSTING]
        test = samples[symbol].folds[0].test.rows
        classes = samples[symbol].labels.classes[test]
        prior = np.tile(bars.prior, (len(classes), 1))
        each = {**predicted[symbol], BOOSTING: [trees], "prior": [prior]}
        known = (classes >= 0) & np.logical_and.reduce([np.isfinite(p).all(axis=1) for ps in each.values() for p in ps])
        losses = {
            name: np.mean([log_losses(p[known], classes[known]) for p in ps], axis=0) for name, ps in each.items()
        }
        clock = samples[symbol].dataset.candles.start_ms[test][known] // samples[symbol].dataset.market.interval_ms
        found[symbol] = Read(clock=clock, losses=losses)
    return found, took


def _cut_at(datasets: Path, data: DatasetRef, recipe: Recipe, holdout_ms: int) -> Recipe:
    """Return the recipe with one fold, whose test begins with the holdout's first bar."""

    def share_of(share: float) -> Recipe:
        return replace(recipe, folds=FoldConfig(folds=1, test_share=share))

    samples, bar = load_samples(datasets, data, share_of(0.5)), data.market.interval_ms
    start_ms, end_ms = samples.dataset.candles.start_ms, samples.known_until_ms[-1] + bar
    halves = (end_ms - int(start_ms[samples.folds[0].test.start])) // bar
    bars = (end_ms - holdout_ms) // bar
    cut = share_of(bars / (2 * halves))
    first = load_samples(datasets, data, cut).folds[0].test.start
    off = abs(int(start_ms[first]) - holdout_ms)
    assert off <= bar, f"the test begins {utc_text(int(start_ms[first]))}"
    return cut


def mean_and_error(reads: Sequence[Read], over: str, lag: int) -> tuple[float, float]:
    """Return the mean gain over another, markets of one hour averaged, and its standard error by Newey and West."""
    hours = np.unique(np.concatenate([one.clock for one in reads]))
    sums, counts = np.zeros(len(hours)), np.zeros(len(hours))
    for one in reads:
        at = np.searchsorted(hours, one.clock)
        sums[at] += one.gain(over)
        counts[at] += 1
    gains = sums / counts
    away = gains - gains.mean()
    variance = float(away @ away)
    for apart in range(1, lag + 1):
        variance += 2 * (1 - apart / (lag + 1)) * float(away[apart:] @ away[:-apart])
    return float(gains.mean()), float(np.sqrt(variance)) / len(gains)


def figures(panel: Panel, reads: Mapping[str, Read], took: Mapping[str, float]) -> dict[str, Any]:
    """Return what the panel's figures come to, each with its standard error."""
    lag = max(panel.horizon, DAY_MS // INTERVAL_MS[panel.interval])  # losses depend on each other for a day
    btc, *alts = reads.values()

    def of(key: str, some: Sequence[Read], over: str) -> dict[str, float]:
        mean, error = mean_and_error(some, over, lag)
        return {key: round(mean, 5), f"{key}_se": round(error, 5)}

    if panel.name == "1h":
        found = of("panel_1h_gain", [*reads.values()], "own") | of("panel_1h_vs_lightgbm", [*reads.values()], BOOSTING)
    else:
        found = of("panel_gain_alts", alts, "own") | of("panel_gain_btc", [btc], "own")
        found |= of("panel_vs_lightgbm", [*reads.values()], BOOSTING)
        ratio = (took["pooled"] + took["baselines"]) / (took["single"] + took["baselines"])
        found["pool_cpu_ratio"] = round(ratio, 3)
    kept = [float(np.mean(one.losses["prior"]) - np.mean(one.losses["without it"])) for one in reads.values()]
    skill = [float(np.mean(one.losses["prior"]) - np.mean(one.losses["own"])) for one in reads.values()]
    found[f"panel_{panel.name}_unseen_share"] = round(sum(kept) / sum(skill), 3)
    each = {
        symbol: {name: round(float(loss.mean()), 5) for name, loss in one.losses.items()} | {"labels": len(one.clock)}
        for symbol, one in reads.items()
    }
    return found | {f"panel_{panel.name}": each}


def verify_panel(*, panels: tuple[str, ...] = ("5m", "1h"), seeds: tuple[int, ...] = SEEDS) -> int:
    """Compare the pool's network with each market's own, write the figures, and return 0 if no bar is missed.

    Args:
        panels: Which of them.
        seeds: Of the networks.
    """
    folder = os.environ.get("DSC_TEST_DATA")
    if not folder:
        raise SystemExit("DSC_TEST_DATA must name the folder of the recorded candles, was unset")
    asked = {key: bar for key, bar in BARS.items() if ("1h" if key == "panel_1h_gain" else "5m") in panels}
    found: dict[str, Any] = dict.fromkeys(asked)
    place = Settings.from_environment().home / FILE_NAME
    place.parent.mkdir(parents=True, exist_ok=True)
    for name in panels:
        reads, took = read_panel(PANELS[name], Path(folder) / "candles", seeds)
        found |= figures(PANELS[name], reads, took)
        found["panel_seeds"] = list(seeds)
        kept = json.loads(place.read_text()) if place.exists() else {}  # of whatever else was verified
        place.write_text(json.dumps(kept | found, indent=1) + "\n")
        print(json.dumps(found, indent=1), flush=True)
    missed = [f"{key} must be >= {bar}, was {found[key]}" for key, bar in asked.items() if (found[key] or 0.0) < bar]
    if found.get("pool_cpu_ratio", 0.0) > 0.8:
        missed.append(f"pool_cpu_ratio must be <= 0.8, was {found['pool_cpu_ratio']}")
    print("; ".join(missed) or "every bar is met")
    return int(bool(missed))


if __name__ == "__main__":
    app = cyclopts.App(result_action="return_value")
    app.default(verify_panel)
    raise SystemExit(app())
