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


def run_caller(folder: Path, factor: int, shift: int) -> str:
    (folder / "callee.py").write_text(CALLEE.format(factor=factor, shift=shift))
    (folder / "caller.py").write_text(CALLER)
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; import caller"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603  # our code


def test_cached_caller_is_compiled_anew_when_a_function_or_constant_of_another_file_changes(tmp_path: Path) -> None:
    assert run_caller(tmp_path, factor=2, shift=0) == "2 0"
    assert run_caller(tmp_path, factor=2, shift=0) == "2 1"  # loaded
    assert run_caller(tmp_path, factor=3, shift=0) == "3 0"
    assert run_caller(tmp_path, factor=3, shift=5) == "8 0"


def test_no_module_keeps_the_cache_that_overlooks_other_files() -> None:
    own_cache = re.compile(r"^@njit\(.*cache=True", re.MULTILINE)
    modules = [path for room in ("flows", "tasks", "storage") for path in (ROOT / room).rglob("*.py")]

    assert [path.name for path in modules if own_cache.search(path.read_text())] == []
