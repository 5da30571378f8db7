"""Compare one set of decisions with its baselines (buy-and-hold, flat), under other costs and with later fills."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, BacktestResult, Positions, buy_and_hold, flat, run_backtest
from tasks.execution.bars import Bars
from tasks.execution.metrics import DAYS_PER_YEAR, Metrics, bar_returns, summarize
from tasks.execution.significance import draws_for, stationary_bootstrap_test

COST_FACTORS = (0.0, 1.0, 1.5, 2.0)
COSTS_PER_SIDE = (0.0, 0.0002, 0.00055, 0.001, 0.0015)
"""Costs per fill, share of notional: none, a maker's fee, a taker's, the source text's, a taker's in a thin market."""

DELAYS = (0, 1, 2)
_FEWEST_BLOCKS = 20  # with only a few blocks, a test at the 5 % level rejects in 15 % of cases


@dataclass(frozen=True, kw_only=True, eq=False)
class Performance:
    """A named backtest and its metrics."""

    name: str
    result: BacktestResult
    metrics: Metrics


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """The model's backtest under each cost and delay; in each tuple the entry of factor 1 or delay 0 equals `model`.

    A rule that compares an expected return with its costs trades more where costs are lower. So each cost appears
    twice: with positions decided again for that cost, and with the positions of the assumed costs re-priced. The second
    shows the effect of a wrong cost assumption.

    Attributes:
        model: At the assumed costs.
        buy_and_hold, flat: On the same bars, at the same costs.
        by_costs: The same positions with commission and slippage times each of COST_FACTORS.
        by_fee: The same positions at each of COSTS_PER_SIDE.
        redecided_by_costs, redecided_by_fee: Positions decided again for those costs.
        by_delay: The same decisions filled each of DELAYS bars later.
    """

    model: Performance
    buy_and_hold: Performance
    flat: Performance
    by_costs: tuple[Performance, ...]
    by_fee: tuple[Performance, ...]
    redecided_by_costs: tuple[Performance, ...]
    redecided_by_fee: tuple[Performance, ...]
    by_delay: tuple[Performance, ...]


def compare(
    bars: Bars,
    decide: Callable[[Costs], Positions],
    costs: Costs,
    config: BacktestConfig,
    *,
    bars_per_year: float,
    trained_until_ms: int | None,
    label_span_ms: int,
) -> Comparison:
    """Backtest the decisions and their baselines on T bars; arguments as in `run_backtest`, except these.

    `decide` returns the T positions that the rule decides at the given costs, `bars_per_year` counts 365 days.

    Raises:
        LeakError: The first bar is not later than all data that training used.
    """
    decided = decide(costs)

    def run(name: str, costs: Costs, config: BacktestConfig = config, decided: Positions = decided) -> Performance:
        result = run_backtest(
            bars, decided.target, costs, config, share=decided.share, trained_until_ms=trained_until_ms,
            label_span_ms=label_span_ms,
        )  # fmt: skip
        return perform(name, result)

    def perform(name: str, result: BacktestResult) -> Performance:
        return Performance(name=name, result=result, metrics=summarize(result, bars_per_year))

    by_factor = {f"{factor:g}x costs": costs.scaled(factor) for factor in COST_FACTORS}
    by_fee = {f"{per_side * 1e4:g} bp": costs.at(per_side) for per_side in COSTS_PER_SIDE}
    return Comparison(
        model=run("model", costs),
        buy_and_hold=perform("buy and hold", buy_and_hold(bars, costs, config)),
        flat=perform("flat", flat(bars, costs, config)),
        by_costs=tuple(run(name, other) for name, other in by_factor.items()),
        by_fee=tuple(run(name, other) for name, other in by_fee.items()),
        redecided_by_costs=tuple(run(name, other, decided=decide(other)) for name, other in by_factor.items()),
        redecided_by_fee=tuple(run(name, other, decided=decide(other)) for name, other in by_fee.items()),
        by_delay=tuple(run(f"+{delay} bars", costs, replace(config, delay=delay)) for delay in DELAYS),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Duel:
    """Challenger and champion on the same bars, out of sample for both, at the same costs.

    Attributes:
        challenger, champion: At the assumed costs.
        second: The challenger's recipe with a second seed, at the assumed costs; None where it was not trained.
        stressed: The challenger's positions with costs times the promotion rule's factor.
        p_value: Stationary bootstrap: the chance of the challenger's excess return per bar by luck; None where the two
            never differ or the bars are too few for it.
    """

    challenger: Performance
    champion: Performance
    second: Performance | None
    stressed: Performance
    p_value: float | None


def duel(
    bars: Bars,
    challenger: Positions,
    champion: Positions,
    costs: Costs,
    config: BacktestConfig,
    *,
    second: Positions | None = None,
    cost_stress: float,
    bars_per_year: float,
    horizon: int,
    level: float = 0.05,
    trained_until_ms: int,
    label_span_ms: int,
) -> Duel:
    """Run two sets of decisions, at each of T closes, against each other; arguments as in `run_backtest`, except these.

    The champion's are all zero for `flat`; those of `second` are of the challenger's recipe trained with a second seed.
    `cost_stress` multiplies commission and slippage in the stressed run of the same positions. A label spans `horizon`
    bars. The test makes enough draws for p-values far below `level`.

    Raises:
        LeakError: The first bar is not later than all data that either training used.
    """

    def run(name: str, decided: Positions, costs: Costs) -> Performance:
        result = run_backtest(
            bars, decided.target, costs, config, share=decided.share, trained_until_ms=trained_until_ms,
            label_span_ms=label_span_ms,
        )  # fmt: skip
        return Performance(name=name, result=result, metrics=summarize(result, bars_per_year))

    ours, theirs = run("challenger", challenger, costs), run("champion", champion, costs)
    difference = bar_returns(ours.result.equity) - bar_returns(theirs.result.equity)
    held = [side.metrics.mean_hold_bars or 0.0 for side in (ours, theirs)]
    # The block must be longer than the dependence: the label's span, the time in a position, and one day.
    block = max(horizon, bars_per_year / DAYS_PER_YEAR, *held)
    enough = len(bars) >= _FEWEST_BLOCKS * block
    tested = difference.any() and enough
    return Duel(
        challenger=ours,
        champion=theirs,
        second=None if second is None else run("second seed", second, costs),
        stressed=run("stressed challenger", challenger, costs.scaled(cost_stress)),
        p_value=stationary_bootstrap_test(difference, block, draws=draws_for(level)) if tested else None,
    )
