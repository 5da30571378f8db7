"""Intermediate results: whole or absent, and found again by what they were made from."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
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


def test_save_removes_what_a_killed_one_left_a_day_ago(tmp_path):
    old, new = tmp_path / ".unfinished-old", tmp_path / ".unfinished-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "a.json").write_bytes(b"half")
    os.utime(old, (0, 0))
    WorkFolder(tmp_path).save("fold-1", {"a.json": b"whole"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished-new", "fold-1"]
