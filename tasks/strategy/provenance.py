"""The code behind a number: the modules that it comes from, found by following imports.

A stored result is found again by what it was made from, and code is part of that. Hashed is what computes: whatever the
module that holds a step imports, directly or not. Storage carries numbers and checks what it carries, so of it only the
shared vocabulary and the compiler's decorator count; progress and pages show them. A colour changes no hash.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from storage.schema import content_hash

ROOT = Path(__file__).parents[2]
"""Folder of the packages."""

_COMPUTES = ("tasks", "storage.schema", "storage.compiled")
_SHOWS = ("tasks.runs", "tasks.reporting")


def project_hash() -> str:
    """Return the hash of what machines that share a run must have alike: every file of tasks/, and the vocabulary."""
    files = sorted([*(ROOT / "tasks").rglob("*.py"), ROOT / "storage" / "schema.py"])
    return content_hash([part for path in files for part in (path.name.encode(), path.read_bytes())])


def code_behind(*modules: str, known: tuple[str, ...] = ()) -> str:
    """Return the hash of `sources_behind` the modules."""
    sources = sources_behind(*modules, known=known)
    return content_hash([part for name in sorted(sources) for part in (name.encode(), sources[name])])


def sources_behind(*modules: str, known: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Return the modules and all that they import, directly or not, as far as it computes: name -> source.

    Args:
        modules: Such as "tasks.evaluation".
        known: Modules whose results the caller names apart, as values: neither they nor what they alone import.
    """
    sources: dict[str, bytes] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in sources and name not in known:
            sources[name] = _file(name).read_bytes()
            todo += filter(_computes, _imports(sources[name]))
    return sources


def _file(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")  # a package has none: it holds no code of its own


def _computes(name: str) -> bool:
    return _is_in(_COMPUTES, name) and not _is_in(_SHOWS, name) and _file(name).is_file()


def _is_in(parts: tuple[str, ...], name: str) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


@cache
def _imports(source: bytes) -> frozenset[str]:
    """Return every name that a module imports, wherever in it: modules, and what may be modules of a package."""
    return frozenset(_names(ast.parse(source)))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
