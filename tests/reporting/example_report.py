"""A full report, its results as every room would leave them: what the page is tested with."""

from dataclasses import replace

import numpy as np

from storage.schema import Candles, Market, Source, VersionRef, utc_text
from tasks.champion.manifest import Manifest
from tasks.champion.promotion import Check, Judgement, Numbers
from tasks.champion.vol_verdict import judge_vol_forecast
from tasks.execution.comparison_rows import ComparisonRow
from tasks.execution.importance import Importance
from tasks.execution.random_positions import RandomPositions
from tasks.execution.skill import Skill
from tasks.execution.slices import Slice
from tasks.execution.track_record import DeflatedSharpe, TrackRecord
from tasks.execution.trades import Trades
from tasks.execution.vol_skill import VolScore
from tasks.network.architecture import preset
from tasks.network.latency import RUNTIMES, LatencyRow, Runtime, twins
from tasks.network.training_record import Progress, VolHeadFit
from tasks.reporting.paper_record import PaperRecord
from tasks.reporting.report_data import CostPoint, Equity, ReportData
from tasks.runs.cost import Cost, StageCost
from tasks.strategy.baseline_comparison import BaselineComparison
from tasks.strategy.folds import FoldResult
from tasks.strategy.speed import Speed
from tasks.strategy.vol_forecast import VolForecastRecord
from tasks.strategy.vol_forecast_rule import VolForecastRule
from tests.champion.example_manifest import MANIFEST, METRICS

START_MS = 1_735_689_600_000  # 2025-01-01
BAR_MS = 300_000
NETWORK = preset("default")
OURS = replace(
    METRICS, total_return=-0.0211, gross_return=0.0643, cost_drag=0.0854, sharpe_ratio=-0.42, sortino_ratio=-0.55,
    max_drawdown=0.113, num_trades=412, win_rate=0.461, profit_factor=0.93, expectancy_bp=-0.51, days=83.3,
    break_even_cost_per_side=0.00083, turnover_per_day=9.9, exposure=0.41, fees_paid=7_764.2, slippage_paid=776.4,
    funding_paid=0.0,
)  # fmt: skip
HELD = replace(
    METRICS, total_return=0.1042, gross_return=0.1063, cost_drag=0.0021, sharpe_ratio=1.1, sortino_ratio=1.6,
    max_drawdown=0.187, num_trades=1, win_rate=1.0, profit_factor=None, exposure=1.0,
)  # fmt: skip
FLAT = replace(METRICS, total_return=0.0, sharpe_ratio=None, max_drawdown=0.0, num_trades=0, win_rate=None)
RECORD = TrackRecord(
    days=83, trades=412, sharpe_ratio=-0.42, low=-2.6, high=1.7, sharpe_lo=-0.4, probabilistic=0.43, days_needed=None
)

RISKS = VolForecastRecord(
    horizon=288,
    windows=82.4,
    scores=(
        VolScore(name="this model", qlike=0.212, log_r2=0.51, exceeding=0.09),
        VolScore(name="EWMA-100", qlike=0.335, log_r2=0.33, exceeding=0.15, lead=0.123, lead_error=0.03, p_value=1e-4),
        VolScore(name="HAR", qlike=0.262, log_r2=0.41, exceeding=0.12, lead=0.05, lead_error=0.02, p_value=0.006),
        VolScore(name="LightGBM", qlike=0.214, log_r2=0.5, exceeding=0.1, lead=0.002, lead_error=0.01, p_value=0.42),
    ),
    below=(0.04, 0.22, 0.47, 0.74, 0.93),
    steadiness=(0.19, 0.12),
)


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
        auc=(0.52, 0.51, 0.53),
        moves=15_671,
        direction_reference="50:50",
        direction_skill=0.0012,
        direction_error=0.0005,
        direction_p_value=0.008,
        direction_accuracy=0.5123,
        edge_bp=0.31,
        edge_error_bp=0.2,
    )


