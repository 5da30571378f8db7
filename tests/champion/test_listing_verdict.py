"""The verdict on a new listing: the promotion rule, asked of markets that networks never saw."""

from dataclasses import replace

import numpy as np
import pytest

from storage.schema import DAY_MS
from tasks.champion.listing_verdict import held_out_evidence, judge_listing
from tasks.execution.track_record import DeflatedSharpe
from tasks.strategy.leave_one_out import HeldOutEvaluation
from tasks.strategy.promotion_rule import PromotionRule
from tests.champion.example_manifest import METRICS
from tests.champion.test_promotion import GOOD, KNOWN, SKILL, TODAY

LUCK = DeflatedSharpe(trials=12, spread=1.0, expected_best=1.0, deflated=0.97)
FOUND = HeldOutEvaluation(
    leads={"ADAUSDT": 0.004, "BTCUSDT": 0.002, "SOLUSDT": 0.006},
    skill=SKILL,
    metrics=replace(METRICS, days=60.0, num_trades=250, total_return=0.10, max_drawdown=0.10),
    daily=np.zeros(60),
    funding=KNOWN,
    stressed_return=0.04,
    p_value=0.01,
)
FEW_DAYS = replace(  # what the market itself can show: too little for the ordinary rule
    GOOD,
    numbers=replace(GOOD.numbers, challenger=replace(METRICS, days=4.0, num_trades=3), second_seed=None),
    skill=replace(SKILL, p_value=0.4),
)
RULE = PromotionRule()


def judged(found=FOUND, own=FEW_DAYS, second=FOUND):
    held_out = held_out_evidence(own, found, second, LUCK)
    return judge_listing(held_out, found, own.skill, RULE)


def failed(**given) -> list[str]:
    return [check.name for check in judged(**given) if check.passed is False]


@pytest.mark.promise(13)
def test_listing_passes_when_networks_foresaw_markets_they_never_saw():
    assert all(check.passed for check in judged())
    assert all(check.passed for check in judged(own=replace(FEW_DAYS, risk=())))  # sized, by a verdict that holds


@pytest.mark.promise(13)
@pytest.mark.parametrize(
    ("given", "condition"),
    [
        ({"found": replace(FOUND, leads=FOUND.leads | {"XRPUSDT": -0.001})}, "markets that networks never saw"),
        ({"own": replace(FEW_DAYS, skill=replace(SKILL, p_value=0.97))}, "own days do not refute it"),
        ({"found": replace(FOUND, metrics=replace(FOUND.metrics, days=20.0))}, "unseen days"),
        ({"found": replace(FOUND, stressed_return=-0.01)}, "net result at 1.5x costs"),
        ({"found": replace(FOUND, funding=replace(KNOWN, booked=179))}, "funding known"),
        ({"own": replace(FEW_DAYS, last_bar=replace(TODAY, age_ms=730 * DAY_MS))}, "bars up to date"),
        ({"found": replace(FOUND, p_value=None)}, "beats the champion (flat)"),
        ({"own": replace(FEW_DAYS, parity=1e-3)}, "all ways to run it agree"),
        ({"own": replace(FEW_DAYS, leaks=("label span",))}, "leak"),
        ({"own": replace(FEW_DAYS, risk=("R2 of ln RV",))}, "verdict on the risk that sizes positions"),
        (
            {"second": replace(FOUND, metrics=replace(FOUND.metrics, total_return=-0.01))},
            "second seed: net result",
        ),
    ],
)
def test_one_bad_number_fails_its_condition_alone(given, condition):
    (name,) = failed(**given)
    assert name.startswith(condition)


def test_one_market_of_ten_may_be_worse_than_its_prior():
    ten = {f"M{number}USDT": 0.001 for number in range(9)} | {"WORSEUSDT": -0.02}
    assert failed(found=replace(FOUND, leads=ten)) == []
    (check, *_) = judged(found=replace(FOUND, leads=ten))
    assert check.found == "9 of 10, worst WORSEUSDT −0.02000\N{NO-BREAK SPACE}nat"


def test_second_seed_is_asked_for_where_nothing_else_failed():
    assert judged(second=None)[-1].found == "to be trained"
    worse = replace(FOUND, leads={"ADAUSDT": -0.1})
    assert judged(found=worse, second=None)[-1].found == "not run: other conditions failed"
