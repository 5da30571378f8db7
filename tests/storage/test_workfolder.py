"""Intermediate results: whole or absent, and found again by what they were made from."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.schema import StoreError
from storage.workfolder import WorkFolder


@dataclass(frozen=True, kw_only=True)
class Choice:
    horizon: int = 12
    rate: float = 0.1


def test_key_is_the_same_for_equal_inputs_whatever_their_order():
    one = WorkFolder.key("fold", {"config": Choice(), "index": 1})
    two = WorkFolder.key("fold", {"index": 1, "config": Choice(horizon=12, rate=0.1)})
    assert one == two
    assert one.startswith("fold-")


def test_key_changes_when_any_input_changes():
    keys = {WorkFolder.key("fold", {"config": Choice(horizon=h), "index": i}) for h in (1, 2) for i in (1, 2)}
    assert len(keys) == 4


def test_key_refuses_a_path_so_that_no_folder_of_a_machine_enters_it():
    with pytest.raises(TypeError, match="a path must not enter a content key"):
        WorkFolder.key("fold", {"file": Path("here")})


def test_result_is_read_back_as_it_was_saved(tmp_path):
    work = WorkFolder(tmp_path / "work")
    assert "fold-1" not in work
    work.save("fold-1", {"a.json": b"{}", "b.bin": b"\x00\x01"})
    assert "fold-1" in work
    assert work.read("fold-1", "b.bin") == b"\x00\x01"


def test_result_that_is_there_is_left_alone_when_saved_again(tmp_path):
    work = WorkFolder(tmp_path)
    work.save("fold-1", {"a.json": b"first"})
    work.save("fold-1", {"a.json": b"second"})
    assert work.read("fold-1", "a.json") == b"first"


def test_read_says_what_to_do_when_the_result_is_missing(tmp_path):
    with pytest.raises(StoreError, match=r"result fold-9 has no readable a\.json .*delete .*fold-9 and run it again"):
        WorkFolder(tmp_path).read("fold-9", "a.json")


def test_read_refuses_a_file_that_was_changed_or_cut(tmp_path):
    work = WorkFolder(tmp_path)
    work.save("fold-1", {"a.json": b"[1, 2]"})
    (tmp_path / "fold-1" / "a.json").write_bytes(b"[1, 3]")
    with pytest.raises(StoreError, match=r"a\.json of result fold-1 is damaged; delete .*fold-1 and run it again"):
        work.read("fold-1", "a.json")
    (tmp_path / "fold-1" / "sha256.json").write_bytes(b"{")
    with pytest.raises(StoreError, match=r"result fold-1 has no readable a\.json"):
        work.read("fold-1", "a.json")


def test_save_says_where_when_the_folder_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="results must be writable"):
        WorkFolder(tmp_path / "file" / "work").save("fold-1", {"a": b""})


def test_killed_save_leaves_no_result(tmp_path):
    killed_in_the_middle = f"""
import os, signal
from pathlib import Path
from storage.workfolder import WorkFolder
class Files(dict):
    def items(self):
        yield "a.json", b"whole"
        os.kill(os.getpid(), signal.SIGKILL)
WorkFolder(Path({str(tmp_path)!r})).save("fold-1", Files(a=1))
"""
    done = subprocess.run([sys.executable, "-c", killed_in_the_middle], env=os.environ, check=False)  # noqa: S603 - our own text
    assert done.returncode == -signal.SIGKILL
    work = WorkFolder(tmp_path)
    assert "fold-1" not in work
    work.save("fold-1", {"a.json": b"whole"})
    assert work.read("fold-1", "a.json") == b"whole"


def test_save_that_is_cancelled_leaves_nothing_behind(tmp_path):
    class Cancelled(BaseException):
        """As Prefect's TerminationSignal, no Exception."""

    class Files(dict):
        def items(self):
            yield "a.json", b"whole"
            raise Cancelled

    with pytest.raises(Cancelled):
        WorkFolder(tmp_path).save("fold-1", Files(a=1))
    assert list(tmp_path.iterdir()) == []


NOW = datetime(2026, 1, 10, tzinfo=UTC)


def used(folder: Path, days_ago: float) -> None:
    """Make a result look as if it was last used so many days before NOW."""
    seconds = (NOW - timedelta(days=days_ago)).timestamp()
    os.utime(folder, (seconds, seconds))


def test_prune_removes_what_nobody_used_since_then_and_says_what_went(tmp_path):
    work = WorkFolder(tmp_path)
    for key, days in (("fold-old", 8), ("fold-new", 6), ("fold-kept", 9)):
        work.save(key, {"a.json": b"12345"})
        used(tmp_path / key, days)
    size = sum(file.stat().st_size for file in (tmp_path / "fold-old").iterdir())
    pruned = work.prune(NOW - timedelta(days=7), keep=lambda key: key == "fold-kept")
    assert (pruned.keys, pruned.freed_bytes) == (("fold-old",), size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold-kept", "fold-new"]
    assert work.prune(NOW - timedelta(days=7), keep=lambda key: key == "fold-kept").keys == ()


@pytest.mark.parametrize("use", [lambda work: "fold-1" in work, lambda work: work.save("fold-1", {"a.json": b"{}"})])
def test_result_that_a_run_has_found_again_stays_however_old_it_is(tmp_path, use):
    work = WorkFolder(tmp_path)
    work.save("fold-1", {"a.json": b"{}"})
    used(tmp_path / "fold-1", 400)
    use(work)  # a run that skips the work will read the result later
    assert work.prune(NOW - timedelta(days=7)).keys == ()
    assert work.read("fold-1", "a.json") == b"{}"


def test_prune_removes_old_leftovers_of_killed_runs_and_nothing_that_is_not_its_own(tmp_path):
    work = WorkFolder(tmp_path / "work")
    assert work.prune(NOW).keys == ()  # no folder yet
    work.save("fold-1", {"a.json": b"{}"})
    for name, days in ((".unfinished-old", 8), (".unfinished-running", 1), (".hidden", 8)):
        (tmp_path / "work" / name).mkdir()
        used(tmp_path / "work" / name, days)
    (tmp_path / "work" / "notes.txt").write_text("a user's")
    used(tmp_path / "work" / "notes.txt", 400)
    assert work.prune(NOW - timedelta(days=7)).keys == (".unfinished-old",)
    assert {path.name for path in (tmp_path / "work").iterdir()} == {
        "fold-1", ".unfinished-running", ".hidden", "notes.txt",
    }  # fmt: skip


def test_prune_says_why_when_a_result_cannot_be_removed(tmp_path, monkeypatch):
    work = WorkFolder(tmp_path)
    work.save("fold-1", {"a.json": b"{}"})
    used(tmp_path / "fold-1", 8)

    def refused(path, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(StoreError, match=r"can't be pruned \(Permission denied\); check its rights"):
        work.prune(NOW)
    assert work.read("fold-1", "a.json") == b"{}"


def test_runs_that_prune_at_the_same_time_remove_everything_once(tmp_path):
    work, keys = WorkFolder(tmp_path), [f"fold-{number}" for number in range(40)]
    for key in keys:
        work.save(key, {"a.json": b"{}", "b.json": b"{}"})
        used(tmp_path / key, 8)
    with ThreadPoolExecutor(4) as pool:
        pruned = list(pool.map(lambda _: work.prune(NOW - timedelta(days=7)), range(4)))
    removed = [key.removeprefix(".unfinished-") for part in pruned for key in part.keys]
    assert len(removed) == len(set(removed))
    assert set(removed) <= set(keys)
    assert work.by_last_use() == ()
