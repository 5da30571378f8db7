"""Thirty-two float32 side by side, for compiled code: load, store, splat, fma, relu, total, and which are not zero.

LLVM will not vectorise Numba's plain loops over rows of a packed array: index wrap-around and possible aliasing stand
in the way, and a 64x64 matrix-vector product took 12 times as long. With explicit vectors it needs no guess. LLVM
lowers them to what the machine has: two registers with AVX-512, four with AVX2, eight with NEON.

Memory is reached through bare addresses, which a call passes in a register each; an array is seven numbers on the
stack. `pointer` takes one from an array, and whoever calls it keeps the array alive and its indices within.

`fma` rounds once, on every machine (where there is no such instruction, libm does it), so results depend neither
on the vector width nor on the compiler's mood; that is why this is not fastmath.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

LANES = 32

_intrinsic: Any = intrinsic  # as Numba annotates it, callers would have to pass the typing context themselves
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_DOUBLE, _INDEX = ir.DoubleType(), ir.IntType(32)


class _LanesType(types.Type):
    """The type of the values inside compiled code; it never reaches Python."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{LANES}")


_lanes = _LanesType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes_type: Any) -> None:
        super().__init__(manager, lanes_type, _VECTOR)  # type: ignore[no-untyped-call]  # untyped in Numba


def _address(builder: Any, pointer: Any, index: Any, kind: Any = _VECTOR) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())


@_intrinsic
def pointer(typing: Any, array: Any) -> Any:
    """Return the address of a contiguous array's first number."""
    if not isinstance(array, types.Array) or array.layout != "C":
        raise TypingError(f"the engine reads contiguous arrays only, was {array}")

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, args[0]).data

    address: Any = types.CPointer(array.dtype)  # type: ignore[no-untyped-call]  # untyped in Numba
    return address(array), emit


@_intrinsic
def load(typing: Any, pointer: Any, index: Any) -> Any:
    """Return pointer[index : index + LANES]."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(builder, *args), align=4)

    return _lanes(pointer, types.intp), emit


@_intrinsic
def store(typing: Any, pointer: Any, index: Any, lanes: Any) -> Any:
    """Set pointer[index : index + LANES]."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, index, lanes = args
        builder.store(lanes, _address(builder, pointer, index), align=4)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, _lanes), emit


@_intrinsic
def load_double(typing: Any, pointer: Any, index: Any) -> Any:
    """Return the float64 that takes the room of pointer[index] and pointer[index + 1]."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, index = args
        return builder.load(_address(builder, pointer, index, _DOUBLE), align=4)

    return types.float64(pointer, types.intp), emit


@_intrinsic
def store_double(typing: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Put a float64 where pointer[index] and pointer[index + 1] are."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, index, value = args
        builder.store(value, _address(builder, pointer, index, _DOUBLE), align=4)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, types.float64), emit


@_intrinsic
def splat(typing: Any, pointer: Any, index: Any) -> Any:
    """Return pointer[index] in every lane."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, index = args
        value = builder.load(builder.gep(pointer, [index]))
        first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _INDEX(0))
        return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES))

    return _lanes(pointer, types.intp), emit


@_intrinsic
def zeros(typing: Any) -> Any:
    """Return 0 in every lane."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_VECTOR, [0.0] * LANES)

    return _lanes(), emit


@_intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        declare: Any = cgutils.get_or_insert_function
        function = declare(builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{LANES}f32")
        return builder.call(function, args)

    return _lanes(a, b, c), emit


@_intrinsic
def relu(typing: Any, lanes: Any) -> Any:
    """Return max(lanes, 0); NaN stays NaN."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered("<", args[0], zero), zero, args[0])

    return _lanes(lanes), emit


@_intrinsic
def total(typing: Any, lanes: Any) -> Any:
    """Return the sum of the lanes, halves added to halves: the order never changes."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes, width = args[0], LANES
        while width > 1:
            width //= 2
            low, high = (
                ir.Constant(ir.VectorType(_INDEX, width), list(range(start, start + width))) for start in (0, width)
            )
            lanes = builder.fadd(builder.shuffle_vector(lanes, lanes, low), builder.shuffle_vector(lanes, lanes, high))
        return builder.extract_element(lanes, _INDEX(0))

    return types.float32(lanes), emit


@_intrinsic
def nonzero(typing: Any, lanes: Any) -> Any:
    """Return a mask of the lanes that are not 0, a bit each, in an int64; NaN is not 0."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        flags = builder.fcmp_unordered("!=", args[0], ir.Constant(_VECTOR, [0.0] * LANES))
        return builder.zext(builder.bitcast(flags, ir.IntType(LANES)), ir.IntType(64))

    return types.int64(lanes), emit


@_intrinsic
def lowest_bit(typing: Any, bits: Any) -> Any:
    """Return the index of the lowest bit that is set; bits must not be 0."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), emit