def judged() -> Manifest:
    """Return what a version says of itself that is kept out for its costs."""
    checks = (
        Check(name="unseen days", passed=True, found="83", wanted=">= 30"),
        Check(name="closed trades", passed=True, found="412", wanted=">= 100"),
        Check(
            name="log-loss better than the prior", passed=True, found="+0.00891 nat, p = 0.001", wanted="> 0, p < 0.05"
        ),
        Check(name="net result at 1.5x costs", passed=False, found="−7.42\N{NO-BREAK SPACE}%", wanted="> 0 %"),
        Check(name="lead over the champion", passed=False, found="p = 0.71", wanted="p < 0.05"),
        Check(
            name="largest drawdown", passed=True, found="11.3\N{NO-BREAK SPACE}%", wanted="<= 25.0\N{NO-BREAK SPACE}%"
        ),
        Check(name="latency, p99", passed=True, found="4.1 µs", wanted="<= 1,000 µs"),
    )
    luck = DeflatedSharpe(trials=172, spread=1.2, expected_best=1.9, deflated=0.112)
    numbers = Numbers(champion=FLAT, challenger=OURS, second_seed=None, luck=luck)
    warning = "Funding is switched off: positions held over a funding stamp cost nothing here."
    return replace(
        MANIFEST,
        market=Market(symbol="SYNTHUSDT"),
        origin="synthetic",
        origin_detail="Synthetic market drift, k=0.2, psi=0.995, 60,000 bars, seed 7",
        dataset="d41a0c77b2e9f310",
        judgement=Judgement(champion="flat", sequence=0, checks=checks, numbers=numbers),
        risk=judge_vol_forecast(RISKS, VolForecastRule()),
        summary=replace(MANIFEST.summary, warnings=(warning,)),
        libraries={"torch": "2.13.0", "numpy": "2.4.6", "numba": "0.62.1"},
    )


def comparison() -> BaselineComparison:
    """Return the model beside what it had to beat; logistic regression was better."""
    table = tuple(
        ComparisonRow(
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
            ("standard convolution twin", 1.0899, 0.3715, 0.0002, -0.0191, -0.4, 409),
            ("prior", 1.09861, 0.339, 0.00891, 0.0, None, 0),
            ("persistence", None, 0.331, None, -0.712, -9.1, 3_204),
            ("random timing, median of 1,000", None, None, None, -0.081, -1.6, None),
            ("flat", None, None, None, 0.0, None, 0),
        )
    )
    drawn = RandomPositions(draws=1_000, percentile=0.812, total_return=-0.081, low=-0.2, high=0.1, sharpe_ratio=-1.6)
    return BaselineComparison(
        table=table, random=drawn, facts=[{"standard convolution twin": {"weights_bytes": 68_000}}]
    )


def latency(config, runtime: Runtime, name: str, p50_us: float) -> LatencyRow:
    """Return how long a network takes in a runtime."""
    return LatencyRow(
        name=name, config=config, runtime=runtime, parameters=9_571, macs=1_010_432, p50_us=p50_us,
        p95_us=1.35 * p50_us, p99_us=1.94 * p50_us,
    )  # fmt: skip


def speed(rng: np.random.Generator) -> Speed:
    """Return the times of a model and its twins."""
    factors = dict(zip(RUNTIMES, (8.0, 1.0, 0.02), strict=True))
    return Speed(
        machine={"cpu": "a processor", "cores": 2, "threads": 1},
        parity=2e-7,
        model=latency(NETWORK, "engine", "this model", 1.4),
        rows=tuple(
            latency(config, runtime, f"{config.block}, K={config.kernel_size}", 178.0 * factor)
            for config in twins(NETWORK)
            for runtime, factor in factors.items()
        ),
        edges_us=tuple(np.geomspace(1, 50, 41).tolist()),
        calls=tuple(rng.integers(0, 400, 40).tolist()),
    )


