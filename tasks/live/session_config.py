"""How a session behaves where the exchange leaves a choice, and what its account trades by."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from storage.bounds import Checked, NonNegativeFloat, PositiveFloat
from storage.schema import FloatArray, Instrument, Title
from storage.written import written
from tasks.execution.accounting import Steps, account_rules
from tasks.execution.limits import TradingLimits
from tasks.strategy.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class OrderConfig(Checked):
    """How orders are sent, and what becomes of a position when something is unknown.

    Attributes:
        slippage_percent: How far from the best price a market order may fill.
        stop_share: How far from the open the exchange's stop lies that goes with a position, share of the price; None:
            a tenth, and live needs it said.
        stop_vols: How far the stop lies in units of the volatility that is forecast over the holding time. It is never
            further than `stop_share`, where it lies if none is forecast, nor nearer than a fill may slip. None: at
            `stop_share`.
        close_after_bars: After how many bars without a word, or since the market was halted because something is
            unknown, what is held is closed; None: three, and live needs it said.
        stream_down_s: For how long the account's own stream may be down before nothing new is opened.
    """

    slippage_percent: Annotated[float, Ge(0.01), Le(10)] = 0.5
    stop_share: Annotated[float, Gt(0), Le(0.5)] | None = None
    stop_vols: Annotated[float, Ge(1)] | None = None
    close_after_bars: Annotated[int, Ge(1)] | None = None
    stream_down_s: PositiveFloat = 30.0

    @property
    def stop_at(self) -> float:
        """How far from the open the stop lies at most, share of the price."""
        return 0.1 if self.stop_share is None else self.stop_share

    def stop_distance(self, forecast_vol: float, bars: int) -> float:
        """Return how far from the open the stop of a position lies, share of the price: in (0, stop_at].

        Args:
            forecast_vol: Volatility per bar that is forecast; NaN where unknown.
            bars: How long a position is meant to be held.
        """
        if self.stop_vols is None or not forecast_vol > 0.0:  # NaN compares false
            return self.stop_at
        units = self.stop_vols * forecast_vol * math.sqrt(bars)
        return min(self.stop_at, max(units, self.slippage_percent / 100))

    @property
    def bars_unknown(self) -> int:
        """After how many bars what is held is closed."""
        return 3 if self.close_after_bars is None else self.close_after_bars

    @property
    def unset(self) -> list[str]:
        """Names of what live needs said and nobody has."""
        return [name for name in ("stop_share", "close_after_bars") if getattr(self, name) is None]

    def describe(self, limits: TradingLimits) -> str:
        """Return the limits that orders are sent under, one line."""
        hard = written(self.stop_at, "share")
        stop = f"{hard} away"
        if self.stop_vols is not None:
            stop = f"{self.stop_vols:g}x the forecast volatility of the holding time away, at most {hard}"
        daily_loss, drawdown, band = (
            written(part, "share") for part in (limits.daily_loss, limits.drawdown, limits.band)
        )
        day = f"{daily_loss} of a day's equity"
        if limits.daily_vols is not None:
            day += (
                f", and no more than {limits.daily_vols:g}x what its riskiest position is forecast to move it in 24 h"
            )
        return (
            f"limits: {day}, {drawdown} below the best close, "
            f"{limits.losses} losing trades in a row, a position of {limits.notional:g} times the capital, or the "
            "equity where that is more, "
            f"{limits.orders_per_hour} orders an hour, {band} from the mark price; a stop "
            f"{stop}, fills within {self.slippage_percent:g} %; what is held is closed after "
            f"{self.bars_unknown} bars in which something is unknown"
        )


@dataclass(frozen=True, kw_only=True)
class SessionConfig(Checked):
    """A session's rules.

    Attributes:
        capital: USDT that all markets start with together, split equally; None: each its version's own.
        deadline_share: Share of the bar after which a decision or its fill is too late: recorded, and not traded.
        confirm_grace_s: How long after a bar's end its confirmation may be missing before REST is asked.
        new_version_s: How often is looked whether another version decides.
        clock_check_s: How often this machine's clock is compared with the exchange's.
        clock_limit_s: Beyond this difference, or without an answer three times in a row, nothing new is held.
        at_end: hold keeps the position when the session is stopped; flat closes it.
        orders: How orders are sent.
        limits: What an account that sends orders may lose and risk before its market is halted.
    """

    capital: Annotated[PositiveFloat | None, Title("Capital of all markets, USDT")] = None
    deadline_share: Annotated[float, Gt(0), Le(1), Title("Share of a bar after which it is too late")] = 0.1
    confirm_grace_s: Annotated[NonNegativeFloat, Title("Seconds until a missing bar is asked for")] = 2.0
    new_version_s: Annotated[NonNegativeFloat, Title("Seconds between looks for another version")] = 60.0
    clock_check_s: Annotated[PositiveFloat, Title("Seconds between looks at the clock")] = 120.0
    clock_limit_s: Annotated[PositiveFloat, Title("Seconds that the clock may be off")] = 1.0
    at_end: Annotated[Literal["hold", "flat"], Title("Position when it is stopped")] = "hold"
    orders: OrderConfig = OrderConfig()
    limits: TradingLimits = TradingLimits()


def session_rules(recipe: Recipe, instrument: Instrument) -> FloatArray:
    """Return (RULES,) what a session's account trades by: the recipe's size and costs, the exchange's steps."""
    account = recipe.backtest
    return account_rules(account.position_fraction, account.fixed_coins, recipe.costs, Steps.of(instrument))
