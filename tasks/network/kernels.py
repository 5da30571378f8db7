"""The engine's arithmetic: one bar, or four at once, through packed weights and packed state.

Weights and state are one float32 array each, and the offsets inside them stand in the weights' header, so compiled code
needs nothing else. Channels are padded with zeros to whole vectors. Inside, arrays are bare addresses (lanes.py).

    weights   header | one row per block: its ring's place and mask, its weights' place, its dilation | scaler | stem |
              blocks: taps and their bias, a matrix (input first) and its bias | head: pooled, newest, bias
    state     clock | running sums | ring of pooled head values | one ring per block of its past inputs | scratch
    scratch   per column: h_0 .. h_B and z; then per column: u, the input of the block's matrix; then the head's sums

Channels fall into groups that mix with each other alone. The groups' matrices stand side by side, so that one row of
`width` holds what input k of each group gives to that group's channels.

A ring's length is a power of two, so that one clock serves every ring through a mask.

A tile is up to four columns: four consecutive bars of one market, or one bar each of four. Each weight it loads
serves four columns, and every sum runs in the same order as for one column, so results are equal bit for bit.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.compiled import compiled, inlined
from storage.direct_call import UNFIT, Direct, answer, bound, fits, given, numbers
from storage.schema import FloatArray
from tasks.network.lanes import (
    LANES,
    fma,
    load,
    load_double,
    lowest_bit,
    nonzero,
    pointer,
    relu,
    splat,
    store,
    store_double,
    total,
    zeros,
)

Packed = NDArray[np.float32]
Floats = Any
"""Inside compiled code, the address of float32 or float64 numbers."""

TILE = 4  # columns; enough to read the weights at the speed of arithmetic

# The weights' header. float32 holds whole numbers up to 2**24 exactly.
FEATURES, WIDTH, BLOCKS, TAPS, OUTPUTS, WINDOW, CONTEXT, KIND, SEES_NEWEST, CLIP, INNER, ROWS, GROUP, CLASSES = range(
    14
)
SCALER, STEM, HEAD, POOL_MASK, POOL, SCRATCH = range(14, 20)
TABLE, TABLE_ROW = 20, 4
RING, MASK, BLOCK, DILATION = range(4)

# What KIND says of the blocks; INNER is how many inputs the matrices of a block have in all, ROWS and GROUP are the
# inputs and outputs of one of them: a network of members mixes each member's channels with its own alone.
STANDARD, SEPARABLE, XCEPTION = range(3)

# The state's clock, then four numbers' room per output: two float64 sums.
TIME, SEEN, AGE = range(3)
SUMS, SUMS_ROW = 16, 4

DOTS = 4  # rows of the head at once; zeros fill it up

_LARGEST_Z = 3.4e38  # float32's range
_TIME_WRAP = 1 << 22  # every ring's length divides it

READY, WARMING, WRONG_SHAPE = 1, 0, -(1 << 62)
"""What `step_packed` returns; -1 - i says that feature i was not usable."""


@compiled
def step_packed(weights: Packed, state: Packed, x: FloatArray, out: FloatArray) -> int:
    """Advance one market by one bar.

    Args:
        weights: As `pack` made it.
        state: One row of `new_states`; changed in place, unless the bar is refused.
        x: (F,) float64 raw features of the bar.
        out: (outputs,) float64, set to the calibrated probabilities, then the variance ratio that a volatility head
            says; NaN while warming up.

    Returns:
        READY, WARMING, WRONG_SHAPE, or -1 - i where feature i is NaN, infinite or out of float32's range.
    """
    if x.shape[0] != int(weights[FEATURES]) or out.shape[0] != int(weights[OUTPUTS]):
        return WRONG_SHAPE
    return int(_step(pointer(weights), pointer(state), pointer(x), pointer(out)))


def _step_call(own: int, arguments: int, count: int) -> int:
    weights, state = bound(own, 0, np.float32), bound(own, 1, np.float32)
    features, outputs = int(weights[FEATURES]), int(weights[OUTPUTS])
    if count != 2:
        return answer(UNFIT)
    x, out = given(arguments, 0), given(arguments, 1)
    if not fits(own, x, features, False) or not fits(own, out, outputs, True):
        return answer(UNFIT)
    return answer(step_packed(weights, state, numbers(x, features), numbers(out, outputs)))


step_call = Direct(_step_call)
"""`step_packed` for calls from Python: bound to weights and state it takes x and out, and answers UNFIT where an array
is not contiguous float64 of its shape."""


@compiled
def markets_packed(weights: Packed, states: Packed, x: FloatArray, out: FloatArray) -> int:
    """Advance every market by one bar: states (M*size,), x (M*F,), out (M*outputs,), all flat."""
    features, outputs = int(weights[FEATURES]), int(weights[OUTPUTS])
    markets = x.shape[0] // features
    size = states.shape[0] // markets
    numbers, state, bars, says = pointer(weights), pointer(states), pointer(x), pointer(out)
    unusable = _first_unusable(numbers, bars, markets)
    if unusable >= 0:
        return -1 - unusable
    done = 0
    while done < markets:
        count = TILE if markets - done >= TILE else 1
        _scale(numbers, state, count, bars, done * features)
        _advance(numbers, state, done * size, size, count, says, done * outputs)
        done += count
    for market in range(markets):
        _say(numbers, says, market * outputs)
    return READY


@compiled
def series_packed(weights: Packed, state: Packed, x: FloatArray, out: FloatArray) -> int:
    """Advance one market by T bars: x (T*F,), out (T*outputs,) logits first, both flat; NaN while warming up."""
    features, outputs = int(weights[FEATURES]), int(weights[OUTPUTS])
    bars = x.shape[0] // features
    numbers, kept, table, says = pointer(weights), pointer(state), pointer(x), pointer(out)
    unusable = _first_unusable(numbers, table, bars)
    if unusable >= 0:
        return -1 - unusable
    done = 0
    while done < bars:
        count = TILE if bars - done >= TILE else 1
        _scale(numbers, kept, count, table, done * features)
        _advance(numbers, kept, 0, 0, count, says, done * outputs)
        done += count
    return READY


@compiled
def _step(weights: Floats, state: Floats, x: Floats, out: Floats) -> int:
    if not _scale(weights, state, 1, x, 0):
        return -1 - _first_unusable(weights, x, 1)
    _advance(weights, state, 0, 0, 1, out, 0)
    _say(weights, out, 0)
    return READY if int(state[SEEN]) == int(weights[CONTEXT]) else WARMING


@compiled
def _first_unusable(weights: Floats, x: Floats, rows: int) -> int:
    """Return the index of the first value of `rows` bars that has no finite z in float32; -1 where all have one."""
    features, mean = int(weights[FEATURES]), int(weights[SCALER])
    for row in range(0, rows * features, features):
        usable = True
        for f in range(features):
            usable &= abs((x[row + f] - weights[mean + f]) * weights[mean + features + f]) <= _LARGEST_Z
        if not usable:
            for f in range(features):
                if not abs((x[row + f] - weights[mean + f]) * weights[mean + features + f]) <= _LARGEST_Z:
                    return int(row + f)
    return -1


@compiled
def _scale(weights: Floats, state: Floats, count: int, x: Floats, source: int) -> bool:
    """Set z = clip((x - mean) / scale) of the next `count` columns, in float64; tell whether all were finite."""
    features, mean, clip = int(weights[FEATURES]), int(weights[SCALER]), np.float64(weights[CLIP])
    z, column = _columns(weights)
    z += int(weights[SCRATCH])
    usable = True
    for _ in range(count):
        for f in range(features):
            value = (x[source + f] - weights[mean + f]) * weights[mean + features + f]
            usable &= abs(value) <= _LARGEST_Z  # NaN compares false
            state[z + f] = min(max(value, -clip), clip)
        source += features
        z += column
    return usable


@compiled
def _columns(weights: Floats) -> tuple[int, int]:
    """Return where z stands in a column of the scratch, after h_0 .. h_B, and the column's length."""
    z = (int(weights[BLOCKS]) + 1) * int(weights[WIDTH])
    return z, z + (int(weights[FEATURES]) + LANES - 1) // LANES * LANES


