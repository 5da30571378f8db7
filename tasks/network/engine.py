"""The network one bar at a time, compiled: a feature vector in, probabilities out, in about a microsecond.

With padding "history" every position of a window is shared with the windows before it, so a new bar costs one column
of work, whatever the window: rings keep what the dilated filters look back on, and running sums stand for the
average. The sums are started afresh once per window, so their error does not grow with the bars seen.

Imports NumPy and Numba, never torch. Compiled code calls `step_packed(engine.weights, engine.state(), x, out)`.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from storage.schema import ConfigError, FloatArray
from tasks.network.architecture import DSCConfig
from tasks.network.folding import Weights, fold
from tasks.network.kernels import Packed, markets_packed, series_packed, step_call
from tasks.network.packing import new_states, pack


class Engine:
    """A trained network and the state of one or more markets, all advanced with the same weights, in one thread.

    Attributes:
        weights: Its packed weights, for compiled callers.
        markets: M, how many markets have a state here.
    """

    def __init__(self, config: DSCConfig, weights: Packed, markets: int = 1) -> None:
        if markets < 1:
            raise ConfigError(f"markets must be >= 1, was {markets}")
        self.config = config
        self.weights = weights
        self.markets = markets
        self._outputs = config.outputs
        self._features = config.input_features
        self._states = new_states(weights, markets)
        self._flat = self._states.reshape(-1)
        self._rows: list[Packed] = list(self._states)
        self._steps = [step_call.bind(weights, row) for row in self._rows]
        if markets > 1:  # the same for its kernel: compiled, or loaded, now rather than at the first bar
            one = new_states(weights, 1).reshape(-1)
            markets_packed(weights, one, np.zeros(self._features), np.empty(self._outputs))

    @classmethod
    def from_weights(cls, config: DSCConfig, weights: Weights, markets: int = 1) -> Self:
        """Return an engine that has seen no bar; the weights go by their names in DSCTradingModel.state_dict().

        Raises:
            ConfigError: Padding is not "history", or `markets` < 1.
            ArtifactError: The weights don't fit the config, or are not finite.
        """
        if config.padding != "history":
            raise ConfigError(
                f'the engine needs padding "history", was {config.padding!r}: with zeros at its edges every window is'
                " new work; run such a network through torch or ONNX Runtime"
            )
        return cls(config, pack(fold(config, weights)), markets)

    def state(self, market: int = 0) -> Packed:
        """Return a market's state itself, not a copy, for compiled callers."""
        return self._rows[market]

    def step(self, features: ArrayLike, market: int = 0, out: FloatArray | None = None) -> FloatArray:
        """Advance a market by one closed bar.

        Args:
            features: (F,) raw features, finite; contiguous float64 is fastest, anything else is copied first.
            out: (outputs,) float64 to write to, and to return; a new array, without one, is a fifth of a bar's time.

        Returns:
            (outputs,): K calibrated probabilities, then of a network with a volatility head the variance forecast over
            the volatility horizon, as a multiple of present volatility's; NaN until `config.context` bars were seen.

        Raises:
            ValueError: Another shape, a feature that is not finite, or an unsuitable `out`; the state is as before.
        """
        result = np.empty(self._outputs) if out is None else out
        status = self._steps[market](features, result)
        if status < 0:
            self._step_slowly(features, market, result)
        return result

    def _step_slowly(self, features: ArrayLike, market: int, out: FloatArray) -> None:
        """Do `step` where the compiled call refused: another kind of array is copied, anything else is an error."""
        self._check_out(out)
        x, fresh = np.array(features, np.float64), np.empty(self._outputs)
        if x.shape != (self._features,):
            raise ValueError(f"features must be ({self._features},), was {x.shape}")
        status = self._steps[market](x, fresh)
        if status < 0:
            raise self._unusable(x, status)
        out[:] = fresh

    def step_markets(self, features: ArrayLike) -> FloatArray:
        """Advance every market by one closed bar.

        Args:
            features: (M, F) raw features, finite.

        Returns:
            (M, outputs), bit for bit those of `step`; NaN where a market is still warming up.

        Raises:
            ValueError: Another shape, or a feature that is not finite; every state is as before.
        """
        x = self._table(features)
        if len(x) != self.markets:
            raise ValueError(f"features must be ({self.markets}, {self._features}), one row per market, was {x.shape}")
        out = np.empty((self.markets, self._outputs))
        status = markets_packed(self.weights, self._flat, x.reshape(-1), out.reshape(-1))
        if status < 0:
            raise self._unusable(x, status)
        return out

    def warm_up(self, history: ArrayLike, market: int = 0) -> None:
        """Start a market from its past; `config.context - 1` bars make it ready.

        Args:
            history: (n, F) raw features of consecutive bars, finite, oldest first, up to the last closed one.

        Raises:
            ValueError: Another shape, or a feature that is not finite; the state is as before.
        """
        state, _ = self._run(history)
        self._rows[market][:] = state

    def run_series(self, features: ArrayLike) -> FloatArray:
        """Return the logits, and a volatility head's logarithm, of every bar that has its context; changes no state.

        Args:
            features: (T, F) raw features of consecutive bars, finite, oldest first.

        Returns:
            (T - context + 1, outputs), calibrated; row i belongs to bar i + context - 1.

        Raises:
            ValueError: Another shape, fewer bars than the context, or a feature that is not finite.
        """
        _, logits = self._run(features)
        context = self.config.context
        if len(logits) < context:
            raise ValueError(f"a series must have at least the context of {context} bars, was {len(logits)}")
        return logits[context - 1 :]

    def _run(self, features: ArrayLike) -> tuple[Packed, FloatArray]:
        """Return the state and the (T, outputs) outputs of a fresh market after this series."""
        x = self._table(features)
        state = new_states(self.weights, 1)[0]
        logits = np.empty((len(x), self._outputs))
        status = series_packed(self.weights, state, x.reshape(-1), logits.reshape(-1))
        if status < 0:
            raise self._unusable(x, status)
        return state, logits

    def _check_out(self, out: Any) -> None:
        fits = isinstance(out, np.ndarray) and out.shape == (self._outputs,) and out.dtype == np.float64
        if not (fits and out.flags.carray):
            raise ValueError(f"out must be a writable, contiguous ({self._outputs},) array of float64")

    def _table(self, features: ArrayLike) -> FloatArray:
        x = np.require(features, np.float64, ["C", "W"])
        if x.ndim != 2 or x.shape[1] != self._features:
            raise ValueError(f"features must be (rows, {self._features}), was {x.shape}")
        return x

    def _unusable(self, x: FloatArray, status: int) -> ValueError:
        index = np.unravel_index(-1 - status, x.shape)
        place = ", ".join(str(int(i)) for i in index)
        return ValueError(f"features must be finite, in float32 too, was {x[index]} at [{place}]; no state was changed")
