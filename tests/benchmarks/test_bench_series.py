"""Rows 6 and 7: the logits of every bar of a long series."""

from itertools import cycle

import numpy as np
import pytest
import torch

BARS = 100_000
LOOP_WINDOWS = 500  # a round; ten rounds make the 5,000 that stand for the series
BATCH = 256


@pytest.fixture(scope="module")
def network(make_network):
    return make_network("source", BARS)


def windows_of(network, count):
    x = network.bars[: count + network.config.context - 1].astype(np.float32)
    return np.lib.stride_tricks.sliding_window_view(x, network.config.context, axis=0)  # (count, F, context)


def ours_of(network, side):
    engine, x = network.engine(), torch.from_numpy(network.bars).float()

    def forward_series():
        with torch.inference_mode():
            return network.model.forward_series(x)

    return {"engine": side(lambda: engine.run_series(network.bars), 1, BARS), "series": side(forward_series, 1, BARS)}


@pytest.mark.quick
def test_series_is_faster_than_one_window_at_a_time(race, ledger, compare, side, network):
    windows = torch.from_numpy(windows_of(network, LOOP_WINDOWS).copy())

    def loop():
        with torch.inference_mode():
            return [network.model(window[None]) for window in windows]

    expected = torch.cat(loop()).numpy()
    np.testing.assert_allclose(network.engine().run_series(network.bars)[:LOOP_WINDOWS], expected, atol=1e-5)

    times = race(ours_of(network, side) | {"windows in a loop": side(loop, 1, LOOP_WINDOWS)}, rounds=10)

    beside = {"torch forward_series, loop over it": times.ratio("windows in a loop", "series")}
    ledger.enter(
        compare(
            6, "series_vs_loop", times, "windows in a loop", "engine", "a bar of 100,000", at_least=400, beside=beside
        )
    )


def test_series_is_faster_than_batched_windows_through_onnx(race, ledger, compare, side, network):
    batches = windows_of(network, 16 * BATCH).reshape(16, BATCH, network.config.input_features, -1)
    session, turn = network.onnx(), cycle(batches)

    def batch():
        return session.run(None, {"window": np.ascontiguousarray(next(turn))})

    times = race(ours_of(network, side) | {"ONNX Runtime": side(batch, 1, BATCH)}, rounds=20)

    beside = {"torch forward_series, ONNX Runtime over it": times.ratio("ONNX Runtime", "series")}
    ledger.enter(
        compare(
            7, "series_vs_onnx_batched", times, "ONNX Runtime", "engine", "a bar of 100,000", at_least=60, beside=beside
        )
    )
