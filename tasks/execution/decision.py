"""The one decision: probabilities, position and costs -> target position. Backtest, paper and live call `decide`.

The value rule asks what a move is worth after its costs, never how sure the model is. With mu the expected return until
the horizon, c the cost of one fill and w a target of -1, 0 or 1, moving from `position` is worth

    V(w) = mu * w - c * |w - position| - c * |w|            the fill now, and the later exit of what is opened

less exit_margin when a position is left and less enter_margin when one is opened; a flip does both. The best target is
taken when it beats staying. So from flat it asks mu > 2c + enter_margin; a long leaves for flat at mu < -exit_margin,
since its exit is paid sooner or later anyway; and a flip needs -mu > 2c + enter_margin too, to be better than flat.

The argmax rule is the source text's strategy: buy goes long, sell goes short, hold keeps what is held.

How large a position is, `share_of` says, once, when it is opened: all of the usual one, or the share of it at which its
expected risk comes to a target. While it is held nothing is traded because the forecast moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from storage.bounds import Checked, NonNegativeFloat, NonNegativeInt, PositiveFloat
from storage.compiled import compiled
from storage.schema import BoolArray, ConfigError, FloatArray, IntArray
from tasks.execution.accounting import Costs, as_compiled

_RULES = ("value", "argmax")
# Places in the packed parameters; compiled code reads module constants as literals.
_RULE, _PER_SIDE, _ENTER, _EXIT, _MIN_HOLD, _SHORT, _MEAN = range(7)
_TARGET_VOL = _MEAN + 3


@dataclass(frozen=True, kw_only=True)
class DecisionConfig(Checked):
    """How probabilities become a position.

    Attributes:
        rule: "value" (expected return against costs) or "argmax" (the source's strategy).
        enter_margin: Return that opening a position must promise beyond its costs; 0.0002 is 2 bp.
        exit_margin: Return that staying must be expected to lose before a position is left.
        min_hold: Bars that a position is held at least; the label's horizon is its natural value.
        allow_short: Whether sell opens a short; on spot the pipeline never does.
        sizing: "fixed" (every position is the usual one) or "volatility" (smaller where more is foreseen).
        target_vol: Volatility that a position sized by volatility is to have. It is annualised: 0.5 halves the usual
            one where 100 % a year is foreseen, and takes all of it from 50 % down. A number of whoever trades, so that
            nothing of a market's bars is in it.
    """

    rule: Literal["value", "argmax"] = "value"
    enter_margin: NonNegativeFloat = 0.0
    exit_margin: NonNegativeFloat = 0.0
    min_hold: NonNegativeInt = 0
    allow_short: bool = True
    sizing: Literal["fixed", "volatility"] = "fixed"
    target_vol: PositiveFloat = 0.5


def packed(
    config: DecisionConfig, costs: Costs, class_means: FloatArray, horizon: int, bars_per_year: float = math.nan
) -> FloatArray:
    """Return everything `decide` needs beside the market, as one array for compiled code.

    Args:
        config: The rule.
        costs: What a fill costs; funding is unknown at the decision and left out.
        class_means: (3,) mean over the train rows of return / (vol * sqrt(horizon)) for sell, hold and buy.
        horizon: Bars that the labels look ahead, >= 1.
        bars_per_year: Bars in 365 days; sizing by volatility alone asks for it.

    Returns:
        (10,) parameters.

    Raises:
        ConfigError: The value rule got class means that are not three finite numbers, `horizon` < 1, or positions are
            sized by volatility and `bars_per_year` is unknown.
    """
    if horizon < 1:
        raise ConfigError(f"horizon must be a number of bars >= 1, was {horizon!r}")
    means = np.asarray(class_means, np.float64)
    if means.shape != (3,) or (config.rule == "value" and not np.isfinite(means).all()):
        raise ConfigError(f"class_means must be three finite numbers (sell, hold, buy), were {means.tolist()}")
    target_vol = config.target_vol / math.sqrt(bars_per_year) if config.sizing == "volatility" else 0.0
    if math.isnan(target_vol):
        raise ConfigError(f"bars_per_year must be known where positions are sized by volatility, was {bars_per_year!r}")
    switches = (_RULES.index(config.rule), costs.per_side, config.enter_margin, config.exit_margin, config.min_hold)
    return np.array([*switches, config.allow_short, *(means * math.sqrt(horizon)), target_vol], np.float64)


@compiled
def expected_return(p_sell: float, p_hold: float, p_buy: float, vol: float, params: FloatArray) -> float:
    """Return mu, the expected return until the horizon: its mean in each class, in units of vol, by probability.

    Takes scalars, or (T,) arrays for a whole series.
    """
    mu: float = (p_sell * params[_MEAN] + p_hold * params[_MEAN + 1] + p_buy * params[_MEAN + 2]) * vol
    return mu


@compiled
def share_of(foreseen_vol: float, params: FloatArray) -> float:
    """Return the share of the usual position that one which is opened now takes: in (0, 1], or 0 where that is unknown.

    Where it is below 1, share * foreseen_vol is the target, whatever the market does.

    Args:
        foreseen_vol: Volatility per bar that is foreseen; NaN where unknown.
        params: (10,) from `packed`.
    """
    target_vol = params[_TARGET_VOL]
    if target_vol == 0.0:
        return 1.0
    if not 0.0 < foreseen_vol < np.inf:  # NaN compares false
        return 0.0
    share: float = min(1.0, target_vol / foreseen_vol)
    return share


@compiled
def decide(
    p_sell: float,
    p_hold: float,
    p_buy: float,
    vol: float,
    foreseen_vol: float,
    position: int,
    bars_held: int,
    params: FloatArray,
) -> int:
    """Return the position to hold from the next open.

    Args:
        p_sell: Probability; with the others NaN or infinite where unknown.
        p_hold: Probability.
        p_buy: Probability.
        vol: Volatility per bar, the unit of the class means.
        foreseen_vol: Volatility per bar that is foreseen; looked at where positions are sized by it.
        position: What is held now: -1, 0 or 1.
        bars_held: Bars for which it has been held, the fill's own bar included.
        params: (10,) from `packed`.

    Returns:
        -1, 0 or 1. 0 where a probability, or under the value rule vol, is unknown: what nobody can judge is neither
        opened nor kept, min_hold or not. What nobody can size is not opened; what is held has its size.
    """
    target = _by_rule(p_sell, p_hold, p_buy, vol, position, bars_held, params)
    if target != position and share_of(foreseen_vol, params) == 0.0:
        return 0
    return target


@compiled
def _by_rule(
    p_sell: float, p_hold: float, p_buy: float, vol: float, position: int, bars_held: int, params: FloatArray
) -> int:
    """Return the target whatever its size; arguments as in `decide`."""
    mu = expected_return(p_sell, p_hold, p_buy, vol, params) if params[_RULE] == 0.0 else 0.0
    if not math.isfinite(p_sell + p_hold + p_buy + mu):
        return 0
    lowest = -1 if params[_SHORT] != 0.0 else 0
    if position < lowest:  # a short from before shorts were forbidden is left now, as if it were flat
        position = 0
    if position != 0 and bars_held < params[_MIN_HOLD]:
        return position
    if params[_RULE] != 0.0:
        # The source's argmax takes the first of equals, so a tie would sell; here a tie is no signal.
        if p_buy > p_hold and p_buy > p_sell:
            return 1
        if p_sell > p_hold and p_sell > p_buy:
            return lowest
        return position
    return _most_valuable(mu, position, lowest, params)


@compiled
def _most_valuable(mu: float, position: int, lowest: int, params: FloatArray) -> int:
    """Return the target whose value after costs and margins is greatest; staying, then flat, wins a tie."""
    cost = params[_PER_SIDE]
    best, best_value = position, mu * position - cost * abs(position)
    for target in (0, 1, -1):
        if target == position or target < lowest:
            continue
        value = mu * target - cost * abs(target - position) - cost * abs(target)
        if position != 0:
            value -= params[_EXIT]
        if target != 0:
            value -= params[_ENTER]
        if value > best_value:
            best, best_value = target, value
    return best


def decide_series(
    probabilities: FloatArray,
    vol: FloatArray,
    contiguous: BoolArray,
    params: FloatArray,
    model: IntArray | None = None,
    foreseen_vol: FloatArray | None = None,
) -> NDArray[np.int8]:
    """Decide at every close, each time from the position that the decisions before it led to.

    A target decided at t is held from the open of t + 1; a bar that doesn't follow the one before starts flat, as the
    accounting closes it there. Where one model takes over from another, it takes over the position too.

    Args:
        probabilities: (T, 3) sell, hold, buy; NaN where unknown.
        vol: (T,) volatility per bar; NaN where unknown.
        contiguous: (T,) whether a bar follows the one before directly.
        params: (10,) from `packed`, or (M, 10) of several models.
        model: (T,) row of `params` that decides each bar; None: the first.
        foreseen_vol: (T,) volatility per bar that is foreseen, NaN where unknown; None: unknown throughout.

    Returns:
        (T,) targets -1, 0 or 1.

    Raises:
        ValueError: The shapes don't fit.
    """
    bars = len(vol)
    model = np.zeros(bars, np.int64) if model is None else model
    foreseen_vol = np.full(bars, np.nan) if foreseen_vol is None else foreseen_vol
    shapes = contiguous.shape, model.shape, foreseen_vol.shape
    if probabilities.shape != (bars, 3) or shapes != ((bars,),) * 3:
        raise ValueError(
            f"probabilities must be (T, 3), contiguous, model and foreseen_vol (T,) with T={bars} as in vol,"
            f" were {probabilities.shape} and {shapes}"
        )
    params = np.atleast_2d(params)
    if bars and not 0 <= model.min() <= model.max() < len(params):
        raise ValueError(f"model must name rows 0..{len(params) - 1} of params, was {model.min()}..{model.max()}")
    targets = np.zeros(bars, np.int8)
    _decide_bars(
        as_compiled(probabilities, np.float64),
        as_compiled(vol, np.float64),
        as_compiled(foreseen_vol, np.float64),
        as_compiled(contiguous, np.bool_),
        as_compiled(params, np.float64),
        as_compiled(model, np.int64),
        targets,
    )
    return targets


@compiled
def _decide_bars(
    probabilities: FloatArray,
    vol: FloatArray,
    foreseen_vol: FloatArray,
    contiguous: BoolArray,
    params: FloatArray,
    model: IntArray,
    targets: NDArray[np.int8],
) -> None:
    position, bars_held = 0, 0
    for t in range(len(targets)):
        before = position
        position = int(targets[t - 1]) if t > 0 and contiguous[t] else 0
        bars_held = bars_held + 1 if position == before else 1
        p_sell, p_hold, p_buy = probabilities[t]
        targets[t] = decide(p_sell, p_hold, p_buy, vol[t], foreseen_vol[t], position, bars_held, params[model[t]])


def shares_of(foreseen_vol: FloatArray, params: FloatArray, model: IntArray | None = None) -> FloatArray:
    """Return (T,) what `share_of` says at every close; arguments as in `decide_series`."""
    bars = len(foreseen_vol)
    shares, model = np.empty(bars), np.zeros(bars, np.int64) if model is None else model
    _size_bars(
        as_compiled(foreseen_vol, np.float64),
        as_compiled(np.atleast_2d(params), np.float64),
        as_compiled(model, np.int64),
        shares,
    )
    return shares


@compiled
def _size_bars(foreseen_vol: FloatArray, params: FloatArray, model: IntArray, shares: FloatArray) -> None:
    for t in range(len(shares)):
        shares[t] = share_of(foreseen_vol[t], params[model[t]])
