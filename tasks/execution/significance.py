"""Statistical tests of returns and losses. Ratios here are per observation, never annualised.

PSR, DSR and the minimum track record assume independent observations, such as days; the bootstrap and the HAC variance
allow dependent ones, such as bars. An undefined result is None, as in the metrics.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from storage.compiled import compiled
from storage.schema import FloatArray
from tasks.execution.metrics import sharpe_ratio

_NORMAL = NormalDist()
_EULER = 0.5772156649015329
_DRAWS, _SEED = 2_000, 7  # of resamples
_COVERAGE = 0.95
_ROUNDING = 1e-12  # of the largest value: a spread below it is no variation


@dataclass(frozen=True, kw_only=True)
class DieboldMariano:
    """Outcome of `diebold_mariano`.

    Attributes:
        mean_difference: Reference's loss minus the model's: positive where the model is better.
        standard_error: Of that mean, autocorrelation included.
        p_value: One-sided, under the null that the model is no better than the reference; mean / error is then
            standard normal.
    """

    mean_difference: float
    standard_error: float
    p_value: float


def sharpe_standard_error(returns: FloatArray) -> float | None:
    """Return the standard error of the Sharpe ratio per observation, skew and fat tails included.

    Bailey, Lopez de Prado 2012: sqrt((1 - g3 * SR + (g4 - 1) / 4 * SR^2) / (T - 1)) with g3 the
    skewness and g4 the kurtosis (normal: 3).
    """
    sharpe = sharpe_ratio(returns, 1.0)
    if sharpe is None:
        return None
    return math.sqrt(_shape(returns, sharpe) / (len(returns) - 1))


def probabilistic_sharpe(returns: FloatArray, benchmark: float = 0.0) -> float | None:
    """Return the probability that the true Sharpe ratio per observation exceeds `benchmark`."""
    sharpe, error = sharpe_ratio(returns, 1.0), sharpe_standard_error(returns)
    if sharpe is None or not error:
        return None
    return _NORMAL.cdf((sharpe - benchmark) / error)


def expected_max_sharpe(trials: float, variance: float) -> float:
    """Return the expected highest Sharpe ratio of `trials` strategies whose true ratio is 0.

    Args:
        trials: Strategies tried, >= 1, every seed and threshold included; the effective number where correlated.
        variance: Of the Sharpe ratio per observation over the trials.
    """
    if trials <= 1.0:
        return 0.0
    best = (1.0 - _EULER) * _NORMAL.inv_cdf(1.0 - 1.0 / trials) + _EULER * _NORMAL.inv_cdf(
        1.0 - 1.0 / (trials * math.e)
    )
    return math.sqrt(variance) * best


def deflated_sharpe(returns: FloatArray, trials: float, variance: float) -> float | None:
    """Return the probability that the true Sharpe ratio exceeds the expected best of `trials` strategies without skill.

    Bailey, Lopez de Prado 2014. Arguments as in `probabilistic_sharpe` and `expected_max_sharpe`.
    """
    return probabilistic_sharpe(returns, expected_max_sharpe(trials, variance))


def minimum_track_record(returns: FloatArray) -> float | None:
    """Return how many observations make this Sharpe ratio significant at 5 %; None where it is not above 0."""
    sharpe = sharpe_ratio(returns, 1.0)
    if sharpe is None or sharpe <= 0.0:
        return None
    return 1.0 + _shape(returns, sharpe) * (_NORMAL.inv_cdf(0.95) / sharpe) ** 2


def annualisation_factor(autocorrelation: FloatArray, periods: int) -> float | None:
    """Return the factor from the Sharpe ratio of one period to that of `periods`; sqrt(periods) if uncorrelated.

    Lo 2002: q / sqrt(q + 2 * sum over k < q of (q - k) * rho_k). None where that variance is not positive.

    Args:
        autocorrelation: (n,) rho_1, rho_2, …; lags beyond n count as 0.
        periods: q, >= 1.
    """
    rho = autocorrelation[: periods - 1]
    variance = periods + 2.0 * float(np.sum((periods - np.arange(1, len(rho) + 1)) * rho))
    return periods / math.sqrt(variance) if variance > 0.0 else None


def autocorrelations(values: FloatArray, lags: int) -> FloatArray | None:
    """Return the (lags,) sample autocorrelations from lag 1 on; None for equal values."""
    centred = values - values.mean()
    variance = float(centred @ centred)
    if variance <= (_ROUNDING * float(np.abs(values).max())) ** 2 * len(values):
        return None
    return np.array([centred[lag:] @ centred[: len(centred) - lag] / variance for lag in range(1, lags + 1)])


def mean_variance(values: FloatArray, lag: int) -> float:
    """Return the variance of the mean of `values`, autocorrelation up to `lag` included.

    It is the larger of two estimates. The plain sum (Hansen, Hodrick 1980, used by Diebold and Mariano) is unbiased
    where values further apart than `lag` are independent, but it can be negative. With Bartlett weights (Newey, West
    1987) it never is, but they capture only two thirds of an overlap of lag + 1 bars: a 5 % test would reject 9 % of
    the time.
    """
    centred = values - values.mean()
    bars = len(values)
    plain = weighted = float(centred @ centred)
    for k in range(1, min(lag, bars - 1) + 1):
        product = 2.0 * float(centred[k:] @ centred[:-k])
        plain += product
        weighted += (1.0 - k / (lag + 1.0)) * product
    return max(plain, weighted, 0.0) / bars**2


def diebold_mariano(*, model_loss: FloatArray, reference_loss: FloatArray, lag: int) -> DieboldMariano | None:
    """Test whether the model's expected loss is smaller than its reference's.

    Diebold, Mariano 1995. Labels that look `horizon` bars ahead make losses overlap: use lag >= horizon - 1.

    Args:
        model_loss: (T,) loss of each forecast, such as log-loss.
        reference_loss: (T,) of the reference, same bars.
        lag: Autocorrelation up to this lag enters the variance, >= 0.

    Returns:
        The test; None where the two losses differ by a constant, so that the variance is 0.
    """
    difference = reference_loss - model_loss
    mean, error = float(difference.mean()), math.sqrt(mean_variance(difference, lag))
    if error <= _ROUNDING * float(np.abs(difference).max()):
        return None
    return DieboldMariano(mean_difference=mean, standard_error=error, p_value=_NORMAL.cdf(-mean / error))


def draws_for(level: float) -> int:
    """Return how many resamples allow p-values far below `level`; the smallest possible one is 1 / (draws + 1)."""
    return max(_DRAWS, math.ceil(20.0 / level))


def stationary_bootstrap_test(
    difference: FloatArray, mean_block: float, *, draws: int = _DRAWS, seed: int = _SEED
) -> float:
    """Return the chance of such a mean of dependent differences if the true one were 0 or less.

    Politis, Romano 1994: blocks of random length are resampled. The block must be longer than the dependence: at least
    the label's horizon, the mean holding time and one day of bars. With blocks of one bar and an autocorrelation of
    0.3, a 5 % test rejects 11 % of the time.

    Args:
        difference: (T,) challenger's return minus the champion's, same bars, both out of sample.
        mean_block: Mean block length, bars, >= 1.

    Returns:
        p = (1 + #{resampled mean - mean >= mean}) / (draws + 1), so it is never 0.
    """
    means = bootstrap_means(difference[:, None], mean_block, draws=draws, seed=seed)[:, 0]
    mean = float(difference.mean())
    exceeded = int(np.count_nonzero(means - mean >= mean))
    return (1 + exceeded) / (draws + 1)


def sharpe_interval(returns: FloatArray, mean_block: float) -> tuple[float, float] | None:
    """Return the 95 % interval of the Sharpe ratio per observation by stationary bootstrap; None where undefined.

    A resample without variance contains only days without a position and counts as a ratio of 0. If it were left out,
    the interval of a single trade would come from the resamples that contain the trade alone.
    """
    if sharpe_ratio(returns, 1.0) is None:
        return None
    means = bootstrap_means(np.column_stack([returns, returns**2]), mean_block, draws=_DRAWS, seed=_SEED)
    variance = (means[:, 1] - means[:, 0] ** 2) * len(returns) / (len(returns) - 1)
    varied = variance > _ROUNDING * float(np.max(returns**2))
    ratios = np.divide(means[:, 0], np.sqrt(np.abs(variance)), out=np.zeros(_DRAWS), where=varied)
    low, high = np.quantile(ratios, ((1.0 - _COVERAGE) / 2.0, (1.0 + _COVERAGE) / 2.0))
    return float(low), float(high)


def bootstrap_means(values: FloatArray, mean_block: float, *, draws: int, seed: int) -> FloatArray:
    """Return the column means of stationary bootstrap resamples.

    Args:
        values: (T, k) observations; the columns of a row stay together.
        mean_block: Mean block length, >= 1.

    Returns:
        (draws, k).

    Raises:
        ValueError: `mean_block` < 1, no value, or one that is not finite.
    """
    if not mean_block >= 1.0:
        raise ValueError(f"mean_block must be >= 1 bar, was {mean_block!r}")
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values must be at least one row of finite numbers, were {values.shape}")
    # Blocks wrap around, so the series is repeated once; a block's sum is then a difference of two running sums.
    centre = values.mean(axis=0)
    running = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(np.tile(values - centre, (2, 1)), axis=0)])
    out = np.zeros((draws, values.shape[1]))
    _resample(running, 1.0 / mean_block, np.random.default_rng(seed), out)
    return np.asarray(out + centre, np.float64)


@compiled
def _resample(running: FloatArray, restart: float, rng: np.random.Generator, out: FloatArray) -> None:
    """Add to each row of `out` the mean of blocks of random start and geometric length of mean 1 / `restart`."""
    length = (len(running) - 1) // 2
    for draw in range(len(out)):
        filled = 0
        while filled < length:
            first = rng.integers(0, length)
            block = min(rng.geometric(restart), length - filled)
            for column in range(out.shape[1]):  # for whole rows, Numba would spend seconds compiling an error message
                out[draw, column] += running[first + block, column] - running[first, column]
            filled += block
        for column in range(out.shape[1]):
            out[draw, column] /= length


def _shape(returns: FloatArray, sharpe: float) -> float:
    """Return 1 - g3 * SR + (g4 - 1) / 4 * SR^2: the variance of sqrt(T) * SR at this skewness and kurtosis."""
    scaled = (returns - returns.mean()) / returns.std()
    skewness, kurtosis = float(np.mean(scaled**3)), float(np.mean(scaled**4))
    return 1.0 - skewness * sharpe + (kurtosis - 1.0) / 4.0 * sharpe**2
