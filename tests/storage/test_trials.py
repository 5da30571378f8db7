"""The log of trials grows, never changes, and never mixes sources."""

import json
from dataclasses import replace

import pytest

from storage.schema import ArtifactError, ConfigError, Source
from storage.trials import Trial, TrialLog

SOURCE = Source("sandbox:0123abcd")
TRIAL = Trial(
    key="backtest-0123456789abcdef",
    source=SOURCE,
    name="linear-SYNTHUSDT-5",
    dataset="fedcba9876543210",
    first_day=20_454,
    daily_returns=(0.01, -0.02, 0.0),
    sharpe_per_day=-0.2182,
    made_from={"decision": {"rule": "value", "enter_margin": 0.0}, "seed": 7},
)


@pytest.mark.promise(0)
def test_trial_comes_back_with_its_source(tmp_path):
    log = TrialLog(str(tmp_path))
    log.append(TRIAL)
    assert log.trials(SOURCE, TRIAL.name) == (TRIAL,)
    assert log.trials(Source("bybit"), TRIAL.name) == ()


def test_same_trial_again_counts_once_and_stays_as_it_was_first_logged(tmp_path):
    log = TrialLog(str(tmp_path))
    log.append(TRIAL)
    log.append(replace(TRIAL, sharpe_per_day=9.0))
    assert log.trials(SOURCE, TRIAL.name) == (TRIAL,)


def test_another_threshold_is_another_trial(tmp_path):
    log = TrialLog(str(tmp_path))
    other = replace(TRIAL, key="backtest-1123456789abcdef", made_from={"decision": {"enter_margin": 0.001}})
    log.append(TRIAL)
    log.append(other)
    assert log.trials(SOURCE, TRIAL.name) == (TRIAL, other)


@pytest.mark.promise(0)
def test_trial_moved_from_another_source_is_refused(tmp_path):
    log = TrialLog(str(tmp_path))
    log.append(TRIAL)
    (place,) = tmp_path.rglob("*.json")
    moved = tmp_path / "bybit" / TRIAL.name / "trials" / place.name
    moved.parent.mkdir(parents=True)
    moved.write_bytes(place.read_bytes())
    with pytest.raises(
        ArtifactError, match=r"must be of bybit linear-SYNTHUSDT-5, was backtest-.* of sandbox:0123abcd"
    ):
        log.trials(Source("bybit"), TRIAL.name)


@pytest.mark.parametrize("content", [b"{", b"[]", json.dumps({"key": "x"}).encode()])
def test_damaged_entry_is_refused(tmp_path, content):
    log = TrialLog(str(tmp_path))
    log.append(TRIAL)
    (place,) = tmp_path.rglob("*.json")
    place.chmod(0o644)
    place.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"is damaged .* restore it from a backup"):
        log.trials(SOURCE, TRIAL.name)


def test_trial_without_finite_numbers_or_a_source_is_refused():
    with pytest.raises(ArtifactError, match="finite returns"):
        replace(TRIAL, sharpe_per_day=float("nan"))
    with pytest.raises(ArtifactError, match=r"16 hex digits, was '../x'"):
        replace(TRIAL, key="../x")
    with pytest.raises(ConfigError, match="source must be"):
        replace(TRIAL, source="binance")
