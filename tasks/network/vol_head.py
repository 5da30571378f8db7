"""How much the market will move: one row more of a trained network's head, solved rather than trained.

The row says the logarithm of the variance forecast over the volatility horizon, as a multiple of what present
volatility would bring over it: horizon * vol^2. It reads what the classes' rows read, the pooled and the newest
position of the trained channels and the newest bar's scaled features, so the engine, the graphs and the joining of
members know nothing new, and the classes' rows are as they were.

Realised variance is an estimate whose errors are about multiplicative, so the row is a ridge regression of its
logarithm; the expected variance is then exp(row) times what exp(row) fell short of in training (Duan 1983,
10.1080/01621459.1983.10478017), which goes into the row's bias. Solved on the loss that judges it, QLIKE, the same row
did no better: a crash in training bends it.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from storage.schema import FloatArray, IntArray
from tasks.network.calibration import ridge
from tasks.network.dsc import DSCTradingModel
from tasks.network.inference import torch_threads
from tasks.network.series import ready_bars
from tasks.network.training_record import VolHeadFit
from tasks.network.vol_baselines import FEWEST_WINDOWS, sample_stride

_PENALTY = 30.0  # windows that do not overlap: so much evidence says that every weight is 0
_AT_ONCE = 4_096


def add_vol_head(
    model: DSCTradingModel,
    features: FloatArray,
    segment: IntArray,
    log_ratio: FloatArray,
    bars: IntArray,
    horizon: int,
    levels: tuple[float, ...],
) -> tuple[DSCTradingModel, VolHeadFit]:
    """Return a trained network with a row that forecasts variance, in evaluation mode, and how it was solved.

    The weights behind its classes are as they were, bit for bit.

    Args:
        model: In evaluation mode, on the CPU, without such a row.
        features: (T, F or more) raw features; the network reads the first F.
        segment: (T,) number of the unbroken run of each bar.
        log_ratio: (T,) ln of the realised variance over horizon * vol^2; NaN where unknown.
        bars: Which it may be solved on, ascending: no window of theirs may reach into a bar that is to be unseen.
        horizon: Bars that a window spans.
    """
    config = model.config
    x = features[:, : config.input_features]
    known = bars[np.isfinite(log_ratio[bars]) & ready_bars(x, segment, config.context)[bars]]
    windows = len(known) / horizon
    known = known[:: sample_stride(horizon)]
    weight, bias, log_gap, quantiles = np.zeros(_head_size(model)), 0.0, 0.0, (1.0,) * len(levels)
    if windows >= FEWEST_WINDOWS:
        with threadpool_limits(1), torch_threads(1):  # sums depend on their number
            seen, told = _head_inputs(model, x, known), log_ratio[known]
            weight, bias = ridge(seen, told, _PENALTY / windows)
        missed = told - seen @ weight - bias
        short = float(np.log(np.mean(np.exp(missed))))
        bias, log_gap = bias + short, -short
        quantiles = tuple(np.quantile(np.exp(missed - short), levels).tolist())
    else:
        windows = 0.0
    return _with_row(model, weight, bias), VolHeadFit(windows=windows, log_gap=log_gap, quantiles=quantiles)


def _head_size(model: DSCTradingModel) -> int:
    linear: Any = model.classifier[3]
    return int(linear.in_features) + (model.config.input_features if model.bypass is not None else 0)


@torch.no_grad()
def _head_inputs(model: DSCTradingModel, features: FloatArray, bars: IntArray) -> FloatArray:
    """Return (N, C or 2C, then F with a bypass) what the head sees of these bars, float64."""
    seen: list[torch.Tensor] = []
    linear: Any = model.classifier[3]
    hook = linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    offsets = np.arange(1 - model.config.context, 1)
    parts = []
    try:
        for some in np.array_split(bars, max(1, -(-len(bars) // _AT_ONCE))):
            x = torch.from_numpy(features[some[:, None] + offsets].astype(np.float32))  # (n, context, F)
            model(x.transpose(1, 2))
            newest = [] if model.bypass is None else [model.scale(x[:, -1:])[:, 0]]
            parts.append(torch.cat([seen.pop(), *newest], dim=1).double().numpy())
    finally:
        hook.remove()
    return np.concatenate(parts)


@torch.no_grad()
def _with_row(model: DSCTradingModel, weight: FloatArray, bias: float) -> DSCTradingModel:
    """Return the network with one row more of classifier and bypass."""
    whole = DSCTradingModel(replace(model.config, risk_head=True))
    state = dict(model.state_dict())
    head: Any = model.classifier[3]
    rows = {"classifier.3.weight": weight[: head.in_features], "classifier.3.bias": np.array(bias)}
    if model.bypass is not None:
        rows["bypass.weight"] = weight[head.in_features :]
    for name, row in rows.items():
        state[name] = torch.cat([state[name], torch.from_numpy(row).to(state[name].dtype)[None]])
    whole.load_state_dict(state)
    return whole.eval()