@compiled
def _advance(weights: Floats, state: Floats, base: int, stride: int, count: int, out: Floats, target: int) -> None:
    """Advance `count` columns with z set; column c has its state at base + c*stride (stride 0: bars of one market)."""
    features, width, blocks = int(weights[FEATURES]), int(weights[WIDTH]), int(weights[BLOCKS])
    taps, kind, outputs = int(weights[TAPS]), int(weights[KIND]), int(weights[OUTPUTS])
    inner, rows, group = int(weights[INNER]), int(weights[ROWS]), int(weights[GROUP])
    z, column = _columns(weights)
    h = int(weights[SCRATCH])  # of the first state, whichever market this is: it stays in the cache
    u = h + TILE * column
    sums = u + TILE * inner
    lag = 1 if stride == 0 else 0
    _mix(weights, int(weights[STEM]), features, width, width, False, state, h + z, column, h, column, count)
    for block in range(blocks):
        entry = TABLE + block * TABLE_ROW
        place, mask = int(weights[entry + BLOCK]), int(weights[entry + MASK])
        dilation = int(weights[entry + DILATION])
        for c in range(count):
            own, newest = base + c * stride, h + c * column
            ring, time = own + int(weights[entry + RING]), int(state[own + TIME]) + c * lag
            if kind == STANDARD:
                _gather(taps, width, group, state, ring, mask, time, dilation, newest, u + c * inner)
            else:
                _filter(weights, place, taps, inner, state, ring, mask, time, dilation, newest, u + c * inner, kind)
        if kind != STANDARD:
            place += (taps + 1) * inner
        h += width
        _mix(weights, place, rows, width, group, kind != XCEPTION, state, u, inner, h, column, count)
    h -= (blocks - 1) * width  # h_1
    for c in range(count):
        _head(weights, state, base + c * stride, h + c * column, column - width, sums, out, target + c * outputs)


