import errno
import hashlib
import hmac
import json
import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.artifacts import FORMAT, ArtifactStore
from storage.authorship import Place
from storage.schema import FEATURES, ArtifactError, Source, VersionRef
from storage.sealed import sealed

SOURCE = Source("sandbox:0123abcd")
NAME = "linear-SYNTHUSDT-5"
NOW = datetime(2026, 1, 4, 10, tzinfo=UTC)
FILES = {"weights.safetensors": b"w" * 3_000, "report.html": b"<p>flat</p>"}
MANIFEST = {"features": list(FEATURES), "metrics": {"sharpe_ratio": None}}
EVIDENCE = {"champion": {"net_bp": 0.0}, "challenger": {"net_bp": 1.5}}
STORES = ["disk", "memory", *(["s3"] if find_spec("s3fs") and find_spec("moto") else [])]


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "models")
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("s3_bucket")
    return f"{base}{tmp_path}"


@pytest.fixture
def store(url: str) -> ArtifactStore:
    return ArtifactStore(url)


def publish(store: ArtifactStore, hash8: str = "00000001", *, source: Source = SOURCE, after_s: int = 0) -> VersionRef:
    return store.publish(source, NAME, hash8, FILES, MANIFEST, NOW + timedelta(seconds=after_s))


def promote(store: ArtifactStore, ref: VersionRef | None, expected: int) -> int:
    return store.promote(SOURCE, NAME, ref, EVIDENCE, expected=expected, now=NOW).sequence


# --- versions ---------------------------------------------------------------------------------------------------------


def test_version_is_read_back_as_published(store: ArtifactStore) -> None:
    ref = publish(store)
    assert ref == VersionRef(source=SOURCE, name=NAME, version="20260104T100000Z-00000001")
    artifact = store.load(ref, source=SOURCE)
    assert artifact.files == FILES
    assert artifact.manifest["metrics"] == {"sharpe_ratio": None}
    assert artifact.manifest["source"] == SOURCE
    # printf '<p>flat</p>' | sha256sum
    assert artifact.manifest["files"]["report.html"] == {
        "sha256": "83ebcf0efc44ec03fd272a7a17443d63b73798e472669b31c7440a3d34382b68",
        "bytes": 11,
    }
    assert store.read(ref, "report.html") == b"<p>flat</p>"


def test_versions_are_listed_oldest_first(store: ArtifactStore) -> None:
    assert store.versions(SOURCE, NAME) == ()
    later = publish(store, "0000000a", after_s=60)
    earlier = publish(store, "0000000b")
    assert store.versions(SOURCE, NAME) == (earlier, later)


def test_same_hash_published_again_returns_the_stored_version(store: ArtifactStore) -> None:
    first = publish(store)
    assert publish(store, after_s=3_600) == first
    assert store.versions(SOURCE, NAME) == (first,)


