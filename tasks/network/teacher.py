"""What a network is taught besides labels: probabilities of boosted trees that did not see the bars they speak of.

A label is one draw from a bar's probabilities, and on market data almost all of it is chance. A model that comes closer
to these probabilities than a network can from labels alone says more of a bar than its label does: the network learns
what trees know of it (Hinton et al. 2015, arXiv:1503.02531). Trees remember what they were grown from, so each part of
the training bars is spoken of by trees of the others (cross-fitting, Chernozhukov et al. 2018, arXiv:1608.00060),
without the labels that reach from one into the next. Nothing after the training bars is read but validation, which
says when to stop growing.

Of many bars, trees are grown from either the market or its mirror image, bar by bar in turn: labels overlap, so both
sides of each take twice the work and say no more. The bins of each feature are then of all training bars, once for all
parts: no label decides where they are cut.
"""

from collections.abc import Callable

import numpy as np

from storage.schema import FloatArray
from tasks.network.baseline_config import BaselineConfig
from tasks.network.baselines import MANY_BARS, Boosting, TabularSeries
from tasks.network.series import Series

_LEAVES = 4  # interactions of three at most; 12 knew less of unseen bars
_RATE = 0.15  # a third of the trees of 0.05, and the network learns as much from them; with fewer bars it learned less


def cross_fitted(
    series: Series,
    train: tuple[int, int],
    validation: tuple[int, int],
    *,
    parts: int,
    input_clip: float | None,
    num_classes: int,
    threads: int = 1,
    on_progress: Callable[[float], None] = lambda share: None,
) -> FloatArray:
    """Return (T, K) probabilities of the training bars, each part's from trees of the other parts.

    Signs of the series let mirror images be learned from too; `parts` >= 2 are consecutive stretches of the labelled
    training bars; `on_progress` is told the share of them that is done, 0 to 1.

    Returns:
        NaN outside `train`, where label or features are unknown, and where no other part is far enough away.

    Raises:
        DatasetError: `train` or `validation` has no labelled bar with features.
    """
    config = BaselineConfig(boosting_rate=_RATE, threads=threads)
    table = TabularSeries(series, train, input_clip, num_classes)
    check = table.samples(np.arange(*validation))
    probabilities = np.full((len(series.labels), num_classes), np.nan)
    bars, reach = table.known(np.arange(*train)), 1 + series.label_span
    shared = None
    if len(bars) >= MANY_BARS:
        shared = Boosting(table.samples_of_either_side(bars), check, num_classes, config)
    times = series.times[bars]
    hours = np.unique(times)
    held_out = np.array_split(hours, min(parts, len(hours)))  # of every market: what one did, another did too
    for number, part in enumerate(held_out, 1):
        others = np.flatnonzero((times + reach <= part[0]) | (times >= part[-1] + reach))
        if len(others):
            own = bars[(times >= part[0]) & (times <= part[-1])]
            if shared is None:
                boosting = Boosting(table.samples(bars[others], mirrored=True), check, num_classes, config)
                predict = boosting.grown(_LEAVES, use_quantized_grad=True)
            else:
                predict = shared.grown(_LEAVES, others, use_quantized_grad=True)
            probabilities[own] = predict(table.scaled(own))
        on_progress(number / len(held_out))
    return probabilities
