from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.network.segments import draw_segments, segment_length, segment_starts, stream_of
from tasks.network.series import UNKNOWN, Series, ready_bars


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


def test_steps_hold_as_many_segments_as_asked_for_and_an_epoch_every_label() -> None:
    labels, context, length = np.arange(23), 4, 5
    steps = draw_segments(labels, context, length, 2, torch.Generator().manual_seed(0))
    starts = torch.stack(list(islice(steps, 50)))
    assert starts.shape == (50, 2)
    assert starts.min() == 0
    assert starts.max() == 23 - (length + context - 1)
    first_epoch = starts[:2].flatten().tolist()  # of the three or more segments that 20 samples take
    assert len(set(first_epoch)) == len(first_epoch)


def test_segments_without_a_label_are_left_out_and_a_short_stream_is_one_short_segment() -> None:
    labels = np.full(12, UNKNOWN)
    labels[11] = 1
    for starts in islice(draw_segments(labels, 3, 4, 1, torch.Generator().manual_seed(0)), 5):
        assert starts.tolist() == [6]  # rows 6 to 11, samples 8 to 11
    assert segment_length(12, 3, 640) == 10
    assert next(draw_segments(labels, 3, 640, 8, torch.Generator().manual_seed(0))).tolist() == [0]


def test_a_side_is_drawn_for_every_segment_when_mirror_images_follow_the_stream() -> None:
    steps = draw_segments(np.zeros(40, np.int64), 3, 4, 5, torch.Generator().manual_seed(0), sides=2)
    starts = torch.cat(list(islice(steps, 200)))
    assert ((starts < 40 - 5) | ((starts >= 40) & (starts < 80 - 5))).all()  # none across the seam
    assert (starts >= 40).double().mean() == pytest.approx(0.5, abs=0.06)  # 1,000 draws: 4 standard errors


def test_weights_that_are_none_are_refused() -> None:
    for weights in (np.ones(3), np.array([1.0, -1.0]), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match=r"weights must be \(2,\) numbers >= 0, were"):
            Series(
                features=np.zeros((2, 1)), labels=np.zeros(2, np.int64), segment=np.zeros(2, np.int64), weights=weights
            )