def test_same_hash_is_stored_anew_when_the_stored_version_is_damaged(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    damaged = publish(store)
    _folder(tmp_path, damaged).joinpath("report.html").write_bytes(b"<p>fla")
    fresh = publish(store, after_s=1)
    assert fresh != damaged
    assert store.load(fresh, source=SOURCE).files == FILES


def test_version_is_invisible_until_its_manifest_is_written(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(url)
    real, writes = store._objects.create, 0

    def create(path: str, content: bytes) -> None:
        nonlocal writes
        if writes == dies_at:
            raise KeyboardInterrupt
        writes += 1
        assert store.versions(SOURCE, NAME) == ()
        real(path, content)

    monkeypatch.setattr(store._objects, "create", create)
    for dies_at in range(3):  # two files and the manifest
        writes = 0
        with pytest.raises(KeyboardInterrupt):
            publish(store, after_s=dies_at)
    monkeypatch.undo()
    assert store.versions(SOURCE, NAME) == ()

    whole = publish(store, after_s=10)
    assert store.prune_unfinished(SOURCE, NAME, NOW + timedelta(seconds=2)) == (
        "20260104T100001Z-00000001/weights.safetensors",
    )
    assert store.prune_unfinished(SOURCE, NAME, NOW + timedelta(days=1)) == (
        "20260104T100002Z-00000001/report.html",
        "20260104T100002Z-00000001/weights.safetensors",
    )
    assert store.versions(SOURCE, NAME) == (whole,)
    assert store.load(whole, source=SOURCE).files == FILES


def test_second_publisher_of_one_name_is_refused_while_the_first_is_at_work(store: ArtifactStore) -> None:
    store._objects.create(f"sandbox-0123abcd/{NAME}/20260104T100000Z-00000001/report.html", b"another report")
    with pytest.raises(ArtifactError, match=r"is being published by another process; run it again"):
        publish(store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hash8": "xyz"}, r"hash8 must be 8 lower-case hex digits, was 'xyz'"),
        ({"name": "../models"}, r"name must be letters, digits, dots, dashes and underscores, was '../models'"),
        ({"files": {}}, r"a version must hold at least one file, was given none"),
        ({"files": {"../x.json": b""}}, r"file name must be plain and not manifest.json, was '../x.json'"),
        ({"files": {"manifest.json": b""}}, r"file name must be plain and not manifest.json, was 'manifest.json'"),
        ({"manifest": {"features": ["rsi"], "files": 1}}, r"manifest must leave files, format, .* was given files"),
        ({"manifest": {}}, r"manifest must name the model's inputs under 'features', was None"),
        ({"manifest": {"features": ["rsi"], "sharpe": float("nan")}}, r"must be plain JSON without NaN or infinity"),
        ({"manifest": {"features": ["rsi"], "when": NOW}}, r"must be plain JSON .*datetime is not JSON serializable"),
        ({"now": NOW.replace(tzinfo=None)}, r"time must know its zone, was 2026-01-04T10:00:00"),
    ],
)
def test_publish_is_refused_when_an_argument_breaks_a_rule(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    arguments = {"hash8": "00000001", "name": NAME, "files": FILES, "manifest": MANIFEST, "now": NOW} | change
    with pytest.raises(ArtifactError, match=message):
        ArtifactStore(str(tmp_path / "models")).publish(SOURCE, **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "models").exists()


# --- what is refused on reading ---------------------------------------------------------------------------------------


@pytest.mark.promise(0)
def test_version_of_one_source_is_refused_on_another(store: ArtifactStore) -> None:
    ref = publish(store)
    with pytest.raises(ArtifactError, match=r"is of source sandbox:0123abcd, and is refused on bybit; retrain there"):
        store.load(ref, source=Source("bybit"))
    with pytest.raises(ArtifactError, match=r"must not be promoted on bybit/linear-SYNTHUSDT-5; retrain there"):
        store.promote(Source("bybit"), NAME, ref, EVIDENCE, expected=0, now=NOW)
    assert store.versions(Source("bybit"), NAME) == ()
    assert store.champion(Source("bybit"), NAME).ref is None


@pytest.mark.promise(0)
def test_version_moved_to_another_source_by_hand_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    (tmp_path / "sandbox-0123abcd").rename(tmp_path / "bybit")
    moved = VersionRef(source=Source("bybit"), name=NAME, version=ref.version)
    with pytest.raises(ArtifactError, match=r"must say source 'bybit', was 'sandbox:0123abcd': moved from elsewhere"):
        store.load(moved, source=Source("bybit"))


@pytest.mark.promise(9)
@pytest.mark.parametrize("file", FILES)
def test_load_is_refused_when_one_byte_of_any_file_changed(tmp_path: Path, file: str) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    path = _folder(tmp_path, ref) / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{file} of version .* does not match its sha256: damaged or tampered"):
        store.load(ref, source=SOURCE)
    with pytest.raises(ArtifactError, match=r"does not match its sha256"):
        promote(store, ref, expected=0)
    assert store.champion(SOURCE, NAME).sequence == 0


@pytest.mark.promise(9)
def test_formats_that_can_carry_code_are_refused(store: ArtifactStore) -> None:
    for file in ("model.pt", "model.pkl", "model.joblib", "model.npy", "run.py", "weights"):
        with pytest.raises(ArtifactError, match=rf"file must hold data only \(.*\), was '{file}'"):
            store.publish(SOURCE, NAME, "00000001", {file: b""}, MANIFEST, NOW)


@pytest.mark.promise(9)
def test_load_unpickles_nothing_and_starts_nothing(tmp_path: Path) -> None:
    bomb = pickle.dumps(_Bomb(tmp_path / "exploded"))
    ref = ArtifactStore(str(tmp_path)).publish(
        SOURCE, NAME, "00000001", {"weights.safetensors": bomb, "model.onnx": bomb}, MANIFEST, NOW
    )
    out = _python(
        """
        forbidden = ("pickle.find_class", "marshal.load", "os.system", "os.exec", "os.posix", "subprocess", "exec")
        store = ArtifactStore(sys.argv[1])
        ref = store.versions(SOURCE, NAME)[0]
        sys.addaudithook(lambda event, _: os._exit(9) if event.startswith(forbidden) else None)
        print(len(store.load(ref, source=SOURCE).files["model.onnx"]))
        """,
        tmp_path,
    )
    assert out == str(len(bomb))
    assert ref == ArtifactStore(str(tmp_path)).versions(SOURCE, NAME)[0]
    assert not (tmp_path / "exploded").exists()


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([f for f in FEATURES if f != "range"], r"expects 35 features, was given 34 \(missing: 'range'\)"),
        ([*FEATURES, "hour"], r"expects 35 features, was given 36 \(unknown: 'hour'\)"),
        (list(reversed(FEATURES)), r"expects 35 features, was given 35 \(in another order\)"),
    ],
)
def test_load_is_refused_when_the_features_are_not_the_models(
    tmp_path: Path, features: list[str], message: str
) -> None:
    store = ArtifactStore(str(tmp_path))
    with pytest.raises(ArtifactError, match=message):
        store.load(publish(store), source=SOURCE, features=features)


