"""Three ONNX graphs of one network, for hosts without Python: C++, Rust, edge devices.

    plain    the window model as torch runs it in evaluation mode, layer by layer: the baseline in benchmarks
    window   the same function, folded (folding.py)
    step     one new bar, folded, with its memory in and out

Each says "logits", and with a volatility head "log_variance_ratio" (vol_head.py) as its last output.

Everything is float32. onnx is loaded where a graph is built: nothing that trades needs it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from storage.schema import ConfigError
from tasks.network.architecture import DSCConfig
from tasks.network.folding import BN_EPS, FoldedBlock, FoldedSeparable, FoldedStandard, FoldedWeights, Weights, fold

_OPSET, _IR_VERSION = 17, 8  # old enough for the runtimes of edge devices
_END = np.iinfo(np.int64).max  # of a slice


def onnx_plain(config: DSCConfig, weights: Weights) -> bytes:
    """Return the window model with nothing folded: "window" (batch, F, context) -> "logits" (batch, K).

    Raises:
        ArtifactError: The weights don't fit the config.
    """
    fold(config, weights)  # checks them
    graph = _Graph()
    z = _scaled(graph, config, "window", weights["feature_mean"][:, None], weights["feature_scale"][:, None])
    h = graph.conv(z, weights["stem.0.weight"], weights["stem.0.bias"])
    h = graph.add("Relu", _normalized(graph, h, weights, "stem.1"))
    skips = []
    for i, dilation in enumerate(config.dilations):
        name, pads = f"blocks.{i}", _pads(config, dilation)
        if config.block == "standard":
            h = graph.conv(h, weights[f"{name}.conv.weight"], None, dilation, pads)
            h = graph.add("Relu", _normalized(graph, h, weights, f"{name}.bn"))
        else:
            h = _plain_depthwise(graph, config, weights, name, h, dilation)
        skips.append(graph.newest(h, config.window))
    s = graph.conv(graph.add("Concat", *skips, axis=1), weights["skip_conv.weight"], weights["skip_conv.bias"])
    head = graph.add("GlobalAveragePool", s)
    if config.newest_step:
        head = graph.add("Concat", head, graph.newest(s, 1), axis=1)
    head = graph.add("Flatten", head)
    logits = graph.gemm(
        head, np.transpose(weights["classifier.3.weight"]), graph.constant(weights["classifier.3.bias"])
    )
    if config.linear_bypass:
        newest = graph.add("Flatten", graph.newest(z, 1))
        logits = graph.gemm(newest, np.transpose(weights["bypass.weight"]), logits)
    divisor = np.ones(config.outputs)
    divisor[: config.num_classes] = weights["temperature"]
    _say(graph, config, graph.add("Div", logits, graph.constant(divisor)))
    return graph.finish(config, *_window_ends(config))


def _plain_depthwise(graph: _Graph, config: DSCConfig, weights: Weights, name: str, x: str, dilation: int) -> str:
    """Return what a block other than the standard one makes of x (batch, C, T), layer by layer."""
    h = graph.conv(x, weights[f"{name}.depthwise.weight"], None, dilation, _pads(config, dilation))
    h = _normalized(graph, h, weights, f"{name}.bn1")
    h = graph.conv(h if config.block == "xception" else graph.add("Relu", h), weights[f"{name}.pointwise.weight"])
    return graph.add("Relu", _normalized(graph, h, weights, f"{name}.bn2"))


def onnx_window(folded: FoldedWeights) -> bytes:
    """Return the folded window model: "window" (batch, F, context) -> "logits" (batch, K).

    Inside, windows are images of height 1: ONNX Runtime has its fast kernels for images only, and takes half the time.
    Its head is one matrix on [pooled h, newest h, newest z].
    """
    config, graph = folded.config, _Graph()
    z = _scaled(graph, config, "window", folded.feature_mean[:, None], folded.feature_scale[:, None])
    z = graph.add("Unsqueeze", z, graph.constant([2], np.int64))
    h = graph.add("Relu", graph.conv(z, folded.stem[:, :, None, None], folded.stem_bias))
    pooled, newest = [], []
    for block, dilation in zip(folded.blocks, config.dilations, strict=True):
        pads = _pads(config, dilation)
        if isinstance(block, FoldedStandard):
            h = graph.add("Relu", graph.conv(h, block.mixing[:, :, None], block.bias, dilation, pads))
        else:
            u = graph.conv(h, block.taps[:, None, None], block.taps_bias, dilation, pads)
            u = u if config.block == "xception" else graph.add("Relu", u)
            h = graph.add("Relu", graph.conv(u, block.mixing[:, :, None, None], block.bias))
        pooled.append(graph.add("GlobalAveragePool", graph.newest(h, config.window)))
        newest.append(graph.newest(h, 1))
    inputs, matrix = pooled, [folded.pooled]
    if folded.newest is not None:
        inputs, matrix = [*inputs, *newest], [*matrix, folded.newest]
    if folded.bypass is not None:
        inputs, matrix = [*inputs, graph.newest(z, 1)], [*matrix, folded.bypass]
    position = graph.add("Flatten", graph.add("Concat", *inputs, axis=1))
    _say(graph, config, graph.gemm(position, np.hstack(matrix).T, graph.constant(folded.bias)))
    return graph.finish(config, *_window_ends(config))


def onnx_step(folded: FoldedWeights) -> bytes:
    """Return the folded model of one bar.

    In: "features" (markets, F), "past" (markets, P, C), "pool" (markets, window - 1, outputs). Out: "logits"
    (markets, K), "next_past", "next_pool", "log_variance_ratio" (markets, 1). Memory starts as zeros; what is said of
    the first context - 1 bars means nothing.

    "past" holds what the blocks' filters look back on, block after block, each oldest bar first; "pool"
    the newest head values. These are averaged anew at every bar: a few hundred additions cost a graph nothing, and
    nothing drifts.

    Raises:
        ConfigError: Padding is not "history".
    """
    config, graph = folded.config, _Graph()
    if config.padding != "history":
        raise ConfigError(f'a one-bar step needs padding "history", was {config.padding!r}')
    lengths = [(config.kernel_size - 1) * dilation for dilation in config.dilations]
    spans = [range(sum(lengths[:i]), sum(lengths[: i + 1])) for i in range(config.num_blocks)]
    z = _scaled(graph, config, "features", folded.feature_mean, folded.feature_scale)
    h = [graph.add("Relu", graph.gemm(z, folded.stem.T, graph.constant(folded.stem_bias)))]
    filters = [list(span[:: config.dilations[i]]) for i, span in enumerate(spans)]  # (B, K-1)
    taps = graph.add("Gather", "past", graph.constant(filters, np.int64), axis=1)  # (markets, B, K-1, C)
    for block, past in zip(folded.blocks, _filtered(graph, folded, taps), strict=True):
        h.append(_next(graph, config, block, past, h[-1]))
    newest = graph.reshape(graph.add("Concat", *h[:-1], axis=1), config.num_blocks, config.hidden_channels)
    kept = [place for i, span in enumerate(spans) for place in (*span[1:], sum(lengths) + i)]
    past = graph.add("Concat", "past", newest, axis=1)
    graph.add("Gather", past, graph.constant(kept, np.int64), axis=1, output="next_past")
    position = graph.add("Concat", *h[1:], axis=1)
    value = graph.reshape(graph.add("MatMul", position, graph.constant(folded.pooled.T)), 1, config.outputs)
    values = graph.add("Concat", "pool", value, axis=1)
    graph.slice(values, 1, axis=1, output="next_pool")
    logits = graph.add("Add", graph.add("ReduceMean", values, axes=[1], keepdims=0), graph.constant(folded.bias))
    if folded.newest is not None:
        logits = graph.gemm(position, folded.newest.T, logits)
    if folded.bypass is not None:
        logits = graph.gemm(z, folded.bypass.T, logits)
    _say(graph, config, logits)
    memory = {"past": [sum(lengths), config.hidden_channels], "pool": [config.window - 1, config.outputs]}
    inputs = {"features": [config.input_features], **memory}
    logits_first, *risk = _said(config).items()
    outputs = dict([logits_first, *((f"next_{name}", shape) for name, shape in memory.items()), *risk])
    return graph.finish(config, inputs, outputs, rows="markets")


def _filtered(graph: _Graph, folded: FoldedWeights, taps: str) -> list[str]:
    """Return what each block's filter makes of its past, its bias included: (markets, C) per block."""
    separable = [block for block in folded.blocks if isinstance(block, FoldedSeparable)]
    if separable:  # all blocks at once, which saves a graph its nodes
        weight = graph.constant([block.taps[:, :-1].T for block in separable])  # (B, K-1, C)
        sums = graph.add("ReduceSum", graph.add("Mul", taps, weight), graph.constant([2], np.int64), keepdims=0)
        sums = graph.add("Add", sums, graph.constant([block.taps_bias for block in separable]))
        return [graph.take(sums, i) for i in range(len(separable))]
    out = []
    for i, block in enumerate(folded.blocks):
        matrix = np.concatenate(list(block.mixing[..., :-1].transpose(2, 1, 0)))  # ((K-1)*C in, C out)
        out.append(graph.gemm(graph.add("Flatten", graph.take(taps, i)), matrix, graph.constant(block.bias)))
    return out


