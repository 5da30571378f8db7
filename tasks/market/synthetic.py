"""Synthetic markets of known distribution, for which the best accuracy, log-loss and profit are known in closed form.

Every market has clustered volatility; its log returns are r_t = sigma_t * e_t with unit variance of e, so that sign(r)
= sign(e) and the best direction forecast does not depend on volatility. x is known at the close of bar t, e' is the e
of the next bar:

    kind     law of e, q = sqrt(1 - k^2), eps standard normal     x               finds
    null     e = eps                                              nothing         false discoveries
    ar       e' = k * e + q * eps                                 e               whether a linear signal is recovered
    gated    e' = k * g * e + q * eps                             g * e           interactions: linear models are blind
             g = sign(ln v - 3), volume above or below its median
    drift    e' = k * s + q * eps                                 s = ln v - 3    horizon, costs, profit end to end
             s an AR(1) process of unit variance

    ln v = 3 + tau * nu + beta * h, and in drift ln v = 3 + s, so that the signal is in the candles and nowhere else

Given x, which is standard normal, e' is normal with mean k * x and variance q^2; all optima follow from this
(`tests/verification/known_optimum.py`).
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from storage.bounds import Checked, HalfOpen, NonNegativeFloat, NonNegativeInt, PositiveInt, ProperShare
from storage.compiled import compiled
from storage.schema import Candles, ConfigError, FloatArray, Hidden, Title

Kind = Literal["null", "ar", "gated", "drift"]
Correlation = Annotated[float, Gt(-1), Lt(1)]

_LAW = 1  # increase it with any change of the generated candles, which then get another source
_FIRST_PRICE = 100.0
_LOG_VOLUME = 3.0  # median: 20 coins a bar


@dataclass(frozen=True, kw_only=True)
class SyntheticMarket(Checked):
    """A seeded synthetic market.

    With the default market a retrain of the default recipe ends in a promotion, on as few bars as possible: its signal
    is much stronger than any real market's, so that the profit after costs exceeds what the best of all trials could
    earn by luck. All of five training seeds were promoted (`tests/verification/promoted_seeds.json`).

    Attributes:
        kind: The signal: null (none), ar (the last return), gated (the last return, its sign reversed at low volume)
            or drift (a slow wave, visible in volume).
        k: Strength of the signal: its correlation with the next bar's return in units of volatility.
        psi: drift: autocorrelation of s per bar.
        bars: Number of bars. A longer market begins with exactly the bars of a shorter one.
        seed: Of all random numbers.
        volatility: Mean standard deviation of a bar's log return; 8e-4 is bitcoin's over a calm 5 minutes.
        interval_ms: Milliseconds per bar.
        start_ms: Open time of the first bar, UTC milliseconds; 2025-01-01 by default.
        phi: Autocorrelation of the log variance h per bar.
        sv: Standard deviation of h's shocks; 0 is constant volatility.
        tau: Log volume's own noise (not in drift).
        beta: Share of h in log volume (not in drift).
    """

    kind: Annotated[Kind, Title("Kind of signal")] = "drift"
    k: Annotated[HalfOpen, Title("Strength of the signal")] = 0.3
    psi: Annotated[Correlation, Hidden] = 0.85
    bars: Annotated[int, Ge(1), Le(10_000_000)] = 30_000  # so many as may be take about a gigabyte
    seed: NonNegativeInt = 7
    volatility: Annotated[ProperShare, Hidden] = 1.75e-3
    interval_ms: Annotated[PositiveInt, Hidden] = 300_000
    start_ms: Annotated[NonNegativeInt, Hidden] = 1_735_689_600_000
    phi: Annotated[Correlation, Hidden] = 0.985
    sv: Annotated[NonNegativeFloat, Hidden] = 0.12
    tau: Annotated[NonNegativeFloat, Hidden] = 0.5
    beta: Annotated[float, Hidden] = 0.5


def description(market: SyntheticMarket) -> bytes:
    """Return all parameters of a market but the number of bars as JSON, for `storage.schema.sandbox_source`.

    A market that is continued keeps its source.
    """
    law = asdict(market) | {"law": _LAW}
    del law["bars"]
    return json.dumps(law, sort_keys=True).encode()


def grown(market: SyntheticMarket, now_ms: int) -> SyntheticMarket:
    """Return the market with all bars that have closed by `now_ms`, for a market that continues in real time.

    Raises:
        ConfigError: Its first bar has not closed yet.
    """
    bars = (now_ms - market.start_ms) // market.interval_ms
    if bars < 1:
        raise ConfigError(f"a live market must have a closed bar, its first one opens at start_ms={market.start_ms}")
    return replace(market, bars=bars)


def generate(market: SyntheticMarket) -> Candles:
    """Return the market's candles; they depend on `market` only.

    Each bar opens at the close before it, the first one at 100; high and low are those of Brownian bridges from open
    to close (each of exact distribution, jointly approximate). Turnover is volume at the mean of open, high, low and
    close.
    """
    # One random stream for each quantity, so that a longer market begins with the bars of a shorter one.
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(market.seed).spawn(6)]
    eps, shocks, nu, signal = (stream.standard_normal(market.bars) for stream in streams[:4])
    up, down = (np.log1p(-stream.random(market.bars)) for stream in streams[4:])  # ln of a uniform number in (0, 1]

    h = _ar1(market.phi, market.sv, shocks)
    h_variance = market.sv**2 / (1 - market.phi**2)
    sigma = market.volatility * np.exp(h / 2 - h_variance / 8)  # its mean is `volatility`
    if market.kind == "drift":
        s = _ar1(market.psi, math.sqrt(1 - market.psi**2), signal)
        log_volume = _LOG_VOLUME + s
        seen = np.concatenate([[0.0], s[:-1]])
        e = market.k * seen + math.sqrt(1 - market.k**2) * eps
    else:
        log_volume = _LOG_VOLUME + market.tau * nu + market.beta * h
        k = market.k if market.kind != "null" else 0.0
        gate = np.sign(log_volume - _LOG_VOLUME) if market.kind == "gated" else np.ones(market.bars)
        e = _gated_ar1(k, gate, eps)

    r = sigma * e
    # Extremes of a Brownian bridge, by inversion: P(max > m) = exp(-2 m (m - r) / sigma^2).
    to_high = (r + np.sqrt(r**2 - 2 * sigma**2 * up)) / 2
    to_low = (r - np.sqrt(r**2 - 2 * sigma**2 * down)) / 2
    close = _FIRST_PRICE * np.exp(np.cumsum(r))
    open_ = np.concatenate([[_FIRST_PRICE], close[:-1]])
    high = np.maximum(open_ * np.exp(to_high), np.maximum(open_, close))  # rounding alone could fall short
    low = np.minimum(open_ * np.exp(to_low), np.minimum(open_, close))
    volume = np.exp(log_volume)
    return Candles(
        start_ms=market.start_ms + market.interval_ms * np.arange(market.bars, dtype=np.int64),
        open=open_,
        high=high,
        low=low,
        close=close,
        volume=volume,
        turnover=volume * (open_ + high + low + close) / 4,
    )


@compiled
def _ar1(coefficient: float, scale: float, noise: FloatArray) -> FloatArray:
    """Return (T,) a stationary AR(1) process: x' = coefficient * x + scale * noise."""
    x = np.empty(len(noise))
    value = noise[0] * scale / math.sqrt(1 - coefficient**2)
    for bar in range(len(noise)):
        if bar > 0:
            value = coefficient * value + scale * noise[bar]
        x[bar] = value
    return x


@compiled
def _gated_ar1(k: float, gate: FloatArray, eps: FloatArray) -> FloatArray:
    """Return (T,) e' = k * gate * e + sqrt(1 - k^2) * eps, where the gate is that of the bar before; unit variance."""
    e = np.empty(len(eps))
    e[0] = eps[0]
    for bar in range(1, len(eps)):
        e[bar] = k * gate[bar - 1] * e[bar - 1] + math.sqrt(1 - k**2) * eps[bar]
    return e
