import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Run = Callable[..., str]

CALLER = """
from callee import SHIFT, advance
from storage.compiled import compiled

@compiled
def tick(x):
    return advance(x) + SHIFT

tick(1)
print(tick(1), sum(tick.stats.cache_hits.values()))
"""
CALLEE = """
from storage.compiled import compiled

SHIFT = {shift}

@compiled
def advance(x):
    return inner(x)

@compiled
def inner(x):
    return x * {factor}
"""


PROCESSES = """
import json, os, sys, traceback
from storage import compiled  # what it loads, Numba, takes each of them a second

for line in sys.stdin:
    folder, before, environment = json.loads(line)
    child = os.fork()  # here nothing has run that starts a thread
    if not child:
        os.environ |= environment
        sys.stdout, sys.stderr = (open(f"{folder}/{name}", "w") for name in ("out", "err"))
        sys.path.insert(0, folder)
        try:
            exec(before)
            import caller
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(0)
    os.waitpid(child, 0)
    print(flush=True)
"""
"""Runs `caller.py` in a process of its own for each line."""


@pytest.fixture(scope="module")
def processes() -> Iterator[subprocess.Popen[str]]:
    # Python takes two texts of one length, written in one second, for the same module: so it keeps nothing of them.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROCESSES]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as running:  # noqa: S603  # our code
        yield running


@pytest.fixture
def run_caller(processes: subprocess.Popen[str], tmp_path: Path) -> Run:
    def run(factor: int, shift: int, before: str = "pass", **environment: str) -> str:
        (tmp_path / "callee.py").write_text(CALLEE.format(factor=factor, shift=shift))
        (tmp_path / "caller.py").write_text(CALLER)
        print(json.dumps([str(tmp_path), before, environment]), file=processes.stdin, flush=True)
        assert processes.stdout.readline() == "\n"
        return ((tmp_path / "out").read_text() + (tmp_path / "err").read_text()).strip()

    return run


def test_cached_caller_is_compiled_anew_when_a_function_or_constant_of_another_file_changes(run_caller: Run) -> None:
    assert run_caller(factor=2, shift=0) == "2 0"
    assert run_caller(factor=2, shift=0) == "2 1"  # loaded
    assert run_caller(factor=3, shift=0) == "3 0"
    assert run_caller(factor=3, shift=5) == "8 0"


def test_code_that_was_loaded_before_an_edit_is_not_kept_as_the_edited(run_caller: Run) -> None:
    edited = CALLEE.format(factor=3, shift=0)
    before = f"import callee, pathlib; pathlib.Path(callee.__file__).write_text({edited!r})"
    assert run_caller(factor=2, shift=0, before=before) == "2 0"  # Python had read the file
    assert run_caller(factor=3, shift=0) == "3 0"


def test_code_and_home_that_cannot_be_written_leave_the_cache_to_the_home_of_the_data(
    run_caller: Run, tmp_path: Path
) -> None:
    # Root may write anywhere, so something is in the way instead.
    (tmp_path / "__pycache__").write_text("in the way")
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), str(tmp_path / "__pycache__")) | {
        "DSC_HOME": str(tmp_path / "home")
    }
    first = run_caller(2, 0, **nowhere).splitlines()
    assert first[0] == "2 0"
    assert [line.partition(":")[0] for line in first[1:]] == [f"compiled code is kept in {tmp_path / 'home' / 'numba'}"]
    assert run_caller(2, 0, **nowhere) == "2 1"  # and is said once
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_nothing_is_cached_where_nothing_can_be_written(run_caller: Run, tmp_path: Path) -> None:
    (tmp_path / "__pycache__").write_text("in the way")
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "DSC_HOME"), str(tmp_path / "__pycache__"))
    assert [run_caller(2, 0, **nowhere) for _ in range(2)] == ["2 0", "2 0"]


def test_no_module_keeps_the_cache_that_overlooks_other_files() -> None:
    own_cache = re.compile(r"^@njit\(.*cache=True", re.MULTILINE)
    modules = [path for room in ("flows", "tasks", "storage") for path in (ROOT / room).rglob("*.py")]

    assert [path.name for path in modules if own_cache.search(path.read_text())] == []
