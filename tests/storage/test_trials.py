"""Logs of what was tried grow, never change, and never mix sources."""

import json
from dataclasses import replace

import pytest

from storage.authorship import Place
from storage.schema import ArtifactError, ConfigError, Source
from storage.trials import Candidate, Trial, TrialLog

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
CANDIDATE = Candidate(
    key="search-0123456789abcdef",
    source=SOURCE,
    name="linear-SYNTHUSDT-5",
    log_loss=0.9,
    learned=0.01,
    seconds=3.5,
    made_from={"network": {"block": "separable"}, "seed": 7},
)
both = pytest.mark.parametrize(("entry", "changed"), [(TRIAL, "sharpe_per_day"), (CANDIDATE, "log_loss")])


def log_of(entry, folder) -> TrialLog:
    return TrialLog(str(folder), type(entry))


@pytest.mark.promise(0)
@both
def test_entry_comes_back_with_its_source_and_stays_as_it_was_first_logged(tmp_path, entry, changed):
    log = log_of(entry, tmp_path)
    assert log.find(SOURCE, entry.name, entry.key) is None
    log.append(entry)
    log.append(replace(entry, **{changed: 9.0}))
    assert log.find(SOURCE, entry.name, entry.key) == entry
    assert log.entries(SOURCE, entry.name) == (entry,)
    assert log.find(Source("bybit"), entry.name, entry.key) is None
    assert log.entries(Source("bybit"), entry.name) == ()


@both
def test_entry_says_who_sent_its_candles_and_one_of_before_that_was_logged_is_read(tmp_path, entry, changed):
    log = log_of(entry, tmp_path)
    log.append(replace(entry, origin="replayed"))
    assert log.find(SOURCE, entry.name, entry.key).origin == "replayed"
    (place,) = tmp_path.rglob("*.json")
    written = json.loads(place.read_text())
    del written["origin"]
    place.write_text(json.dumps(written))
    assert log.entries(SOURCE, entry.name) == (entry,)
    assert entry.origin is None
    place.write_text(json.dumps(written | {"origin": "dreamt"}))
    with pytest.raises(ArtifactError, match="is damaged"):
        log.entries(SOURCE, entry.name)


@both
def test_another_key_is_another_entry(tmp_path, entry, changed):
    log, word = log_of(entry, tmp_path), entry.key.partition("-")[0]
    other = replace(entry, key=f"{word}-1123456789abcdef", made_from={"decision": {"enter_margin": 0.001}})
    log.append(entry)
    log.append(other)
    assert log.entries(SOURCE, entry.name) == (entry, other)
    assert (log.count(SOURCE, entry.name), log.count(Source("bybit"), entry.name)) == (2, 0)


def test_candidates_are_no_trials(tmp_path):
    log_of(CANDIDATE, tmp_path).append(CANDIDATE)
    assert log_of(TRIAL, tmp_path).entries(SOURCE, TRIAL.name) == ()
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["searches"]


@pytest.mark.promise(0)
@both
def test_entry_moved_from_another_source_is_refused(tmp_path, entry, changed):
    log = log_of(entry, tmp_path)
    log.append(entry)
    (place,) = tmp_path.rglob("*.json")
    moved = tmp_path / "bybit" / entry.name / place.parent.name / place.name
    moved.parent.mkdir(parents=True)
    moved.write_bytes(place.read_bytes())
    text = rf"bybit/{entry.name}/.*json must be its own, was {entry.key} of sandbox:0123abcd {entry.name}"
    with pytest.raises(ArtifactError, match=text):
        log.entries(Source("bybit"), entry.name)
    with pytest.raises(ArtifactError, match=text):
        log.find(Source("bybit"), entry.name, entry.key)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"key": "x"}', b'{"key": NaN}', b"null"])
@both
def test_damaged_entry_is_refused(tmp_path, entry, changed, content):
    log = log_of(entry, tmp_path)
    log.append(entry)
    (place,) = tmp_path.rglob("*.json")
    place.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"json is damaged \(.+\); restore it from a backup, or delete it"):
        log.entries(SOURCE, entry.name)


@both
def test_entry_without_finite_numbers_a_key_or_a_source_is_refused(entry, changed):
    for number in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=rf"{changed} must be finite, was {number}"):
            replace(entry, **{changed: number})
    with pytest.raises(ConfigError, match=r"key must be a word, a dash and 16 hex digits, was '../x'"):
        replace(entry, key="../x")
    with pytest.raises(ConfigError, match="source must be"):
        replace(entry, source="binance")
    with pytest.raises(ConfigError, match="daily_returns must be finite throughout"):
        replace(TRIAL, daily_returns=(0.1, float("nan")))


@pytest.mark.promise(19)
@both
def test_with_a_key_entries_of_other_writers_and_edited_ones_are_refused(tmp_path, entry, changed):
    def log(key: str | None) -> TrialLog:
        return TrialLog(Place(url=str(tmp_path), key=key), type(entry))

    ours, theirs = log("5d41402abc4b2a76b9719d911017c592"), log("of somebody else")
    ours.append(entry)
    assert ours.entries(SOURCE, entry.name) == log(None).entries(SOURCE, entry.name) == (entry,)  # nobody asks
    (path,) = tmp_path.rglob("*.json")
    signed = path.read_text()
    refused = "was not written with this DSC_ARTIFACT_KEY; set the key that wrote it, or move it away"
    with pytest.raises(ArtifactError, match=refused):
        theirs.entries(SOURCE, entry.name)
    path.write_text(signed.replace('"seed": 7', '"seed": 8'))
    with pytest.raises(ArtifactError, match=refused):
        ours.find(SOURCE, entry.name, entry.key)
    path.unlink()
    log(None).append(entry)
    with pytest.raises(ArtifactError, match=refused):
        ours.entries(SOURCE, entry.name)
