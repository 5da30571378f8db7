"""Locks between processes: one holder at a time, none after a kill."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from storage.locks import exclusive, held
from storage.schema import StoreBusyError, StoreError

HOLDER = """
import sys
from pathlib import Path
from storage.locks import exclusive
with exclusive(Path(sys.argv[1]), "the work", 0.0):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "locks" / "work.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own text
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_holder_is_refused_by_name_until_the_first_is_killed(tmp_path, holder):
    lock, told = tmp_path / "locks" / "work.lock", []
    with pytest.raises(
        StoreBusyError, match=rf"the work must be one at a time, process {holder.pid} holds it; stop it"
    ):
        exclusive(lock, "the work", 0.0).__enter__()
    os.kill(holder.pid, signal.SIGKILL)
    with exclusive(lock, "the work", timeout_s=30.0, on_wait=told.append):
        holder.wait()
    assert len(told) <= 1  # the kernel may be as quick as we are


def test_waiting_is_told_once_and_ends_when_the_holder_is_killed(tmp_path, holder):
    lock, told = tmp_path / "locks" / "work.lock", []

    def kill(line):
        told.append(line)
        holder.kill()

    with exclusive(lock, "the work", timeout_s=30.0, on_wait=kill):
        assert told == [f"waiting: the work is held by process {holder.pid}"]


def test_threads_of_one_process_exclude_each_other(tmp_path):
    lock, inside, most = tmp_path / "work.lock", [], []

    def work():
        with exclusive(lock, "the work", timeout_s=60.0):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_lock_is_free_after_an_error_inside(tmp_path):
    with pytest.raises(KeyError), exclusive(tmp_path / "work.lock", "the work", 0.0):
        raise KeyError
    with exclusive(tmp_path / "work.lock", "the work", 0.0):
        pass


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        StoreError, match=r"locks must be writable, .*file/locks/work\.lock is not \(.*\); set DSC_HOME"
    ):
        exclusive(tmp_path / "file" / "locks" / "work.lock", "the work", 0.0).__enter__()


def test_disk_that_knows_no_locks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *asked: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks")))
    with pytest.raises(StoreError, match=r"work\.lock can't be locked \(No locks\); set DSC_HOME to a disk that knows"):
        exclusive(tmp_path / "work.lock", "the work", 0.0).__enter__()


def test_full_disk_takes_the_holders_name_and_not_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda *asked: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space")))
    busy = pytest.raises(StoreBusyError, match="another process holds it")
    with exclusive(tmp_path / "work.lock", "the work", 0.0), busy:
        exclusive(tmp_path / "work.lock", "the work", 0.0).__enter__()


def test_lock_is_held_by_who_said_so_and_only_while_it_lasts(tmp_path):
    lock = tmp_path / "work.lock"
    assert not held(lock, "here")
    with exclusive(lock, "the work", 0.0, note="here"):
        assert held(lock, "here")
        assert not held(lock, "there")
        with pytest.raises(StoreBusyError, match=rf"process {os.getpid()} \(here\) holds it"):
            exclusive(lock, "the work", 0.0).__enter__()
    assert not held(lock, "here")  # what was written stays
