"""The code behind a number: the modules that it comes from, found by following imports.

A stored result is found again by what it was made from, and code is part of that. Hashed is what computes: whatever the
module that holds a step imports, directly or not. Storage carries numbers and checks what it carries, so of it only the
shared vocabulary and how code is compiled and called count; progress and pages show them. A colour changes no hash.

Python reads a module once, and so are the sources read here, when the process starts: a file that is edited or pulled
during a run changes neither what the run computes nor what its results are found by.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock

from storage.schema import OperationError, content_hash

ROOT = Path(__file__).parents[2]
"""Folder of the packages."""

_COMPUTES = ("tasks", "storage.schema", "storage.compiled", "storage.direct_call")
_SHOWS = ("tasks.runs.", "tasks.reporting.")
_parsing = Lock()  # Python 3.11 counts the depth of a tree for all threads together, and raises SystemError


def read_sources() -> dict[str, bytes]:
    """Return every module that may count, as its file stands now: name -> source."""
    storage = [ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in _COMPUTES if "." in name]
    files = sorted([*(ROOT / "tasks").rglob("*.py"), *storage])
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_bytes() for path in files}


SOURCES = read_sources()
"""What this process runs."""

_loaded = SOURCES.keys() & sys.modules.keys()  # no later than the sources were read, or from the same files


def project_hash() -> str:
    """Return the hash of what machines that share a run must have alike: every file of tasks/, and the vocabulary."""
    return content_hash([part for name, source in SOURCES.items() for part in (name.encode(), source)])


def code_behind(*modules: str, known: tuple[str, ...] = ()) -> str:
    """Return the hash of `sources_behind` the modules."""
    sources = sources_behind(*modules, known=known)
    return content_hash([part for name in sorted(sources) for part in (name.encode(), sources[name])])


@cache
def version_of(library: str) -> str:
    """Return a library's installed version, looked up once: that takes 1 ms, and a run loads a library once."""
    return version(library)


def sources_behind(*modules: str, known: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Return the modules and all that they import, directly or not, as far as it computes: name -> source.

    Left out are `known` modules, whose results the caller names apart, as values, with what they alone import.

    Raises:
        OperationError: One was not loaded when the process started, and its file has changed since.
    """
    sources: dict[str, bytes] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in sources and name not in known:
            sources[name] = _source(name)
            todo += filter(_computes, _imports(sources[name]))
    return sources


def _source(name: str) -> bytes:
    """Return what a module was loaded from, or would be."""
    if name not in _loaded:  # whatever else has been loaded is looked at, too: a later edit is nothing to it
        _loaded.update(one for one in sys.modules.keys() & SOURCES.keys() - _loaded if _file(one) == SOURCES[one])
    if name not in _loaded and _file(name) != SOURCES[name]:
        raise OperationError(f"code must stay as it was when the run began, {name} has changed; run it again")
    return SOURCES[name]


def _file(name: str) -> bytes | None:
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    return path.read_bytes() if path.is_file() else None


def _computes(name: str) -> bool:
    return name in SOURCES and not name.startswith(_SHOWS)


@cache
def _imports(source: bytes) -> frozenset[str]:
    """Return every name that a module imports, wherever in it: modules, and what may be modules of a package."""
    with _parsing:
        return frozenset(_names(ast.parse(source)))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
