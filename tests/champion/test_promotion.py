"""The promotion rule: each condition fails alone, and one failure is enough."""

from dataclasses import replace

import numpy as np
import pytest

from storage.schema import DAY_MS, ConfigError
from tasks.champion.expiry import LastBar
from tasks.champion.promotion import Check, Evidence, Numbers, judge
from tasks.execution.skill import Skill, measure_skill
from tasks.execution.track_record import DeflatedSharpe
from tasks.strategy.funding_record import FundingRecord
from tasks.strategy.promotion_rule import PromotionRule
from tests.champion.example_manifest import MANIFEST, METRICS

SKILL = Skill(
    samples=10_000,
    effective_samples=800.0,
    log_loss=1.05,
    prior_log_loss=1.06,
    p_value=0.001,
    accuracy=0.4,
    majority_accuracy=0.36,
    class_shares=np.full(3, 1 / 3),
    brier=0.6,
    calibration_error=0.012,
    perfect_calibration_error=0.01,
    macro_f1=0.39,
    confusion=np.zeros((3, 3), np.int64),
    reliability=np.zeros((1, 3)),
    moves=6_000,
    direction_skill=0.004,
    direction_error=0.001,
    direction_p_value=0.001,
    direction_accuracy=0.53,
    edge_bp=1.5,
    edge_error_bp=0.5,
)
KNOWN = FundingRecord(booked=180, due=180)
TODAY = LastBar(age_ms=DAY_MS // 4, interval_ms=300_000, has_present=True)
GOOD = Evidence(
    champion="flat",
    numbers=Numbers(
        champion=replace(METRICS, total_return=0.0, max_drawdown=0.0),
        challenger=replace(METRICS, days=60.0, num_trades=250, total_return=0.10, max_drawdown=0.10),
        second_seed=replace(METRICS, total_return=0.05),
        luck=DeflatedSharpe(trials=12, spread=1.0, expected_best=1.0, deflated=0.97),
    ),
    last_bar=TODAY,
    skill=SKILL,
    funding=KNOWN,
    stressed_return=0.04,
    p_value=0.01,
    latency_p99_us=12.0,
    parity=1e-6,
    baseline="LightGBM",
    baseline_lead=0.0002,
    leaks=(),
)


def changed(evidence: Evidence, side: str, **values: object) -> Evidence:
    """Return evidence with other numbers of one side, or of luck."""
    return replace(
        evidence, numbers=replace(evidence.numbers, **{side: replace(getattr(evidence.numbers, side), **values)})
    )


def failed(evidence: Evidence, rule: PromotionRule = PromotionRule()) -> list[str]:
    return [check.name for check in judge(evidence, rule) if check.passed is False]


@pytest.mark.promise(13)
def test_good_evidence_passes_every_condition():
    assert failed(GOOD) == []


@pytest.mark.promise(13)
@pytest.mark.parametrize(
    ("side", "change", "condition"),
    [
        ("challenger", {"days": 29.9}, "unseen days"),
        ("challenger", {"num_trades": 99}, "closed trades"),
        ("challenger", {"total_return": -0.01}, "beats the champion (flat)"),
        ("challenger", {"max_drawdown": 0.26}, "maximum drawdown"),
        ("luck", {"deflated": 0.949}, "deflated Sharpe ratio"),
        ("luck", {"deflated": None}, "deflated Sharpe ratio"),
        ("second_seed", {"total_return": 0.0}, "second seed: net result"),
        ("second_seed", {"total_return": np.nan}, "second seed: net result"),
    ],
)
def test_one_bad_number_of_a_side_fails_its_condition_alone(side, change, condition):
    assert failed(changed(GOOD, side, **change)) == [condition]


@pytest.mark.promise(13)
@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({"last_bar": replace(TODAY, age_ms=2 * DAY_MS + 1)}, "bars up to date"),
        ({"skill": replace(SKILL, log_loss=1.07)}, "log-loss better than the prior"),
        ({"skill": replace(SKILL, p_value=0.05)}, "log-loss better than the prior"),
        ({"skill": replace(SKILL, p_value=None)}, "log-loss better than the prior"),
        ({"skill": replace(SKILL, direction_p_value=0.05)}, "direction of moves better than prior and 50:50"),
        ({"skill": replace(SKILL, direction_skill=-0.001)}, "direction of moves better than prior and 50:50"),
        (
            {"skill": replace(SKILL, direction_skill=None, direction_p_value=None)},
            "direction of moves better than prior and 50:50",
        ),
        ({"funding": replace(KNOWN, booked=179)}, "funding known"),
        ({"stressed_return": 0.0}, "net result at 1.5x costs"),
        ({"p_value": 0.06}, "beats the champion (flat)"),
        ({"p_value": None}, "beats the champion (flat)"),
        ({"skill": replace(SKILL, calibration_error=0.031)}, "calibration error above a perfect model's"),
        ({"latency_p99_us": 1_000.0}, "latency p99 per bar"),
        ({"parity": 1e-5}, "all ways to run it agree"),
        ({"baseline_lead": -0.0011}, "log-loss near the better baseline"),
        ({"leaks": ("prefix invariance",)}, "leak tests"),
        ({"leaks": None}, "leak tests"),  # what was not tested is not known to be clean
    ],
)
def test_one_bad_number_fails_its_condition_alone(change, condition):
    assert failed(replace(GOOD, **change)) == [condition]


