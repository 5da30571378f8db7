"""How far ahead volatility is forecast, and what the forecast must show: a part of every recipe."""

from dataclasses import asdict, dataclass
from typing import Annotated, Self

from storage.bounds import Checked, NonNegativeFloat, PositiveFloat, ProperShare
from storage.schema import HOUR_MS, Title
from tasks.strategy.promotion_rule import looser_bounds


@dataclass(frozen=True, kw_only=True)
class VolForecastRule(Checked):
    """Horizon of the volatility head, and the bounds of its verdict.

    Attributes:
        hours: Over how long the variance is forecast. A day holds each hour of the day once.
        min_windows: Fewest unseen windows that do not overlap.
        significance: Largest p-value of a lead in QLIKE. It is over the present volatility (EWMA) and over HAR.
        lightgbm_margin: Share by which LightGBM's QLIKE may be smaller.
        least_r2: Least R2 of ln RV.
        most_exceeding: Largest share of windows beyond 1.5 x the risk.
        calibration_margin: Largest miss of a forecast quantile. That is, of the share of windows below it.
    """

    hours: Annotated[PositiveFloat, Title("Hours ahead")] = 24.0
    min_windows: Annotated[PositiveFloat, Title("Unseen windows at least")] = 30.0
    significance: Annotated[ProperShare, Title("Largest p-value")] = 0.05
    lightgbm_margin: Annotated[NonNegativeFloat, Title("LightGBM's lead at most, share")] = 0.02
    least_r2: Annotated[float, Title("Share of its variance explained, at least")] = 0.2
    # What present volatility reached on four hourly markets: .14 to .19.
    most_exceeding: Annotated[ProperShare, Title("Windows far beyond the risk, at most")] = 0.16
    calibration_margin: Annotated[ProperShare, Title("Quantiles off by at most")] = 0.1

    def looser_than(self, other: Self) -> tuple[str, ...]:
        """Return the bounds that ask for less than another rule's, each with both values."""
        ours, theirs = ({f"risk.{name}": bound for name, bound in asdict(one).items()} for one in (self, other))
        ours.pop("risk.hours")  # no bound, but what is forecast
        return looser_bounds(ours, theirs, at_least={"risk.min_windows", "risk.least_r2"})

    def horizon(self, interval_ms: int) -> int:
        """Return the volatility horizon in bars of so many milliseconds, >= 1."""
        return max(1, round(self.hours * HOUR_MS / interval_ms))
