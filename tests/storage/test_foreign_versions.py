"""Versions that somebody else may have written: signatures, other shapes, pipes, circles and closed folders."""

import hashlib
import hmac
import json
import os
import tempfile
from pathlib import Path

import pytest

from storage.artifacts import ArtifactStore
from storage.authorship import Place
from storage.schema import ArtifactError
from storage.sealed import sealed
from tests.storage.published import EVIDENCE, FILES, NAME, NOW, SOURCE, folder_of, in_python, promote, publish

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
    manifest = folder_of(tmp_path, ref) / "manifest.json"
    manifest.unlink()
    os.mkfifo(manifest)
    with pytest.raises(ArtifactError, match=r"manifest.json must be a regular file; move it away"):
        store.manifest(ref)


@pytest.mark.promise(19)
def test_folders_that_lead_round_in_a_circle_are_not_followed(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    ref = publish(store)
    for name in ("a", "b"):
        (folder_of(tmp_path, ref) / name).symlink_to(tmp_path)
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
            return in_python(OTHER_USER, root).splitlines()

        ref = f"{SOURCE}/{NAME}/20260104T100000Z-00000001"
        assert asked()[:2] == [ref, ref]
        version = folder_of(root, store.versions(SOURCE, NAME)[0])
        for closed in (version, version.parent, version / "manifest.json"):
            mode = closed.stat().st_mode
            closed.chmod(0)
            loaded, champion, _, published, _ = lines = asked()
            for line in (loaded, champion, published):
                assert "(Permission denied); check the rights on DSC_ARTIFACT_URL" in line
            assert not any("damaged" in line for line in lines)
            closed.chmod(mode)
