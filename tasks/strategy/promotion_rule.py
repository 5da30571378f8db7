"""What a challenger must show before it replaces a champion: the bounds, a part of every recipe."""

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from typing import Annotated, Self

from storage.bounds import Checked, NonNegativeFloat, NonNegativeInt, PositiveFloat, ProperShare
from storage.schema import Title


@dataclass(frozen=True, kw_only=True)
class PromotionRule(Checked):
    """Bounds of the conditions.

    Attributes:
        min_days: Fewest unseen days.
        min_trades: Fewest closed trades on them.
        significance: Largest p-value, of the log-loss lead, of the lead in direction, and of the return lead. The last
            is looked at with every retrain: at the k-th look at one champion it must be below a k-th of this. Over a
            year of daily looks at a lead of nothing, 4.4 % of 2,000 simulated champions fell; 25 % without that. Looks
            at recipes that have nothing in common would add up, to 14 % in 10 and 23 % in 100: those are trials, which
            the deflated Sharpe ratio counts.
        cost_stress: Costs are multiplied by this, and the net result of the same positions must still be positive. They
            are not decided again: what is asked is what is left if fills turn out dearer than the rule reckoned with.
        drawdown_ratio: Largest maximum drawdown as a multiple of the champion's, unless that one held nothing.
        max_drawdown: Largest maximum drawdown where the champion held nothing, as `flat` does, share of the peak.
        calibration_margin: Largest excess of the calibration error over a perfectly calibrated model's.
        latency_budget_us: Largest p99 of one bar, microseconds.
        baseline_margin: Log-loss by which the better baseline may lead, nat.
        deflated_sharpe: Least deflated Sharpe ratio.
        other_trials: Strategies that were looked at before the log of trials began: those behind the default preset.
    """

    min_days: Annotated[PositiveFloat, Title("Unseen days at least")] = 30.0
    min_trades: Annotated[NonNegativeInt, Title("Closed trades at least")] = 100
    significance: Annotated[ProperShare, Title("Largest p-value")] = 0.05
    cost_stress: Annotated[PositiveFloat, Title("Profit at costs times")] = 1.5
    drawdown_ratio: Annotated[PositiveFloat, Title("Drawdown at most, beside the champion's")] = 1.2
    max_drawdown: Annotated[PositiveFloat, Title("Drawdown at most, beside no position")] = 0.25
    calibration_margin: NonNegativeFloat = 0.02
    latency_budget_us: Annotated[PositiveFloat, Title("Time of one bar at most, µs")] = 1_000.0
    baseline_margin: NonNegativeFloat = 0.001
    deflated_sharpe: Annotated[ProperShare, Title("Deflated Sharpe ratio at least")] = 0.95
    other_trials: Annotated[NonNegativeInt, Title("Strategies tried before")] = 160

    def alpha(self, looks: int) -> float:
        """Return what the p-value of the return lead must be below at so many looks at one champion."""
        return self.significance / looks

    def looser_than(self, other: Self) -> tuple[str, ...]:
        """Return the bounds that ask for less than another rule's, each with both values."""
        return looser_bounds(asdict(self), asdict(other), at_least=_AT_LEAST)


_AT_LEAST = frozenset({"min_days", "min_trades", "cost_stress", "deflated_sharpe", "other_trials"})


def looser_bounds(ours: Mapping[str, float], theirs: Mapping[str, float], *, at_least: Set[str]) -> tuple[str, ...]:
    """Return the bounds that ask for less than others of the same names, each with both values.

    Of those in `at_least` a larger one asks for more; of the others a smaller one does.
    """
    return tuple(
        f"{name} {ours[name]:g} ({theirs[name]:g})"
        for name in ours
        if (ours[name] < theirs[name] if name in at_least else ours[name] > theirs[name])
    )