def test_unknown_version_and_file_are_named_with_what_is_there(store: ArtifactStore) -> None:
    unknown = VersionRef(source=SOURCE, name=NAME, version="20260101T000000Z-ffffffff")
    with pytest.raises(ArtifactError, match=r"20260101T000000Z-ffffffff is unknown; 0 stored, newest: none"):
        store.load(unknown, source=SOURCE)
    ref = publish(store)
    with pytest.raises(ArtifactError, match=r"is unknown; 1 stored, newest: 20260104T100000Z-00000001"):
        store.manifest(unknown)
    with pytest.raises(ArtifactError, match=r"has no file 'model.onnx'; it holds report.html, weights.safetensors"):
        store.read(ref, "model.onnx")
    with pytest.raises(ArtifactError, match=r"version must look like 20260104T100000Z-7f3c9a2e, was '../../etc'"):
        store.manifest(VersionRef(source=SOURCE, name=NAME, version="../../etc"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], r"is not a sealed JSON document"),
        (lambda text: "", r"is not a sealed JSON document"),
        (lambda text: "[1, 2]", r"is not a sealed JSON document"),
        (lambda text: text.replace('"sharpe_ratio": null', '"sharpe_ratio": 9.9'), r"does not match its seal"),
    ],
)
def test_damaged_manifest_is_refused(tmp_path: Path, damage: object, message: str) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    path = _folder(tmp_path, ref) / "manifest.json"
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=rf"manifest of .* {message}.*roll back or retrain"):
        store.load(ref, source=SOURCE)


