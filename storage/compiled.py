"""The decorator of all that Numba compiles: machine code outlives the process, but no change of its sources.

Numba's own cache looks at the file of the function that is called and not at the files of those that it calls, whose
code is inside: after a change of a feature the compiled live tick would go on computing the old one. And it gives up
where it may write neither beside the code nor in the user's own folder, as in a container: then it lies in DSC_HOME.
"""

from __future__ import annotations

import hashlib
import logging
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
_CODE = Path(__file__).parents[1]
_CONSTANTS = (bool, int, float, str, tuple)


def compiled(function: Function) -> Dispatcher[Function]:
    """Return `function` compiled: loaded from the cache, unless anything that it is made from has changed."""
    return cached(njit(function), function)


def inlined(function: Function) -> Dispatcher[Function]:
    """Return `function` compiled, as a part of each caller: to a call an array is seven numbers on the stack."""
    return cached(njit(function, forceinline=True), function)


def cached(code: Code, function: Callable[..., Any]) -> Code:
    """Give what Numba is to compile from `function` this cache."""
    _file_hash(function.__code__.co_filename)  # of what was loaded; at the first call the file may be another
    with suppress(StoreError):  # nothing can be written at all, which the program itself says: compiled every time
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
    """Return the SHA-256 of what compiled code is made from: the files of all it reaches, and its constants."""
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
