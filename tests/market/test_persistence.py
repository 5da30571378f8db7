"""Persistence names the class of the move that just ended."""

import numpy as np
import pytest

from storage.schema import BUY, HOLD, SELL
from tasks.market.labels import UNKNOWN, LabelConfig, label_bars
from tasks.market.persistence import past_classes


def test_move_that_just_ended_names_the_class():
    close = np.array([100.0, 103.0, 103.0, 100.0, 100.0, 100.0])
    vol, segment = np.full(6, 0.01), np.zeros(6, np.int64)
    # Two bars back: +3.0 %, -3.0 % (from 103), -3.0 %, 0 %; threshold 1 * 0.01 * sqrt(2) = 1.41 %.
    found = past_classes(close, vol, segment, LabelConfig(horizon=2, k=1.0), 0.0)
    np.testing.assert_array_equal(found, [UNKNOWN, UNKNOWN, BUY, SELL, SELL, HOLD])


def test_class_is_unknown_when_a_gap_lies_between():
    close, vol = np.array([100.0, 110.0, 120.0, 130.0]), np.full(4, 0.01)
    found = past_classes(close, vol, np.array([0, 0, 1, 1]), LabelConfig(horizon=1), 0.0)
    np.testing.assert_array_equal(found, [UNKNOWN, BUY, UNKNOWN, BUY])


@pytest.mark.promise(6)
def test_past_class_equals_the_label_given_horizon_and_one_bars_earlier():
    # With open = close of the same bar, the label of t covers t+1 .. t+1+H: the past class of t+1+H, at t's volatility.
    rng = np.random.default_rng(3)
    price, config = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 400))), LabelConfig(horizon=5)
    vol, segment = np.full(400, 0.01), np.zeros(400, np.int64)
    labels = label_bars(price, vol, segment, config, 0.001).classes
    past = past_classes(price, vol, segment, config, 0.001)
    np.testing.assert_array_equal(past[6:], labels[:-6])
