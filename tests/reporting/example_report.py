"""A full report and a bare one, as plain values: what the page is tested with."""

import numpy as np

from storage.schema import Candles, Market, Source, utc_text
from tasks.champion.promotion import Check
from tasks.execution.contenders import Contender
from tasks.execution.importance import Importance
from tasks.execution.skill import Skill
from tasks.execution.trades import Trades
from tasks.reporting.report_data import (
    CostPoint,
    Decision,
    Equity,
    Latency,
    Measure,
    ReportData,
    StepTimes,
    TrainingCurve,
)

START_MS = 1_735_689_600_000  # 2025-01-01
BAR_MS = 300_000


def market_of(close: list[float], interval_ms: int = BAR_MS, start_ms: int = START_MS) -> Candles:
    """Return candles with these closes, each opening where the one before closed."""
    closes = np.array(close, np.float64)
    opens = np.concatenate([closes[:1], closes[:-1]])
    return Candles(
        start_ms=start_ms + interval_ms * np.arange(len(closes)),
        open=opens,
        high=np.maximum(opens, closes),
        low=np.minimum(opens, closes),
        close=closes,
        volume=np.ones(len(closes)),
        turnover=np.ones(len(closes)),
    )


def round_trips(candles: Candles, count: int) -> Trades:
    """Return trades of five bars each, long and short by turns, spread evenly; the last ends at the last close."""
    entry = np.linspace(0, len(candles) - 6, count).astype(np.int64)
    exit_ = entry + 5
    side = np.where(np.arange(count) % 2, -1, 1)
    zeros = np.zeros(count)
    return Trades(
        entry_bar=entry,
        exit_bar=exit_,
        at_close=np.arange(count) == count - 1,
        side=side,
        quantity=np.full(count, 900.0),
        entry_price=candles.open[entry],
        exit_price=candles.open[exit_],
        gross=900.0 * side * (candles.open[exit_] - candles.open[entry]),
        entry_fee=zeros + 9.0,
        exit_fee=zeros + 9.0,
        entry_slippage=zeros,
        exit_slippage=zeros,
        funding=zeros,
        exit=np.zeros(count, np.int64),
    )


def forecast(rng: np.random.Generator) -> Skill:
    """Return what a forecast slightly better than its prior looks like."""
    confidence = np.linspace(0.34, 0.47, 15)
    right = np.linspace(0.335, 0.46, 15) + rng.normal(0, 0.008, 15)
    spoken = [[1.0, 0.372, 0.006], [0.5, 0.388, 0.008], [0.2, 0.401, 0.013], [0.1, 0.409, 0.018], [0.05, 0.412, 0.026]]
    return Skill(
        samples=23_993,
        effective_samples=2_000.0,
        log_loss=1.0897,
        prior_log_loss=1.09861,
        p_value=0.001,
        accuracy=0.3721,
        majority_accuracy=0.339,
        class_shares=np.array([0.326, 0.347, 0.327]),
        brier=0.6612,
        calibration_error=0.0098,
        perfect_calibration_error=0.0081,
        macro_f1=0.3534,
        confusion=np.array([[2_411, 3_502, 1_898], [2_010, 4_302, 2_010], [1_681, 3_546, 2_633]]),
        reliability=np.column_stack([confidence, right, np.full(15, 1_600.0)]),
        coverage=np.array(spoken),
    )


