"""A store that is killed, full, closed or not there: nothing half written is taken for whole, and a line says why."""

import errno
import os
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from storage.artifacts import ArtifactStore
from storage.schema import ArtifactError
from tests.storage.published import FILES, MANIFEST, NAME, NOW, SOURCE, in_python, promote, publish

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
    in_python(act, tmp_path / "base", then=KILLED_AT_EVERY_STEP)
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
    in_python(act, tmp_path / "base", then=KILLED_AT_EVERY_STEP)
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


def test_store_without_rights_is_a_clear_error(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    out = in_python(
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
    out = in_python(
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


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_disk_without_hard_links_is_named_and_holds_nothing(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "link", lambda *asked, **options: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
    said = rf"\({os.strerror(code)}\); .*DSC_ARTIFACT_URL; a disk without hard links cannot hold the store"
    with pytest.raises(ArtifactError, match=said):
        ArtifactStore(str(tmp_path)).publish(SOURCE, NAME, "0123abcd", FILES, MANIFEST, NOW)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
