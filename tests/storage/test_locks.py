"""One at a time, across processes."""

import subprocess
import sys

import pytest

from storage.locks import exclusive
from storage.schema import StoreBusyError, StoreError

HOLD = """
import sys
from pathlib import Path
from storage.locks import exclusive
with exclusive(Path(sys.argv[1]), "x", 1.0):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_process_is_told_who_holds_the_lock_and_gives_up_in_time(holder, tmp_path):
    said = []
    with (
        pytest.raises(
            StoreBusyError, match=rf"retraining X must be one at a time, process {holder.pid} held it for 0 s"
        ),
        exclusive(tmp_path / "lock", "retraining X", 0.0, said.append),
    ):
        pytest.fail("two held it")
    assert said == []  # there was no time to wait


def test_lock_is_free_when_its_holder_was_killed(holder, tmp_path):
    holder.kill()
    holder.wait()
    with exclusive(tmp_path / "lock", "x", 0.0):
        assert "process" in (tmp_path / "lock").read_text()


def test_waiting_is_said_once(holder, tmp_path):
    said = []

    def release(line: str) -> None:
        said.append(line)
        holder.kill()

    with exclusive(tmp_path / "lock", "retraining X", 60.0, release):
        assert said == [f"waiting: retraining X is held by process {holder.pid}"]


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match=r"locks must be writable, .*/file/lock is not"),
        exclusive(tmp_path / "file" / "lock", "x", 0.0),
    ):
        pass
