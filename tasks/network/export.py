"""The network for other hosts: its weights without code, its ONNX graphs, and the proof that all agree with torch.

torch, onnx and onnxruntime are loaded where they are used; whoever only reads weights takes `folding.load_weights`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import save as save_safetensors

from storage.schema import ArtifactError
from tasks.network.architecture import DSCConfig
from tasks.network.engine import Engine
from tasks.network.folding import Weights, fold
from tasks.network.onnx_graphs import onnx_step, onnx_window

if TYPE_CHECKING:
    from tasks.network.dsc import DSCTradingModel

TOLERANCE = 1e-5
"""How far calibrated logits may differ between two ways to run one model; times the largest logit where that is > 1."""

_PARITY_WINDOWS = 64  # compared by check_parity: more proves no more, and torch takes 0.2 ms for each


def weights_bytes(model: DSCTradingModel) -> bytes:
    """Return the model's parameters and buffers as safetensors."""
    tensors = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in model.state_dict().items()}
    return save_safetensors(tensors)


def onnx_graphs(config: DSCConfig, weights: Weights) -> dict[str, bytes]:
    """Return the graphs to publish by file name: model.onnx of a window; with padding "history" step.onnx of a bar."""
    folded = fold(config, weights)
    graphs = {"model.onnx": onnx_window(folded)}
    return graphs | {"step.onnx": onnx_step(folded)} if config.padding == "history" else graphs


def open_session(model: bytes, threads: int = 1) -> Any:
    """Return an onnxruntime.InferenceSession on the CPU with so many threads."""
    # Else it numbers this machine in ~/.cache and writes to its makers: by the environment alone, and when imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def check_parity(
    model: DSCTradingModel, features: ArrayLike, *, window: bytes, step: bytes | None = None
) -> dict[str, float]:
    """Compare every way to run a model with torch on windows, on the newest bars of a series.

    Args:
        model: The network, in evaluation mode.
        features: (T, F) raw features of consecutive bars, finite; T >= context.
        window: ONNX graph that maps windows to logits.
        step: ONNX graph of one bar; with padding "history" only.

    Returns:
        The largest absolute difference of what a network says (calibrated logits, a volatility head's logarithm) per
        path: "torch series", "onnx window", and with padding "history" "engine" and "onnx step".

    Raises:
        ArtifactError: A difference is above TOLERANCE.
        ValueError: Fewer bars than the context.
    """
    import torch

    config = model.config
    x = np.asarray(features, np.float32)[-(config.context + _PARITY_WINDOWS - 1) :]
    if len(x) < config.context:
        raise ValueError(f"parity needs at least the context of {config.context} bars, was {len(x)}")
    windows = np.lib.stride_tricks.sliding_window_view(x, config.context, axis=0).copy()
    with torch.no_grad():
        expected = model(torch.from_numpy(windows)).numpy()
        found = {"torch series": model.forward_series(torch.from_numpy(x)).numpy()}
    found["onnx window"] = np.hstack(open_session(window).run(None, {"window": windows}))
    if config.padding == "history":
        weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        found["engine"] = Engine.from_weights(config, weights).run_series(x)
        if step is not None:
            found["onnx step"] = step_series(step, x)[config.context - 1 :]
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    differences = {path: float(np.abs(logits - expected).max()) for path, logits in found.items()}
    for path, difference in differences.items():
        if not difference <= allowed:  # NaN compares false
            raise ArtifactError(f"{path} must give torch's logits within {allowed:.1e}, was off by {difference:.1e}")
    return differences


def step_series(step: bytes, features: ArrayLike) -> NDArray[np.float32]:
    """Return (T, outputs) of the one-bar graph fed with (T, F) bars from zero memory, as a host runs it."""
    session = open_session(step)
    past, pool = (np.zeros((1, *value.shape[1:]), np.float32) for value in session.get_inputs()[1:])
    rows = []
    for row in np.asarray(features, np.float32):
        logits, past, pool, *risk = session.run(None, {"features": row[None], "past": past, "pool": pool})
        rows.append(np.hstack([logits, *risk])[0])
    return np.array(rows)
