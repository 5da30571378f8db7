"""Results: whole or absent, on a disk and at a URL alike, and found again by what they were made from."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from storage.authorship import Place
from storage.results import ResultStore
from storage.schema import StoreError

FILES = {"a.json": b"[1, 2]", "weights.bin": bytes(range(200))}


@dataclass(frozen=True, kw_only=True)
class Choice:
    horizon: int = 12
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Report:
    choices: tuple[Choice, ...]
    numbers: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    values: np.ndarray

    def files(self):
        return {"values.bin": self.values.tobytes()}

    @classmethod
    def of(cls, files):
        return cls(values=np.frombuffer(files["values.bin"]))


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request, tmp_path):
    if request.param == "disk":
        return tmp_path / "work"
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("s3_bucket")
    return f"{base}{tmp_path}"


def test_key_is_the_same_for_equal_inputs_whatever_their_order():
    one = ResultStore.key("fold", {"config": Choice(), "index": 1})
    two = ResultStore.key("fold", {"index": 1, "config": Choice(horizon=12, rate=0.1)})
    assert one == two
    assert one.startswith("fold-")


def test_key_changes_when_any_input_changes():
    keys = {ResultStore.key("fold", {"config": Choice(horizon=h), "index": i}) for h in (1, 2) for i in (1, 2)}
    assert len(keys) == 4


def test_key_refuses_a_path_so_that_no_folder_of_a_machine_enters_it():
    with pytest.raises(TypeError, match="a path must not enter a content key"):
        ResultStore.key("fold", {"file": Path("here")})


def test_result_is_read_back_as_it_was_saved_and_stays_the_first(place):
    results = ResultStore(place)
    assert not results.finished("fold-1")
    results.save("fold-1", FILES)
    results.save("fold-1", {"a.json": b"second"})
    assert ResultStore(place).finished("fold-1")
    assert ResultStore(place).read("fold-1") == FILES
    with pytest.raises(StoreError, match=r"result fold-2 is not at .*fold-2\.zip; run again what makes it"):
        results.read("fold-2")


def test_dataclass_of_plain_values_is_loaded_as_it_was_to_the_last_bit(place):
    numbers = {"nan": float("nan"), "third": 1 / 3, "least": 5e-324, "none": None, "days": 7}
    saved = Report(choices=(Choice(rate=0.1 + 0.2), Choice(horizon=3)), numbers=numbers)
    ResultStore(place).save("report-1", saved)
    loaded = ResultStore(place).load("report-1", Report)
    assert loaded.choices == saved.choices
    assert repr(sorted(loaded.numbers.items())) == repr(sorted(numbers.items()))


def test_result_with_arrays_says_itself_how_it_is_kept(place):
    values = np.array([1 / 3, np.nan])
    ResultStore(place).save("fold-1", Predictions(values=values))
    assert ResultStore(place).load("fold-1", Predictions).values.tobytes() == values.tobytes()


@pytest.mark.parametrize("kind", [Report, Predictions])
def test_result_of_another_kind_is_refused_by_name(tmp_path, kind):
    results = ResultStore(tmp_path)
    results.save("fold-1", Choice())
    with pytest.raises(StoreError, match=rf"result fold-1 is no {kind.__name__} \(.*\); delete .*fold-1\.zip and run"):
        results.load("fold-1", kind)


def test_result_is_an_archive_that_any_tool_opens(tmp_path):
    ResultStore(tmp_path).save("fold-1", FILES)
    with zipfile.ZipFile(tmp_path / "fold-1.zip") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == FILES
    first = (tmp_path / "fold-1.zip").read_bytes()
    ResultStore(tmp_path / "again").save("fold-1", FILES)
    assert (tmp_path / "again" / "fold-1.zip").read_bytes() == first  # at another time of day


def test_result_saved_by_two_writers_at_once_is_one_of_theirs_whole(place, monkeypatch):
    stores, ready = [ResultStore(place) for _ in range(2)], threading.Barrier(2)

    def save(number):
        create = stores[number]._objects.create

        def together(path, content):  # both have looked, and neither found anything
            ready.wait()
            create(path, content)

        monkeypatch.setattr(stores[number]._objects, "create", together)
        stores[number].save("fold-1", {"a": bytes([number]) * 1_000})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(save, range(2)))
    assert ResultStore(place).read("fold-1")["a"] in (bytes(1_000), b"\x01" * 1_000)


def test_result_with_any_changed_byte_or_any_part_cut_off_is_refused():
    results, store = ResultStore("memory://damaged"), fsspec.filesystem("memory")
    results.save("fold-1", FILES)
    whole = store.cat_file("/damaged/fold-1.zip")
    for damaged in (
        *(whole[:length] for length in range(len(whole))),
        *(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :] for place in range(len(whole))),
    ):
        store.pipe_file("/damaged/fold-1.zip", damaged)
        with pytest.raises(
            StoreError, match=r"result fold-1 is damaged; delete .*/damaged/fold-1\.zip and run it again"
        ):
            results.read("fold-1")


def test_file_exchanged_inside_with_a_checksum_that_fits_is_refused(tmp_path):
    results = ResultStore(tmp_path)
    results.save("fold-1", FILES)
    content = (tmp_path / "fold-1.zip").read_bytes()
    edited = io.BytesIO()
    with zipfile.ZipFile(edited, "w") as archive:  # as an editor saves it: every CRC is right
        archive.writestr("a.json", b"[1, 3]")
        archive.comment = content[-64:]
    (tmp_path / "fold-1.zip").write_bytes(edited.getvalue())
    with pytest.raises(StoreError, match="result fold-1 is damaged"):
        results.read("fold-1")


@pytest.mark.parametrize("use", [lambda store: store.finished("a-1"), lambda store: store.save("a-1", FILES)])
def test_folder_that_is_none_is_an_error_and_no_missing_result(tmp_path, use):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"can't .*file/work.* \(Not a directory\); set DSC_HOME or DSC_ARTIFACT_URL"):
        use(ResultStore(tmp_path / "file" / "work"))


def test_killed_save_leaves_no_result(tmp_path):
    killed_in_the_middle = f"""
