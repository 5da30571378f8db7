"""What a volatility head must beat: the heterogeneous autoregression, and boosted trees of the network's own inputs.

Both forecast the logarithm of realised variance, from the same bars as the head. scikit-learn is not needed, LightGBM
is loaded where it is used.
"""

from typing import Any

import numpy as np

from storage.schema import FloatArray, IntArray
from tasks.network.baseline_config import BaselineConfig

EWMA, HAR, TREES = "EWMA-100", "HAR", "LightGBM"
"""The rivals, by the name that every table gives them."""

FEWEST_WINDOWS = 30.0
"""Windows that do not overlap: of fewer, nothing is learned."""

_LEAVES = (4, 8)  # more find noise: there are few windows that do not overlap
_LEAF_WINDOWS = 10  # that do not overlap, in each leaf
_PER_WINDOW = 12  # samples of each horizon: those between hold the same returns
_AT_ONCE = 10_000  # bars that trees forecast: the table of years would be copied twice
_CHECKED = 0.15  # share of the bars, the newest, that say when trees are enough


def sample_stride(horizon: int) -> int:
    """Return how many bars lie between two samples of windows that span `horizon` bars."""
    return max(1, horizon // _PER_WINDOW)


def har(inputs: FloatArray, log_variance: FloatArray, bars: IntArray) -> FloatArray:
    """Return (T,) the logarithm of variance that a least-squares fit of the logarithms of HAR's inputs expects.

    Corsi 2009, 10.1093/jjfinec/nbp001, its logarithmic form: in levels a single crash bends it, and it was worse on
    three of four markets.

    Args:
        inputs: (T, 3) mean squared return of a day, a week and a month.
        log_variance: (T,) ln of realised variance; NaN where unknown.
        bars: Which it is fitted on; those with anything unknown are left out.
    """
    with np.errstate(divide="ignore"):
        x = np.column_stack([np.ones(len(inputs)), np.log(inputs)])
    fit = bars[np.isfinite(x[bars]).all(axis=1) & np.isfinite(log_variance[bars])]
    weight = np.linalg.lstsq(x[fit], log_variance[fit], rcond=None)[0]
    return np.asarray(x @ weight)


def trees(
    scaled: FloatArray, log_ratio: FloatArray, bars: IntArray, horizon: int, config: BaselineConfig
) -> FloatArray:
    """Return (T,) the logarithm of the variance ratio that LightGBM's regression expects.

    The newest `_CHECKED` of the bars choose the leaves and how many trees; then all of them grow so many.

    Args:
        scaled: (T, F) the network's inputs of each bar; NaN where unknown.
        log_ratio: (T,) what the head is solved for; NaN where unknown.
        bars: Which it is fitted on, ascending; those with anything unknown are left out.
        horizon: Bars that a window spans: so many before the newest part are left out of what grows trees for it.
        config: Rate, patience, most trees, seed and threads.
    """
    import lightgbm

    stride = sample_stride(horizon)
    known = np.asarray(np.isfinite(scaled).all(axis=1))
    fit = bars[known[bars] & np.isfinite(log_ratio[bars])][::stride]
    cut = fit[int(len(fit) * (1 - _CHECKED))]
    learn, check = fit[fit + horizon < cut], fit[fit >= cut]
    options: dict[str, Any] = {
        "objective": "regression",
        "learning_rate": config.boosting_rate,
        "min_data_in_leaf": _LEAF_WINDOWS * horizon // stride,
        "lambda_l2": 1.0,
        "max_bin": 63,
        "seed": config.seed,
        "num_threads": config.threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }

    def data(rows: IntArray, **more: Any) -> Any:
        return lightgbm.Dataset(scaled[rows], log_ratio[rows], params=dict(options), **more)

    stop = lightgbm.early_stopping(config.patience, verbose=False)
    told = data(learn)
    grown = [
        lightgbm.train(
            {**options, "num_leaves": leaves}, told, config.most_trees, [data(check, reference=told)], callbacks=[stop]
        )
        for leaves in _LEAVES
    ]
    best = min(range(len(_LEAVES)), key=lambda i: grown[i].best_score["valid_0"]["l2"])
    final = lightgbm.train({**options, "num_leaves": _LEAVES[best]}, data(fit), max(grown[best].best_iteration, 1))
    expected = np.full(len(scaled), np.nan)
    rows = np.flatnonzero(known)
    for part in (rows[i : i + _AT_ONCE] for i in range(0, len(rows), _AT_ONCE)):
        expected[part] = final.predict(scaled[part])
    return expected