@pytest.mark.parametrize(
    ("found", "way_out"), [(FORMAT + 1, "update this program"), (0, "retrain"), ("x", "retrain"), (None, "retrain")]
)
def test_version_of_another_format_is_refused_with_what_to_do(tmp_path: Path, found: object, way_out: str) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    assert store.manifest(ref)["format"] == FORMAT
    _reseal(_folder(tmp_path, ref), lambda manifest: manifest.update(format=found))
    with pytest.raises(ArtifactError, match=rf"has format {found!r}, this program reads 1 to {FORMAT}; {way_out}"):
        store.load(ref, source=SOURCE)


def test_manifest_that_names_a_file_outside_its_folder_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    _reseal(_folder(tmp_path, ref), lambda manifest: manifest["files"].update({"../../../secret.json": {}}))
    with pytest.raises(
        ArtifactError, match=r"file name must be plain and not manifest.json, was '../../../secret.json'"
    ):
        store.load(ref, source=SOURCE)


def test_lost_file_is_named(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    (_folder(tmp_path, ref) / "report.html").unlink()
    with pytest.raises(ArtifactError, match=r"has lost its file 'report.html', or expired .* roll back or retrain"):
        store.load(ref, source=SOURCE)


# --- champion ---------------------------------------------------------------------------------------------------------


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
    _reseal(_folder(tmp_path, ref), lambda manifest: manifest["metrics"].update(sharpe_ratio=9.9))
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


# --- kill -9 ----------------------------------------------------------------------------------------------------------

# Runs `act` in one child process per step that it takes on the disk, and kills the n-th child just before its n-th
# step, without knowing what the store does: Python itself audits open, link, remove and mkdir; writes are cut in half.
KILLED_AT_EVERY_STEP = """
    def survives(act, kill_at):
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status) or status == 0, status
            return not os.WIFSIGNALED(status)
        calls = 0
        def tick(event, args=()):
            nonlocal calls
            if event in ("open", "os.link", "os.remove", "os.rename", "os.mkdir", "write", "fsync"):
                calls += 1
                if calls == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
        fsync = os.fsync
        os.fsync = lambda descriptor: (tick("fsync"), fsync(descriptor))
        def write(file, content):
            half = len(content) // 2
            tick("write"), file.f.write(content[:half]), file.f.flush()
            tick("write"), file.f.write(content[half:])
        LocalFileOpener.write = write
        sys.addaudithook(tick)
        act()
        os._exit(0)

    base = Path(sys.argv[1])
    for kill_at in itertools.count(1):
        folder = base.with_name(f"killed-{kill_at:03d}")
        shutil.copytree(base, folder)
        if survives(lambda: act(ArtifactStore(str(folder))), kill_at):
            break
"""


@pytest.mark.promise(13)
def test_publish_killed_at_any_step_leaves_no_version_or_a_whole_one(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    act = """
    def act(store):
        store.publish(SOURCE, NAME, "00000001", FILES, MANIFEST, NOW)
    """
    _python(act, tmp_path / "base", then=KILLED_AT_EVERY_STEP)
    outcomes = []
    for folder in sorted(tmp_path.glob("killed-*")):
        store = ArtifactStore(str(folder))
        visible = store.versions(SOURCE, NAME)
        outcomes.append(len(visible))
        again = publish(store, after_s=60)
        assert store.load(again, source=SOURCE).files == FILES
        assert visible in ((), (again,))
        store.prune_unfinished(SOURCE, NAME, datetime(2100, 1, 1, tzinfo=UTC))
        left = sorted(path.name for path in folder.rglob("*") if path.is_file())
        assert left == ["manifest.json", "report.html", "weights.safetensors"]
    assert len(outcomes) > 20  # three files, seven steps each, and the folders
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {0, 1}


@pytest.mark.promise(13)
def test_promotion_killed_at_any_step_leaves_the_old_champion_or_the_new_one(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "base"))
    old, new = publish(store, "0000000a"), publish(store, "0000000b")
    promote(store, old, expected=0)
    act = """
    def act(store):
        store.promote(SOURCE, NAME, store.versions(SOURCE, NAME)[1], EVIDENCE, expected=1, now=NOW)
    """
    _python(act, tmp_path / "base", then=KILLED_AT_EVERY_STEP)
    outcomes = []
    for folder in sorted(tmp_path.glob("killed-*")):
        store = ArtifactStore(str(folder))
        champion = store.champion(SOURCE, NAME)
        assert champion.ref == (old if champion.sequence == 1 else new)
        assert champion.ref is not None
        assert store.load(champion.ref, source=SOURCE).files == FILES
        if champion.sequence == 1:
            assert promote(store, new, expected=1) == 2
        outcomes.append(champion.sequence)
    assert len(outcomes) > 5
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}