def trained(rng: np.random.Generator) -> FoldResult:
    """Return what the training of one fold leaves behind."""
    steps = range(0, 1_000, 40)
    learned = [1.0 - float(np.exp(-step / 300)) for step in steps]
    points = tuple(
        Progress(
            step=step,
            steps=1_000,
            member=0,
            members=1,
            train_loss=1.1 - 0.012 * share + rng.normal(0, 8e-4) if step else None,
            validation_loss=1.0985 - 0.009 * share + 6e-6 * step + rng.normal(0, 3e-4),
            best_loss=1.0,
        )
        for step, share in zip(steps, learned, strict=True)
    )
    return FoldResult(
        weights=bytes(41_000),
        class_means=np.array([-1.0, 0.0, 1.0]),
        prior=np.full(3, 1 / 3),
        probabilities=np.empty((0, 3)),
        log_variance_ratio=np.empty(0),
        risk=VolHeadFit(windows=180.0, log_gap=-0.2, quantiles=(0.3, 0.6, 0.9, 1.3, 2.1)),
        history=points,
        best_steps=(400,),
        temperature=1.0,
        seconds=1.0,
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
    return ReportData(
        ref=VersionRef(
            source=Source("sandbox:1a2b3c4d"), name="linear-SYNTHUSDT-5", version="20260104T100000Z-7f3c9a2e"
        ),
        created="2026-01-04 10:00 UTC",
        manifest=judged(),
        equity=Equity(
            candles=candles,
            interval_ms=BAR_MS,
            model=model,
            buy_and_hold=held,
            baselines={"LightGBM": 0.5 * (model + held)},
            trades=round_trips(candles, bars // 100),
            block_starts_ms=tuple(int(start_ms[bars * fold // 4]) for fold in range(4)),
        ),
        metrics={"model": OURS, "buy and hold": HELD, "flat": FLAT},
        costs=tuple(
            CostPoint(
                bp / 1e4,
                replace(
                    OURS,
                    total_return=0.0643 - 0.00776 * bp,
                    sharpe_ratio=1.3 - 0.156 * bp,
                    num_trades=412 - int(10 * bp),
                ),
                replace(OURS, total_return=0.06 - 0.00776 * bp),
                bp == 11.0,
            )
            for bp in (0.0, 2.0, 5.5, 11.0, 15.0, 22.0)
        ),
        delays=tuple(replace(OURS, total_return=earned) for earned in (-0.0211, -0.0302, -0.0387)),
        comparison=comparison(),
        vol_record=RISKS,
        record=RECORD,
        slices=(
            Slice(name="2025", days=83, total_return=-0.0211, sharpe_ratio=-0.42, held_return=0.1, num_trades=412),
            Slice(
                name="calm third of the days",
                days=28,
                total_return=-0.012,
                sharpe_ratio=None,
                held_return=0.0,
                num_trades=96,
            ),
        ),
        skill=forecast(rng),
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
        paper=tuple(
            PaperRecord(
                session=f"btc-{day}",
                source=Source("sandbox:0123abcd"),
                market=Market(),
                version="20260101T100000Z-00c0ffee",
                bars=2_000,
                fills=251,
                net_return=0.0132,
                sharpe_ratio=None,
                backtest_return=backtest,
                equal_decisions=equal,
                unexplained=unexplained,
            ).row()
            for day, backtest, equal, unexplained in (("tuesday", None, None, None), ("monday", 0.0141, 1_998, 0))
        ),
        class_mix={
            "train, fold 4": (15_210, 15_822, 15_020),
            "test, all folds": (7_811, 8_322, 7_860),
            "predicted": (6_102, 11_350, 6_541),
        },
        speed=speed(rng),
        spent=Cost(
            stages=(
                StageCost(stage="networks", wall_s=41.0, cpu_s=70.5),
                StageCost(stage="judge", wall_s=1.2, cpu_s=1.2),
            ),
            peak_mb=812.4,
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
        training=tuple(trained(rng) for _ in range(4)),
    )
