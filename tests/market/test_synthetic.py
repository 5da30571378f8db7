"""The closed forms against published tables, quadrature by SciPy, and the markets themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import integrate, stats

from storage.schema import Candles, ConfigError, FloatArray, sandbox_source
from tasks.market.features import WARM_UP, build_features
from tasks.market.synthetic import Kind, SyntheticMarket, description, generate
from tests.verification.known_optimum import (
    THIRDS,
    best_accuracy,
    best_log_loss,
    drift_best_accuracy,
    drift_best_log_loss,
    drift_correlation,
    drift_flips_per_bar,
    drift_gross_per_bar,
    drift_net_per_bar,
)

KINDS: tuple[Kind, ...] = ("null", "ar", "gated", "drift")


def log_returns(candles: Candles) -> FloatArray:
    return np.log(candles.close / candles.open)


@pytest.fixture(scope="module")
def drift() -> Candles:
    """2,000,000 bars: s forgets itself so slowly that they are worth 5,000 independent ones."""
    return generate(SyntheticMarket(k=0.2, psi=0.995, volatility=8e-4, bars=2_000_000, seed=1))


@pytest.fixture(scope="module")
def constant_drift() -> Candles:
    """Constant volatility, as the formulas over a horizon assume, and a signal that forgets itself within 20 bars."""
    return generate(SyntheticMarket(k=0.3, psi=0.9, volatility=8e-4, bars=1_000_000, seed=2, sv=0.0))


@pytest.mark.parametrize(
    ("k", "two", "three", "loss", "gross_bp"),
    [
        (0.05, 0.51592, 0.34785, 1.09762, 0.32),
        (0.10, 0.53188, 0.36244, 1.09463, 0.64),
        (0.20, 0.56409, 0.39217, 1.08249, 1.28),
        (0.30, 0.59699, 0.42321, 1.06155, 1.91),
        (0.50, 0.66667, 0.49296, 0.98779, 3.19),
    ],
)
def test_optima_equal_the_published_table(k: float, two: float, three: float, loss: float, gross_bp: float) -> None:
    # The table's third column is rounded from a threshold of 0.43073; ours is 0.4307: hence 1.5e-5.
    assert best_accuracy(k, 2) == pytest.approx(two, abs=5e-6)
    assert best_accuracy(k, 3) == pytest.approx(three, abs=1.5e-5)
    assert best_log_loss(k, 3) == pytest.approx(loss, abs=5e-6)
    assert drift_gross_per_bar(k, 8e-4) * 1e4 == pytest.approx(gross_bp, abs=5e-3)


@pytest.mark.oracle
@pytest.mark.parametrize("k", [0.0, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("threshold", [0.0, THIRDS, 1.0])
def test_optima_equal_scipy_s_quadrature(k: float, threshold: float) -> None:
    q = np.sqrt(1 - k**2)

    def probabilities(x: float) -> FloatArray:
        sell, below = stats.norm.cdf([(-threshold - k * x) / q, (threshold - k * x) / q])
        return np.array([sell, below - sell, 1 - below])

    def integral(of: object) -> float:
        parts = itertools.pairwise(np.linspace(-8, 8, 33))
        return float(sum(integrate.quad(of, a, b, epsabs=1e-10)[0] for a, b in parts))

    accuracy = integral(lambda x: probabilities(x).max() * stats.norm.pdf(x))
    loss = integral(lambda x: stats.entropy(probabilities(x)) * stats.norm.pdf(x))
    assert best_accuracy(k, 3, threshold) == pytest.approx(accuracy, abs=1e-6)
    assert best_log_loss(k, 3, threshold) == pytest.approx(loss, abs=1e-6)
    if threshold == 0:
        assert best_accuracy(k, 2) == pytest.approx(accuracy, abs=1e-6)
        assert best_log_loss(k, 2) == pytest.approx(loss, abs=1e-6)


def test_optima_are_chance_when_there_is_no_signal() -> None:
    assert best_accuracy(0.0, 2) == 0.5
    assert best_log_loss(0.0, 2) == pytest.approx(np.log(2), abs=1e-12)
    assert best_accuracy(0.0, 3) == pytest.approx(1 / 3, abs=1e-5)
    assert best_log_loss(0.0, 3) == pytest.approx(np.log(3), abs=1e-9)
    assert drift_best_accuracy(0.0, 0.995, 12) == 0.5


@pytest.mark.parametrize(("horizon", "accuracy"), [(1, 0.5641), (15, 0.7055), (60, 0.7735), (240, 0.7268)])
def test_drift_s_best_accuracy_equals_the_published_one(horizon: int, accuracy: float) -> None:
    assert drift_best_accuracy(0.2, 0.995, horizon) == pytest.approx(accuracy, abs=5e-5)


def test_drift_s_correlation_is_k_over_one_bar_and_known_by_hand_over_two() -> None:
    assert drift_correlation(0.3, 0.9, 1) == pytest.approx(0.3, abs=1e-15)
    # cov = k (1 + psi) = 0.57; variance = 2 + 2 k^2 psi = 2.162.
    assert drift_correlation(0.3, 0.9, 2) == pytest.approx(0.57 / np.sqrt(2.162), abs=1e-15)


@pytest.mark.parametrize(("k", "net_bp"), [(0.2, 0.640), (0.1, 0.001)])
def test_drift_s_net_profit_equals_the_published_one(k: float, net_bp: float) -> None:
    assert drift_net_per_bar(k, 0.995, 8e-4, 0.001) * 1e4 == pytest.approx(net_bp, abs=5e-4)
    assert drift_flips_per_bar(0.995) == pytest.approx(0.0318, abs=5e-5)


def test_drift_earns_its_closed_form_when_simulated(drift: Candles) -> None:
    side = np.sign(np.log(drift.volume[:-1]) - 3)
    r = log_returns(drift)[1:]
    # Standard errors by batches of 20,000 bars, a hundred times the memory of s.
    gross = (side * r)[:1_980_000].reshape(-1, 20_000).mean(axis=1)
    flips = (np.abs(np.diff(side)) / 2)[:1_980_000].reshape(-1, 20_000).mean(axis=1)
    net = gross - 2 * 0.001 * flips
    for batches, expected in (
        (gross, drift_gross_per_bar(0.2, 8e-4)),
        (flips, drift_flips_per_bar(0.995)),
        (net, drift_net_per_bar(0.2, 0.995, 8e-4, 0.001)),
    ):
        error = batches.std(ddof=1) / np.sqrt(len(batches))
        assert batches.mean() == pytest.approx(expected, abs=4 * error)
    one_leg = 0.001 * drift_flips_per_bar(0.995)
    assert 4 * error < one_leg, "the test must tell one leg's costs from two"


@pytest.mark.parametrize("horizon", [1, 3, 12, 48])
def test_drift_over_a_horizon_has_its_closed_form_when_simulated(constant_drift: Candles, horizon: int) -> None:
    k, psi, sigma = 0.3, 0.9, 8e-4
    s = np.log(constant_drift.volume[:-horizon]) - 3
    log_close = np.log(constant_drift.close)
    z = (log_close[horizon:] - log_close[:-horizon]) / (sigma * np.sqrt(horizon))
    # Overlap costs a factor of `horizon`, and s's memory one of (1 + psi) / (1 - psi) = 19.
    independent = len(z) / (horizon + 19)
    error = 4 * np.sqrt(0.25 / independent)
    assert np.corrcoef(s, z)[0, 1] == pytest.approx(drift_correlation(k, psi, horizon), abs=4 / np.sqrt(independent))
    assert np.mean(np.sign(s) == np.sign(z)) == pytest.approx(drift_best_accuracy(k, psi, horizon), abs=error)

    # The best three-class forecast, from the conditional law: z given s is normal.
    rho = drift_correlation(k, psi, horizon)
    deviation = k * (1 - psi**horizon) / (1 - psi) / np.sqrt(horizon) / rho
    sell = stats.norm.cdf((-THIRDS / deviation - rho * s) / np.sqrt(1 - rho**2))
    buy = stats.norm.cdf((rho * s - THIRDS / deviation) / np.sqrt(1 - rho**2))
    p = np.stack([sell, 1 - sell - buy, buy])
    came = 1 + (z > THIRDS).astype(int) - (z < -THIRDS)
    assert np.mean(p.argmax(axis=0) == came) == pytest.approx(drift_best_accuracy(k, psi, horizon, 3), abs=error)
    loss = -np.log(p[came, np.arange(len(came))])
    assert loss.mean() == pytest.approx(drift_best_log_loss(k, psi, horizon), abs=4 * loss.std() / np.sqrt(independent))


@pytest.mark.parametrize(
    ("kind", "k", "two", "three"),
    [
        ("null", 0.3, 0.5, 1 / 3),
        ("ar", 0.3, 0.59699, 0.42321),
        ("gated", 0.3, 0.59699, 0.42321),
        ("gated", 0.1, 0.53188, 0.36244),
    ],
)
def test_one_bar_markets_reach_their_best_accuracy_when_simulated(
    kind: Kind, k: float, two: float, three: float
) -> None:
    bars, sigma = 400_000, 8e-4
    candles = generate(SyntheticMarket(kind=kind, k=k, bars=bars, seed=4, sv=0.0, volatility=sigma))
    e = log_returns(candles) / sigma
    gate = np.sign(np.log(candles.volume) - 3) if kind == "gated" else 1.0
    x, following = (gate * e)[:-1], e[1:]
    # The likeliest class, given that e is normal with mean k * x and variance q^2.
    q = np.sqrt(1 - k**2)
    sell, buy = stats.norm.cdf((-THIRDS - k * x) / q), stats.norm.cdf((k * x - THIRDS) / q)
    forecast = np.argmax([sell, 1 - sell - buy, buy], axis=0)
    came = 1 + (following > THIRDS).astype(int) - (following < -THIRDS)
    assert np.mean(np.sign(x) == np.sign(following)) == pytest.approx(two, abs=4 * 0.0008)
    assert np.mean(forecast == came) == pytest.approx(three, abs=4 * 0.0008)
    assert e.mean() == pytest.approx(0, abs=4 * np.sqrt((1 + k) / (1 - k) / bars))
    assert e.var() == pytest.approx(1, abs=0.02)


def test_volatility_clusters_as_stated() -> None:
    r = log_returns(generate(SyntheticMarket(kind="null", volatility=8e-4, bars=1_000_000, seed=8)))
    size = np.abs(r) - np.abs(r).mean()
    # E|r| = sigma_bar * sqrt(2 / pi); kurtosis = 3 * exp(Var h) with Var h = 0.12^2 / (1 - 0.985^2).
    assert np.abs(r).mean() == pytest.approx(8e-4 * np.sqrt(2 / np.pi), rel=0.02)
    assert stats.kurtosis(r, fisher=False) == pytest.approx(3 * np.exp(0.12**2 / (1 - 0.985**2)), abs=0.35)
    for lag, expected in ((1, 0.16), (10, 0.14), (50, 0.08), (200, 0.01)):
        assert np.mean(size[lag:] * size[:-lag]) / size.var() == pytest.approx(expected, abs=0.015)
    assert np.corrcoef(r[1:], r[:-1])[0, 1] == pytest.approx(0, abs=4 * np.sqrt(4.9 / 1e6))


def test_extremes_are_those_of_brownian_bridges() -> None:
    sigma = 8e-4
    candles = generate(SyntheticMarket(kind="null", volatility=sigma, sv=0.0, bars=200_000, seed=9))
    # Over all closes, a Brownian motion's maximum is that of |normal|: mean sqrt(2/pi), deviation sqrt(1 - 2/pi).
    mean, deviation = np.sqrt(2 / np.pi), np.sqrt(1 - 2 / np.pi)
    for reach in (np.log(candles.high / candles.open), np.log(candles.open / candles.low)):
        assert reach.mean() / sigma == pytest.approx(mean, abs=4 * deviation / np.sqrt(200_000))
        assert reach.std() / sigma == pytest.approx(deviation, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_candles_are_consistent(kind: Kind) -> None:
    market = SyntheticMarket(kind=kind, bars=20_000)
    candles = generate(market)
    np.testing.assert_array_equal(candles.start_ms, market.start_ms + 300_000 * np.arange(20_000))
    assert candles.open[0] == 100.0
    np.testing.assert_array_equal(candles.open[1:], candles.close[:-1])
    assert (candles.low <= np.minimum(candles.open, candles.close)).all()
    assert (candles.high >= np.maximum(candles.open, candles.close)).all()
    assert (candles.low > 0).all()
    assert (candles.volume > 0).all()
    assert (candles.low * candles.volume <= candles.turnover).all()
    assert (candles.turnover <= candles.high * candles.volume).all()
    assert np.median(np.log(candles.volume)) == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_longer_market_begins_with_the_shorter_one(kind: Kind) -> None:
    short = generate(SyntheticMarket(kind=kind, bars=1_003))
    long = generate(SyntheticMarket(kind=kind, bars=5_000))
    np.testing.assert_array_equal(long.matrix()[:1_003], short.matrix())
    np.testing.assert_array_equal(long.turnover[:1_003], short.turnover)
    np.testing.assert_array_equal(generate(SyntheticMarket(kind=kind, bars=5_000)).matrix(), long.matrix())


def test_market_is_another_when_its_seed_is() -> None:
    first, second = (generate(SyntheticMarket(bars=1_000, seed=seed)) for seed in (7, 8))
    assert abs(np.corrcoef(log_returns(first), log_returns(second))[0, 1]) < 0.15


def test_drift_s_signal_is_its_log_volume_and_reaches_the_features(drift: Candles) -> None:
    s = np.log(drift.volume) - 3
    assert s.mean() == pytest.approx(0, abs=4 / np.sqrt(5_000))
    assert s.std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(s[1:], s[:-1])[0, 1] == pytest.approx(0.995, abs=0.0005)
    features = build_features(drift[:100_000].matrix(), 300_000)
    # log_volume is s less its mean over 2,000 bars, which itself follows s a little: correlation 0.91.
    assert np.corrcoef(s[WARM_UP:100_000], features.values[WARM_UP:, 9])[0, 1] > 0.88


def test_description_names_everything_but_the_length() -> None:
    market = SyntheticMarket()
    assert description(market) == (
        b'{"beta": 0.5, "interval_ms": 300000, "k": 0.3, "kind": "drift", "law": 1, "phi": 0.985, "psi": 0.85, '
        b'"seed": 7, "start_ms": 1735689600000, "sv": 0.12, "tau": 0.5, "volatility": 0.00175}'
    )
    assert description(SyntheticMarket(bars=10)) == description(market)
    others = [
        SyntheticMarket(kind="ar"),
        SyntheticMarket(k=0.2),
        SyntheticMarket(psi=0.9),
        SyntheticMarket(seed=8),
        SyntheticMarket(volatility=1e-3),
        SyntheticMarket(interval_ms=60_000),
        SyntheticMarket(start_ms=0),
        SyntheticMarket(phi=0.9),
        SyntheticMarket(sv=0.1),
        SyntheticMarket(tau=0.1),
        SyntheticMarket(beta=0.1),
    ]
    assert len({sandbox_source(description(other)) for other in [market, *others]}) == 12


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"kind": "trend"}, "kind must be null, ar, gated or drift, was 'trend'"),
        ({"k": 1.0}, r"k must be in \[0, 1\), was 1\.0"),
        ({"k": -0.1}, r"k must be in \[0, 1\), was -0\.1"),
        ({"psi": 1.0}, r"psi must be in \(-1, 1\), was 1\.0"),
        ({"phi": float("nan")}, r"phi must be finite and in \(-1, 1\), was nan"),
        ({"bars": 0}, r"bars must be in 1\.\.10000000, was 0"),
        ({"seed": -1}, "seed must be >= 0, was -1"),
        ({"interval_ms": 0}, "interval_ms must be >= 1, was 0"),
        ({"sv": float("inf")}, "sv must be finite and >= 0, was inf"),
        ({"tau": -1.0}, r"tau must be >= 0, was -1\.0"),
        ({"beta": float("nan")}, "beta must be finite, was nan"),
        ({"volatility": 0.0}, r"volatility must be in \(0, 1\), was 0\.0"),
    ],
)
def test_market_refuses_what_is_no_law(fields: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SyntheticMarket(**fields)  # type: ignore[arg-type]
