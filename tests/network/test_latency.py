import math
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.schema import ConfigError
from tasks.network.architecture import DSCConfig, macs_per_bar, macs_per_window, parameters, preset
from tasks.network.dsc import DSCTradingModel
from tasks.network.inference import torch_threads
from tasks.network.latency import (
    Timing,
    machine_fingerprint,
    measure_latency,
    measure_model,
    twins,
)

MakeModel = Callable[..., DSCTradingModel]

TINY = DSCConfig(input_features=3, hidden_channels=4, num_blocks=1, window=4)


def clock_of(*durations: int) -> Callable[[], int]:
    """A clock under which the timed calls take these nanoseconds in turn, over and over."""

    def instants() -> Iterator[int]:
        now, call = 0, 0
        while True:
            yield now
            now += durations[call % len(durations)]
            yield now
            call += 1

    ticks = instants()
    return lambda: next(ticks)


def test_percentiles_are_those_of_the_calls_in_microseconds() -> None:
    timing = Timing(nanoseconds=np.arange(0, 101_000, 1000))  # 0 .. 100 us

    assert [timing.percentile_us(p) for p in (50, 95, 99)] == [50.0, 95.0, 99.0]


def test_histogram_counts_every_call_between_logarithmic_edges() -> None:
    timing = Timing(nanoseconds=np.array([1_000, 1_500, 2_500, 9_000, 10_000]))

    edges, calls = timing.histogram(bins=2)

    np.testing.assert_allclose(edges, [1.0, math.sqrt(10), 10.0])
    assert calls == [3, 2]


def test_histogram_of_equal_calls_has_them_all() -> None:
    _, calls = Timing(nanoseconds=np.full(7, 1_200)).histogram()

    assert sum(calls) == 7


def test_fingerprint_tells_the_machine_and_not_whose_it_is() -> None:
    fingerprint = machine_fingerprint(threads=2)

    assert fingerprint["threads"] == 2
    assert fingerprint["torch"] == torch.__version__
    assert {"cpu", "cores", "system", "python", "numpy", "numba", "onnxruntime"} <= fingerprint.keys()
    words = {str(value) for value in fingerprint.values()}
    assert not {platform.node(), str(Path.home()), str(Path.cwd())} & words


def test_twins_are_the_networks_own_block_and_the_standard_one_at_each_kernel_size() -> None:
    found = [(config.kernel_size, config.block, config.window) for config in twins(preset("default"))]

    assert found == [
        (kernel, block, preset("default").window) for kernel in (3, 9) for block in ("xception", "standard")
    ]


def test_rows_hold_the_closed_forms_and_the_percentiles_of_every_runtime() -> None:
    configs, steps = twins(TINY), []

    rows = measure_latency(
        configs, 60, on_progress=lambda done, of: steps.append((done, of)), clock=clock_of(3_000, 5_000)
    )

    assert [(row.name, row.runtime) for row in rows[:4]] == [
        ("DSC K=3", "eager torch"),
        ("DSC K=3", "ONNX Runtime"),
        ("DSC K=3", "engine"),
        ("standard K=3", "eager torch"),
    ]
    assert len(rows) == 3 * len(configs)
    for row, config in zip(rows, [config for config in configs for _ in range(3)], strict=True):
        assert row.config == config
        assert row.parameters == parameters(config)
        assert row.macs == (macs_per_bar(config) if row.runtime == "engine" else macs_per_window(config))
        assert (row.p50_us, row.p95_us, row.p99_us) == (4.0, 5.0, 5.0)  # half the calls took 3 us, half 5 us
    assert steps == [(i, 24) for i in range(1, 25)]  # 12 cases, each in a burst of 50 and one of 10


def test_only_the_runtimes_asked_for_are_timed() -> None:
    rows = measure_latency([TINY, TINY.twin], 2, runtimes=("engine",))

    assert [(row.config, row.runtime) for row in rows] == [(TINY, "engine"), (TINY.twin, "engine")]


def test_zero_padding_has_no_row_for_the_engine_and_threads_are_put_back() -> None:
    with torch_threads(2):  # more than what is timed has
        rows = measure_latency([DSCConfig(**{**vars(TINY), "padding": "zeros"})], 2)
        threads = torch.get_num_threads()

    assert [row.runtime for row in rows] == ["eager torch", "ONNX Runtime"]
    assert all(0 < row.p50_us <= row.p95_us <= row.p99_us < math.inf for row in rows)
    assert threads == 2


@pytest.mark.parametrize(("padding", "runtime"), [("history", "engine"), ("zeros", "ONNX Runtime")])
def test_trained_network_is_timed_by_the_fastest_that_can_run_it(
    random_model: MakeModel, padding: str, runtime: str
) -> None:
    config = DSCConfig(**{**vars(TINY), "padding": padding})
    weights = {name: tensor.numpy() for name, tensor in random_model(config).state_dict().items()}

    found, timing = measure_model(config, weights, np.zeros((20, 3)), clock_of(1_500))

    assert (found.name, found.config, found.runtime) == ("this model", config, runtime)
    assert (found.p50_us, set(timing.nanoseconds)) == (1.5, {1_500})


def test_no_repetition_is_refused() -> None:
    with pytest.raises(ConfigError, match="repetitions must be >= 1, was 0"):
        measure_latency([TINY], 0)
