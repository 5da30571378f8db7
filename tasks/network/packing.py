"""A network's weights, and a market's state, as the one array each that kernels.py describes."""

import math

import numpy as np

from storage.schema import ArtifactError, ConfigError, FloatArray
from tasks.network import kernels
from tasks.network.architecture import Block
from tasks.network.folding import FoldedBlock, FoldedStandard, FoldedWeights
from tasks.network.kernels import Packed
from tasks.network.lanes import LANES

_KINDS: dict[Block, int] = {"standard": kernels.STANDARD, "separable": kernels.SEPARABLE, "xception": kernels.XCEPTION}
_LARGEST = 1 << 24  # the first whole number whose successor float32 does not know


def pack(folded: FoldedWeights) -> Packed:
    """Return the weights of a network with padding "history" as one array.

    Raises:
        ConfigError: The network or its window is too large for offsets in float32.
        ArtifactError: A folded weight is too large for float32.
    """
    config = folded.config
    width, blocks, outputs = _padded(config.hidden_channels), config.num_blocks, config.outputs
    inner = config.kernel_size * width if config.block == "standard" else width
    header = np.zeros(_padded(kernels.TABLE + blocks * kernels.TABLE_ROW))
    parts: list[FloatArray] = [header]

    def put(*arrays: FloatArray) -> int:
        place = sum(part.size for part in parts)
        flat = np.concatenate([array.ravel() for array in arrays])
        parts.append(np.pad(flat, (0, -flat.size % LANES)))
        return place

    groups = _groups(folded)
    sees_newest = config.newest_step or config.linear_bypass
    header[:kernels.SCALER] = (
        config.input_features, width, blocks, config.kernel_size, outputs, config.window, config.context,
        _KINDS[config.block], sees_newest, math.inf if config.input_clip is None else config.input_clip, inner,
        inner // groups, width // groups, config.num_classes,
    )  # fmt: skip
    header[kernels.SCALER] = put(folded.feature_mean, 1 / folded.feature_scale)
    header[kernels.STEM] = put(_wide(folded.stem.T, width), _wide(folded.stem_bias, width))
    header[kernels.POOL_MASK] = _power_of_two(config.window) - 1
    header[kernels.POOL] = _padded(kernels.SUMS + kernels.SUMS_ROW * outputs)
    place = int(header[kernels.POOL]) + _padded(_power_of_two(config.window) * outputs)
    table = header[kernels.TABLE : kernels.TABLE + blocks * kernels.TABLE_ROW].reshape(blocks, kernels.TABLE_ROW)
    for row, block, dilation in zip(table, folded.blocks, config.dilations, strict=True):
        length = _power_of_two((config.kernel_size - 1) * dilation)
        row[:] = place, length - 1, put(*_block_parts(block, width, groups)), dilation
        place += length * width
    header[kernels.SCRATCH] = place
    heads = [_rows(_wide(folded.pooled.reshape(outputs, blocks, -1), width))]
    if sees_newest:
        newest = np.zeros_like(folded.pooled) if folded.newest is None else folded.newest
        bypass = np.zeros((outputs, config.input_features)) if folded.bypass is None else folded.bypass
        newest = _wide(newest.reshape(outputs, blocks, -1), width).reshape(outputs, -1)
        heads.append(_rows(np.hstack([newest, _wide(bypass, _padded(config.input_features))])))
    header[kernels.HEAD] = put(*heads, folded.bias)
    largest = max(place, sum(part.size for part in parts))
    if largest >= _LARGEST:
        raise ConfigError(f"the engine's weights and state must each be under {_LARGEST} numbers, was {largest}")
    with np.errstate(over="ignore"):
        weights = np.concatenate(parts).astype(np.float32)
    if not np.isfinite(weights[header.size :]).all():
        raise ArtifactError("folded weights must fit in float32, some did not; is a feature_scale next to 0?")
    return _aligned(weights)


def new_states(weights: Packed, markets: int) -> Packed:
    """Return (markets, size) states that have seen nothing."""
    width, blocks = int(weights[kernels.WIDTH]), int(weights[kernels.BLOCKS])
    column = (blocks + 1) * width + _padded(int(weights[kernels.FEATURES])) + int(weights[kernels.INNER])
    sums = _padded(2 * (int(weights[kernels.OUTPUTS]) + kernels.DOTS))
    return _aligned(np.zeros((markets, kept_size(weights) + kernels.TILE * column + sums), np.float32))


def kept_size(weights: Packed) -> int:
    """Return how many floats of a state carry memory from bar to bar; the rest is scratch."""
    return int(weights[kernels.SCRATCH])


def _groups(folded: FoldedWeights) -> int:
    """Return into how many groups of channels the blocks fall that mix with each other alone, in whole vectors."""
    members, channels = folded.config.members, folded.config.hidden_channels
    size = channels // members
    mixed = np.kron(np.eye(members), np.ones((size, size)))[..., None]  # (C, C, 1)
    apart = all(not block.mixing.reshape(channels, channels, -1)[(mixed == 0)[..., 0]].any() for block in folded.blocks)
    return members if size % LANES == 0 and apart else 1


def _block_parts(block: FoldedBlock, width: int, groups: int) -> list[FloatArray]:
    bias = _wide(block.bias, width)
    if isinstance(block, FoldedStandard):
        taps = _tall(block.mixing.transpose(2, 1, 0), width, width)  # (K, C in, C out)
        return [_side_by_side(taps, groups), bias]
    taps, mixing = _wide(block.taps.T, width), _tall(block.mixing.T, width, width)
    return [taps, _wide(block.taps_bias, width), _side_by_side(mixing[None], groups), bias]


def _side_by_side(mixing: FloatArray, groups: int) -> FloatArray:
    """Return (K * C/groups, C): of (K, C in, C out) each group's own inputs and outputs, group beside group."""
    size = mixing.shape[-1] // groups
    own = [slice(start, start + size) for start in range(0, groups * size, size)]
    return np.hstack([mixing[:, group, group].reshape(-1, size) for group in own])


def _rows(matrix: FloatArray) -> FloatArray:
    """Return the matrix with rows of zeros up to as many as the head takes at once."""
    return np.pad(matrix, [(0, -len(matrix) % kernels.DOTS)] + [(0, 0)] * (matrix.ndim - 1))


def _wide(array: FloatArray, width: int) -> FloatArray:
    """Return the array with zeros up to `width` columns."""
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])])


def _tall(matrix: FloatArray, rows: int, width: int) -> FloatArray:
    """Return the matrix (.., rows, columns) with zeros up to `rows` rows and `width` columns."""
    return _wide(_wide(matrix, width).swapaxes(-1, -2), rows).swapaxes(-1, -2)


def _padded(count: int) -> int:
    return -(-count // LANES) * LANES


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _aligned(array: Packed) -> Packed:
    """Return a copy that starts at a cache line, so that no vector crosses two."""
    room = np.zeros(array.size + LANES, np.float32)
    start = -room.ctypes.data % 64 // 4
    out = room[start : start + array.size].reshape(array.shape)
    out[...] = array
    return out
