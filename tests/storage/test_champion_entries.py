"""Who is champion: one of many promotions wins, a rollback undoes it, and no entry is lost unnoticed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.artifacts import ArtifactStore
from storage.schema import ArtifactError, VersionRef
from tests.storage.published import (
    EVIDENCE,
    FILES,
    MANIFEST,
    NAME,
    NOW,
    SOURCE,
    folder_of,
    in_python,
    promote,
    publish,
    reseal,
)


@pytest.mark.promise(13)
def test_flat_is_the_first_champion(store: ArtifactStore) -> None:
    publish(store)
    champion = store.champion(SOURCE, NAME)
    assert (champion.sequence, champion.ref) == (0, None)
    assert store.history(SOURCE, NAME) == (champion,)


@pytest.mark.promise(13)
def test_promotion_keeps_the_numbers_of_both_sides(store: ArtifactStore) -> None:
    ref = publish(store)
    entry = store.promote(SOURCE, NAME, ref, EVIDENCE, expected=0, now=NOW)
    assert store.champion(SOURCE, NAME) == entry
    assert (entry.sequence, entry.ref, entry.at, entry.evidence) == (1, ref, "20260104T100000Z", EVIDENCE)
    for one_side in ({"champion": {"net_bp": 0.0}}, {"champion": {"net_bp": 0.0}, "challenger": {}}):
        with pytest.raises(
            ArtifactError, match=r"evidence must hold the numbers of both sides, was without challenger"
        ):
            store.promote(SOURCE, NAME, ref, one_side, expected=1, now=NOW)
    assert len(store.history(SOURCE, NAME)) == 2


@pytest.mark.promise(13)
def test_promotion_is_refused_when_the_champion_changed_since(store: ArtifactStore) -> None:
    first, second = publish(store, "0000000a"), publish(store, "0000000b")
    promote(store, first, expected=0)
    with pytest.raises(
        ArtifactError, match=r"changed: expected sequence 0, found 1; compare with the one now in force"
    ):
        promote(store, second, expected=0)
    assert store.champion(SOURCE, NAME).ref == first


@pytest.mark.promise(13)
def test_one_of_many_simultaneous_promotions_wins(url: str) -> None:
    refs = [publish(ArtifactStore(url), f"0000000{number}") for number in range(6)]

    def attempt(ref: VersionRef) -> str:
        try:
            promote(ArtifactStore(url), ref, expected=0)
        except ArtifactError as err:
            return str(err)
        return "won"

    with ThreadPoolExecutor(len(refs)) as pool:
        answers = list(pool.map(attempt, refs))
    assert answers.count("won") == 1
    assert sum("changed: expected sequence 0, found 1" in answer for answer in answers) == len(refs) - 1
    assert ArtifactStore(url).champion(SOURCE, NAME).ref == refs[answers.index("won")]


@pytest.mark.promise(13)
def test_memory_store_lets_nobody_in_between_looking_and_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    both_looked = threading.Barrier(2, timeout=0.2)  # runs out where the second has to wait for the first, as it should
    looks = MemoryFileSystem.exists

    def look_and_wait(self: MemoryFileSystem, path: str) -> bool:
        there: bool = looks(self, path)
        with suppress(threading.BrokenBarrierError):
            both_looked.wait()
        return there

    store = ArtifactStore("memory://race")
    refs = [publish(store, "0000000a"), publish(store, "0000000b")]
    monkeypatch.setattr(MemoryFileSystem, "exists", look_and_wait)
    with ThreadPoolExecutor(2) as pool:
        attempts = [pool.submit(promote, store, ref, 0) for ref in refs]
        won = [attempt.exception() is None for attempt in attempts]
    assert sorted(won) == [False, True]
    assert store.champion(SOURCE, NAME).ref == refs[won.index(True)]


@pytest.mark.promise(13)
def test_same_version_promoted_twice_at_once_wins_once(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = publish(store)
    promote(store, ref, expected=0)
    monkeypatch.setattr(store._log, "newest", lambda *_: 0)  # as if both had looked before either wrote
    with pytest.raises(ArtifactError, match=r"changed: expected sequence 0"):
        promote(store, ref, expected=0)


@pytest.mark.promise(13)
@given(st.lists(st.sampled_from(["promote", "rollback", "flat"]), max_size=8))
@settings(deadline=None, max_examples=40)
def test_rollback_undoes_promotions_like_a_stack(steps: list[str]) -> None:
    fsspec.filesystem("memory").store.clear()
    store = ArtifactStore("memory://stack")
    stack: list[VersionRef | None] = [None]
    for number, step in enumerate(steps):
        if step == "rollback" and len(stack) == 1:
            with pytest.raises(
                ArtifactError, match=r"nothing to roll back for .*: the champion is flat, the first one"
            ):
                store.rollback(SOURCE, NAME, "drawdown", NOW)
            continue
        if step == "rollback":
            stack.pop()
            assert store.rollback(SOURCE, NAME, "drawdown", NOW).reason == "drawdown"
        else:
            stack.append(publish(store, f"{number:08x}") if step == "promote" else None)
            promote(store, stack[-1], expected=store.champion(SOURCE, NAME).sequence)
        assert store.champion(SOURCE, NAME).ref == stack[-1]
    history = store.history(SOURCE, NAME)
    assert [entry.sequence for entry in history] == list(range(len(history)))


@pytest.mark.promise(13)
def test_champion_exchanged_after_its_promotion_is_refused_and_flat_still_possible(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    promote(store, ref, expected=0)
    reseal(folder_of(tmp_path, ref), lambda manifest: manifest["metrics"].update(sharpe_ratio=9.9))
    assert store.load(ref, source=SOURCE).manifest["metrics"] == {"sharpe_ratio": 9.9}  # consistent in itself
    with pytest.raises(ArtifactError, match=r"was exchanged after its promotion; roll back and retrain"):
        store.champion(SOURCE, NAME)
    promote(store, None, expected=1)
    assert store.champion(SOURCE, NAME).ref is None
    with pytest.raises(ArtifactError, match=r"was exchanged after its promotion; promote flat instead"):
        store.rollback(SOURCE, NAME, "drawdown", NOW)


def test_damaged_or_lost_champion_entry_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    for number in range(3):
        promote(store, publish(store, f"0000000{number}"), expected=number)
    folder = tmp_path / "sandbox-0123abcd" / NAME / "champion"
    (folder / "000003.json").write_text('{"version": ')
    with pytest.raises(ArtifactError, match=r"champion entry 3 of .* is not a sealed JSON document"):
        store.champion(SOURCE, NAME)
    (folder / "000002.json").unlink()
    with pytest.raises(ArtifactError, match=r"champion history of .* has lost entry 2; restore the file"):
        store.champion(SOURCE, NAME)


@pytest.mark.promise(13)
def test_one_of_many_promoting_processes_wins(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    for number in range(6):
        publish(store, f"0000000{number}")
    winners = in_python(
        """
        gate, opener = os.pipe()
        children = []
        for ref in ArtifactStore(sys.argv[1]).versions(SOURCE, NAME):
            child = os.fork()
            if child == 0:
                os.close(opener)
                os.read(gate, 1)  # returns in every child at once, when the parent closes its end
                try:
                    ArtifactStore(sys.argv[1]).promote(SOURCE, NAME, ref, EVIDENCE, expected=0, now=NOW)
                except ArtifactError as err:
                    os._exit(1 if "changed: expected sequence 0, found 1" in str(err) else 2)
                os._exit(0)
            children.append(child)
        os.close(opener)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(*codes)
        """,
        tmp_path,
    )
    assert sorted(winners.split()) == ["0", "1", "1", "1", "1", "1"]
    assert len(store.history(SOURCE, NAME)) == 2


@pytest.mark.promise(13)
def test_version_that_was_never_champion_expires_and_still_counts_as_tried(store: ArtifactStore) -> None:
    kept, spare = publish(store), publish(store, "00000002", after_s=1)
    promote(store, kept, expected=0)
    assert store.expire(spare) == sum(map(len, FILES.values()))
    assert store.versions(SOURCE, NAME) == (kept, spare)
    assert store.whole_versions(SOURCE, NAME) == (kept,)
    assert store.manifest(spare)["metrics"] == MANIFEST["metrics"]
    assert store.expire(spare) == 0
    with pytest.raises(ArtifactError, match=r"00000002 has lost its file .* or expired"):
        store.load(spare, source=SOURCE)
    assert publish(store, "00000002", after_s=2) != spare  # made once more, it is stored anew


@pytest.mark.promise(13)
def test_champions_of_all_times_never_expire(store: ArtifactStore) -> None:
    refs = [publish(store, f"{number:08d}", after_s=number) for number in (1, 2)]
    for number, ref in enumerate(refs):
        promote(store, ref, expected=number)
    promote(store, None, expected=2)
    for ref in refs:
        with pytest.raises(ArtifactError, match="must stay: it is or was the champion"):
            store.expire(ref)
    assert store.whole_versions(SOURCE, NAME) == tuple(refs)
