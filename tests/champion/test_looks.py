"""How often a champion was looked at: with every version that was made while it reigned, in each of its reigns."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage.artifacts import ArtifactStore
from storage.schema import Source, VersionRef
from tasks.champion.judgement import looked_at

SOURCE, NAME = Source("sandbox:0123abcd"), "linear-SYNTHUSDT-5"
EVIDENCE = {"champion": {"net": 0.0}, "challenger": {"net": 1.0}}
BEGIN = datetime(2026, 1, 4, 10, tzinfo=UTC)


def test_rollback_forgets_no_look(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))

    def publish(hour: int) -> VersionRef:
        made = BEGIN + timedelta(hours=hour)
        return store.publish(SOURCE, NAME, f"{hour:08x}", {"a.json": b"{}"}, {"features": []}, made)

    def promote(ref: VersionRef, expected: int, hour: int) -> None:
        store.promote(SOURCE, NAME, ref, EVIDENCE, expected=expected, now=BEGIN + timedelta(hours=hour, minutes=1))

    early = [publish(hour) for hour in range(3)]
    assert looked_at(store, SOURCE, NAME) == early  # at flat
    promote(early[-1], 0, 3)
    assert looked_at(store, SOURCE, NAME) == []  # at the first champion
    during = [publish(4), publish(5)]
    assert looked_at(store, SOURCE, NAME) == during
    store.rollback(SOURCE, NAME, "a drawdown", BEGIN + timedelta(hours=6))
    after = publish(7)
    assert looked_at(store, SOURCE, NAME) == [*early, after]  # at flat, in both of its reigns
    promote(early[-1], 2, 8)
    assert looked_at(store, SOURCE, NAME) == during


def test_market_without_versions_was_never_looked_at(tmp_path: Path) -> None:
    assert looked_at(ArtifactStore(str(tmp_path)), SOURCE, NAME) == []
