"""Who forecasts risk without a network, learned from the bars that the network learned from: EWMA, HAR, LightGBM.

Each is set right by what its logarithm fell short of the mean where it learned.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from threadpoolctl import threadpool_limits

from storage.authorship import Where
from storage.schema import FloatArray, IntArray
from tasks.execution.vol_skill import VarianceForecast
from tasks.market.volatility import har_inputs
from tasks.market.walk_forward import Fold
from tasks.network.baselines import TabularSeries
from tasks.network.calibration import scaler
from tasks.network.vol_baselines import EWMA, FEWEST_WINDOWS, HAR, TREES, har, trees
from tasks.strategy.pool import teaching
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import Samples, mirrored_series, vol_horizon
from tasks.strategy.vol_windows import VolWindows, bars_to_learn_from, vol_windows

RIVALS = (EWMA, HAR, TREES)


class _Table(NamedTuple):
    """Bars of some markets, a row each.

    Attributes:
        start_ms: (N,) open time.
        inputs: (N, F) what the network reads.
        squares: (N, 3) what HAR reads.
        log_ratio, log_unit: (N,) as in `VolWindows`; the first is NaN where nobody may learn it.
    """

    start_ms: IntArray
    inputs: FloatArray
    squares: FloatArray
    log_ratio: FloatArray
    log_unit: FloatArray

    @classmethod
    def of(cls, samples: Samples, recipe: Recipe, bars: IntArray, *, learned: bool) -> Self:
        dataset, features = samples.dataset, recipe.network_config.input_features
        windows = vol_windows(dataset, vol_horizon(samples, recipe))
        squares = har_inputs(dataset.candles.close, dataset.segment, dataset.ref.market.interval_ms)
        log_ratio = windows.log_ratio[bars] if learned else np.full(len(bars), np.nan)
        inputs = dataset.features[bars, :features]
        return cls(dataset.candles.start_ms[bars], inputs, squares[bars], log_ratio, windows.log_unit[bars])

    def at(self, rows: IntArray) -> Self:
        return type(self)._make(column[rows] for column in self)

    @classmethod
    def joined(cls, tables: Sequence[Self]) -> Self:
        return cls._make(np.concatenate(columns) for columns in zip(*tables, strict=True))


def rivals_of_market(samples: Samples, recipe: Recipe, windows: VolWindows, fold: Fold) -> dict[str, VarianceForecast]:
    """Return what each rival forecasts on a fold's test bars, learned from the market's own bars before.

    Returns:
        By name; NaN throughout where there are too few windows to learn from.
    """
    dataset, network = samples.dataset, recipe.network_config
    bars = bars_to_learn_from(fold, recipe.labels.horizon + 1, windows.horizon)
    log_ratio, log_unit, log_variance = windows.log_ratio, windows.log_unit, windows.log_variance
    if np.isfinite(log_ratio[bars]).sum() < FEWEST_WINDOWS * windows.horizon:
        silent = np.full(len(fold.test), np.nan)
        return dict.fromkeys(RIVALS, VarianceForecast(mean=silent, log=silent))
    inputs = har_inputs(dataset.candles.close, dataset.segment, dataset.ref.market.interval_ms)
    series = mirrored_series(dataset.features, samples.labels, dataset.segment).first(network.input_features)
    train = fold.train.start, fold.train.stop
    scaled = TabularSeries(series, train, network.input_clip, network.num_classes).scaled(np.arange(len(log_unit)))
    with threadpool_limits(recipe.baselines.threads):
        expected = {
            EWMA: log_unit,
            HAR: har(inputs, log_variance, bars),
            TREES: log_unit + trees(scaled, log_ratio, bars, windows.horizon, recipe.baselines),
        }
    return {name: _set_right(log, log_variance, bars, fold.test.rows) for name, log in expected.items()}


def rivals_of_pool(datasets: Where, samples: Samples, recipe: Recipe) -> dict[str, VarianceForecast]:
    """Return what each rival forecasts on the test bars of a market's newest fold, learned from its pool's bars before.

    So they know as little of a market outside the pool as the pool's network does.

    Returns:
        By name; NaN throughout where there are too few windows to learn from.
    """
    fold, horizon = samples.folds[-1], vol_horizon(samples, recipe)
    members, tables = teaching(datasets, recipe, fold.index), []
    for one in members:
        bars = bars_to_learn_from(one.fold(fold.index), recipe.labels.horizon + 1, horizon)
        tables.append(_Table.of(one, recipe, bars, learned=True))
    learned = _Table.joined(tables)
    known = np.flatnonzero(np.isfinite(learned.log_ratio))
    if len(known) < FEWEST_WINDOWS * horizon:
        silent = np.full(len(fold.test), np.nan)
        return dict.fromkeys(RIVALS, VarianceForecast(mean=silent, log=silent))
    # By time, markets of one hour in any order: trees read every so many rows, which would else be one market's.
    shuffled = np.random.default_rng(recipe.baselines.seed).random(len(known))
    learned = learned.at(known[np.lexsort((shuffled, learned.start_ms[known]))])
    asked = _Table.of(samples, recipe, np.arange(fold.test.start, fold.test.stop), learned=False)
    both = _Table.joined([learned, asked])
    bars = np.arange(len(learned.log_ratio))
    mean, scale = scaler(learned.inputs)
    bound = np.inf if recipe.network_config.input_clip is None else recipe.network_config.input_clip
    scaled = ((both.inputs - mean) / scale).clip(-bound, bound)
    log_unit = both.log_unit
    with threadpool_limits(recipe.baselines.threads):
        expected = {
            EWMA: log_unit,
            HAR: har(both.squares, both.log_ratio + log_unit, bars),
            # Markets of one hour move together, so that a window of each is one.
            TREES: log_unit + trees(scaled, both.log_ratio, bars, horizon * len(members), recipe.baselines),
        }
    rows = slice(len(bars), len(log_unit))
    return {name: _set_right(log, both.log_ratio + log_unit, bars, rows) for name, log in expected.items()}


def _set_right(log: FloatArray, log_variance: FloatArray, bars: IntArray, test: slice) -> VarianceForecast:
    """Return a forecast of the test bars, its logarithm and its mean set right by what was missed where it learned."""
    missed = (log_variance - log)[bars]
    missed = missed[np.isfinite(missed)]
    return VarianceForecast(mean=np.exp(log[test]) * np.mean(np.exp(missed)), log=log[test] + missed.mean())
