"""`make verify`: on markets whose best possible result is known, the project must reach most of it and never more."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from storage.schema import SELL, Candles
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, run_backtest
from tasks.execution.bars import Bars
from tasks.execution.decision import DecisionConfig, decide_series, packed
from tasks.market.labels import LabelConfig, label_bars
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.strategy.promotion_rule import PromotionRule
from tests.verification.known_optimum import best_accuracy, drift_best_accuracy, drift_net_per_bar

K = 0.3
SEEDS, NULL_BARS = 20, 20_000
DRIFT_BARS, BLOCK, VOLATILITY, PSI = 2_000_000, 5_000, 8e-4, 0.995  # s forgets in 200 bars: blocks are independent
COMMISSION, FRACTION = 0.001, 1e-5  # so little of the equity that positions keep one size, as the closed form has it
HORIZONS = (1, 15, 60, 240)
BEFORE_2026_MS = 1_767_225_600_000  # 2026-01-01: what comes after is read once, by a command of its own
REAL = {"5m": (5, 12), "15m": (15, 16)}  # minutes a bar, bars ahead


@pytest.fixture(scope="module")
def started(measure):
    """Every training, the longest first; each test waits for its own."""
    folder = os.environ.get("DSC_TEST_DATA")
    trainings = {}
    if folder:
        file = str(Path(folder) / "candles" / "bybit_linear_BTCUSDT_5m.parquet")
        for name, (minutes, horizon) in REAL.items():
            trainings[name] = measure(
                measure="real_gap", file=file, minutes=minutes, horizon=horizon, stop_ms=BEFORE_2026_MS
            )
    trainings["gated"] = measure(measure="direction", kind="gated", k=K, bars=130_000, seed=7, test_share=0.15)
    trainings["ar"] = measure(measure="direction", kind="ar", k=K, bars=60_000, seed=7, test_share=0.4)
    half = SEEDS // 2
    for name, seeds in (("null, first", range(half)), ("null, second", range(half, SEEDS))):
        trainings[name] = measure(measure="random_walks", seeds=list(seeds), bars=NULL_BARS)
        trainings[f"fair {name}"] = measure(measure="fair_walks", seeds=list(seeds), bars=NULL_BARS)
    return trainings


def drift(k):
    """Candles, s as the candles show it, and what following its sign through `decide` aims at."""
    candles = generate(SyntheticMarket(kind="drift", k=k, psi=PSI, bars=DRIFT_BARS, sv=0.0, volatility=VOLATILITY))
    signal = np.log(candles.volume) - 3.0
    probabilities = np.stack([signal < 0, signal == 0, signal > 0], axis=1).astype(float)
    bars = Bars.of(candles, 300_000)
    rule = packed(DecisionConfig(rule="argmax"), Costs(), np.zeros(3), horizon=1)
    return (
        candles,
        probabilities,
        decide_series(probabilities, np.full(len(candles), VOLATILITY), bars.contiguous, rule),
    )


def in_blocks(values):
    """Return mean and standard error from means of independent blocks; NaN is left out."""
    blocks = np.nanmean(values[: len(values) // BLOCK * BLOCK].reshape(-1, BLOCK), axis=1)
    return float(blocks.mean()), float(blocks.std(ddof=1) / math.sqrt(len(blocks)))


def accuracy_answers(answer, candles: Candles, probabilities, k):
    flat = np.zeros(len(candles))
    for horizon in HORIZONS:
        config = LabelConfig(horizon=horizon, k=0.0, cost_floor_multiple=0.0)
        labels = label_bars(candles.open, flat + VOLATILITY, flat.astype(np.int64), config, 0.0)
        right = np.where(
            labels.classes < 0, np.nan, probabilities[np.arange(len(flat)), np.maximum(labels.classes, SELL)]
        )
        hits, error = in_blocks(right)
        best = drift_best_accuracy(k, PSI, horizon)
        z = (hits - best) / error
        yield (
            z,
            answer(
                market=f"drift, k={k}",
                what=f"direction over {horizon} bar{'s' if horizon > 1 else ''}, by the sign of s",
                optimum=f"{best:.4f}",
                reached=f"{hits:.4f} (z {z:+.2f})",
                interval=f"{hits - 1.96 * error:.4f} .. {hits + 1.96 * error:.4f}",
                bar="|z| <= 3",
                met=abs(z) <= 3,
            ),
        )


def profit_answer(answer, candles, target, k):
    costs, config = Costs(commission=COMMISSION, slippage=0.0), BacktestConfig(position_fraction=FRACTION)
    bars = Bars.of(candles, 300_000)
    result = run_backtest(bars, target, costs, config, trained_until_ms=None, label_span_ms=0)
    mean, error = in_blocks(np.diff(result.equity) / (FRACTION * result.equity[:-1]))
    known = drift_net_per_bar(k, PSI, VOLATILITY, COMMISSION)
    z = (mean - known) / error
    return z, answer(
        market=f"drift, k={k}",
        what="net profit per bar of following the sign of s, 10 bp a side" + ("; breaks even" if k == 0.1 else ""),
        optimum=f"{known * 1e4:+.3f} bp",
        reached=f"{mean * 1e4:+.3f} bp (z {z:+.2f})",
        interval=f"{(mean - 1.96 * error) * 1e4:+.3f} .. {(mean + 1.96 * error) * 1e4:+.3f} bp",
        bar="|z| <= 3",
        met=abs(z) <= 3,
    )


def test_following_the_drift_is_right_and_earns_as_the_closed_forms_say(started, ledger, answer):
    """The first, since it works in this process while the trainings run in theirs."""
    candles, probabilities, target = drift(0.2)
    found = [*accuracy_answers(answer, candles, probabilities, 0.2), profit_answer(answer, candles, target, 0.2)]
    candles, _, target = drift(0.1)
    found.append(profit_answer(answer, candles, target, 0.1))
    worst = max((z for z, _ in found), key=abs)
    ledger.enter(*(line for _, line in found), drift_z=worst, drift_profit_z=found[-1][0])


def edges(found, k=K):
    """Return each forecaster's share of the achievable edge, and its standard error."""
    best = best_accuracy(k, classes=2) - 0.5
    return {name: (found[name] - 0.5) / best for name in ("dsc", "logistic regression")}, math.sqrt(
        0.25 / found["bars"]
    ) / best


