"""Versions: stored once and whole, read back as they were, and refused when anything of them was exchanged."""

import os
import pickle
from datetime import timedelta
from pathlib import Path

import pytest

from storage.artifacts import FORMAT, ArtifactStore
from storage.schema import FEATURES, ArtifactError, Source, VersionRef
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
    folder_of(tmp_path, damaged).joinpath("report.html").write_bytes(b"<p>fla")
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
    path = folder_of(tmp_path, ref) / file
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
    out = in_python(
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
    path = folder_of(tmp_path, ref) / "manifest.json"
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
    reseal(folder_of(tmp_path, ref), lambda manifest: manifest.update(format=found))
    with pytest.raises(ArtifactError, match=rf"has format {found!r}, this program reads 1 to {FORMAT}; {way_out}"):
        store.load(ref, source=SOURCE)


def test_manifest_that_names_a_file_outside_its_folder_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    reseal(folder_of(tmp_path, ref), lambda manifest: manifest["files"].update({"../../../secret.json": {}}))
    with pytest.raises(
        ArtifactError, match=r"file name must be plain and not manifest.json, was '../../../secret.json'"
    ):
        store.load(ref, source=SOURCE)


def test_lost_file_is_named(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    (folder_of(tmp_path, ref) / "report.html").unlink()
    with pytest.raises(ArtifactError, match=r"has lost its file 'report.html', or expired .* roll back or retrain"):
        store.load(ref, source=SOURCE)