@pytest.mark.promise(13)
def test_one_of_many_promoting_processes_wins(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    for number in range(6):
        publish(store, f"0000000{number}")
    winners = _python(
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


# --- a store that refuses ---------------------------------------------------------------------------------------------


def test_store_without_rights_is_a_clear_error(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    out = _python(
        """
        if os.geteuid() == 0:
            os.setuid(65534)  # root may write anywhere, nobody may not
        try:
            ArtifactStore(sys.argv[1]).publish(SOURCE, NAME, "00000001", FILES, MANIFEST, NOW)
        except ArtifactError as err:
            print(err)
        """,
        locked,
    )
    assert out.startswith(f"can't list {locked}") or out.startswith(f"can't write {locked}")
    assert out.endswith("(Permission denied); check the rights on DSC_ARTIFACT_URL")


def test_write_that_does_not_fit_is_a_clear_error_and_leaves_no_version(tmp_path: Path) -> None:
    out = _python(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))  # weights.safetensors has 3,000 bytes
        try:
            ArtifactStore(sys.argv[1]).publish(SOURCE, NAME, "00000001", FILES, MANIFEST, NOW)
        except ArtifactError as err:
            print(err)
        """,
        tmp_path,
    )
    assert "weights.safetensors (File too large); raise the file size limit and run it again" in out
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_full_disk_is_a_clear_error_and_leaves_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    store = ArtifactStore(str(tmp_path))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"\(No space left on device\); free some space and run it again"):
        publish(store)
    assert store.versions(SOURCE, NAME) == ()


def test_refusals_of_an_object_store_are_clear_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore("memory://refusing")
    refusals = [
        (PermissionError("Access Denied"), r"\(Permission denied\); check the rights on DSC_ARTIFACT_URL"),
        (RuntimeError("could not connect"), r"\(could not connect\); check DSC_ARTIFACT_URL and the network"),
        (RuntimeError(), r"\(RuntimeError\); check DSC_ARTIFACT_URL and the network"),
    ]
    for error, message in refusals:

        def refuse(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
        with pytest.raises(ArtifactError, match=rf"can't write /refusing/.*weights.safetensors {message}"):
            publish(store)


def test_unknown_protocol_is_a_clear_error() -> None:
    with pytest.raises(ArtifactError, match=r"artifact URL must be a path or a known fsspec URL \(.*nowhere"):
        ArtifactStore("nowhere://models")


def test_missing_bucket_is_a_clear_error(s3_bucket: str) -> None:
    with pytest.raises(
        ArtifactError, match=r"can't write absent/models/.*bucket does not exist.*check DSC_ARTIFACT_URL"
    ):
        publish(ArtifactStore("s3://absent/models"))


def test_store_without_exclusive_creation_warns(caplog: pytest.LogCaptureFixture) -> None:
    class Looking(MemoryFileSystem):
        protocol = "looking"

    fsspec.register_implementation("looking", Looking, clobber=True)
    ArtifactStore("looking://models")
    assert caplog.messages == ["looking stores offer no atomic exclusive creation: run one writer at a time"]


# --- help -------------------------------------------------------------------------------------------------------------


# --- who wrote it -----------------------------------------------------------------------------------------------------

KEY = "5d41402abc4b2a76b9719d911017c592"


@pytest.mark.promise(19)
def test_with_a_key_versions_and_champions_of_other_writers_are_refused(store: ArtifactStore) -> None:
    nobody, theirs = store, publish(store)
    promote(nobody, theirs, 0)
    store = ArtifactStore(Place(url=nobody.place.url, key=KEY))
    for ask in (lambda: store.load(theirs, source=SOURCE), lambda: store.champion(SOURCE, NAME)):
        with pytest.raises(ArtifactError, match="was not written with this DSC_ARTIFACT_KEY; retrain, or set the key"):
            ask()
    ours = publish(store, "0000000b")
    assert store.load(ours, source=SOURCE).files == FILES
    assert promote(store, ours, 1) == 2
    assert store.champion(SOURCE, NAME).ref == ours
    with pytest.raises(ArtifactError, match="was not written with this DSC_ARTIFACT_KEY"):
        ArtifactStore(Place(url=nobody.place.url, key=KEY[::-1])).champion(SOURCE, NAME)
    assert nobody.champion(SOURCE, NAME).ref == ours  # which does not ask
    assert "signature" not in store.manifest(ours)


@pytest.mark.promise(19)
def test_signature_is_the_hmac_of_market_and_seal_so_that_none_fits_another_market(tmp_path: Path) -> None:
    store = ArtifactStore(Place(url=str(tmp_path), key=KEY))
    promote(store, publish(store), 0)
    store.promote(SOURCE, NAME, None, EVIDENCE, expected=1, now=NOW)
    entry = tmp_path / "sandbox-0123abcd" / NAME / "champion" / "000002.json"
    document = json.loads(entry.read_bytes())
    parts = [f"sandbox-0123abcd/{NAME}".encode(), document["seal"].encode()]
    spelled = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    expected = hmac.new(KEY.encode(), hashlib.sha256(spelled).hexdigest().encode(), hashlib.sha256).hexdigest()
    assert document["signature"] == expected
    other = tmp_path / "sandbox-0123abcd" / "linear-OTHERUSDT-5" / "champion"
    other.mkdir(parents=True)
    for number in (1, 2):
        (other / f"00000{number}.json").write_bytes(entry.with_name(f"00000{number}.json").read_bytes())
    with pytest.raises(ArtifactError, match="was not written with this DSC_ARTIFACT_KEY"):
        store.champion(SOURCE, "linear-OTHERUSDT-5")


# --- what others made of it -------------------------------------------------------------------------------------------


@pytest.mark.promise(19)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence": 7}, "is another one, moved from elsewhere"),
        ({"restores": 5}, "is another one, moved from elsewhere"),
        ({"restores": "0"}, "is not as this program writes it"),
        ({"version": "99999999T999999Z-00000001"}, "names no time or no version"),
        ({"version": "٢٠٢٦٠١٠٤T١٠٠٠٠٠Z-00000001"}, "names no time or no version"),
        ({"at": "soon"}, "names no time or no version"),
        ({"evidence": []}, "is not as this program writes it"),
        ({"reason": None}, "is not as this program writes it"),
    ],
)
def test_entry_of_another_shape_is_refused_though_its_seal_fits(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    store = ArtifactStore(str(tmp_path))
    promote(store, publish(store), 0)
    path = tmp_path / "sandbox-0123abcd" / NAME / "champion" / "000001.json"
    document = json.loads(path.read_bytes()) | change
    del document["seal"]
    path.write_bytes(sealed(document, "", Place(url="")))
    with pytest.raises(ArtifactError, match=message):
        store.champion(SOURCE, NAME)


@pytest.mark.promise(19)
def test_reason_that_steers_a_terminal_is_a_plain_line(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    promote(store, publish(store), 0)
    assert store.rollback(SOURCE, NAME, "\x1b[2Jall\nwell", NOW).reason == "[2Jall well"


@pytest.mark.promise(19)
def test_pipe_in_the_place_of_a_manifest_is_refused_at_once(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    manifest = _folder(tmp_path, ref) / "manifest.json"
    manifest.unlink()
    os.mkfifo(manifest)
    with pytest.raises(ArtifactError, match=r"manifest.json must be a regular file; move it away"):
        store.manifest(ref)


@pytest.mark.promise(19)
def test_folders_that_lead_round_in_a_circle_are_not_followed(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    for name in ("a", "b"):
        (_folder(tmp_path, ref) / name).symlink_to(tmp_path)
    assert store.versions(SOURCE, NAME) == (ref,)


OTHER_USER = """
import os, sys
os.setgid(65534)
os.setuid(65534)
from datetime import UTC, datetime
from storage.artifacts import ArtifactStore
from storage.schema import ArtifactError, VersionRef
from storage.trials import Trial, TrialLog
url, source, name = sys.argv[1], "sandbox:0123abcd", "linear-SYNTHUSDT-5"
store, ref = ArtifactStore(url), VersionRef(source=source, name=name, version="20260104T100000Z-00000001")
for ask in (
    lambda: store.load(ref, source=source).ref,
    lambda: store.champion(source, name).ref,
    lambda: store.versions(source, name),
    lambda: store.publish(source, name, "00000001", {"a.json": b"1"}, {"features": []}, datetime.now(UTC)),
    lambda: TrialLog(url, Trial).entries(source, name),
):
    try:
        print(ask())
    except ArtifactError as err:
        print(err)
"""


@pytest.mark.promise(19)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_users_folders_are_readable_by_their_mode_and_a_closed_one_is_no_damage() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # where another user may look
        root = Path(folder)
        root.chmod(0o755)
        store = ArtifactStore(str(root))
        promote(store, publish(store), 0)

        def asked() -> list[str]:
            return _python(OTHER_USER, root).splitlines()

        ref = f"{SOURCE}/{NAME}/20260104T100000Z-00000001"
        assert asked()[:2] == [ref, ref]
        version = _folder(root, store.versions(SOURCE, NAME)[0])
        for closed in (version, version.parent, version / "manifest.json"):
            mode = closed.stat().st_mode
            closed.chmod(0)
            loaded, champion, _, published, _ = lines = asked()
            for line in (loaded, champion, published):
                assert "(Permission denied); check the rights on DSC_ARTIFACT_URL" in line
            assert not any("damaged" in line for line in lines)
            closed.chmod(mode)


def _folder(root: Path, ref: VersionRef) -> Path:
    return root / ref.source.replace(":", "-") / ref.name / ref.version


def _reseal(folder: Path, edit: object) -> None:
    """Change a manifest as someone would who knows how the seal is made: SHA-256 of the compact, sorted JSON."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["seal"]
    edit(manifest)  # type: ignore[operator]
    compact = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["seal"] = hashlib.sha256(compact.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


_PREAMBLE = f"""
import itertools, os, shutil, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from fsspec.implementations.local import LocalFileOpener
from storage.artifacts import FORMAT, ArtifactStore
from storage.authorship import Place
from storage.sealed import sealed
from storage.schema import ArtifactError
SOURCE, NAME, FILES, MANIFEST, EVIDENCE = {SOURCE!r}, {NAME!r}, {FILES!r}, {MANIFEST!r}, {EVIDENCE!r}
NOW = datetime(2026, 1, 4, 10, tzinfo=UTC)
"""


def _python(code: str, argument: Path, then: str = "") -> str:
    """Run code in a process of its own and return what it printed."""
    script = _PREAMBLE + textwrap.dedent(code) + textwrap.dedent(then)
    done = subprocess.run(  # noqa: S603 - the script is written above
        [sys.executable, "-W", "error", "-c", script, str(argument)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_disk_without_hard_links_is_named_and_holds_nothing(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "link", lambda *asked, **options: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
    said = rf"\({os.strerror(code)}\); .*DSC_ARTIFACT_URL; a disk without hard links cannot hold the store"
    with pytest.raises(ArtifactError, match=said):
        ArtifactStore(str(tmp_path)).publish(SOURCE, NAME, "0123abcd", FILES, MANIFEST, NOW)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


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