@pytest.mark.promise(13)
def test_lead_in_direction_over_a_prior_that_the_market_left_behind_is_none():
    """Training rose in 65 of 100 moves, 45 of 100 rise now; the model names both sides alike, or knows them."""
    rng = np.random.default_rng(1)
    rose = rng.random(6_000) < 0.45
    side = np.where(rose, 2, 0)
    for forecast, condition in ((0.0, ["direction of moves better than prior and 50:50"]), (0.05, [])):
        up = 0.55 + forecast * np.where(rose, 1, -1) + 0.01 * rng.standard_normal(len(rose))
        probabilities = np.column_stack([1 - up, np.zeros(len(up)), up])
        measured = measure_skill(
            probabilities, side, np.array([0.35, 0.0, 0.65]), 1e-3 * (side - 1),
            overlap=1, bars_per_day=1.0, effective_samples=6_000.0, seed=1,
        )  # fmt: skip
        direction = {name: getattr(measured, name) for name in vars(measured) if name.startswith("direction_")}
        assert failed(replace(GOOD, skill=replace(SKILL, **direction))) == condition


def awaits_second_seed(checks: tuple[Check, ...]) -> bool:
    return replace(MANIFEST.judgement, checks=checks).awaits_second_seed


@pytest.mark.promise(13)
def test_second_seed_is_asked_for_when_all_else_holds_and_not_before():
    untrained = replace(GOOD, numbers=replace(GOOD.numbers, second_seed=None))
    checks = judge(untrained, PromotionRule())
    assert (checks[-1].name, checks[-1].passed, checks[-1].found) == ("second seed: net result", None, "to be trained")
    assert awaits_second_seed(checks)
    assert not all(check.passed for check in checks)
    lacking = judge(changed(untrained, "challenger", num_trades=99), PromotionRule())
    assert (lacking[-1].passed, lacking[-1].found) == (None, "not run: other conditions failed")
    assert not awaits_second_seed(lacking)
    for trained in (0.05, -0.05):
        assert not awaits_second_seed(judge(changed(GOOD, "second_seed", total_return=trained), PromotionRule()))


@pytest.mark.promise(13)
def test_second_seed_that_loses_keeps_the_champion_whatever_the_first_earned():
    lucky = judge(
        changed(changed(GOOD, "challenger", total_return=3.67), "second_seed", total_return=-0.012), PromotionRule()
    )
    assert [check.name for check in lucky if not check.passed] == ["second seed: net result"]
    assert (lucky[-1].found, lucky[-1].wanted) == (
        "−1.20\N{NO-BREAK SPACE}%, first seed +367.00\N{NO-BREAK SPACE}%",
        "> 0 %",
    )


def test_drawdown_is_measured_against_the_champion_when_there_is_one():
    named = replace(GOOD, champion="20260104T100000Z-7f3c9a2e")
    reigning = changed(named, "champion", total_return=0.02, max_drawdown=0.05)
    assert failed(reigning) == ["maximum drawdown"]
    assert failed(changed(reigning, "challenger", max_drawdown=0.06)) == []
    # The other one held nothing: no multiple of that bounds.
    assert failed(changed(named, "challenger", max_drawdown=0.25)) == []
    assert failed(changed(named, "challenger", max_drawdown=0.251)) == ["maximum drawdown"]


@pytest.mark.promise(13)
def test_deflated_sharpe_of_too_few_trades_is_not_passed_and_says_why():
    few = changed(changed(GOOD, "challenger", num_trades=29), "luck", deflated=None)
    lax = PromotionRule(min_trades=1)
    (check,) = (one for one in judge(few, lax) if not one.passed)
    assert (check.name, check.found) == ("deflated Sharpe ratio", "too few trades to judge: 29 of 30, 12 trials")