import os, signal
from storage.authorship import Place
from storage.results import ResultStore
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)  # written, and not in its place yet
ResultStore({str(tmp_path)!r}).save("fold-1", {{"a.json": b"whole"}})
"""
    done = subprocess.run([sys.executable, "-c", killed_in_the_middle], env=os.environ, check=False)  # noqa: S603 - our own text
    assert done.returncode == -signal.SIGKILL
    results = ResultStore(tmp_path)
    assert not results.finished("fold-1")
    assert results.by_last_use() == ()
    (leftover,) = tmp_path.iterdir()
    results.save("fold-1", {"a.json": b"whole"})
    assert results.read("fold-1") == {"a.json": b"whole"}
    used(leftover, 8)
    assert results.prune(NOW - timedelta(days=7)).keys == (leftover.name,)


def test_save_that_is_cancelled_leaves_nothing_behind(tmp_path, monkeypatch):
    class Cancelled(BaseException):
        """As Prefect's TerminationSignal, no Exception."""

    def cancel(descriptor):
        raise Cancelled

    monkeypatch.setattr(os, "fsync", cancel)
    with pytest.raises(Cancelled):
        ResultStore(tmp_path).save("fold-1", FILES)
    assert list(tmp_path.iterdir()) == []


NOW = datetime(2026, 1, 10, tzinfo=UTC)


def used(path: Path, days_ago: float) -> None:
    """Make a result look as if it was last used so many days before NOW."""
    seconds = (NOW - timedelta(days=days_ago)).timestamp()
    os.utime(path, (seconds, seconds))


