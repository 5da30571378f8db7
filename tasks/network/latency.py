"""How long one bar takes: percentiles after warm-up, beside the arithmetic that they should be compared with.

MACs are no times: a depthwise convolution moves as much memory as it multiplies, so the table shows parameters, MACs
and percentiles of the separable network and of its standard twin, each in every runtime.

Runs take turns, burst by burst, so that a busy machine slows all of them alike: read ratios, not absolutes.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from storage.schema import ConfigError, FloatArray, IntArray
from tasks.network.architecture import DSCConfig, macs_per_bar, macs_per_window, parameters
from tasks.network.engine import Engine
from tasks.network.export import open_session
from tasks.network.folding import Weights, fold
from tasks.network.onnx_graphs import onnx_plain, onnx_window

Runtime = Literal["eager torch", "ONNX Runtime", "engine"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
Clock = Callable[[], int]
Call = Callable[[], object]

_BURST = 50  # timed calls between two changes of runtime
_SETTLE = 10  # untimed calls before each burst: the caches still hold another runtime's weights
_BARS_TIMED, _WINDOWS_TIMED = 10_000, 1_000
_LIBRARIES = ("numpy", "numba", "torch", "onnxruntime")


@dataclass(frozen=True, kw_only=True, eq=False)
class Timing:
    """Durations of single calls.

    Attributes:
        nanoseconds: (n,) in the order measured; the clock's own time, some 50 ns, is in each.
    """

    nanoseconds: IntArray

    def percentile_us(self, percent: float) -> float:
        """Return the duration that `percent` of the calls stay under, microseconds."""
        return float(np.percentile(self.nanoseconds, percent)) / 1000

    def histogram(self, bins: int = 40) -> tuple[list[float], list[int]]:
        """Return the bins + 1 edges, microseconds, evenly spaced on a logarithmic axis, and the calls in each bin.

        From the fastest call to the slowest, so that every call is counted, the one that the system interrupted too.
        """
        fastest, slowest = float(self.nanoseconds.min()), float(self.nanoseconds.max())
        edges = np.geomspace(max(fastest, 1.0), max(slowest, 1.01 * fastest, 2.0), bins + 1)
        calls = np.histogram(np.clip(self.nanoseconds, edges[0], edges[-1]), edges)[0]
        return (edges / 1000).tolist(), calls.tolist()


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """One network in one runtime.

    Attributes:
        name: "DSC K=3" or "standard K=3"; "this model" for the trained one.
        runtime: What ran it. The engine does one new bar, the others a whole window.
        parameters: Trained numbers.
        macs: Multiply-adds of what was timed.
        p50_us, p95_us, p99_us: Percentiles of one prediction, batch 1, one thread.
    """

    name: str
    config: DSCConfig
    runtime: Runtime
    parameters: int
    macs: int
    p50_us: float
    p95_us: float
    p99_us: float


def machine_fingerprint(threads: int = 1) -> dict[str, str | int]:
    """Return what a timing depends on: processor, cores, threads, system and versions. Names no host, user or path."""
    versions = {name: _version(name) for name in _LIBRARIES}
    return {
        "cpu": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def twins(config: DSCConfig, kernel_sizes: Sequence[int] = (3, 9)) -> tuple[DSCConfig, ...]:
    """Return the network and its twin at each kernel size."""
    sized = [replace(config, kernel_size=kernel_size) for kernel_size in kernel_sizes]
    return tuple(network for one in sized for network in (one, one.twin))


def measure_latency(
    configs: Sequence[DSCConfig],
    repetitions: int = 300,
    *,
    runtimes: Sequence[Runtime] = RUNTIMES,
    seed: int = 7,
    on_progress: Callable[[int, int], None] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> list[LatencyRow]:
    """Time every network in every runtime, one prediction at a time, on one thread.

    Weights are random, which leaves about half the channels at 0, as training does. `on_progress` is called with
    (bursts done, bursts in all); the clock counts nanoseconds.

    Returns:
        A row per network and runtime; padding "zeros" has none for the engine.

    Raises:
        ConfigError: `repetitions` < 1.
    """
    import torch

    if repetitions < 1:
        raise ConfigError(f"repetitions must be >= 1, was {repetitions}")
    cases = [case for config in configs for case in _cases(config, seed) if case[1] in runtimes]
    durations: list[list[int]] = [[] for _ in cases]
    bursts = -(-repetitions // _BURST)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for burst in range(bursts):
            count = min(_BURST, repetitions - burst * _BURST)
            for i, (_, _, call) in enumerate(cases):
                durations[i] += _time(call, count, _SETTLE, clock)
                if on_progress is not None:
                    on_progress(burst * len(cases) + i + 1, bursts * len(cases))
    finally:
        torch.set_num_threads(threads)
    timings = [Timing(nanoseconds=np.array(taken, np.int64)) for taken in durations]
    return [
        _row(f"{'standard' if config.block == 'standard' else 'DSC'} K={config.kernel_size}", config, runtime, timing)
        for (config, runtime, _), timing in zip(cases, timings, strict=True)
    ]


def measure_model(
    config: DSCConfig, weights: Weights, features: FloatArray, clock: Clock = time.perf_counter_ns
) -> tuple[LatencyRow, Timing]:
    """Time a trained network on real features, one new bar at a time: by the engine, or whole windows where it can't.

    Python's call is in each time. The features are (T, F), T >= context, raw and finite, of consecutive bars.
    """
    runtime: Runtime
    call: Call
    if config.padding == "history":
        engine, turn = Engine.from_weights(config, weights), cycle(features)
        engine.warm_up(features)
        runtime, repetitions, call = "engine", _BARS_TIMED, lambda: engine.step(next(turn))
    else:
        session = open_session(onnx_window(fold(config, weights)))
        window = np.ascontiguousarray(features[-config.context :].T[None], np.float32)
        runtime, repetitions, call = "ONNX Runtime", _WINDOWS_TIMED, lambda: session.run(None, {"window": window})
    timing = Timing(nanoseconds=np.array(_time(call, repetitions, _SETTLE, clock), np.int64))
    return _row("this model", config, runtime, timing), timing


def _cases(config: DSCConfig, seed: int) -> list[tuple[DSCConfig, Runtime, Call]]:
    import torch

    from tasks.network.dsc import DSCTradingModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DSCTradingModel(config).eval()
        window = torch.randn(1, config.input_features, config.context)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    session, array = open_session(onnx_plain(config, weights)), window.numpy()
    bars = array[0].T.astype(np.float64)

    def eager() -> object:
        with torch.inference_mode():
            return model(window)

    cases: list[tuple[DSCConfig, Runtime, Call]] = [
        (config, "eager torch", eager),
        (config, "ONNX Runtime", lambda: session.run(None, {"window": array})),
    ]
    if config.padding == "history":
        engine = Engine.from_weights(config, weights)
        engine.warm_up(bars)
        turn = cycle(bars)  # ever the same bar would flatter the branch predictor
        cases.append((config, "engine", lambda: engine.step(next(turn))))
    return cases


def _row(name: str, config: DSCConfig, runtime: Runtime, timing: Timing) -> LatencyRow:
    p50, p95, p99 = (timing.percentile_us(percent) for percent in (50, 95, 99))
    return LatencyRow(
        name=name,
        config=config,
        runtime=runtime,
        parameters=parameters(config),
        macs=macs_per_bar(config) if runtime == "engine" else macs_per_window(config),
        p50_us=p50,
        p95_us=p95,
        p99_us=p99,
    )


def _time(call: Call, repetitions: int, settle: int, clock: Clock) -> list[int]:
    """Return the nanoseconds of each of `repetitions` calls, after `settle` untimed ones."""
    for _ in range(settle):
        call()
    taken = []
    for _ in range(repetitions):
        start = clock()
        call()
        taken.append(clock() - start)
    return taken


def _processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
