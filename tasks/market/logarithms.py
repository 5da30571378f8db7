"""Natural logarithms side by side, for compiled code: eight take the time of two from the C library.

The method is fdlibm's (e_log.c, Sun Microsystems 1993), in whole vectors: x = 2^k * m with m in [sqrt(1/2), sqrt(2)),
ln x = k ln 2 + ln m, and ln m by a polynomial in s = (m - 1) / (m + 1). Under one unit in the last place off, and of
plain additions, products and divisions, so that a feature has the same bits on every machine; the C library's have not.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import float64, types
from numba.core import cgutils
from numba.extending import intrinsic

_intrinsic: Any = intrinsic  # as Numba annotates it, callers would have to pass the typing context themselves
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_EVEN = (6.666666666666735130e-01, 2.857142874366239149e-01, 1.818357216161805012e-01, 1.479819860510658591e-01)
_ODD = (3.999999999940941908e-01, 2.222219843214978396e-01, 1.531383769920937332e-01)
_FRACTION = (1 << 52) - 1
_ROOT_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)
_ONE = 0x3FF0000000000000


@_intrinsic
def log_ratios(typing: Any, tops: Any, bottoms: Any) -> Any:
    """Return ln(top / bottom) for two tuples of floats; a ratio that is no normal positive number gives any number."""
    count = len(tops)
    vector, bits = ir.VectorType(ir.DoubleType(), count), ir.VectorType(ir.IntType(64), count)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def number(value: float) -> Any:
            return ir.Constant(vector, [value] * count)

        def whole(value: int) -> Any:
            return ir.Constant(bits, [value] * count)

        def side_by_side(array: Any) -> Any:
            lanes: Any = ir.Constant(vector, ir.Undefined)
            for lane in range(count):
                lanes = builder.insert_element(lanes, builder.extract_value(array, lane), ir.IntType(32)(lane))
            return lanes

        def polynomial(coefficients: tuple[float, ...], at: Any) -> Any:
            value = number(coefficients[-1])
            for coefficient in coefficients[-2::-1]:
                value = builder.fadd(number(coefficient), builder.fmul(at, value))
            return value

        x = builder.fdiv(*map(side_by_side, args))
        shifted = builder.add(builder.bitcast(x, bits), whole(_ONE - _ROOT_HALF))
        exponent = builder.sub(builder.ashr(shifted, whole(52)), whole(1023))
        k = builder.sitofp(builder.trunc(exponent, ir.VectorType(ir.IntType(32), count)), vector)
        m = builder.bitcast(builder.add(builder.and_(shifted, whole(_FRACTION)), whole(_ROOT_HALF)), vector)
        f = builder.fsub(m, number(1.0))
        half = builder.fmul(number(0.5), builder.fmul(f, f))
        s = builder.fdiv(f, builder.fadd(number(2.0), f))
        z = builder.fmul(s, s)
        w = builder.fmul(z, z)
        r = builder.fadd(builder.fmul(w, polynomial(_ODD, w)), builder.fmul(z, polynomial(_EVEN, w)))
        low = builder.fadd(builder.fmul(s, builder.fadd(half, r)), builder.fmul(k, number(_LN2_LOW)))
        log = builder.fadd(builder.fadd(builder.fsub(low, half), f), builder.fmul(k, number(_LN2_HIGH)))
        lanes = [builder.extract_element(log, ir.IntType(32)(lane)) for lane in range(count)]
        return cgutils.pack_array(builder, lanes)  # type: ignore[no-untyped-call]  # untyped in Numba

    floats = types.UniTuple(float64, count)  # type: ignore[no-untyped-call]  # untyped in Numba
    return floats(floats, floats), emit