def _next(graph: _Graph, config: DSCConfig, block: FoldedBlock, past: str, newest: str) -> str:
    """Return the block's output at the newest bar, (markets, C)."""
    if isinstance(block, FoldedStandard):
        return graph.add("Relu", graph.gemm(newest, block.mixing[..., -1].T, past))
    u = graph.add("Add", graph.add("Mul", newest, graph.constant(block.taps[:, -1])), past)
    u = u if config.block == "xception" else graph.add("Relu", u)
    return graph.add("Relu", graph.gemm(u, block.mixing.T, graph.constant(block.bias)))


def _scaled(graph: _Graph, config: DSCConfig, x: str, mean: ArrayLike, scale: ArrayLike) -> str:
    z = graph.add("Div", graph.add("Sub", x, graph.constant(mean)), graph.constant(scale))
    if config.input_clip is None:
        return z
    return graph.add("Clip", z, graph.constant(-config.input_clip), graph.constant(config.input_clip))


def _normalized(graph: _Graph, x: str, weights: Weights, name: str) -> str:
    parts = (weights[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
    return graph.add("BatchNormalization", x, *(graph.constant(part) for part in parts), epsilon=BN_EPS)


def _pads(config: DSCConfig, dilation: int) -> int:
    return (config.kernel_size - 1) // 2 * dilation if config.padding == "zeros" else 0


def _window_ends(config: DSCConfig) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    return {"window": [config.input_features, config.context]}, _said(config)


def _said(config: DSCConfig) -> dict[str, list[int]]:
    """Return name -> shape of what a network says of a bar."""
    return {"logits": [config.num_classes]} | ({"log_variance_ratio": [1]} if config.risk_head else {})


def _say(graph: _Graph, config: DSCConfig, outputs: str) -> None:
    """Name what a network says of a bar: its outputs (rows, outputs) are the logits, then the volatility head's."""
    if not config.risk_head:
        graph.add("Identity", outputs, output="logits")
        return
    classes = config.num_classes
    graph.slice(outputs, 0, axis=1, stop=classes, output="logits")
    graph.slice(outputs, classes, axis=1, output="log_variance_ratio")


class _Graph:
    """An ONNX graph in the making; its values are known by their names."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        output = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, value: ArrayLike, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype, order="C"), name))
        return name

    def conv(
        self, x: str, weight: NDArray[Any], bias: ArrayLike | None = None, dilation: int = 1, pads: int = 0
    ) -> str:
        """Convolve along time, the last axis; one input channel and several taps mean depthwise."""
        parts = [x, self.constant(weight)] + ([] if bias is None else [self.constant(bias)])
        height = [0] * (weight.ndim - 3)
        return self.add(
            "Conv",
            *parts,
            dilations=[*(1 for _ in height), dilation],
            pads=[*height, pads] * 2,
            group=len(weight) if weight.shape[1] == 1 < weight.shape[-1] else 1,
        )

    def gemm(self, x: str, matrix: NDArray[Any], addend: str) -> str:
        """Return x @ matrix + addend."""
        return self.add("Gemm", x, self.constant(matrix), addend)

    def slice(self, x: str, start: int, axis: int, stop: int = _END, output: str = "") -> str:
        """Return x from `start` up to `stop` along an axis."""
        return self.add("Slice", x, *(self.constant([value], np.int64) for value in (start, stop, axis)), output=output)

    def newest(self, x: str, count: int) -> str:
        """Return the last `count` positions; time is the last axis."""
        return self.slice(x, -count, axis=-1)

    def take(self, x: str, index: int) -> str:
        """Return x[:, index]."""
        return self.add("Gather", x, self.constant(index, np.int64), axis=1)

    def reshape(self, x: str, *shape: int) -> str:
        """Return x as (rows, *shape)."""
        return self.add("Reshape", x, self.constant([-1, *shape], np.int64))

    def finish(
        self, config: DSCConfig, inputs: dict[str, list[int]], outputs: dict[str, list[int]], rows: str = "batch"
    ) -> bytes:
        """Return the checked model; every input and output has `rows` as its first axis."""
        import onnx
        from onnx import helper

        first, last = (
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [rows, *shape]) for name, shape in end.items()]
            for end in (inputs, outputs)
        )
        graph = helper.make_graph(self._nodes, "dsc", first, last, self._constants)
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, producer_name="dsc-trading", opset_imports=opsets, ir_version=_IR_VERSION)
        helper.set_model_props(model, {"context": str(config.context)})
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))
