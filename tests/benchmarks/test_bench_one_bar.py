"""Rows 1 to 5: what one new bar costs. Every alternative computes the same function of the same 130 bars."""

import shutil
from importlib.util import find_spec
from itertools import cycle

import numpy as np
import pytest
import torch

from tasks.execution.accounting import Costs
from tasks.execution.decision import DecisionConfig, packed
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.folding import fold
from tasks.network.onnx_graphs import onnx_window
from tasks.strategy.live_tick import LiveTick

MARKETS = 100


@pytest.fixture(scope="module")
def source(make_network):
    return make_network("source", 400)


def step_of(network, engine):
    turn = cycle(network.bars)  # ever the same bar would flatter the branch predictor
    out = np.empty(network.config.outputs)
    return lambda: engine.step(next(turn), 0, out)


def onnx_of(network, session):
    window = network.window.numpy()
    return lambda: session.run(None, {"window": window})


def eager_of(network):
    model, window = network.model, network.window

    def run():
        with torch.inference_mode():
            return model(window)

    return run


def openvino_of(network):
    """The folded window graph on OpenVINO, one thread, in float32 as all the others."""
    import openvino

    core = openvino.Core()
    graph = core.read_model(onnx_window(fold(network.config, network.weights)))
    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(graph, "CPU", options)
    request, window = compiled.create_infer_request(), network.window.numpy()
    return lambda: request.infer([window])


@pytest.mark.quick
def test_one_bar_is_faster_than_eager_torch_and_onnx_on_its_window(
    race, ledger, compare, line, side, source, make_network
):
    engine, session, folded = source.engine(), source.onnx(), source.onnx(folded=True)
    default, turn = make_network("default", 400), cycle(source.bars)
    expected = eager_of(source)().numpy()
    np.testing.assert_allclose(onnx_of(source, session)()[0], expected, atol=1e-5)
    np.testing.assert_allclose(engine.run_series(source.bars)[-1], expected[0], atol=1e-5)
    sides = {
        "engine": side(step_of(source, engine), 2_000),
        "engine, new array": side(lambda: engine.step(next(turn)), 2_000),
        "eager torch": side(eager_of(source), 10),
        "ONNX Runtime": side(onnx_of(source, session), 30),
        "folded ONNX": side(onnx_of(source, folded), 30),
        "engine, preset default": side(step_of(default, default.engine()), 2_000),
        "ONNX Runtime, preset default": side(onnx_of(default, default.onnx()), 30),
    }
    if has_openvino := find_spec("openvino") is not None:  # no dependency of ours
        sides["OpenVINO, folded"] = side(openvino_of(source), 30)

    times = race(sides, rounds=100)

    openvino = times.ratio("OpenVINO, folded", "engine") if has_openvino else "left out: it is not installed"
    beside = {"folded ONNX over engine": times.ratio("folded ONNX", "engine"), "OpenVINO over engine": openvino}
    beside["ONNX Runtime over engine with a new array for each result"] = times.ratio(
        "ONNX Runtime", "engine, new array"
    )
    beside["preset default, ONNX Runtime over engine"] = times.ratio(
        "ONNX Runtime, preset default", "engine, preset default"
    )
    ledger.enter(
        compare(1, "stream_vs_eager", times, "eager torch", "engine", "one new bar", at_least=400, beside=beside),
        compare(2, "stream_vs_onnx", times, "ONNX Runtime", "engine", "one new bar", at_least=80),
        line(
            number=1,
            key="stream_us",
            value=times.median_us("engine"),
            work="one new bar",
            beside={"in the quickest tenth of rounds": times.quiet_us("engine")},
        ),
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's AOTInductor wants a C++ compiler; install g++")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's exporter is at odds with torch
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_one_bar_beside_the_window_compiled_ahead_of_time(race, ledger, compare, side, source, tmp_path):
    window = source.window
    exported = torch.export.export(source.model, (window,))
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "window.pt2"))
    compiled = torch._inductor.aoti_load_package(package)

    def ahead_of_time():
        with torch.inference_mode():
            return compiled(window)

    np.testing.assert_allclose(ahead_of_time().numpy(), eager_of(source)().numpy(), atol=1e-5)

    times = race(
        {"engine": side(step_of(source, source.engine()), 2_000), "AOTInductor": side(ahead_of_time, 10)}, rounds=50
    )

    ledger.enter(compare(2, "stream_vs_aotinductor", times, "AOTInductor", "engine", "one new bar"))


@pytest.mark.quick
def test_one_bar_of_a_tenfold_window_costs_the_same(race, ledger, compare, side, source, make_network):
    wide = make_network("source", 2_000, window=1_000)

    times = race(
        {
            "window 1,000": side(step_of(wide, wide.engine()), 2_000),
            "window 100": side(step_of(source, source.engine()), 2_000),
        },
        rounds=100,
    )

    ledger.enter(compare(3, "stream_window_growth", times, "window 1,000", "window 100", "one new bar", at_most=1.2))


@pytest.mark.quick
def test_candle_to_decision_is_faster_than_onnx_on_a_ready_window(race, ledger, compare, side, source):
    matrix = generate(SyntheticMarket(bars=60_000)).matrix()
    params = packed(DecisionConfig(), Costs(), np.array([-0.5, 0.0, 0.5]), 12)
    live = LiveTick(source.engine(), 300_000, params)
    live.warm_up(matrix[: live.history_bars])
    span = matrix[-1, 0] - matrix[0, 0] + 300_000
    candles = iter(candle + np.array([lap * span, 0, 0, 0, 0, 0]) for lap in range(1_000) for candle in matrix)
    for _ in range(live.history_bars):
        next(candles)
    ready = [next(candles) for _ in range(220_000)]
    turn = iter(ready)

    times = race(
        {
            "candle to decision": side(lambda: live.step(next(turn), 1, 5), 1_000),
            "ONNX Runtime": side(onnx_of(source, source.onnx()), 30),
        },
        rounds=200,
    )

    assert np.isfinite(live.step(next(turn), 1, 5).probabilities).all()
    ledger.enter(compare(4, "tick_vs_onnx", times, "ONNX Runtime", "candle to decision", "one new candle", at_least=25))


def test_hundred_markets_in_one_call_are_faster_than_a_hundred_calls(race, ledger, compare, line, side, source):
    together, alone = source.engine(MARKETS), source.engine()
    x = np.random.default_rng(1).normal(size=(64, MARKETS, source.config.input_features))
    tables, rows = cycle(x), cycle(x.reshape(-1, source.config.input_features))
    out = np.empty(source.config.outputs)

    times = race(
        {
            "one call": side(lambda: together.step_markets(next(tables)), 20, MARKETS),
            "single calls": side(lambda: alone.step(next(rows), 0, out), 20 * MARKETS),
        },
        rounds=100,
    )

    ns, quiet = 1000 * times.median_us("one call"), 1000 * times.quiet_us("one call")
    ledger.enter(
        # Most of a single call is arithmetic, which a batch has too: it comes to 0.75 to 0.85 of it.
        compare(5, "batch_vs_single", times, "one call", "single calls", "100 markets, a bar each", at_most=0.9),
        line(
            number=5,
            key="batch_ns_per_market",
            value=ns,
            work="100 markets, a bar each",
            beside={"in the quickest tenth of rounds": quiet},
        ),
    )
