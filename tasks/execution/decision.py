"""The decision rule: probabilities, position and costs -> target position. Backtest, paper and live call `decide`.

The value rule compares the expected return of a target with its costs; it sets no threshold on the model's confidence.
With mu the expected return until the horizon, c the cost of one fill and w a target of -1, 0 or 1, the value of moving
from `position` to w is

    V(w) = mu * w - c * |w - position| - c * |w|            the fill now, and the later exit of what is opened

minus exit_margin when a position is closed and minus enter_margin when one is opened; a flip does both. The rule
chooses the target of the highest value and stays when none is better. So opening a long from flat needs
mu > 2c + enter_margin; a long is closed at mu < -exit_margin, since its exit must be paid sooner or later anyway; and a
flip to short also needs -mu > 2c + enter_margin, to be better than flat.

The argmax rule is the source text's strategy: buy goes long, sell goes short, hold keeps the position.

`share_of` sizes a position once, when it is opened: the full position, or the share of it at which its expected
volatility equals the target. The size does not change while the position is held, even if the forecast does.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from storage.bounds import Checked, NonNegativeFloat, NonNegativeInt, PositiveFloat
from storage.compiled import compiled
from storage.schema import BoolArray, ConfigError, FloatArray, IntArray, Title
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
        enter_margin: Expected return beyond costs that is needed to open a position; 0.0002 is 2 bp.
        exit_margin: Expected loss of holding on that is needed to close a position.
        min_hold: Fewest bars for which a position is held; the label's horizon is its natural value.
        allow_short: Whether sell opens a short; on spot the pipeline never does.
        sizing: "fixed" (every position is the full one) or "volatility" (smaller where the forecast volatility is
            higher).
        target_vol: Annualised volatility that a position sized by volatility should have: 0.5 halves the position where
            100 % a year is forecast, and leaves it full at 50 % and below. The user chooses it; it is not estimated
            from the market's bars.
    """

    rule: Annotated[Literal["value", "argmax"], Title("Rule of the position")] = "value"
    enter_margin: NonNegativeFloat = 0.0
    exit_margin: NonNegativeFloat = 0.0
    min_hold: Annotated[NonNegativeInt, Title("Bars held at least")] = 0
    allow_short: bool = True
    sizing: Annotated[Literal["fixed", "volatility"], Title("Size of a position")] = "fixed"
    target_vol: Annotated[PositiveFloat, Title("Volatility of a sized position, a year")] = 0.5


