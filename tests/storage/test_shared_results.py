"""Datasets and finished steps at a URL: whole or absent, and the same as on a disk."""

import fsspec
import numpy as np
import pytest

from storage.schema import FEATURES, DatasetError, Source, StoreError
from storage.shared_results import SharedResults, results_at
from storage.snapshots import load_dataset, prune_datasets, write_dataset
from storage.workfolder import WorkFolder

FILES = {"a.json": b"[1, 2]", "weights.bin": bytes(range(200))}


@pytest.fixture(params=["memory", "s3"])
def url(request, tmp_path):
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("s3_bucket")
    return f"{base}{tmp_path}"


@pytest.fixture
def content(market, make_candles):
    """The arguments of `write_dataset` for 50 bars."""
    rng = np.random.default_rng(11)
    return {
        "source": Source("bybit"),
        "market": market,
        "candles": make_candles(50),
        "features": rng.normal(size=(50, len(FEATURES))),
        "vol": rng.random(50),
        "segment": np.repeat([0, 1], 25),
        "funding": (np.array([1_735_689_600_000]), np.array([1e-4])),
        "code_hash": "c0de",
    }


def test_place_decides_how_results_are_kept(tmp_path):
    assert type(results_at(tmp_path)) is WorkFolder
    assert type(results_at("memory://work")) is SharedResults
    assert SharedResults.key("fold", {"index": 1}) == WorkFolder.key("fold", {"index": 1})


def test_result_is_read_back_as_it_was_saved_and_stays_the_first(url):
    work = results_at(url)
    assert "fold-1" not in work
    work.save("fold-1", FILES)
    work.save("fold-1", {"a.json": b"second"})
    assert "fold-1" in results_at(url)
    assert {name: results_at(url).read("fold-1", name) for name in FILES} == FILES
    with pytest.raises(StoreError, match=r"result fold-1 has no b\.json; delete .*fold-1\.zip, .* and run it again"):
        work.read("fold-1", "b.json")
    with pytest.raises(StoreError, match=r"result fold-2 has no a\.json; delete .*fold-2\.zip, .* and run it again"):
        work.read("fold-2", "a.json")


def test_result_saved_twice_at_once_is_the_first_ones(url, monkeypatch):
    slow, fast = SharedResults(url), SharedResults(url)
    looked = slow._objects.exists
    monkeypatch.setattr(slow._objects, "exists", lambda path: looked(path) or fast.save("fold-1", {"a": b"fast"}))
    slow.save("fold-1", {"a": b"slow"})
    assert fast.read("fold-1", "a") == slow.read("fold-1", "a") == b"fast"


def test_result_with_any_changed_byte_or_any_part_cut_off_is_refused():
    work, store = SharedResults("memory://damaged"), fsspec.filesystem("memory")
    work.save("fold-1", FILES)
    whole = store.cat_file("/damaged/fold-1.zip")
    refused = 0
    for damaged in (
        *(whole[:length] for length in range(len(whole))),
        *(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :] for place in range(len(whole))),
    ):
        store.pipe_file("/damaged/fold-1.zip", damaged)
        for name, content in FILES.items():
            try:
                assert work.read("fold-1", name) == content  # a changed date of the archive says nothing else
            except StoreError as err:
                assert "run it again" in str(err)  # noqa: PT017
                refused += 1
    assert refused > len(whole)


@pytest.mark.promise(3)
def test_dataset_at_a_url_is_that_of_a_disk(url, content, tmp_path):
    with pytest.raises(DatasetError, match=r"is not in .*; build it again .* or let DSC_ARTIFACT_URL name the place"):
        load_dataset(url, "0" * 16)
    ref = write_dataset(url, **content)
    assert ref == write_dataset(tmp_path, **content) == write_dataset(url, **content)
    there, here = load_dataset(url, ref), load_dataset(tmp_path, ref)
    for name in ("features", "vol", "segment", "funding_ms", "funding_rate"):
        assert np.array_equal(getattr(there, name), getattr(here, name), equal_nan=True)
    assert np.array_equal(there.candles.matrix(), here.candles.matrix())
    assert prune_datasets(url, None, 0, None).keys == ()  # a bucket's own rules expire what nobody needs


@pytest.mark.promise(3)
def test_dataset_at_a_url_exists_once_its_manifest_does(content, monkeypatch):
    url, store = "memory://datasets", fsspec.filesystem("memory")
    ref = write_dataset(url, **content)
    store.rm_file(f"/datasets/{ref.id}/dataset.json")  # as a writer leaves it that was killed before its last file
    with pytest.raises(DatasetError, match=rf"dataset {ref.id} is not in memory://datasets"):
        load_dataset(url, ref)
    assert write_dataset(url, **content) == ref  # the files that are there are its own
    assert load_dataset(url, ref).ref == ref
    store.rm_file(f"/datasets/{ref.id}/dataset.json")
    store.pipe_file(f"/datasets/{ref.id}/bars.parquet", b"other")
    with pytest.raises(DatasetError, match=rf"dataset {ref.id} is half written, .*; delete memory://datasets/{ref.id}"):
        write_dataset(url, **content)