def example(bars: int = 24_000) -> ReportData:
    """Return a full report: a model on a synthetic market that does not pay for its costs."""
    rng = np.random.default_rng(7)
    start_ms = START_MS + BAR_MS * np.arange(bars, dtype=np.int64)
    price = 100.0 * np.exp(np.cumsum(rng.normal(0, 8e-4, bars + 1)))
    candles = Candles(
        start_ms=start_ms,
        open=price[:-1],
        high=np.maximum(price[:-1], price[1:]) * 1.0005,
        low=np.minimum(price[:-1], price[1:]) * 0.9995,
        close=price[1:],
        volume=np.ones(bars),
        turnover=np.ones(bars),
    )
    model = 100_000 * np.exp(np.cumsum(np.r_[0, rng.normal(-2e-6, 5e-4, bars)]))
    held = 100_000 * np.exp(np.cumsum(np.r_[0, rng.normal(4e-6, 8e-4, bars)]))
    step = np.arange(40, 1_000, 40)
    runtimes = {"eager torch": 8.0, "ONNX Runtime": 1.0, "engine": 0.02}
    return ReportData(
        market=Market(symbol="SYNTHUSDT"),
        source=Source("sandbox:1a2b3c4d"),
        origin="synthetic",
        origin_detail="Synthetic market drift, k=0.2, psi=0.995, 60,000 bars, seed 7",
        version="20260104T100000Z-7f3c9a2e",
        created="2026-01-04 10:00 UTC",
        verdict=Decision(
            decision="kept",
            champion="flat",
            conditions=(
                Check(name="unseen days", passed=True, found="83", wanted=">= 30"),
                Check(name="closed trades", passed=True, found="412", wanted=">= 100"),
                Check(
                    name="log-loss better than the prior",
                    passed=True,
                    found="+0.00891 nat, p = 0.001",
                    wanted="> 0, p < 0.05",
                ),
                Check(name="net result at 1.5x costs", passed=False, found="-7.42%", wanted="> 0 %"),
                Check(name="lead over the champion", passed=False, found="p = 0.71", wanted="p < 0.05"),
                Check(name="largest drawdown", passed=True, found="11.3%", wanted="<= 25%"),
                Check(name="latency, p99", passed=True, found="4.1 µs", wanted="<= 1,000 µs"),
            ),
            notes=("The result before costs is positive; the assumed costs are higher than the break-even cost.",),
        ),
        warnings=("Funding is switched off: positions held over a funding stamp cost nothing here.",),
        highlights=(
            Measure(name="total return, net", value=-0.0211, style="signed share", low=-0.094, high=0.051),
            Measure(name="Sharpe ratio, UTC days", value=-0.42, low=-2.6, high=1.7),
            Measure(
                name="log-loss skill",
                value=0.00891,
                style="signed nat",
                low=0.0062,
                high=0.0116,
                note="prior 1.09861 nat",
            ),
            Measure(name="p99 per bar", value=4.1, style="us", note="compiled engine, one thread"),
        ),
        equity=Equity(
            candles=candles,
            interval_ms=BAR_MS,
            model=model,
            buy_and_hold=held,
            baselines={"LightGBM": 0.5 * (model + held)},
            trades=round_trips(candles, bars // 100),
            block_starts_ms=tuple(int(start_ms[bars * fold // 4]) for fold in range(4)),
        ),
        metrics={
            "model": {
                "total_return": -0.0211,
                "gross_return": 0.0643,
                "cost_drag": 0.0854,
                "sharpe_ratio": -0.42,
                "sortino_ratio": -0.55,
                "max_drawdown": 0.113,
                "num_trades": 412,
                "win_rate": 0.461,
                "profit_factor": 0.93,
                "expectancy_bp": -0.51,
                "break_even_cost_per_side": 0.00083,
                "turnover_per_day": 9.9,
                "exposure": 0.41,
                "cagr": None,
                "calmar": None,
                "fees_paid": 7_764.2,
                "slippage_paid": 776.4,
                "funding_paid": 0.0,
                "days": 83.3,
            },
            "buy and hold": {
                "total_return": 0.1042,
                "gross_return": 0.1063,
                "cost_drag": 0.0021,
                "sharpe_ratio": 1.1,
                "sortino_ratio": 1.6,
                "max_drawdown": 0.187,
                "num_trades": 1,
                "win_rate": 1.0,
                "profit_factor": None,
                "exposure": 1.0,
            },
            "flat": {"total_return": 0.0, "sharpe_ratio": None, "max_drawdown": 0.0, "num_trades": 0, "win_rate": None},
        },
        costs=tuple(
            CostPoint(
                cost_bp=bp,
                total_return=0.0643 - 0.00776 * bp,
                sharpe_ratio=1.3 - 0.156 * bp,
                num_trades=412 - int(10 * bp),
                repriced_return=0.06 - 0.00776 * bp,
                assumed=bp == 11.0,
            )
            for bp in (0.0, 2.0, 5.5, 11.0, 15.0, 22.0)
        ),
        break_even_bp=8.3,
        stress=(
            {"fill": "at the next open", "total_return": "−2.11 %", "sharpe_ratio": -0.42},
            {"fill": "one bar later", "total_return": "−3.02 %", "sharpe_ratio": -0.61},
            {"fill": "two bars later", "total_return": "−3.87 %", "sharpe_ratio": -0.83},
        ),
        contenders=tuple(
            Contender(
                name=name,
                log_loss=loss,
                accuracy=accuracy,
                lead=lead,
                lead_error=None if lead is None else 0.0006,
                p_value=None if lead is None else 0.04,
                total_return=earned,
                sharpe_ratio=sharpe,
                num_trades=trades,
            )
            for name, loss, accuracy, lead, earned, sharpe, trades in (
                ("this model", 1.0897, 0.3721, None, -0.0211, -0.42, 412),
                ("logistic regression", 1.0891, 0.3718, -0.0006, -0.0104, -0.2, 398),
                ("LightGBM", 1.0912, 0.3702, 0.0015, -0.0311, -0.61, 402),
                ("prior", 1.09861, 0.339, 0.00891, 0.0, None, 0),
                ("persistence", None, 0.331, None, -0.712, -9.1, 3_204),
                ("random timing, median of 1,000", None, None, None, -0.081, -1.6, None),
                ("flat", None, None, None, 0.0, None, 0),
            )
        ),
        random_note="Of 1,000 random timings of the model's own positions, 81.2% ended below the model.",
        headline=(
            {"": "weights of one layer", "claimed": "4,672", "measured": "4,672", "note": "K=9"},
            {"": "accuracy", "claimed": "53.8 %", "measured": "37.21 %", "note": "95 %: +/- 1.1 %"},
        ),
        record=(
            Measure(name="Sharpe ratio, √365", value=-0.42, low=-2.6, high=1.7, note="83 UTC days"),
            Measure(name="Deflated Sharpe ratio", value=0.112, style="chance", note="trials run: 12"),
        ),
        slices=(
            {"days": "2025", "number": 83, "net return": "−2.11 %", "Sharpe ratio": "−0.42", "round trips": 412},
            {
                "days": "calm third of the days",
                "number": 28,
                "net return": "−1.20 %",
                "Sharpe ratio": "undefined",
                "round trips": 96,
            },
        ),
        skill=(
            Measure(name="log-loss", value=1.0897, style="nat", note="prior 1.09861 nat"),
            Measure(name="skill against the prior", value=0.00891, style="signed nat", low=0.0062, high=0.0116),
            Measure(
                name="accuracy", value=0.3721, style="share", low=0.361, high=0.383, note="most frequent class 33.9 %"
            ),
            Measure(name="macro F1", value=0.3534),
            Measure(name="Brier score", value=0.6612, note="0 to 2"),
        ),
        fold_scores=tuple(
            {"fold": fold, "log-loss": f"1.0{fold} nat", "net return": f"{fold}.00 %", "round trips": 100 + fold}
            for fold in range(1, 5)
        ),
        importance=(
            Importance(name="return_12", loss=0.0061, spread=0.0004),
            Importance(name="hour of the day", loss=0.0013, spread=0.0002),
            Importance(name="rsi", loss=-0.0001, spread=0.0002),
        ),
        beside=(
            {"": "net return", "this version": "−2.11 %", "champion, 20260101T100000Z-00c0ffee": "+1.20 %"},
            {"": "network.members", "this version": 3, "champion, 20260101T100000Z-00c0ffee": 1},
        ),
        forecast=forecast(rng),
        class_mix={
            "train, fold 4": (15_210, 15_822, 15_020),
            "test, all folds": (7_811, 8_322, 7_860),
            "predicted": (6_102, 11_350, 6_541),
        },
        step_times=StepTimes(edges_us=np.geomspace(1, 50, 41), calls=rng.integers(0, 400, 40), p50_us=1.4, p99_us=3.2),
        latency=tuple(
            Latency(
                name=f"{kind}, K={size}",
                runtime=runtime,
                parameters=parameters,
                macs=macs,
                p50_us=178 * factor * slow,
                p95_us=240 * factor * slow,
                p99_us=346 * factor * slow,
            )
            for size, kind, parameters, macs, slow in (
                (3, "separable", 9_571, 1_010_432, 1.0),
                (3, "standard", 17_251, 1_790_000, 1.1),
                (9, "separable", 9_955, 1_070_000, 1.05),
                (9, "standard", 42_211, 5_240_000, 2.6),
            )
            for runtime, factor in runtimes.items()
            if runtime != "engine" or kind == "separable"
        ),
        data_quality=(
            {
                "market": "SYNTHUSDT linear 5m",
                "bars": 60_000,
                "first": "2025-01-01T00:00Z",
                "last": "2025-07-28T07:55Z",
                "missing": 12,
                "rejected": 3,
                "zero_volume": 0,
            },
        ),
        folds=tuple(
            {
                "fold": fold,
                "part": part,
                "first": utc_text(start_ms[first]),
                "last": utc_text(start_ms[last]),
                "bars": last - first + 1,
            }
            for fold in range(1, 5)
            for part, first, last in (
                ("train", 0, bars * (2 + fold) // 8),
                ("validation", bars * (2 + fold) // 8 + 13, bars * (3 + fold) // 8 - 13),
                ("test", bars * (3 + fold) // 8, bars * (4 + fold) // 8 - 1),
            )
        ),
        training=tuple(
            TrainingCurve(
                fold=fold,
                step=step,
                train_loss=1.1 - 0.012 * (1 - np.exp(-step / 300)) + rng.normal(0, 8e-4, len(step)),
                validation_loss=1.0985
                - 0.009 * (1 - np.exp(-step / 120))
                + 6e-6 * step
                + rng.normal(0, 3e-4, len(step)),
                best_step=400,
                prior_loss=1.0986,
            )
            for fold in range(1, 5)
        ),
        config={
            "labels": {"horizon": 12, "k": 0.4307},
            "model": {"hidden_channels": 32, "separable": True, "padding": "history"},
            "costs": {"commission": 0.001, "slippage": 0.0001, "funding": False},
        },
        versions={"torch": "2.13.0", "numpy": "2.4.6", "numba": "0.62.1"},
        provenance={"dataset": "d41a0c77b2e9f310", "code": "9c1f22d0", "seed": 7, "machine": "2 cores, one thread"},
    )


BARE = ReportData(
    market=Market(symbol="BTCUSDT"),
    source=Source("bybit"),
    origin="exchange",
    version="v",
    created="2026-01-04 10:00 UTC",
    verdict=Decision(decision="measured"),
)