def packed(
    config: DecisionConfig, costs: Costs, class_means: FloatArray, horizon: int, bars_per_year: float = math.nan
) -> FloatArray:
    """Return all constant inputs of `decide` as one array for compiled code.

    Args:
        costs: What a fill costs; funding is unknown at the decision and left out.
        class_means: (3,) mean over the train rows of return / (vol * sqrt(horizon)) for sell, hold and buy.
        horizon: Bars that the labels look ahead, >= 1.
        bars_per_year: Bars in 365 days; needed for sizing by volatility only.

    Returns:
        (10,) parameters.

    Raises:
        ConfigError: `class_means` does not have three elements, or under the value rule they are not all finite;
            `horizon` < 1; or positions are sized by volatility and `bars_per_year` is NaN.
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
    """Return mu, the expected return until the horizon: the class means times vol, weighted by probability.

    Takes scalars, or (T,) arrays for a whole series.
    """
    mu: float = (p_sell * params[_MEAN] + p_hold * params[_MEAN + 1] + p_buy * params[_MEAN + 2]) * vol
    return mu


@compiled
def share_of(forecast_vol: float, params: FloatArray) -> float:
    """Return the size of a position opened now as a share of the full one: in (0, 1], or 0 if it can't be sized.

    Where the share is below 1, share * forecast_vol equals the target volatility.

    Args:
        forecast_vol: Forecast of the volatility per bar; NaN where unknown.
        params: (10,) from `packed`.
    """
    target_vol = params[_TARGET_VOL]
    if target_vol == 0.0:
        return 1.0
    if not 0.0 < forecast_vol < np.inf:  # NaN compares false
        return 0.0
    share: float = min(1.0, target_vol / forecast_vol)
    return share


@compiled
def decide(
    p_sell: float,
    p_hold: float,
    p_buy: float,
    vol: float,
    forecast_vol: float,
    position: int,
    bars_held: int,
    params: FloatArray,
) -> int:
    """Return the position to hold from the next open.

    Args:
        p_sell, p_hold, p_buy: Probability of each class; NaN or infinite where unknown.
        vol: Volatility per bar, the unit of the class means.
        forecast_vol: Forecast of the volatility per bar; used only where positions are sized by volatility.
        position: Side held now: -1, 0 or 1.
        bars_held: Bars for which it has been held, the fill's own bar included.
        params: (10,) from `packed`.

    Returns:
        -1, 0 or 1. It is 0 where a probability, or under the value rule vol, is unknown, even before min_hold is over.
        Where the size is unknown nothing new is opened; an open position keeps its size.
    """
    target = _by_rule(p_sell, p_hold, p_buy, vol, position, bars_held, params)
    if target != position and share_of(forecast_vol, params) == 0.0:
        return 0
    return target


@compiled
def _by_rule(
    p_sell: float, p_hold: float, p_buy: float, vol: float, position: int, bars_held: int, params: FloatArray
) -> int:
    """Return the target side, before sizing; arguments as in `decide`."""
    mu = expected_return(p_sell, p_hold, p_buy, vol, params) if params[_RULE] == 0.0 else 0.0
    if not math.isfinite(p_sell + p_hold + p_buy + mu):
        return 0
    lowest = -1 if params[_SHORT] != 0.0 else 0
    if position < lowest:  # a short opened before shorts were forbidden is closed now: decide as if flat
        position = 0
    if position != 0 and bars_held < params[_MIN_HOLD]:
        return position
    if params[_RULE] != 0.0:
        # The source's argmax returns the first of equal values, so a tie would sell; here a tie keeps the position.
        if p_buy > p_hold and p_buy > p_sell:
            return 1
        if p_sell > p_hold and p_sell > p_buy:
            return lowest
        return position
    return _most_valuable(mu, position, lowest, params)


@compiled
def _most_valuable(mu: float, position: int, lowest: int, params: FloatArray) -> int:
    """Return the target of the highest value after costs and margins; on a tie stay, else go flat."""
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
    forecast_vol: FloatArray | None = None,
) -> NDArray[np.int8]:
    """Decide at every close, each time from the position that the earlier decisions led to.

    A target decided at t is held from the open of t + 1. The first bar after a gap starts flat, because the accounting
    closes the position there. A model that replaces another one also continues its position.

    Args:
        probabilities: (T, 3) sell, hold, buy; NaN where unknown.
        vol: (T,) volatility per bar; NaN where unknown.
        contiguous: (T,) whether a bar follows the one before directly.
        params: (10,) from `packed`, or (M, 10) of several models.
        model: (T,) row of `params` that decides each bar; None: always the first row.
        forecast_vol: (T,) forecast of the volatility per bar, NaN where unknown; None: unknown throughout.

    Returns:
        (T,) targets -1, 0 or 1.

    Raises:
        ValueError: The shapes don't fit, or `model` names a row that `params` does not have.
    """
    bars = len(vol)
    model = np.zeros(bars, np.int64) if model is None else model
    forecast_vol = np.full(bars, np.nan) if forecast_vol is None else forecast_vol
    shapes = contiguous.shape, model.shape, forecast_vol.shape
    if probabilities.shape != (bars, 3) or shapes != ((bars,),) * 3:
        raise ValueError(
            f"probabilities must be (T, 3), contiguous, model and forecast_vol (T,) with T={bars} as in vol,"
            f" were {probabilities.shape} and {shapes}"
        )
    params = np.atleast_2d(params)
    if bars and not 0 <= model.min() <= model.max() < len(params):
        raise ValueError(f"model must name rows 0..{len(params) - 1} of params, was {model.min()}..{model.max()}")
    targets = np.zeros(bars, np.int8)
    _decide_bars(
        as_compiled(probabilities, np.float64),
        as_compiled(vol, np.float64),
        as_compiled(forecast_vol, np.float64),
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
    forecast_vol: FloatArray,
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
        targets[t] = decide(p_sell, p_hold, p_buy, vol[t], forecast_vol[t], position, bars_held, params[model[t]])


def shares_of(forecast_vol: FloatArray, params: FloatArray, model: IntArray | None = None) -> FloatArray:
    """Return `share_of` at every close, (T,); arguments as in `decide_series`."""
    bars = len(forecast_vol)
    shares, model = np.empty(bars), np.zeros(bars, np.int64) if model is None else model
    _size_bars(
        as_compiled(forecast_vol, np.float64),
        as_compiled(np.atleast_2d(params), np.float64),
        as_compiled(model, np.int64),
        shares,
    )
    return shares


@compiled
def _size_bars(forecast_vol: FloatArray, params: FloatArray, model: IntArray, shares: FloatArray) -> None:
    for t in range(len(shares)):
        shares[t] = share_of(forecast_vol[t], params[model[t]])
