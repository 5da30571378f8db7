"""Compiled code as a CPython builtin, called without Numba's dispatcher.

The dispatcher looks up the type of every argument and wraps every array: 0.35 us for four of them, a third of the time
of a bar. A function bound here is a builtin: it gets the vector of its arguments and reads the data addresses from the
arrays' headers, which are part of NumPy's binary interface (ndarraytypes.h, PyArrayObject_fields).

    def call(own: int, arguments: int, count: int) -> int:
        x, out = given(arguments, 0), given(arguments, 1)
        if count != 2 or not fits(own, x, 10, False) or not fits(own, out, 3, True):
            return answer(UNFIT)
        return answer(step(bound(own, 0, np.float32), numbers(x, 10), numbers(out, 3)))

    step = Direct(call).bind(weights)
    status = step(x, out)
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, intp, types  # type: ignore[attr-defined]  # it exports carray without saying so
from numba.core.ccallback import CFunc
from numba.extending import intrinsic
from numpy.typing import NDArray

from storage.compiled import cached, inlined

UNFIT = -(1 << 61)
"""Return value of a function whose arguments have the wrong type; its caller then finds and reports the reason."""

_intrinsic: Any = intrinsic  # as Numba annotates it, callers would have to pass the typing context themselves
_WORD = ir.IntType(64)
_FASTCALL = 0x80  # METH_FASTCALL: (self, vector of arguments, how many)
# Offsets in words of eight bytes from an array's start; CPython's own header ends with the type.
_HEAD = object.__basicsize__ // 8
_TYPE, _DATA, _DIMENSIONS, _SHAPE, _DTYPE, _FLAGS = _HEAD - 1, _HEAD, _HEAD + 1, _HEAD + 2, _HEAD + 5, _HEAD + 6
_CONTIGUOUS_ALIGNED, _WRITEABLE = 0x101, 0x400
_new_long: Any = types.ExternalFunction("PyLong_FromLongLong", intp(intp))
_as_long: Any = types.ExternalFunction("PyLong_AsLongLong", intp(intp))
_error: Any = types.ExternalFunction("PyErr_Occurred", intp())
_new_builtin = ctypes.pythonapi.PyCFunction_NewEx
_new_builtin.argtypes, _new_builtin.restype = (ctypes.c_void_p, ctypes.py_object, ctypes.py_object), ctypes.py_object


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class Direct:
    """A function of (own, arguments, count), compiled at the first `bind` or loaded from the cache."""

    def __init__(self, function: Callable[[int, int, int], int]) -> None:
        self._function = function
        self._code: Any = None  # kept, for the builtins run it
        self._method: Any = None

    def bind(self, *arrays: NDArray[Any]) -> Callable[..., int]:
        """Return a builtin that runs the function with these arrays bound; it keeps them alive.

        Raises:
            ValueError: One of them is not contiguous.
        """
        for array in arrays:
            if not array.flags.c_contiguous:
                raise ValueError(f"bound arrays must be contiguous, one of shape {array.shape} was not")
        if self._method is None:
            self._code = cached(CFunc(self._function, ((intp, intp, intp), intp), {}, {}), self._function)
            self._code.compile()
            self._method = _MethodDef(self._function.__name__.encode(), self._code.address, _FASTCALL, None)
        table = [id(np.ndarray), id(np.dtype(np.float64))]
        for array in arrays:
            table += [array.ctypes.data, array.size]
        own = np.array(table, np.int64)
        builtin: Callable[..., int] = _new_builtin(ctypes.addressof(self._method), own, arrays)
        return builtin


@_intrinsic
def _word(typing: Any, address: Any, index: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.gep(builder.inttoptr(args[0], _WORD.as_pointer()), [args[1]]))

    return types.intp(types.intp, types.intp), emit


@_intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), emit


@inlined
def bound(own: int, index: int, dtype: Any) -> Any:
    """Return a bound array, flat; `dtype` is its type."""
    table = _word(own, _DATA)
    return carray(_pointer(_word(table, 2 + 2 * index)), _word(table, 3 + 2 * index), dtype)


@inlined
def given(arguments: int, index: int) -> int:
    """Return the address of an argument, a Python object."""
    return int(_word(arguments, index))


@inlined
def fits(own: int, argument: int, size: int, writeable: bool) -> bool:
    """Return whether an argument is an array (size,) of float64, contiguous, and writeable if it must be."""
    table = _word(own, _DATA)
    flags = _CONTIGUOUS_ALIGNED | _WRITEABLE if writeable else _CONTIGUOUS_ALIGNED
    return bool(
        _word(argument, _TYPE) == _word(table, 0)
        and _word(argument, _DIMENSIONS) & 0xFFFFFFFF == 1
        and _word(argument, _DTYPE) == _word(table, 1)
        and _word(argument, _FLAGS) & flags == flags
        and _word(_word(argument, _SHAPE), 0) == size
    )


@inlined
def numbers(argument: int, size: int) -> Any:
    """Return an argument for which `fits` is true, as an array."""
    return carray(_pointer(_word(argument, _DATA)), size, np.float64)


@inlined
def whole(argument: int) -> tuple[bool, int]:
    """Return whether an argument is an integer, and its value; if it is not, Python's exception is set."""
    value = _as_long(argument)
    return value != -1 or _error() == 0, value


@inlined
def answer(status: int) -> int:
    """Return the address of a Python int."""
    return int(_new_long(status))
