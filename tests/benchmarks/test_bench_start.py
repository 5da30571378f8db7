"""Rows 14 and 15: from an empty process to its first decision, and what it then holds in memory."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tasks.execution.accounting import Costs
from tasks.execution.decision import DecisionConfig, packed
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.export import weights_bytes
from tasks.network.folding import fold
from tasks.network.onnx_graphs import onnx_step

ROOT = Path(__file__).parents[2]
ROUNDS = 5

ENGINE = """
import json
from pathlib import Path
import numpy as np
from tasks.strategy.live_tick import LiveTick
from tasks.network.architecture import DSCConfig
from tasks.network.engine import Engine
from tasks.network.folding import load_weights

config = DSCConfig(**json.loads(Path("config.json").read_text()))
engine = Engine.from_weights(config, load_weights(Path("weights.safetensors").read_bytes()))
candles = np.load("candles.npy")
live = LiveTick(engine, 300_000, np.load("params.npy"))
live.warm_up(candles[:-1])
tick = live.step(candles[-1])
assert np.isfinite(tick.probabilities).all()
"""
EDGE = """
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession("step.onnx", options, providers=["CPUExecutionProvider"])
past, pool = (np.zeros((1, *value.shape[1:]), np.float32) for value in session.get_inputs()[1:])
for bar in np.load("bars.npy"):
    logits, past, pool, *_ = session.run(None, {"features": bar[None], "past": past, "pool": pool})
assert np.isfinite(logits).all()
"""
RESIDENT = """
import re, sys
from pathlib import Path
assert ("torch" in sys.modules) == {torch} and "prefect" not in sys.modules
print(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.fixture(scope="module")
def folder(make_network, tmp_path_factory):
    """What a host needs: weights, configuration, graph, and history to warm up on."""
    network, folder = make_network("source", 400), tmp_path_factory.mktemp("start")
    (folder / "weights.safetensors").write_bytes(weights_bytes(network.model))
    (folder / "config.json").write_text(json.dumps(asdict(network.config)))
    (folder / "step.onnx").write_bytes(onnx_step(fold(network.config, network.weights)))
    np.save(folder / "bars.npy", network.bars[: network.config.context].astype(np.float32))
    np.save(folder / "candles.npy", generate(SyntheticMarket(bars=2_000 + network.config.context)).matrix())
    np.save(folder / "params.npy", packed(DecisionConfig(), Costs(), np.array([-0.5, 0.0, 0.5]), 12))
    return folder


def starter(folder, code, *, torch):
    """A call that runs the code in a new process, and the list where it notes the memory held at the end, MB."""
    script = ("import torch\n" if torch else "") + code + RESIDENT.format(torch=torch)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    held = []

    def run():
        done = subprocess.run(  # noqa: S603  # the code above
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=folder, env=environment
        )
        held.append(int(done.stdout) / 1000)

    return run, held


@pytest.mark.parametrize(
    ("number", "name", "code", "bar"), [(14, "engine", ENGINE, 0.8), (15, "edge", EDGE, 0.35)], ids=["engine", "edge"]
)
def test_start_without_torch_is_quicker_and_smaller(race, ledger, compare, side, line, folder, number, name, code, bar):
    alone, alone_mb = starter(folder, code, torch=False)
    beside_torch, torch_mb = starter(folder, code, torch=True)

    times = race({name: side(alone), "with torch": side(beside_torch)}, rounds=ROUNDS)

    held, held_with_torch = float(np.median(alone_mb)), float(np.median(torch_mb))
    memory = line(
        number=number,
        key=f"{name}_rss",
        value=held / held_with_torch,
        at_most=bar,
        work="resident at the first decision",
        rounds=ROUNDS,
        beside={f"{name}, MB": held, "with torch, MB": held_with_torch},
    )
    ledger.enter(
        compare(number, f"{name}_cold_start", times, name, "with torch", "to first decision", at_most=bar), memory
    )
