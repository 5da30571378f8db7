"""A closed candle to a decision in one compiled call: features, network and rule with nothing of Python in between.

It calls the very functions that history is made with, `features.advance`, `kernels.step_packed` and `decision.decide`,
so live and backtest agree. A bar without features, as after a gap or in a halt, makes the network forget; until both
are warm again the probabilities are NaN and the target is 0.

A network with a volatility head forecasts volatility too; without one that is NaN.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from storage.compiled import compiled
from storage.direct_call import UNFIT, Direct, answer, bound, fits, given, numbers, whole
from storage.schema import CLASSES, DAY_MS, FEATURES, ConfigError, FloatArray
from tasks.execution.decision import decide, share_of
from tasks.market.features import OUTPUTS, WARM_UP, advance, new_state
from tasks.network.engine import Engine
from tasks.network.kernels import FEATURES as INPUTS
from tasks.network.kernels import OUTPUTS as SAID
from tasks.network.kernels import Packed, step_packed

_INPUTS, _KNOWN = len(FEATURES), len(OUTPUTS)
PROBABILITIES = slice(_KNOWN, _KNOWN + len(CLASSES))
"""Where the probabilities stand in the values of a tick; before them the features and vol."""
_FORECAST = PROBABILITIES.stop
_SHARE = _FORECAST + 1
_VALUES = _SHARE + 1


def forecast_vol(values: FloatArray) -> float:
    """Return the forecast volatility among the values of a tick; NaN where they end before it."""
    return float(values[_FORECAST]) if len(values) > _FORECAST else math.nan


def share_taken(values: FloatArray) -> float:
    """Return the share of the usual position among the values of a tick; 1, all of it, where they end before it."""
    return float(values[_SHARE]) if len(values) > _SHARE else 1.0


def day_vol(values: FloatArray, interval_ms: int) -> float:
    """Return the forecast volatility of 24 hours among the values of a tick of a bar that long; NaN where unknown."""
    return forecast_vol(values) * math.sqrt(DAY_MS / interval_ms)


class Tick(NamedTuple):
    """What one closed candle led to.

    Attributes:
        target: Position to hold from the next open: -1, 0 or 1.
        values: (F + 6,) features, vol, three probabilities, forecast volatility, NaN where not ready; the share of the
            usual position that one which is opened now takes, 0 where that is unknown.
    """

    target: int
    values: FloatArray

    @property
    def features(self) -> FloatArray:
        """(F,) in the order of `storage.schema.FEATURES`; the network reads the first that it has inputs for."""
        return self.values[:_INPUTS]

    @property
    def vol(self) -> float:
        """Volatility per bar."""
        return float(self.values[_INPUTS])

    @property
    def probabilities(self) -> FloatArray:
        """(3,) sell, hold, buy, calibrated."""
        return self.values[PROBABILITIES]

    @property
    def forecast_vol(self) -> float:
        """Volatility per bar forecast over the volatility horizon: the square root of the expected mean variance."""
        return forecast_vol(self.values)

    @property
    def share(self) -> float:
        """Share of the usual position that one which is opened now takes, in 0..1."""
        return share_taken(self.values)


class LiveTick:
    """One market, candle by candle.

    Args:
        engine: The trained network; this object advances the state of its first market.
        params: (10,) from `tasks.strategy.recipe.decision_params`.

    Attributes:
        history_bars: Candles of unbroken history, without those of halts, after which the next one has probabilities.

    Raises:
        ConfigError: The network takes more inputs, or has other classes, than features and decision know.
    """

    def __init__(self, engine: Engine, interval_ms: int, params: FloatArray) -> None:
        inputs, classes = engine.config.input_features, engine.config.num_classes
        if inputs > _INPUTS or classes != len(CLASSES):
            raise ConfigError(
                f"a live network must read at most {_INPUTS} features and tell {len(CLASSES)} classes apart, "
                f"was {inputs} and {classes}"
            )
        self.history_bars = WARM_UP + engine.config.context - 2
        packed = np.array(params, np.float64)
        self._tick = _tick_direct.bind(engine.weights, engine.state(0), new_state(interval_ms), packed)

    def step(self, candle: ArrayLike, position: int = 0, bars_held: int = 0) -> Tick:
        """Take in one closed candle.

        Args:
            candle: (6,) start_ms, open, high, low, close, volume; a float64 array is fastest.
            position: What is held now: -1, 0 or 1.
            bars_held: Bars for which it has been held, the fill's own bar included.

        Raises:
            ValueError: Another shape; nothing was taken in.
        """
        values = np.empty(_VALUES)
        target = self._tick(candle, position, bars_held, values)
        if target == UNFIT:  # no contiguous float64: a list, say
            x = np.array(candle, np.float64)
            if x.shape != (6,):
                raise ValueError(f"candle must be (6,): start_ms open high low close volume, was {x.shape}")
            target = self._tick(x, position, bars_held, values)
        return Tick(target, values)

    def warm_up(self, matrix: FloatArray) -> None:
        """Take in past candles (T, 6), oldest first, up to the last closed one; `history_bars` are enough."""
        for candle in matrix:
            self.step(candle)


@compiled
def tick_packed(
    weights: Packed,
    network: Packed,
    features: FloatArray,
    params: FloatArray,
    candle: FloatArray,
    position: int,
    bars_held: int,
    values: FloatArray,
) -> int:
    """Advance features and network by one candle, and return the target.

    Args:
        weights: The engine's.
        network: Its state of one market; changed in place.
        features: State from `features.new_state`; changed in place.
        params: (10,) of the decision.
        candle: (6,) start_ms, open, high, low, close, volume.
        position: -1, 0 or 1.
        bars_held: Bars for which it has been held.
        values: (F + 6,) overwritten, as in `Tick`.
    """
    advance(features, candle, values[:_KNOWN])
    values[_KNOWN:] = np.nan
    if np.isnan(values[_INPUTS]):
        network[:] = 0
    else:
        status = step_packed(
            weights, network, values[: int(weights[INPUTS])], values[_KNOWN : _KNOWN + int(weights[SAID])]
        )
        if status < 0:  # out of float32's range: a bar that history leaves out too, and whose context is lost
            network[:] = 0
        values[_FORECAST] = values[_INPUTS] * math.sqrt(values[_FORECAST])
    vol, forecast = values[_INPUTS], values[_FORECAST]
    values[_SHARE] = share_of(forecast, params)
    return decide(values[_KNOWN], values[_KNOWN + 1], values[_KNOWN + 2], vol, forecast, position, bars_held, params)


def _tick_call(own: int, arguments: int, count: int) -> int:
    """Do `tick_packed`: bound to weights, network, features and params it takes the rest, and answers the target."""
    if count != 4:
        return answer(UNFIT)
    candle, values = given(arguments, 0), given(arguments, 3)
    if not fits(own, candle, 6, False) or not fits(own, values, _VALUES, True):
        return answer(UNFIT)
    is_position, position = whole(given(arguments, 1))
    is_count, bars_held = whole(given(arguments, 2))
    if not is_position or not is_count:
        return 0
    weights, network = bound(own, 0, np.float32), bound(own, 1, np.float32)
    features, params = bound(own, 2, np.float64), bound(own, 3, np.float64)
    x, result = numbers(candle, 6), numbers(values, _VALUES)
    return answer(tick_packed(weights, network, features, params, x, position, bars_held, result))


_tick_direct = Direct(_tick_call)
