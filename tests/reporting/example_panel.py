"""Versions of a few markets as a run leaves them, as far as the page of all markets reads them."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

from storage.artifacts import ArtifactStore
from storage.schema import Market, Source, VersionRef
from storage.trials import Trial, TrialLog
from tasks.champion.manifest import Manifest
from tasks.champion.promotion import Check
from tasks.champion.vol_verdict import judge_vol_forecast
from tasks.execution.comparison_rows import ComparisonRow
from tasks.strategy.vol_forecast_rule import VolForecastRule
from tests.champion.example_manifest import MANIFEST
from tests.reporting.example_report import RISKS

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
MADE = datetime(2026, 1, 4, 10, tzinfo=UTC)
SANDBOX = Source("sandbox:0123abcd")


def version_of(
    store: ArtifactStore,
    symbol: str = "BTCUSDT",
    *,
    source: Source = SANDBOX,
    lead: float = 0.002,
    p_value: float | None = 0.001,
    baseline: str = "LightGBM",
    skill: dict[str, object] | None = None,
    hour: int = 0,
    files: dict[str, bytes] | None = None,
    **changed: object,
) -> VersionRef:
    """Store a version of a market, and return its name; `skill` and `files` change what lies beside the manifest."""
    market = Market(symbol=symbol)
    line = ComparisonRow(
        name=baseline, log_loss=1.09, lead=lead, lead_error=0.0006, p_value=p_value, total_return=0.0, sharpe_ratio=None
    )
    summary = replace(MANIFEST.summary, lines=(*MANIFEST.summary.lines, line))
    usual = {
        "origin": "synthetic" if source.startswith("sandbox:") else "exchange",
        "summary": summary,
        "risk": judge_vol_forecast(RISKS, VolForecastRule()),
    }
    manifest: Manifest = replace(MANIFEST, market=market, **{**usual, **changed})
    numbers = {"samples": 23_993, "direction_p_value": 0.4, "edge_bp": 0.31, "edge_error_bp": 0.2} | (skill or {})
    beside = {
        "backtest.json": json.dumps({"skill": numbers}).encode(),
        "folds.json": json.dumps([{}] * 4).encode(),
        "risk.json": json.dumps(asdict(RISKS)).encode(),
        "report.html": f"<!DOCTYPE html><p>{symbol}</p>".encode(),
    }
    made = MADE + timedelta(hours=hour)
    return store.publish(source, market.slug, f"{hour % 2**32:08x}", beside | (files or {}), manifest.document(), made)


def tried(store: ArtifactStore, symbol: str, number: int, source: Source = SANDBOX) -> None:
    """Log a strategy that was tried on a market's unseen bars."""
    key = f"backtest-{number:016x}"
    TrialLog(store.place, Trial).append(
        Trial(
            key=key, source=source, name=Market(symbol=symbol).slug, made_from={"number": number}, dataset="d" * 16,
            first_day=20_000, daily_returns=(0.0, 0.01), sharpe_per_day=0.5,
        )
    )  # fmt: skip


def four_markets(store: ArtifactStore) -> None:
    """Store four markets: one whose lead counts, one without skill, one without risk, one damaged."""
    passed = Check(name="unseen days", passed=True, found="83", wanted=">= 30")
    checks = (passed, replace(passed, name="closed trades", passed=False), replace(passed, name="leak tests"))
    judged = replace(MANIFEST.judgement, checks=checks)
    version_of(store, "BTCUSDT", lead=0.0041, p_value=1e-5, skill={"direction_p_value": 0.002}, judgement=judged)
    version_of(
        store, "BTCUSDT", lead=0.0052, p_value=1e-6, skill={"direction_p_value": 0.03}, judgement=judged, hour=30
    )
    version_of(
        store, "ETHUSDT", lead=-0.0003, p_value=0.7, baseline="logistic regression",
        skill={"edge_bp": -0.12, "direction_p_value": 0.81}, judgement=judged,
        risk=(Check(name="risk is foreseen", passed=False, found="no", wanted="a forecast"),),
        files={"risk.json": b'{"below": []}'},
    )  # fmt: skip
    version_of(
        store, "SOLUSDT", lead=0.0011, p_value=0.03, judgement=replace(MANIFEST.judgement, checks=(passed,)), hour=-900,
        skill={"edge_bp": 2.71, "direction_p_value": 0.0004, "samples": 104_211},
    )  # fmt: skip
    version_of(store, "1000PEPEUSDT", files={"backtest.json": b'{"skill": []}'})
    for number, symbol in enumerate(("BTCUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT", "1000PEPEUSDT")):
        tried(store, symbol, number)
