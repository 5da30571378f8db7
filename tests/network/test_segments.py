from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.network.segments import UNKNOWN, Series, Stream, draw_batches, ready_bars, segment_starts, stream_of


@settings(deadline=None, max_examples=50)
@given(
    broken=st.lists(st.booleans(), min_size=1, max_size=30),
    cuts=st.lists(st.booleans(), min_size=30, max_size=30),
    context=st.integers(1, 6),
)
def test_bar_is_ready_when_its_whole_context_is_finite_and_of_one_segment(
    broken: list[bool], cuts: list[bool], context: int
) -> None:
    features = np.where(broken, np.nan, 1.0)[:, None]
    segment = np.cumsum(cuts[: len(broken)])
    expected = [
        t + 1 >= context
        and not any(broken[t + 1 - context : t + 1])
        and len(set(segment[t + 1 - context : t + 1])) == 1
        for t in range(len(broken))
    ]
    assert ready_bars(features, segment, context).tolist() == expected


def test_stream_reads_context_before_the_span_but_no_label_of_it() -> None:
    series = Series(features=np.arange(10.0)[:, None], labels=np.arange(10) % 3, segment=np.zeros(10, np.int64))
    stream = stream_of(series, (4, 8), context=3)
    assert stream.bars.tolist() == [2, 3, 4, 5, 6, 7]
    assert stream.features[:, 0].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert stream.labels.tolist() == [UNKNOWN, UNKNOWN, 1, 2, 0, 1]


def test_stream_joins_runs_and_unlabels_the_bars_that_would_read_across() -> None:
    features = np.arange(9.0)[:, None]
    features[4] = np.nan
    series = Series(features=features, labels=np.ones(9, np.int64), segment=np.array([0] * 7 + [1] * 2))
    stream = stream_of(series, (0, 9), context=2)
    assert stream.bars.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert stream.labels.tolist() == [UNKNOWN, 1, 1, 1, UNKNOWN, 1, UNKNOWN, 1]


@given(bars=st.integers(1, 200), length=st.integers(1, 50), share=st.floats(0, 0.999))
def test_segments_of_an_epoch_cover_every_bar(bars: int, length: int, share: float) -> None:
    length = min(length, bars)
    starts = segment_starts(bars, length, int(share * length))
    covered = {bar for start in starts for bar in range(start, start + length)}
    assert covered == set(range(bars))
    assert len(starts) <= bars // length + 2


def test_batches_hold_each_segment_with_its_context_and_the_labels_of_its_last_bars() -> None:
    bars, context, length = 23, 4, 5
    features, labels = torch.arange(float(bars))[:, None], torch.arange(bars)
    stream = Stream(features=features, labels=labels, bars=np.arange(bars))
    batches = draw_batches(stream, context, length, 2, torch.Generator().manual_seed(0))
    for x, y, _ in islice(batches, 10):
        assert x.shape[1:] == (length + context - 1, 1)
        assert y.shape == (len(x), length)
        assert torch.equal(x[:, context - 1 :, 0].long(), y)  # features and labels count the bars alike


def test_batches_without_a_label_are_left_out_and_a_short_stream_is_one_short_segment() -> None:
    labels = torch.full((12,), UNKNOWN)
    labels[11] = 1
    stream = Stream(features=torch.zeros(12, 1), labels=labels, bars=np.arange(12))
    for _, y, _ in islice(draw_batches(stream, 3, 4, 1, torch.Generator().manual_seed(0)), 5):
        assert y[0, -1] == 1
    x, y, _ = next(draw_batches(stream, 3, 640, 8, torch.Generator().manual_seed(0)))
    assert x.shape == (1, 12, 1)
    assert y.shape == (1, 10)


def test_label_is_learned_from_as_often_as_its_weight_says() -> None:
    bars, context = 1_000, 3
    weights = np.tile([1.0, 2.0, 4.0, 0.0], 250)
    series = Series(
        features=np.zeros((bars, 1)), labels=np.ones(bars, np.int64), segment=np.zeros(bars, np.int64), weights=weights
    )
    stream = stream_of(series, (0, bars), context)
    epochs, seen = 40, np.zeros(bars)
    batches = draw_batches(stream, context, bars, 1, torch.Generator().manual_seed(0))
    for _, labels, _ in islice(batches, epochs):
        seen[context - 1 :] += (labels[0] != UNKNOWN).numpy()
    shares = [seen[context + 1 :][weights[context + 1 :] == weight].mean() / epochs for weight in (1.0, 2.0, 4.0, 0.0)]
    # 10,000 draws each: 3 standard errors are 0.015
    np.testing.assert_allclose(shares, [0.25, 0.5, 1.0, 0.0], atol=0.015)


def test_equal_weights_leave_every_label_in_every_epoch() -> None:
    series = Series(
        features=np.zeros((20, 1)), labels=np.ones(20, np.int64), segment=np.zeros(20, np.int64),
        weights=np.full(20, 0.1),
    )  # fmt: skip
    (_, labels, _), *_ = islice(draw_batches(stream_of(series, (0, 20), 1), 1, 20, 1, torch.Generator()), 1)
    assert (labels == 1).all()


def test_weights_that_are_none_are_refused() -> None:
    for weights in (np.ones(3), np.array([1.0, -1.0]), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match=r"weights must be \(2,\) numbers >= 0, were"):
            Series(
                features=np.zeros((2, 1)), labels=np.zeros(2, np.int64), segment=np.zeros(2, np.int64), weights=weights
            )