@pytest.mark.promise(13)
def test_lead_over_a_champion_that_bleeds_is_not_enough():
    bleeds = changed(replace(GOOD, champion="20260104T100000Z-7f3c9a2e"), "champion", total_return=-0.3)
    assert failed(bleeds) == []
    assert failed(changed(bleeds, "luck", deflated=0.1)) == ["deflated Sharpe ratio"]


def test_baseline_may_lead_by_the_margin_and_no_more():
    assert failed(replace(GOOD, baseline_lead=-0.001)) == []
    strict = PromotionRule(baseline_margin=0.0)
    assert failed(replace(GOOD, baseline_lead=-1e-9), strict) == ["log-loss near the better baseline"]


def test_every_check_shows_its_number_and_its_bound():
    checks = {check.name: check for check in judge(GOOD, PromotionRule())}
    assert checks["unseen days"].found == "60"
    assert checks["unseen days"].wanted == ">= 30"
    assert checks["deflated Sharpe ratio"].found == "0.970, 12 trials"
    assert checks["log-loss near the better baseline"].found == "+0.00020\N{NO-BREAK SPACE}nat against LightGBM"
    assert (checks["bars up to date"].found, checks["bars up to date"].wanted) == ("0.25 days old", "<= 2 days")
    assert (checks["funding known"].found, checks["funding known"].wanted) == ("180 of 180 settlements", "all")
    assert checks["leak tests"].found == "all green"
    assert checks["log-loss better than the prior"].found == "+0.01000\N{NO-BREAK SPACE}nat, p = 0.001"
    direction = checks["direction of moves better than prior and 50:50"]
    assert direction.found == "+0.00400\N{NO-BREAK SPACE}nat against prior, p = 0.001"
    assert all(check.found and check.wanted for check in checks.values())


@pytest.mark.promise(13)
def test_bars_of_two_years_ago_keep_the_champion_unless_they_are_a_replays():
    old = replace(TODAY, age_ms=730 * DAY_MS)
    (check,) = (one for one in judge(replace(GOOD, last_bar=old), PromotionRule()) if not one.passed)
    assert (check.name, check.found, check.wanted) == ("bars up to date", "730.00 days old", "<= 2 days")
    replayed = judge(replace(GOOD, last_bar=replace(old, has_present=False)), PromotionRule())
    assert all(check.passed for check in replayed)
    assert "no present: replayed or made up" in {check.found for check in replayed}


def test_nan_never_passes():
    broken = replace(GOOD, stressed_return=np.nan, latency_p99_us=np.nan, parity=np.nan, baseline_lead=np.nan)
    broken = changed(broken, "challenger", days=np.nan, total_return=np.nan, max_drawdown=np.nan)
    assert failed(changed(broken, "luck", deflated=np.nan)) == [
        "unseen days",
        "log-loss near the better baseline",
        "net result at 1.5x costs",
        "beats the champion (flat)",
        "deflated Sharpe ratio",
        "maximum drawdown",
        "latency p99 per bar",
        "all ways to run it agree",
    ]


def test_rule_refuses_a_bound_that_lets_everything_pass():
    with pytest.raises(ConfigError, match=r"significance must be in \(0, 1\), was 1\.5"):
        PromotionRule(significance=1.5)
    with pytest.raises(ConfigError, match="min_days must be > 0"):
        PromotionRule(min_days=0)


@pytest.mark.promise(13)
def test_lead_over_a_champion_must_be_rarer_with_every_look_at_it():
    name = "beats the champion (flat)"
    assert failed(replace(GOOD, looks=4)) == []  # 0.01 is below 0.0125
    assert failed(replace(GOOD, looks=5)) == [name]
    (check,) = (one for one in judge(replace(GOOD, looks=5), PromotionRule()) if one.name == name)
    assert check.wanted == "greater, p < 0.01, look 5"
    with pytest.raises(ConfigError, match="other_trials must be >= 0, was -1"):
        PromotionRule(other_trials=-1)


@pytest.mark.promise(13)
def test_version_that_sizes_by_risk_needs_the_verdict_on_it_and_one_of_fixed_size_does_not():
    fixed, held, missed = (judge(replace(GOOD, risk=risk), PromotionRule()) for risk in (None, (), ("R2 of ln RV",)))
    assert all(check.passed for check in (*fixed, *held))
    assert len(held) == len(fixed) + 1
    (failed,) = [check for check in missed if not check.passed]
    assert (failed.name, failed.found) == ("verdict on the risk that sizes positions", "failed: R2 of ln RV")
