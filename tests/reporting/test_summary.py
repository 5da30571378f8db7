"""What stands last: the verdict first, failed conditions as found and asked, the table, warnings."""

from dataclasses import replace

from storage.schema import Market, Source, VersionRef
from tasks.champion.manifest import Summary
from tasks.champion.promotion import Check
from tasks.exchange.connection import ExchangeConfig
from tasks.execution.comparison_rows import ComparisonRow
from tasks.reporting.summary import Verdict, model_lines, verdict_lines
from tests.champion.example_manifest import MANIFEST

SUMMARY = Summary(
    days=81.2,
    lines=(
        ComparisonRow(
            name="this model", total_return=3.916, sharpe_ratio=14.6, max_drawdown=0.0199, num_trades=37,
            log_loss=0.90273, direction=0.7734,
        ),
        ComparisonRow(
            name="LightGBM", total_return=4.8962, sharpe_ratio=9.9, max_drawdown=0.02, num_trades=29, log_loss=0.90424
        ),
        ComparisonRow(name="buy and hold", total_return=0.4733, sharpe_ratio=3.1, max_drawdown=0.1, num_trades=1),
    ),
    sharpe_low=10.2,
    sharpe_high=19.9,
    edge_bp=12.345,
    warnings=("No slippage is charged: the result is not net of costs.",),
)  # fmt: skip
VERSION = replace(MANIFEST, origin="synthetic", summary=SUMMARY, recipe=replace(MANIFEST.recipe, fees="source"))
CHECKS = (
    Check(name="unseen days", passed=True, found="81", wanted=">= 30"),
    Check(name="closed trades", passed=False, found="37", wanted=">= 100"),
)


def test_verdict_stands_first_and_what_failed_is_said_as_found_and_asked():
    assert verdict_lines("NOT PROMOTED - no position is taken.", CHECKS, VERSION) == [
        "NOT PROMOTED - no position is taken. 1 of 2 conditions hold.",
        "  failed: closed trades 37, asked >= 100",
        "",
        "  81 unseen days                  model         LightGBM   buy and hold",
        "  net return                   +391.6 %         +489.6 %        +47.3 %",
        "  Sharpe ratio      14.6 (10.2 to 19.9)   too few trades            3.1",
        "  max drawdown                    2.0 %            2.0 %         10.0 %",
        "  closed trades                      37               29              1",
        "  log-loss                       0.9027           0.9042              -",
        "  direction right                77.3 %                -              -",
        "  edge of a move              +12.35 bp                -              -",
        "  costs: source, 10 bp + 1 bp slippage a fill (the source text's commission; slippage ours)",
        "  apart from promotion: the volatility verdict does not hold: risk is foreseen no, asked a forecast",
        "  ! synthetic market: says nothing about a real one",
        "  ! No slippage is charged: the result is not net of costs.",
    ]


def test_version_that_was_the_champion_already_has_no_conditions_to_count():
    lines = verdict_lines("PROMOTED - it has been the champion already.", (), VERSION)
    assert lines[0] == "PROMOTED - it has been the champion already."
    assert not any("failed" in line for line in lines)


def test_model_without_an_interval_or_with_too_few_trades_says_so():
    model, *others = SUMMARY.lines
    assert dict(model_lines(replace(SUMMARY, sharpe_low=None, sharpe_high=None)))["Sharpe ratio"] == "14.6"
    idle = replace(SUMMARY, lines=(replace(model, num_trades=2), *others), edge_bp=None)
    assert dict(model_lines(idle))["Sharpe ratio"] == "too few trades"
    assert dict(model_lines(idle))["edge of a move"] == "-"


def test_next_step_after_a_synthetic_market_is_the_same_on_real_data():
    verdict = Verdict(
        version=VersionRef(source=Source("sandbox:0123abcd"), name="linear-SYNTHUSDT-5", version="v"), manifest=VERSION,
        judged=replace(MANIFEST.judgement, checks=CHECKS), champion="flat", report="s3://somewhere/report.html",
    )  # fmt: skip
    assert verdict.text().endswith("make run EXCHANGE=bybit START=2025-01-01")
    assert "make paper" not in verdict.text()
    usual = replace(verdict.version, source=ExchangeConfig().source)
    promoted = replace(verdict, champion="v", version=usual, manifest=replace(VERSION, market=Market()))
    assert promoted.text().splitlines()[-2:] == [
        "  next     let it trade on paper: make paper",
        "           on Bybit's data, no key: make run EXCHANGE=bybit START=2025-01-01",
    ]
    real = replace(verdict, manifest=replace(VERSION, origin="exchange"))
    assert real.text().endswith("make ui EXCHANGE=bybit")
    assert "synthetic" not in real.text()
    replayed = replace(verdict, manifest=replace(VERSION, origin="replayed", origin_detail="bars.parquet"))
    assert "  ! replay of bars.parquet: a champion here is none on Bybit" in replayed.text().splitlines()