def test_prune_removes_what_nobody_used_since_then_and_says_what_went(tmp_path):
    results = ResultStore(tmp_path)
    for key, days in (("fold-old", 8), ("fold-new", 6), ("fold-kept", 9)):
        results.save(key, {"a.json": b"12345"})
        used(tmp_path / f"{key}.zip", days)
    assert results.by_last_use() == ("fold-new", "fold-old", "fold-kept")
    size = (tmp_path / "fold-old.zip").stat().st_size
    pruned = results.prune(NOW - timedelta(days=7), keep=lambda key: key == "fold-kept")
    assert (pruned.keys, pruned.freed_bytes) == (("fold-old",), size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold-kept.zip", "fold-new.zip"]
    assert results.prune(NOW - timedelta(days=7), keep=lambda key: key == "fold-kept").keys == ()


@pytest.mark.parametrize("use", [lambda store: store.finished("fold-1"), lambda store: store.save("fold-1", FILES)])
def test_result_that_a_run_has_found_again_stays_however_old_it_is(tmp_path, use):
    results = ResultStore(tmp_path)
    results.save("fold-1", FILES)
    used(tmp_path / "fold-1.zip", 400)
    use(results)  # a run that skips the work will read the result later
    assert results.prune(NOW - timedelta(days=7)).keys == ()
    assert results.read("fold-1") == FILES


def test_prune_removes_old_leftovers_of_killed_runs_and_nothing_that_is_not_its_own(tmp_path):
    results = ResultStore(tmp_path / "work")
    assert results.prune(NOW).keys == ()  # no folder yet
    results.save("fold-1", FILES)
    for name, days in (("fold-2.zip.0a.tmp", 8), ("fold-3.zip.0b.tmp", 1), ("notes.txt", 400), (".hidden", 400)):
        (tmp_path / "work" / name).write_text("x")
        used(tmp_path / "work" / name, days)
    assert results.prune(NOW - timedelta(days=7)).keys == ("fold-2.zip.0a.tmp",)
    assert {path.name for path in (tmp_path / "work").iterdir()} == {
        "fold-1.zip", "fold-3.zip.0b.tmp", "notes.txt", ".hidden",
    }  # fmt: skip


def test_prune_says_why_when_a_result_cannot_be_removed(tmp_path, monkeypatch):
    results = ResultStore(tmp_path)
    results.save("fold-1", FILES)
    used(tmp_path / "fold-1.zip", 8)

    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StoreError, match=r"can't be pruned \(Permission denied\); check its rights"):
        results.prune(NOW)
    assert results.read("fold-1") == FILES


def test_runs_that_prune_at_the_same_time_remove_everything_once(tmp_path):
    results, keys = ResultStore(tmp_path), [f"fold-{number}" for number in range(40)]
    for key in keys:
        results.save(key, FILES)
        used(tmp_path / f"{key}.zip", 8)
    with ThreadPoolExecutor(4) as pool:
        pruned = list(pool.map(lambda _: results.prune(NOW - timedelta(days=7)), range(4)))
    assert sorted(key for part in pruned for key in part.keys) == sorted(keys)
    assert results.by_last_use() == ()


def test_nothing_is_pruned_at_a_url():
    results = ResultStore("memory://pruned")
    results.save("fold-1", FILES)
    assert results.by_last_use() == ()
    assert results.prune(datetime.now(UTC) + timedelta(days=1)).keys == ()
    assert results.finished("fold-1")


@pytest.mark.promise(19)
def test_with_a_key_results_of_other_writers_and_of_other_keys_are_refused(place):
    ResultStore(place).save("fold-1", FILES)
    store = ResultStore(Place(url=str(place), key="5d41402abc4b2a76b9719d911017c592"))
    with pytest.raises(
        StoreError, match=r"fold-1 was not written with this DSC_ARTIFACT_KEY; delete .*fold-1\.zip and"
    ):
        store.read("fold-1")
    store.save("fold-2", FILES)
    assert store.read("fold-2") == FILES
    store._objects.create("fold-3.zip", store._objects.read("fold-2.zip"))  # it is of other inputs there
    with pytest.raises(StoreError, match="fold-3 was not written with this DSC_ARTIFACT_KEY"):
        store.read("fold-3")
    with pytest.raises(StoreError, match="fold-2 was not written with this DSC_ARTIFACT_KEY"):
        ResultStore(Place(url=str(place), key="of somebody else")).read("fold-2")
    assert ResultStore(place).read("fold-2") == FILES  # nobody asks


@pytest.mark.promise(19)
def test_result_that_is_packed_is_damaged(tmp_path):
    store, packed = ResultStore(tmp_path), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", bytes(10_000_000))
        archive.comment = bytes(64)
    body = packed.getvalue()[:-64]
    (tmp_path / "fold-1.zip").write_bytes(body + hashlib.sha256(body).hexdigest().encode())
    with pytest.raises(StoreError, match=r"result fold-1 is damaged .*more than it has bytes"):
        store.read("fold-1")
