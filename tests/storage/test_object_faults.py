"""An object store that says no, or goes away, in the middle of a write: a clear error, and no half of anything."""

import os
from datetime import UTC, datetime, timedelta

import pytest
import requests

from storage.artifacts import ArtifactStore
from storage.results import ResultStore
from storage.schema import FEATURES, ArtifactError, Source, StoreError, UnreachableError

SOURCE, NAME = Source("sandbox:0123abcd"), "linear-SYNTHUSDT-5"
NOW = datetime(2026, 1, 4, 10, tzinfo=UTC)
FILES = {"weights.safetensors": b"w" * 3_000, "report.html": b"<p>flat</p>"}
EVIDENCE = {"champion": {"net_bp": 0.0}, "challenger": {"net_bp": 1.5}}
KEY = "hunter2"


def publish(store: ArtifactStore, hash8: str):
    return store.publish(SOURCE, NAME, hash8, FILES, {"features": list(FEATURES)}, NOW + timedelta(seconds=int(hash8)))


def deny_after(requests_served: float) -> None:
    """Let the server take this many further requests, and refuse our key from then on."""
    answer = requests.post(
        f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth", data=str(requests_served), timeout=60
    )
    answer.raise_for_status()


@pytest.fixture
def url(s3_bucket, tmp_path):
    yield f"{s3_bucket}{tmp_path}"
    deny_after(float("inf"))


@pytest.mark.promise(9)
def test_access_denied_anywhere_in_a_publish_leaves_no_version(url):
    store = ArtifactStore(url)
    first = publish(store, "00000001")
    refused = 0
    for served in range(20):  # a publish takes about six requests: two listings, the twin's manifest, three files
        deny_after(served)
        try:
            publish(store, f"{served + 2:08d}")
        except ArtifactError as err:
            refused += 1
            assert "(Permission denied); check the rights on DSC_ARTIFACT_URL" in str(err)  # noqa: PT017
        else:
            break
        finally:
            deny_after(float("inf"))
        assert store.versions(SOURCE, NAME) == (first,)
    assert refused >= 5
    whole = store.versions(SOURCE, NAME)[-1]
    assert store.load(whole, source=SOURCE).files == FILES


@pytest.mark.promise(13)
def test_access_denied_in_a_promotion_leaves_the_champion_as_it_was(url):
    store = ArtifactStore(url)
    ref = publish(store, "00000001")
    refused = 0
    for served in range(30):  # a promotion reads the version whole, looks at the champion, writes, and reads again
        deny_after(served)
        try:
            store.promote(SOURCE, NAME, ref, EVIDENCE, expected=0, now=NOW)
        except ArtifactError as err:
            refused += 1
            assert "(Permission denied); check the rights on DSC_ARTIFACT_URL" in str(err)  # noqa: PT017
        finally:
            deny_after(float("inf"))
        if store.champion(SOURCE, NAME).ref is not None:
            break  # done, or written and the answer denied: whole all the same
        assert [entry.sequence for entry in store.history(SOURCE, NAME)] == [0]
    assert refused >= 7  # three files, two listings, the write, and what was written
    entry = store.champion(SOURCE, NAME)
    assert (entry.sequence, entry.ref, entry.evidence) == (1, ref, EVIDENCE)


def test_access_denied_is_no_missing_result(url):
    work = ResultStore(f"{url}/work")
    deny_after(0)
    with pytest.raises(StoreError, match=r"can't look for .*fold-1\.zip \(.+\); check the rights on DSC_ARTIFACT_URL"):
        work.save("fold-1", {"a.json": b"{}"})
    deny_after(float("inf"))
    assert not work.finished("fold-1")
    work.save("fold-1", {"a.json": b"{}"})
    assert work.read("fold-1") == {"a.json": b"{}"}


@pytest.mark.promise(9)
def test_server_that_goes_down_in_a_publish_ends_it_with_a_clear_error_and_no_key_in_it(
    s3_bucket, tmp_path, monkeypatch
):
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        patch.setattr(S3FileSystem, "_cache", {})  # else the connection to the other server is taken again
        store = ArtifactStore(f"{s3_bucket}{tmp_path}")
        real = store._objects.create

        def create(path: str, content: bytes) -> None:
            if path.endswith("report.html"):
                server.stop()
            real(path, content)

        patch.setattr(store._objects, "create", create)
        with pytest.raises(
            UnreachableError, match=r"can't write .*report\.html \(Could not connect .* and the network$"
        ) as err:
            publish(store, "00000001")
    assert KEY not in str(err.value)
