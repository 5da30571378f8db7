"""How often a market was looked at: in every source of its candles, and a champion in each of its reigns."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.artifacts import ArtifactStore
from storage.results import ResultStore
from storage.schema import Source, VersionRef
from storage.trials import Candidate, Look, Origin, Trial, TrialLog, sharpe_per_strategy
from tasks.champion.looks import looked_at

SOURCE, NAME = Source("sandbox:0123abcd"), "linear-SYNTHUSDT-5"
OTHER = Source("sandbox:89abcdef")  # of the same file with one bar more
EVIDENCE = {"champion": {"net": 0.0}, "challenger": {"net": 1.0}}
BEGIN = datetime(2026, 1, 4, 10, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path))


def publish(store: ArtifactStore, hour: int, source: Source = SOURCE, name: str = NAME) -> VersionRef:
    made = BEGIN + timedelta(hours=hour)
    return store.publish(source, name, f"{hour:08x}", {"a.json": b"{}"}, {"features": []}, made)


def promote(store: ArtifactStore, ref: VersionRef, expected: int, hour: int) -> None:
    now = BEGIN + timedelta(hours=hour, minutes=1)
    store.promote(ref.source, ref.name, ref, EVIDENCE, expected=expected, now=now)


def tried(store: ArtifactStore, source: Source, origin: Origin | None, number: int, name: str = NAME) -> None:
    """Log a trial and a searched network of a source."""
    of = {"source": source, "name": name, "origin": origin, "made_from": {"seed": number}}
    TrialLog(store.place, Trial).append(
        Trial(
            key=f"backtest-{number:016x}",
            dataset="fedcba9876543210",
            first_day=20_000,
            daily_returns=(0.01, -0.02),
            sharpe_per_day=number / 100,
            **of,
        )
    )
    TrialLog(store.place, Candidate).append(
        Candidate(key=f"search-{number:016x}", log_loss=0.9, learned=0.01, seconds=1.0, **of)
    )


def compared(store: ArtifactStore, source: Source = SOURCE) -> frozenset[str]:
    return looked_at(store, source, NAME).compared


def hashes(versions: Iterable[VersionRef]) -> frozenset[str]:
    return frozenset(one.hash8 for one in versions)


def judged(store: ArtifactStore, hash8: str, champion: str = "flat", source: Source = SOURCE) -> None:
    """Log a verdict as `record_look` does, of a version that is not stored."""
    look = Look(
        key=ResultStore.key("look", [hash8, champion]),
        source=source, name=NAME, origin="replayed", hash8=hash8, champion=champion,
    )  # fmt: skip
    TrialLog(store.place, Look).append(look)


def test_rollback_forgets_no_look(store):
    early = [publish(store, hour) for hour in range(3)]
    assert compared(store) == hashes(early)  # at flat
    promote(store, early[-1], 0, 3)
    assert not compared(store)  # at the first champion
    during = [publish(store, 4), publish(store, 5)]
    assert compared(store) == hashes(during)
    store.rollback(SOURCE, NAME, "a drawdown", BEGIN + timedelta(hours=6))
    after = publish(store, 7)
    assert compared(store) == hashes([*early, after])  # at flat, in both of its reigns
    promote(store, early[-1], 2, 8)
    assert compared(store) == hashes(during)


def test_version_that_is_judged_again_is_no_further_look(store):
    publish(store, 1), publish(store, 2)
    looked = looked_at(store, SOURCE, NAME)
    assert (looked.looks(f"{2:08x}"), looked.looks("ffffffff")) == (2, 3)


@pytest.mark.promise(13)
def test_verdict_of_a_run_that_stored_no_version_is_a_look_at_its_champion_alone(store):
    first = publish(store, 1)
    judged(store, "aaaaaaaa"), judged(store, "aaaaaaaa")
    assert compared(store) == {first.hash8, "aaaaaaaa"}
    publish(store, 2), judged(store, f"{2:08x}")  # published after all, it is one and the same
    assert looked_at(store, SOURCE, NAME).looks("ffffffff") == 4
    assert looked_at(store, SOURCE, NAME).looks("aaaaaaaa") == 3
    promote(store, first, 0, 3)
    judged(store, "aaaaaaaa", first.version), judged(store, "bbbbbbbb", first.version, OTHER)
    assert compared(store) == {"aaaaaaaa"}  # the same bars again, at a champion that no other source has
    judged(store, first.hash8, first.version)  # by its own run, killed once it was promoted, and started again
    assert compared(store) == {"aaaaaaaa"}
    store.rollback(SOURCE, NAME, "a drawdown", BEGIN + timedelta(hours=6))
    judged(store, "cccccccc", source=OTHER)
    assert compared(store) == {first.hash8, f"{2:08x}", "aaaaaaaa", "cccccccc"}  # at flat, in any source


def test_market_without_versions_was_never_looked_at(store):
    looked = looked_at(store, SOURCE, NAME)
    assert (looked.trials, looked.searched, looked.compared, looked.looks("ffffffff")) == ((), 0, frozenset(), 1)


@pytest.mark.promise(13)
@pytest.mark.parametrize("origins", [("replayed", "replayed"), ("replayed", "exchange"), ("exchange", None)])
def test_one_more_bar_forgets_neither_trial_nor_look(store, origins):
    earlier, now = (
        Source("bybit") if one == "exchange" else at for one, at in zip(origins, (SOURCE, OTHER), strict=True)
    )
    early = [publish(store, hour, earlier) for hour in range(3)]
    for number in range(3):
        tried(store, earlier, origins[0], number)
    tried(store, now, origins[1], 3)
    looked = looked_at(store, now, NAME)
    assert looked.looks("ffffffff") == 4
    assert sorted(sharpe_per_strategy(looked.trials)) == [0.0, 0.01, 0.02, 0.03]
    assert looked.searched == 4
    promote(store, early[0], 0, 4)
    publish(store, 5, earlier)
    assert compared(store, now) == hashes(
        early
    )  # compared with flat; what came after, with a champion that reigns there alone
    promote(store, publish(store, 6, now), 0, 7)
    assert not compared(store, now)


def test_strategy_on_one_more_bar_is_the_same_one(store):
    tried(store, SOURCE, "replayed", 1)
    tried(store, OTHER, "replayed", 1)
    assert sharpe_per_strategy(looked_at(store, OTHER, NAME).trials) == [0.01]


@pytest.mark.promise(0)
def test_market_that_is_made_up_counts_for_itself_alone(store):
    markets = {SOURCE: "synthetic", OTHER: "synthetic", Source("bybit"): "exchange"}
    for number, (source, origin) in enumerate(markets.items()):
        publish(store, number, source)
        tried(store, source, origin, number)
    for number, source in enumerate(markets):
        looked = looked_at(store, source, NAME)
        assert [trial.source for trial in looked.trials] == [source]
        assert (looked.searched, looked.compared) == (1, {f"{number:08x}"})
        assert looked.trials[0].made_from == {"seed": number}


def test_other_market_s_trials_are_none_of_it(store):
    tried(store, OTHER, "replayed", 1, name="linear-ADAUSDT-5")
    publish(store, 1, OTHER, name="linear-ADAUSDT-5")
    assert looked_at(store, SOURCE, NAME).looks("ffffffff") == 1
    assert looked_at(store, SOURCE, NAME).trials == ()


@pytest.mark.promise(13)
@pytest.mark.parametrize("origin", ["replayed", "synthetic"])
def test_candles_of_a_sandbox_under_another_name_forget_neither_trial_nor_look(store, origin):
    publish(store, 1, name="linear-COPYUSDT-5")
    for number in range(3):
        tried(store, SOURCE, origin, number, name="linear-COPYUSDT-5")
    tried(store, SOURCE, origin, 2)  # one of them again, under this name
    looked = looked_at(store, SOURCE, NAME)
    assert looked.looks("ffffffff") == 2
    assert sorted(sharpe_per_strategy(looked.trials)) == [0.0, 0.01, 0.02]
    assert looked.searched == 4


@pytest.mark.promise(13)
def test_another_name_on_an_exchange_or_another_interval_is_another_market(store):
    for source, name in ((Source("bybit"), "linear-ADAUSDT-5"), (SOURCE, "linear-COPYUSDT-15")):
        tried(store, source, "exchange" if source == "bybit" else "replayed", 1, name=name)
    for source in (Source("bybit"), SOURCE):
        assert looked_at(store, source, NAME).trials == ()
