"""What a challenger must show before it replaces a champion: the bounds, a part of every recipe."""

from __future__ import annotations

from dataclasses import dataclass

from storage.schema import ConfigError


@dataclass(frozen=True, kw_only=True)
class PromotionRule:
    """Bounds of the conditions.

    Attributes:
        min_days: Fewest unseen days.
        min_trades: Fewest closed trades on them.
        significance: Largest p-value, of the log-loss lead, of the lead in direction, and of the return lead. The last
            is looked at with every retrain: at the k-th look at one champion it must be below a k-th of this. Over a
            year of daily looks at a lead of nothing, 4.4 % of 2,000 simulated champions fell; 25 % without that.
        cost_stress: Costs are multiplied by this, and the net result of the same positions must still be positive. They
            are not decided again: what is asked is what is left if fills turn out dearer than the rule reckoned with.
        drawdown_ratio: Largest maximum drawdown as a multiple of the champion's, unless that one held nothing.
        max_drawdown: Largest maximum drawdown where the champion held nothing, as `flat` does, share of the peak.
        calibration_margin: Largest excess of the calibration error over a perfectly calibrated model's.
        latency_budget_us: Largest p99 of one bar, microseconds.
        baseline_margin: Log-loss by which the better baseline may lead, nat.
        deflated_sharpe: Least deflated Sharpe ratio of a first champion; a later one only reports it.
        other_trials: Strategies that were looked at before the log of trials began: those behind the default preset.
    """

    min_days: float = 30.0
    min_trades: int = 100
    significance: float = 0.05
    cost_stress: float = 1.5
    drawdown_ratio: float = 1.2
    max_drawdown: float = 0.25
    calibration_margin: float = 0.02
    latency_budget_us: float = 1_000.0
    baseline_margin: float = 0.001
    deflated_sharpe: float = 0.95
    other_trials: int = 160

    def __post_init__(self) -> None:
        for name in ("significance", "deflated_sharpe"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be in (0, 1), was {getattr(self, name)!r}")
        if not 0.0 <= self.baseline_margin < float("inf"):
            raise ConfigError(f"baseline_margin must be >= 0 nat, was {self.baseline_margin!r}")
        if self.other_trials < 0:
            raise ConfigError(f"other_trials must be >= 0, was {self.other_trials!r}")
        for name in ("min_days", "cost_stress", "drawdown_ratio", "max_drawdown", "latency_budget_us"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0, was {getattr(self, name)!r}")
