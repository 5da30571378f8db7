"""The log of a search grows, never changes, and never mixes sources."""

from dataclasses import replace

import pytest

from storage.schema import ArtifactError, Source
from storage.searches import Candidate, SearchLog

SOURCE = Source("sandbox:0123abcd")
CANDIDATE = Candidate(
    key="search-0123456789abcdef",
    source=SOURCE,
    name="linear-SYNTHUSDT-5",
    log_loss=0.9,
    learned=0.01,
    seconds=3.5,
    made_from={"network": {"block": "separable"}, "seed": 7},
)


def find(log: SearchLog, candidate: Candidate = CANDIDATE) -> Candidate | None:
    return log.find(candidate.source, candidate.name, candidate.key)


def test_candidate_stays_as_it_was_first_logged(tmp_path):
    log = SearchLog(str(tmp_path))
    assert find(log) is None
    log.append(CANDIDATE)
    log.append(replace(CANDIDATE, log_loss=0.1))
    assert find(log) == CANDIDATE
    assert find(log, replace(CANDIDATE, source=Source("bybit"))) is None
    log.append(replace(CANDIDATE, key="search-fedcba9876543210"))
    assert (log.count(SOURCE, CANDIDATE.name), log.count(Source("bybit"), CANDIDATE.name)) == (2, 0)


@pytest.mark.promise(0)
def test_candidate_moved_from_another_source_or_damaged_is_refused(tmp_path):
    log = SearchLog(str(tmp_path))
    log.append(CANDIDATE)
    (place,) = tmp_path.rglob("*.json")
    moved = tmp_path / "bybit" / CANDIDATE.name / "searches" / place.name
    moved.parent.mkdir(parents=True)
    moved.write_bytes(place.read_bytes())
    with pytest.raises(ArtifactError, match=r"must be of bybit linear-SYNTHUSDT-5, was .* of sandbox:0123abcd"):
        find(log, replace(CANDIDATE, source=Source("bybit")))
    moved.write_bytes(b"{")
    with pytest.raises(ArtifactError, match=r"is damaged .* delete it and search again"):
        find(log, replace(CANDIDATE, source=Source("bybit")))


def test_candidate_without_finite_losses_is_refused():
    with pytest.raises(ArtifactError, match="must have finite losses, had nan"):
        replace(CANDIDATE, log_loss=float("nan"))