def edge_answer(answer, market, what, found, name, at_least=None, at_most=None):
    shares, error = edges(found)
    share, most = shares[name], 1 + 3 * error if at_most is None else at_most
    return answer(
        market=market,
        what=f"{what}: share of the achievable edge in direction, {found['bars']:,} bars",
        optimum=f"1 ({best_accuracy(K, classes=2):.2%} right)",
        reached=f"{share:.3f} ({found[name]:.2%} right)",
        interval=f"{share - 1.96 * error:.3f} .. {share + 1.96 * error:.3f}",
        bar=f"<= {most:.3g}" if at_least is None else f"{at_least:g} .. {most:.3f}",
        met=(at_least is None or share >= at_least) and share <= most,
    )


def test_network_recovers_a_linear_signal_and_no_more_than_there_is(started, ledger, answer):
    found = started["ar"].result()
    ledger.enter(edge_answer(answer, f"ar, k={K}", "DSC", found, "dsc", at_least=0.80), ar_edge=edges(found)[0]["dsc"])


def test_network_recovers_an_interaction_that_linear_models_are_blind_to(started, ledger, answer):
    found = started["gated"].result()
    shares, _ = edges(found)
    ledger.enter(
        edge_answer(answer, f"gated, k={K}", "DSC", found, "dsc", at_least=0.60),
        edge_answer(answer, f"gated, k={K}", "logistic regression", found, "logistic regression", at_most=0.15),
        gated_edge=shares["dsc"],
        gated_logistic=shares["logistic regression"],
    )


def test_models_of_random_walks_are_found_out_and_earn_what_trading_costs(started, ledger, answer):
    found = started["null, first"].result() + started["null, second"].result()
    bound = PromotionRule().significance

    def significant(what):
        return [one[f"{what}skill"] > 0 and one[f"{what}p_value"] < bound for one in found]

    forecast, sided = significant("log_loss_"), significant("direction_")
    hits = sum(a and b for a, b in zip(forecast, sided, strict=True))
    gross = np.array([one["gross"] for one in found])
    error = gross.std(ddof=1) / math.sqrt(len(gross))
    z = gross.mean() / error
    net, costs = (float(np.mean([one[name] for one in found])) for name in ("net", "costs"))
    ledger.enter(
        answer(
            market=f"null, {SEEDS} seeds",
            what="models that the skill and the direction condition pass",
            optimum=f"{bound * SEEDS:g} at a nominal {bound:.0%}",
            reached=f"{hits} (log-loss alone {sum(forecast)}, direction alone {sum(sided)})",
            interval="{:.1%} .. {:.1%} of all seeds".format(*stats.binomtest(hits, SEEDS).proportion_ci()),
            bar="<= 3",
            met=hits <= 3,
        ),
        answer(
            market=f"null, {SEEDS} seeds",
            what="profit before costs of trading every forecast, shares of a position",
            optimum="0",
            reached=f"{gross.mean():+.4f} (costs {costs:.2f}, net {net:+.2f})",
            interval=f"{gross.mean() - 1.96 * error:+.4f} .. {gross.mean() + 1.96 * error:+.4f}",
            bar="|z| <= 3",
            met=abs(z) <= 3,
        ),
        null_hits=hits,
    )
    assert net == pytest.approx(gross.mean() - costs, abs=1e-9)


def test_log_loss_finds_nothing_where_nothing_can_be_forecast(started, ledger, answer):
    found = started["fair null, first"].result() + started["fair null, second"].result()
    bound = PromotionRule().significance
    hits = sum(one["skill"] > 0 and one["p_value"] < bound for one in found)
    ledger.enter(
        answer(
            market=f"null, volatility constant and known, {SEEDS} seeds",
            what="models that the log-loss condition alone passes",
            optimum=f"{bound * SEEDS:g} at a nominal {bound:.0%}",
            reached=f"{hits} (skill {np.mean([one['skill'] for one in found]):+.5f} nat)",
            interval="{:.1%} .. {:.1%} of all seeds".format(*stats.binomtest(hits, SEEDS).proportion_ci()),
            bar="<= 3",
            met=hits <= 3,
        ),
        fair_null_hits=hits,
    )


@pytest.mark.parametrize("name", list(REAL))
def test_network_is_near_or_ahead_of_the_better_baseline_on_recorded_candles(real_data, started, ledger, answer, name):
    found = started[name].result()
    better = min(found["logistic regression"], found["LightGBM"])
    gap, bar = found["dsc"] - better, {"5m": 0.0005, "15m": 0.0}[name]
    gaps = {"real_gap": gap} if name == "5m" else {}
    ledger.enter(
        answer(
            market=f"BTCUSDT {name}",
            what=f"log-loss above the better baseline's, {found['labels']:,} unseen labels before 2026",
            optimum=f"prior {found['prior']:.5f}, logistic {found['logistic regression']:.5f}, "
            f"LightGBM {found['LightGBM']:.5f}",
            reached=f"{gap:+.5f} ({found['dsc']:.5f})",
            bar=f"<= {bar:g}" if bar else "< 0",
            met=gap <= bar if bar else gap < 0,
        ),
        **{f"real_gap_{name}": gap, **gaps},
    )