@inlined
def _filter(
    weights: Floats,
    place: int,
    taps: int,
    width: int,
    state: Floats,
    ring: int,
    mask: int,
    time: int,
    dilation: int,
    newest: int,
    u: int,
    kind: int,
) -> None:
    """Set u = bias + sum over taps of filter * h, the oldest bar first, and keep the newest h in the ring.

    But for XCEPTION, u goes through a ReLU.
    """
    bias, now = place + taps * width, ring + (time & mask) * width
    before, earlier = ring + ((time - dilation) & mask) * width, ring + ((time - 2 * dilation) & mask) * width
    for j in range(0, width, LANES):
        lanes, weight = load(weights, bias + j), place + j
        for tap in range(taps - 1, 2, -1):  # the last three, which every filter has, stand without a loop
            lanes = fma(load(state, ring + ((time - tap * dilation) & mask) * width + j), load(weights, weight), lanes)
            weight += width
        lanes = fma(load(state, earlier + j), load(weights, weight), lanes)
        lanes = fma(load(state, before + j), load(weights, weight + width), lanes)
        h = load(state, newest + j)
        lanes = fma(h, load(weights, weight + 2 * width), lanes)
        store(state, u + j, lanes if kind == XCEPTION else relu(lanes))
        store(state, now + j, h)  # where the oldest was, if the ring has no room to spare


@compiled
def _gather(
    taps: int,
    width: int,
    group: int,
    state: Floats,
    ring: int,
    mask: int,
    time: int,
    dilation: int,
    newest: int,
    u: int,
) -> None:
    """Set u to the inputs of a standard convolution, group by group and tap by tap, the oldest first.

    The newest h is kept in the ring.
    """
    for j in range(0, width, LANES):
        at, to = time - (taps - 1) * dilation, u + j + j // group * (taps - 1) * group
        for _ in range(taps - 1):
            store(state, to, load(state, ring + (at & mask) * width + j))
            at += dilation
            to += group
        h = load(state, newest + j)
        store(state, to, h)
        store(state, ring + (time & mask) * width + j, h)


