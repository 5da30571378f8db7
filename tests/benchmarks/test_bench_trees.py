"""Rows 21 to 23: the network beside boosted trees that forecast as well, compiled to machine code and as they come.

Trees are as the baseline chose them on BTCUSDT's newest fold before 2026: as many, as large, mirrored, and grown by its
own code on a year of bars that hold nothing to learn. Those cost a row a little less than BTCUSDT's; trees that learn a
planted edge would cost it a quarter more. Their compilers live in an environment of their own, made once in the home of
the run (`compile_trees.py` says why); each library is called through ctypes with addresses that were made before, on
ever other rows: a row that repeats would flatter the branch predictor. With no compiler that works there is no
row.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storage.settings import Settings
from tasks.execution.accounting import Costs
from tasks.execution.decision import DecisionConfig, packed
from tasks.market.features import WARM_UP, build_features
from tasks.market.labels import LabelConfig, label_bars
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.baseline_config import BaselineConfig
from tasks.network.baselines import Boosting, TabularSeries
from tasks.network.export import open_session
from tasks.strategy.live_tick import LiveTick
from tasks.strategy.samples import mirrored_series
from tests.benchmarks import compile_trees
from tests.benchmarks.onnx_trees import onnx_trees
from tests.benchmarks.pandas_features import pandas_features

TREES, LEAVES = 83, 32
BARS, STEP_MS = 105_120, 300_000
ROWS = 512
CANDLES = 1_000  # what a peer computes its features on, for one prediction
SINGLE = 20_000  # calls that are timed one by one


@pytest.fixture(scope="module")
def market():
    """Candles, the trees grown on three quarters of them, and rows of the rest."""
    candles, costs = generate(SyntheticMarket(kind="null", bars=BARS)), Costs()
    features = build_features(candles.matrix(), STEP_MS)
    labels = label_bars(candles.open, features.vol, features.segment, LabelConfig(), costs.round_trip)
    end = BARS * 3 // 4
    table = TabularSeries(mirrored_series(features.values, labels, features.segment), (WARM_UP, end), 5.0, 3)
    learn = table.samples(np.arange(WARM_UP, end), mirrored=True)
    booster = Boosting(learn, learn, 3, BaselineConfig(most_trees=TREES)).trees(LEAVES)  # here every tree is better
    assert booster.num_trees() == 3 * TREES
    return candles, booster, table.samples(np.arange(end + 20, BARS)).x[:ROWS]


@pytest.fixture(scope="module")
def libraries(market, tmp_path_factory) -> Mapping[str, Callable[[], object]]:
    """Compiler -> a raw call on the next row; what was compiled agrees with the booster."""
    _, booster, rows = market
    folder = tmp_path_factory.mktemp("trees")
    booster.save_model(str(folder / "model.txt"), num_iteration=TREES)
    try:
        python = compilers(Settings.from_environment().prepare_home() / "tree-compilers")
        command = [str(python), compile_trees.__file__, str(folder / "model.txt"), str(folder)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - ours
    except (OSError, subprocess.CalledProcessError) as err:
        pytest.skip(f"no environment for compilers of trees: {err}")
    made = json.loads(answer.splitlines()[-1])
    if not made["libraries"]:
        pytest.skip(f"no compiler of trees works here: {made['failed']}")
    expected = booster.predict(rows, num_iteration=TREES)
    calls = {}
    for name, path in made["libraries"].items():
        call, out = raw_calls(path, rows)
        for row in expected:
            call()
            np.testing.assert_allclose(out, row, rtol=0, atol=1e-6)
        calls[name] = call
    return calls


def compilers(home: Path) -> Path:
    """Return the interpreter of the environment with the compilers, which is made where it is missing."""
    python, made = home / "bin" / "python", home / "made"
    if not made.exists():
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", *compile_trees.REQUIREMENTS],
        ):
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - both written here
        made.touch()
    return python


def raw_calls(path: str, rows: Any) -> tuple[Callable[[], object], Any]:
    """Return what calls a library on the next row, and where it writes."""
    out = np.empty(3)
    function = ctypes.CDLL(path).forest_root
    function.restype = None
    addresses = cycle([ctypes.c_void_p(row.ctypes.data) for row in rows])
    to, zero, one = ctypes.c_void_p(out.ctypes.data), ctypes.c_int(0), ctypes.c_int(1)
    return lambda: function(next(addresses), to, zero, one), out


def step_of(network: Any) -> Callable[[], object]:
    engine, turn, out = network.engine(), cycle(network.bars), np.empty(network.config.outputs)
    return lambda: engine.step(next(turn), 0, out)


def p99_us(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the 99th percentile of single calls, timed in turn, microseconds."""
    taken: dict[str, list[int]] = {name: [] for name in calls}
    for _ in range(SINGLE):
        for name, call in calls.items():
            start = time.perf_counter_ns()
            call()
            taken[name].append(time.perf_counter_ns() - start)
    return {name: float(np.percentile(ns, 99)) / 1000 for name, ns in taken.items()}


