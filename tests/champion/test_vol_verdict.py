"""The verdict on volatility, condition by condition: each fails by itself at its own bound."""

from dataclasses import replace

import pytest

from tasks.champion.vol_verdict import judge_vol_forecast, vol_forecast_holds, vol_forecast_line
from tasks.execution.vol_skill import VolScore
from tasks.strategy.vol_forecast import VolForecastRecord
from tasks.strategy.vol_forecast_rule import VolForecastRule

RECORD = VolForecastRecord(
    horizon=24,
    windows=120.0,
    scores=(
        VolScore(name="this model", qlike=0.3, log_r2=0.5, exceeding=0.1),
        VolScore(name="EWMA-100", qlike=0.5, log_r2=0.2, exceeding=0.17, lead=0.2, lead_error=0.02, p_value=1e-6),
        VolScore(name="HAR", qlike=0.4, log_r2=0.3, exceeding=0.15, lead=0.1, lead_error=0.03, p_value=0.004),
        VolScore(name="LightGBM", qlike=0.295, log_r2=0.5, exceeding=0.1, lead=-0.005, lead_error=0.01, p_value=0.6),
    ),
    below=(0.05, 0.2, 0.45, 0.7, 0.93),
)


def with_score(name: str, **changed: float | None) -> VolForecastRecord:
    scores = tuple(replace(one, **changed) if one.name == name else one for one in RECORD.scores)
    return replace(RECORD, scores=scores)


def test_verdict_holds_where_every_condition_does() -> None:
    checks = judge_vol_forecast(RECORD, VolForecastRule())
    assert vol_forecast_holds(checks)
    assert vol_forecast_line(checks) == (
        "holds: QLIKE better than EWMA-100's 0.300 against 0.500, p < 0.001, "
        "QLIKE better than HAR's 0.300 against 0.400, p = 0.004"
    )


@pytest.mark.parametrize(
    ("record", "name", "found"),
    [
        (replace(RECORD, windows=29.0), "unseen windows", "29"),
        (with_score("EWMA-100", p_value=0.06), "QLIKE better than EWMA-100's", "0.300 against 0.500, p = 0.060"),
        (
            with_score("HAR", lead=-0.1, p_value=0.9, qlike=0.2),
            "QLIKE better than HAR's",
            "0.300 against 0.200, p = 0.900",
        ),
        (with_score("HAR", p_value=None), "QLIKE better than HAR's", "0.300 against 0.400, p undefined"),
        (with_score("LightGBM", qlike=0.29), "QLIKE near LightGBM's", "1.034 of its 0.290"),
        (with_score("this model", log_r2=0.19), "R2 of ln RV", "0.19"),
        (with_score("this model", exceeding=0.161), "windows beyond 1.5x the expected risk", "16.1\N{NO-BREAK SPACE}%"),
        (replace(RECORD, below=(0.05, 0.25, 0.61, 0.75, 0.95)), "calibration of quantiles", "off by 0.110 at most"),
    ],
)
def test_one_condition_that_fails_is_enough_and_says_what_was_found(
    record: VolForecastRecord, name: str, found: str
) -> None:
    checks = judge_vol_forecast(record, VolForecastRule())
    assert [(check.name, check.found) for check in checks if not check.passed] == [(name, found)]
    assert not vol_forecast_holds(checks)
    assert vol_forecast_line(checks).startswith(f"does not hold: {name} {found}, asked ")


def test_version_that_forecasts_none_holds_none() -> None:
    checks = judge_vol_forecast(replace(RECORD, scores=(), below=()), VolForecastRule())
    assert [check.name for check in checks] == ["risk is foreseen"]
    assert not vol_forecast_holds(checks)


def listing(**of: VolForecastRecord) -> VolForecastRecord:
    """Return the record of a new listing: its own days hold no whole window, and networks of its pool say the rest."""
    return replace(RECORD, windows=0.0, scores=(), below=(), held_out=of)


def test_of_a_new_listing_each_condition_is_asked_of_markets_that_networks_never_saw() -> None:
    checks = judge_vol_forecast(listing(ADAUSDT=RECORD, BTCUSDT=RECORD, SOLUSDT=RECORD), VolForecastRule())
    assert vol_forecast_holds(checks)
    assert [check.name for check in checks] == [
        *(check.name for check in judge_vol_forecast(RECORD, VolForecastRule())), "own days do not refute it",
    ]  # fmt: skip
    assert checks[0].found == "3 of 3"
    assert checks[0].wanted == ">= 30 in 90.0\N{NO-BREAK SPACE}% of markets that networks never saw"
    assert checks[-1].found == "too few to tell"


@pytest.mark.parametrize(
    ("odd", "name", "found"),
    [
        (with_score("HAR", p_value=0.06), "QLIKE better than HAR's", "2 of 3, SOLUSDT 0.300 against 0.400, p = 0.060"),
        (with_score("this model", log_r2=0.1), "R2 of ln RV", "2 of 3, SOLUSDT 0.10"),
        (replace(RECORD, windows=12.0), "unseen windows", "2 of 3, SOLUSDT 12"),
    ],
)
def test_one_stranger_of_three_whose_risk_was_not_forecast_keeps_a_listing_apart(
    odd: VolForecastRecord, name: str, found: str
) -> None:
    checks = judge_vol_forecast(listing(ADAUSDT=RECORD, BTCUSDT=RECORD, SOLUSDT=odd), VolForecastRule())
    assert [(check.name, check.found) for check in checks if not check.passed] == [(name, found)]
    many = {f"M{number}USDT": RECORD for number in range(9)}
    assert vol_forecast_holds(judge_vol_forecast(listing(**many, SOLUSDT=odd), VolForecastRule()))


def test_stranger_of_whom_nothing_was_forecast_fails_every_condition() -> None:
    silent = replace(RECORD, scores=(), below=())
    checks = judge_vol_forecast(listing(ADAUSDT=RECORD, BTCUSDT=RECORD, SOLUSDT=silent), VolForecastRule())
    assert {check.found for check in checks[:-1]} == {"2 of 3, SOLUSDT unforeseen"}
    assert not vol_forecast_holds(judge_vol_forecast(listing(ADAUSDT=silent), VolForecastRule()))


@pytest.mark.parametrize(("p_value", "refuted"), [(0.94, False), (0.96, True), (None, False)])
def test_own_days_of_a_listing_decide_only_against_it(p_value: float | None, refuted: bool) -> None:
    own = with_score("EWMA-100", lead=-0.1, p_value=p_value)
    record = replace(own, windows=3.0, held_out=dict.fromkeys(("ADAUSDT", "BTCUSDT", "SOLUSDT"), RECORD))
    failed = [check.name for check in judge_vol_forecast(record, VolForecastRule()) if not check.passed]
    assert failed == ["own days do not refute it"] * refuted
