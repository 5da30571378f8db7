import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

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


def run_caller(folder: Path, factor: int, shift: int, before: str = "pass", **environment: str) -> str:
    (folder / "callee.py").write_text(CALLEE.format(factor=factor, shift=shift))
    (folder / "caller.py").write_text(CALLER)
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; {before}; import caller"
    command = [sys.executable, "-c", code]
    # Python takes two texts of one length, written in one second, for the same module: so it keeps nothing of them.
    told = {"capture_output": True, "text": True, "env": os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment}
    done = subprocess.run(command, check=True, **told)  # noqa: S603  # our code
    return (done.stdout + done.stderr).strip()


def test_cached_caller_is_compiled_anew_when_a_function_or_constant_of_another_file_changes(tmp_path: Path) -> None:
    assert run_caller(tmp_path, factor=2, shift=0) == "2 0"
    assert run_caller(tmp_path, factor=2, shift=0) == "2 1"  # loaded
    assert run_caller(tmp_path, factor=3, shift=0) == "3 0"
    assert run_caller(tmp_path, factor=3, shift=5) == "8 0"


def test_code_that_was_loaded_before_an_edit_is_not_kept_as_the_edited(tmp_path: Path) -> None:
    edited = CALLEE.format(factor=3, shift=0)
    before = f"import callee, pathlib; pathlib.Path(callee.__file__).write_text({edited!r})"
    assert run_caller(tmp_path, factor=2, shift=0, before=before) == "2 0"  # Python had read the file
    assert run_caller(tmp_path, factor=3, shift=0) == "3 0"


def test_code_and_home_that_cannot_be_written_leave_the_cache_to_the_home_of_the_data(tmp_path: Path) -> None:
    # Root may write anywhere, so something is in the way instead.
    (tmp_path / "__pycache__").write_text("in the way")
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), str(tmp_path / "__pycache__")) | {
        "DSC_HOME": str(tmp_path / "home")
    }
    first = run_caller(tmp_path, 2, 0, **nowhere).splitlines()
    assert first[0] == "2 0"
    assert [line.partition(":")[0] for line in first[1:]] == [f"compiled code is kept in {tmp_path / 'home' / 'numba'}"]
    assert run_caller(tmp_path, 2, 0, **nowhere) == "2 1"  # and is said once
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_nothing_is_cached_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").write_text("in the way")
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "DSC_HOME"), str(tmp_path / "__pycache__"))
    assert [run_caller(tmp_path, 2, 0, **nowhere) for _ in range(2)] == ["2 0", "2 0"]


def test_no_module_keeps_the_cache_that_overlooks_other_files() -> None:
    own_cache = re.compile(r"^@njit\(.*cache=True", re.MULTILINE)
    modules = [path for room in ("flows", "tasks", "storage") for path in (ROOT / room).rglob("*.py")]

    assert [path.name for path in modules if own_cache.search(path.read_text())] == []
