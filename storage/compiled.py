"""Decorators for Numba functions, with a cache on disk that is invalidated by any change of their sources.

Numba's own cache checks only the file of the called function, not the files of the functions that are compiled into
it: after a change of a feature, the compiled live tick would still compute the old one. It also fails if neither the
code's folder nor the user's cache folder is writable, as in a container; the cache is then kept in DSC_HOME.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from numba import config, njit
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic

from storage.schema import StoreError
from storage.settings import Settings

log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])
Code = TypeVar("Code")

_Intrinsic: Any = type(intrinsic(lambda typing: None))  # Numba does not name the type
os.environ.setdefault("NUMBA_OPT", "2")  # at 3 LLVM compiles a third longer, and nothing runs faster
config.reload_config()  # type: ignore[no-untyped-call]  # the environment is read again at a compilation

_CODE = Path(__file__).parents[1]
_CONSTANTS = (bool, int, float, str, tuple)


def compiled(function: Function) -> Dispatcher[Function]:
    """Return `function` compiled; loaded from the cache unless one of its sources has changed."""
    return cached(njit(function), function)


def inlined(function: Function) -> Dispatcher[Function]:
    """Return `function` compiled and inlined into each caller: a call passes an array as seven numbers."""
    return cached(njit(function, forceinline=True), function)


def cached(code: Code, function: Callable[..., Any]) -> Code:
    """Set this module's cache on `code`, the dispatcher that Numba made of `function`, and return `code`."""
    _file_hash(function.__code__.co_filename)  # hashed when loaded: the file may have changed by the first call
    with suppress(StoreError):  # nothing is writable, which the program reports itself: compile each time
        code._cache = _cache_of(function)  # type: ignore[attr-defined]  # where cache=True puts Numba's own
    return code


def _cache_of(function: Callable[..., Any]) -> _SourcesCache:
    try:
        return _SourcesCache(function)  # type: ignore[no-untyped-call]
    except RuntimeError:  # neither the folder of the code nor this user's own can be written
        folder = Settings.from_environment().prepare_home() / "numba"
        if not folder.exists():
            log.warning("compiled code is kept in %s: neither %s nor the user's cache can be written", folder, _CODE)
        config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]
        return _SourcesCache(function)  # type: ignore[no-untyped-call]


def sources_hash(function: Callable[..., Any]) -> str:
    """Return the SHA-256 over the source files of all functions that `function` calls, and their global constants."""
    files: set[str] = set()
    constants: set[str] = set()
    seen: set[Any] = set()
    todo: list[Any] = [function]
    while todo:
        found = todo.pop()
        source = found.py_func if isinstance(found, Dispatcher) else getattr(found, "_defn", found)
        if source in seen:
            continue
        seen.add(source)
        files.add(source.__code__.co_filename)
        for name in source.__code__.co_names:
            value = source.__globals__.get(name)
            if isinstance(value, (Dispatcher, _Intrinsic)):
                todo.append(value)
            elif isinstance(value, _CONSTANTS):
                constants.add(f"{source.__module__}.{name}={value!r}")
    return hashlib.sha256("\n".join([*sorted(map(_file_hash, files)), *sorted(constants)]).encode()).hexdigest()


@cache
def _file_hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class _SourcesCache(FunctionCache):
    """Numba's cache, with every source in the key of an entry."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        key = super()._index_key(sig, codegen)  # type: ignore[no-untyped-call]
        return (*key, sources_hash(self._py_func))
