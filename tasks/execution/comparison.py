"""One set of decisions beside what it must beat: other costs, later fills, buy-and-hold, and doing nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tasks.execution.accounting import Bars, Costs
from tasks.execution.backtest import BacktestConfig, BacktestResult, Positions, buy_and_hold, flat, run_backtest
from tasks.execution.metrics import DAYS_PER_YEAR, Metrics, bar_returns, summarize
from tasks.execution.significance import BootstrapTest, draws_for, stationary_bootstrap_test

COST_FACTORS = (0.0, 1.0, 1.5, 2.0)
COSTS_PER_SIDE = (0.0, 0.0002, 0.00055, 0.001, 0.0015)
"""What others may pay for a fill: nothing, a maker's fee, a taker's, the source's, and a taker's in a thin market."""

DELAYS = (0, 1, 2)
_FEWEST_BLOCKS = 20  # with a handful a 5 % test is a 15 % one


@dataclass(frozen=True, kw_only=True, eq=False)
class Performance:
    """A backtest and what its numbers mean."""

    name: str
    result: BacktestResult
    metrics: Metrics


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """The model under every circumstance; the one of each tuple that has factor 1 or delay 0 is `model` itself.

    Who pays other costs decides otherwise: a rule that weighs an expected return against its costs trades more where
    they are less. So every cost is shown twice: decided again by a rule that reckons with it, and as the positions of
    the assumed costs re-priced, which is what an error in that assumption leaves.

    Attributes:
        model: At the assumed costs.
        buy_and_hold, flat: On the same bars, at the same costs.
        by_costs: The same positions with commission and slippage times each of COST_FACTORS.
        by_fee: The same positions at each of COSTS_PER_SIDE.
        redecided_by_costs, redecided_by_fee: Decided again by a rule that reckons with those costs.
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
    """Run the decisions and what they must beat; arguments as in `run_backtest`, but for one.

    Args:
        bars: T bars.
        decide: Returns the T positions of a rule that reckons with these costs.
        costs: What is assumed.
        config: The account.
        bars_per_year: Bars in 365 days.
        trained_until_ms: Last bar that a model was fitted on.
        label_span_ms: How far that bar's label looks ahead.
    Raises:
        LeakError: The first bar is not behind everything that training saw.
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
    """Challenger and champion on the same bars, unseen by both, at the same costs.

    Attributes:
        challenger, champion: At the assumed costs.
        second: The challenger's recipe with a second seed, at the assumed costs; None where it was not trained.
        stressed: The challenger's own positions at costs times the promotion rule's factor.
        advantage: Test of the challenger's lead per bar; None where the two never differ, or on too few blocks of bars.
    """

    challenger: Performance
    champion: Performance
    second: Performance | None
    stressed: Performance
    advantage: BootstrapTest | None


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
    """Run two sets of decisions against each other.

    Args:
        bars: T bars.
        challenger: Decided at each of T closes.
        champion: Decided at each of T closes; zeros are `flat`.
        costs: What both pay.
        config: The account of both.
        second: What the challenger's recipe decided with a second seed.
        cost_stress: Factor on commission and slippage for the stressed run, in which the same positions are dearer.
        bars_per_year: Bars in 365 days.
        horizon: Bars that a label spans.
        level: P-value that the test of the lead must be able to go below.
        trained_until_ms: Last bar that either side was fitted on, UTC milliseconds.
        label_span_ms: How far that bar's label looks ahead, milliseconds.
    Raises:
        LeakError: The first bar is not behind everything that either training saw.
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
    # The block must outlast the dependence: label, position, and the day's rhythm.
    block = max(horizon, bars_per_year / DAYS_PER_YEAR, *held)
    enough = len(bars) >= _FEWEST_BLOCKS * block
    tested = difference.any() and enough
    return Duel(
        challenger=ours,
        champion=theirs,
        second=None if second is None else run("second seed", second, costs),
        stressed=run("stressed challenger", challenger, costs.scaled(cost_stress)),
        advantage=stationary_bootstrap_test(difference, block, draws=draws_for(level)) if tested else None,
    )
