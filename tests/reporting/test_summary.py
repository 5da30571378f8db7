"""What stands last: the verdict first, failed conditions as found and asked, the table, warnings."""

from tasks.champion.promotion import Check
from tasks.reporting.summary import Side, Summary, verdict_lines

SUMMARY = Summary(
    origin="synthetic",
    days=81,
    sides=(
        Side(
            name="model", net_return=3.916, sharpe="14.6 (10.2 to 19.9)", max_drawdown=0.0199, trades=37,
            log_loss=0.90273, direction=0.7734, edge_bp=12.345,
        ),
        Side(
            name="LightGBM", net_return=4.8962, sharpe="too few trades", max_drawdown=0.02, trades=29, log_loss=0.90424
        ),
        Side(name="buy and hold", net_return=0.4733, sharpe="3.1", max_drawdown=0.1, trades=1),
    ),
    warnings=("synthetic market: says nothing about a real one",),
)  # fmt: skip
CHECKS = (
    Check(name="unseen days", passed=True, found="81", wanted=">= 30"),
    Check(name="closed trades", passed=False, found="37", wanted=">= 100"),
)


def test_verdict_stands_first_and_what_failed_is_said_as_found_and_asked():
    assert verdict_lines("NOT PROMOTED - no position is taken.", CHECKS, SUMMARY) == [
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
        "  ! synthetic market: says nothing about a real one",
    ]


def test_version_that_was_the_champion_already_has_no_conditions_to_count():
    lines = verdict_lines("PROMOTED - it has been the champion already.", (), SUMMARY)
    assert lines[0] == "PROMOTED - it has been the champion already."
    assert not any("failed" in line for line in lines)


def test_next_step_after_a_synthetic_market_is_the_same_on_real_data():
    assert SUMMARY.next_step.endswith("make run EXCHANGE=bybit START=2025-01-01")