@pytest.mark.quick
def test_one_bar_beside_trees_of_equal_skill_compiled_and_as_they_come(
    race, ledger, compare, side, make_network, market, libraries
):
    _, booster, rows = market
    turn, ours = cycle(rows), step_of(make_network("default", 400))
    session = open_session(onnx_trees(booster, TREES))
    expected = booster.predict(rows, num_iteration=TREES)
    np.testing.assert_allclose(session.run(None, {"row": rows})[0], expected, rtol=0, atol=1e-6)
    sides = {
        "engine": side(ours, 2_000),
        **{name: side(call, 2_000) for name, call in libraries.items()},
        "Booster.predict": side(lambda: booster.predict(next(turn)[None], num_iteration=TREES, num_threads=1), 30),
        "ONNX Runtime": side(lambda: session.run(None, {"row": next(turn)[None]}), 30),
    }

    times = race(sides, rounds=100)

    best = min(libraries, key=times.median_us)
    slowest = p99_us({"engine": ours, **libraries})
    beside = {
        "compiled by": best,
        "p99 of a call over the engine's": slowest[best] / slowest["engine"],
        **{f"{name} over engine": times.ratio(name, "engine") for name in (*libraries, "ONNX Runtime") if name != best},
    }
    work = f"one new bar; {TREES} x 3 trees of {LEAVES} leaves"
    ledger.enter(
        compare(21, "stream_vs_compiled_trees", times, best, "engine", work, beside=beside),
        compare(22, "stream_vs_booster", times, "Booster.predict", "engine", work, at_least=10),
    )


@pytest.mark.quick
def test_candle_to_decision_is_faster_than_pandas_features_and_a_booster(
    race, ledger, compare, side, make_network, market
):
    candles, booster, _ = market
    matrix = candles.matrix()
    frame = pd.DataFrame(matrix, columns=["start_ms", "open", "high", "low", "close", "volume"])
    frame["start_ms"] = candles.start_ms
    live = LiveTick(make_network("default", 400).engine(), STEP_MS, packed(DecisionConfig(), Costs(), np.zeros(3), 12))
    live.warm_up(matrix[: live.history_bars])
    ready = iter(matrix[live.history_bars :])
    ends = cycle(range(CANDLES, BARS, 97))

    def peer() -> object:
        end = next(ends)
        newest = pandas_features(frame.iloc[end - CANDLES : end]).to_numpy()[-1:]
        return booster.predict(newest, num_iteration=TREES, num_threads=1)

    times = race(
        {
            "candle to decision": side(lambda: live.step(next(ready), 1, 5), 250),
            "pandas and Booster.predict": side(peer),
        },
        rounds=100,
    )

    ledger.enter(
        compare(
            23,
            "tick_vs_booster",
            times,
            "pandas and Booster.predict",
            "candle to decision",
            f"one new candle; features of the last {CANDLES:,}",
            at_least=1_000,
        )
    )