@inlined
def _mix(
    weights: Floats,
    place: int,
    rows: int,
    width: int,
    group: int,
    sparse: bool,
    state: Floats,
    u: int,
    u_span: int,
    h: int,
    h_span: int,
    count: int,
) -> None:
    """Set h = relu(bias + matrix @ u) of each column; `sparse` where a ReLU has left zeros among u."""
    if sparse:  # half of the inputs left out is more than a weight that serves four columns
        for c in range(count):
            _sparse(weights, place, rows, width, group, state, u + c * u_span, h + c * h_span)
    elif count == TILE:
        _dense_tile(weights, place, rows, width, group, state, u, u_span, h, h_span)
    else:
        _dense(weights, place, rows, width, group, state, u, h)


@compiled
def _dense(weights: Floats, place: int, rows: int, width: int, group: int, state: Floats, u: int, h: int) -> None:
    """Do `_mix` for one column: three sums at once, for each waits on itself."""
    bias = place + rows * width
    j = 0
    while j + 3 * LANES <= width:
        a, b, c = load(weights, bias + j), load(weights, bias + j + LANES), load(weights, bias + j + 2 * LANES)
        ua, ub = u + j // group * rows, u + (j + LANES) // group * rows
        uc, w = u + (j + 2 * LANES) // group * rows, place + j
        for k in range(rows):
            a = fma(splat(state, ua + k), load(weights, w), a)
            b = fma(splat(state, ub + k), load(weights, w + LANES), b)
            c = fma(splat(state, uc + k), load(weights, w + 2 * LANES), c)
            w += width
        store(state, h + j, relu(a))
        store(state, h + j + LANES, relu(b))
        store(state, h + j + 2 * LANES, relu(c))
        j += 3 * LANES
    while j < width:
        a = load(weights, bias + j)
        ua, w = u + j // group * rows, place + j
        for k in range(rows):
            a = fma(splat(state, ua + k), load(weights, w), a)
            w += width
        store(state, h + j, relu(a))
        j += LANES


@inlined
def _sparse(weights: Floats, place: int, rows: int, width: int, group: int, state: Floats, u: int, h: int) -> None:
    """Do `_mix` for one column, group by group and input by input; inputs that are 0 cost nothing."""
    bias, j, end = place + rows * width, 0, group
    while j < width:
        while j + 2 * LANES <= end:
            a, b = load(weights, bias + j), load(weights, bias + j + LANES)
            for first in range(0, rows, 64):
                bits = _active(state, u + first, min(rows - first, 64))
                corner = place + first * width + j
                while bits != 0:
                    k = lowest_bit(bits)
                    bits &= bits - 1
                    value, w = splat(state, u + first + k), corner + k * width
                    a = fma(value, load(weights, w), a)
                    b = fma(value, load(weights, w + LANES), b)
            store(state, h + j, relu(a))
            store(state, h + j + LANES, relu(b))
            j += 2 * LANES
        if j < end:
            a = load(weights, bias + j)
            for first in range(0, rows, 64):
                bits = _active(state, u + first, min(rows - first, 64))
                corner = place + first * width + j
                while bits != 0:
                    k = lowest_bit(bits)
                    bits &= bits - 1
                    a = fma(splat(state, u + first + k), load(weights, corner + k * width), a)
            store(state, h + j, relu(a))
            j += LANES
        u += rows
        end += group


@compiled
def _active(state: Floats, u: int, count: int) -> int:
    """Return which of the next `count` values, LANES or twice as many, are not 0, as bits."""
    bits: int = nonzero(load(state, u))
    if count > LANES:
        bits |= nonzero(load(state, u + LANES)) << LANES
    return bits


@inlined
def _dense_tile(
    weights: Floats,
    place: int,
    rows: int,
    width: int,
    group: int,
    state: Floats,
    u: int,
    u_span: int,
    h: int,
    h_span: int,
) -> None:
    """Do `_mix` for four columns at once, each weight loaded once."""
    bias = place + rows * width
    for j in range(0, width, LANES):
        a = load(weights, bias + j)
        b, c, d = a, a, a
        u0, w = u + j // group * rows, place + j
        u1, u2, u3 = u0 + u_span, u0 + 2 * u_span, u0 + 3 * u_span
        for k in range(rows):
            weight = load(weights, w)
            a = fma(splat(state, u0 + k), weight, a)
            b = fma(splat(state, u1 + k), weight, b)
            c = fma(splat(state, u2 + k), weight, c)
            d = fma(splat(state, u3 + k), weight, d)
            w += width
        store(state, h + j, relu(a))
        store(state, h + h_span + j, relu(b))
        store(state, h + 2 * h_span + j, relu(c))
        store(state, h + 3 * h_span + j, relu(d))


@compiled
def _head(weights: Floats, state: Floats, base: int, h: int, length: int, sums: int, out: Floats, target: int) -> None:
    """Add the newest bar to the pool, set out to the outputs (NaN while warming up), and move the clock on.

    `h` is the place of h_1 .. h_B and z, `length` floats in all; `sums` that of some room.
    """
    outputs, window, context = int(weights[OUTPUTS]), int(weights[WINDOW]), int(weights[CONTEXT])
    rows = (outputs + DOTS - 1) // DOTS * DOTS
    sees_newest = weights[SEES_NEWEST] != 0
    time, age = int(state[base + TIME]), int(state[base + AGE]) + 1
    seen = min(int(state[base + SEEN]) + 1, context)
    pool, mask = base + int(weights[POOL]), int(weights[POOL_MASK])
    now, gone = pool + (time & mask) * outputs, pool + ((time - window) & mask) * outputs
    pooled, blocks = int(weights[HEAD]), int(weights[BLOCKS]) * int(weights[WIDTH])
    newest = pooled + rows * blocks
    bias = newest + rows * length if sees_newest else newest
    _dots(weights, pooled, rows, blocks, state, h, sums)
    if sees_newest:
        _dots(weights, newest, rows, length, state, h, sums + rows)
    for c in range(outputs):
        value, place = np.float64(state[sums + c]), base + SUMS + c * SUMS_ROW
        running: float = load_double(state, place) + (value - np.float64(state[gone + c]))
        fresh: float = load_double(state, place + 2) + value
        state[now + c] = value
        if age == window:  # `fresh` is the whole window, summed without a subtraction: go on from it
            running, fresh = fresh, 0.0
        store_double(state, place, running)
        store_double(state, place + 2, fresh)
        logit = running / window + weights[bias + c]
        if sees_newest:
            logit += np.float64(state[sums + rows + c])
        out[target + c] = logit if seen == context else math.nan
    state[base + TIME] = (time + 1) & (_TIME_WRAP - 1)
    state[base + SEEN] = seen
    state[base + AGE] = 0 if age == window else age


@compiled
def _dots(weights: Floats, place: int, rows: int, length: int, state: Floats, h: int, to: int) -> None:
    """Set the numbers at `to` to the products of each row of the matrix with h."""
    for row in range(0, rows, DOTS):
        w = place + row * length
        a, b, c, d = zeros(), zeros(), zeros(), zeros()
        for j in range(h, h + length, LANES):
            lanes = load(state, j)
            a = fma(lanes, load(weights, w), a)
            b = fma(lanes, load(weights, w + length), b)
            c = fma(lanes, load(weights, w + 2 * length), c)
            d = fma(lanes, load(weights, w + 3 * length), d)
            w += LANES
        state[to + row] = total(a)
        state[to + row + 1] = total(b)
        state[to + row + 2] = total(c)
        state[to + row + 3] = total(d)


@compiled
def _say(weights: Floats, out: Floats, start: int) -> None:
    """Turn logits into probabilities in place, and the logarithm that follows them into the variance ratio."""
    classes = int(weights[CLASSES])
    _softmax(out, start, classes)
    for c in range(start + classes, start + int(weights[OUTPUTS])):
        out[c] = math.exp(out[c])


@compiled
def _softmax(out: Floats, start: int, classes: int) -> None:
    """Turn logits into probabilities in place."""
    top = out[start]
    for c in range(start + 1, start + classes):
        top = max(top, out[c])
    mass = 0.0
    for c in range(start, start + classes):
        out[c] = math.exp(out[c] - top)
        mass += out[c]
    for c in range(start, start + classes):
        out[c] /= mass
