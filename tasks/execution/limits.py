"""Trading limits of an account. A breach is a value (`Breach`), not an exception. Pure.

    DAILY_LOSS   loss since the UTC day began                DAILY_VOLS   the same, in units of forecast volatility
    DRAWDOWN     loss since the highest equity at a close    LOSSES       losing round trips in a row
    NOTIONAL     notional of a position                      BAND         price away from the mark price
    RATE         orders in an hour                           UNFORESEEN   DAILY_VOLS is set but the forecast is missing

The first four latch: the position is closed, and no position is opened until a person re-arms the account. The others
refuse one order; the next decision is checked again.

The unit of DAILY_VOLS is the 24-hour volatility of the account that was forecast for the day's riskiest position when
it was opened. It is not updated while the position is held: rising volatility would otherwise loosen the limit.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Le, Unit

from storage.bounds import Checked
from storage.schema import DAY_MS, HOUR_MS, Title

Part = Annotated[float, Gt(0), Le(1), Unit("of the capital")]


@dataclass(frozen=True, kw_only=True)
class TradingLimits(Checked):
    """Limits of an account's losses, position size and orders.

    Attributes:
        daily_loss: Loss since the UTC day began that stops trading, share of the equity at the day's start.
        daily_vols: The same in units of the 24-hour volatility that was forecast for the day's riskiest position; 3
            stops trading after a loss of three times that volatility. It can only tighten `daily_loss`, and a position
            without a volatility forecast is not opened. None: `daily_loss` alone.
        drawdown: Loss since the highest equity at a close that stops trading, share of that equity.
        losses: Losing round trips in a row that stop trading.
        notional: Largest notional of a position, as a multiple of the start capital or of the equity at the last
            close, whichever is more, so that profits can be reinvested.
        band: Largest distance of the expected fill price from the mark price when a position is opened, share of the
            mark price.
        orders_per_hour: Most decisions to open a position in one hour.
    """

    daily_loss: Annotated[Part, Title("Lost in a day at most, share")] = 0.02
    daily_vols: Annotated[Annotated[float, Ge(1)] | None, Title("Lost in a day at most, forecast volatilities")] = None
    drawdown: Part = 0.10
    losses: Annotated[int, Ge(1)] = 5
    notional: Annotated[float, Gt(0), Le(1)] = 1.0
    band: Annotated[float, Gt(0), Le(0.5)] = 0.02
    orders_per_hour: Annotated[int, Ge(1)] = 60

    def of_day(self, risk: float) -> float:
        """Return the loss that stops trading for the day, share of the equity at its start: in (0, daily_loss].

        Args:
            risk: Forecast 24-hour volatility of the account with the day's riskiest position, share of equity; 0 if no
                position was held, infinite or NaN if unknown.
        """
        if self.daily_vols is None or not risk > 0.0:  # NaN compares false
            return self.daily_loss
        return min(self.daily_loss, self.daily_vols * risk)


class Breach(NamedTuple):
    """A breached limit.

    Attributes:
        code: One of the codes at the top of this module.
    """

    code: str
    limit: float
    found: float

    def __str__(self) -> str:
        return f"{self.code}: {self.found:.4g}, allowed {self.limit:g}"


@dataclass
class LimitBook:
    """State from which the limits are checked: equity at the closes, round trips, times of orders.

    Attributes:
        capital: USDT at the start.
        best: Highest equity at a close, USDT.
        day: UTC day that the last close is of, days since 1970; -1 before the first. Midnight ends a day.
        day_began: Equity at that day's start, USDT.
        losses: Losing round trips in a row so far.
        risk: Forecast 24-hour volatility of the account with its present position, share of equity, as forecast when
            the position was opened; 0 without a position, infinite without a forecast.
        day_risk: The largest `risk` of the day.
        latched: The breach after which a person must re-arm; None for none.
    """

    limits: TradingLimits
    capital: float
    best: float = 0.0
    day: int = -1
    day_began: float = 0.0
    losses: int = 0
    risk: float = 0.0
    day_risk: float = 0.0
    latched: Breach | None = None
    _equity: float = field(init=False)
    _trip_began: float = field(init=False)
    _orders_ms: deque[float] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        self.best = self.best or self.capital
        self._equity = self._trip_began = self.capital

    def close(self, at_ms: int, equity: float) -> Breach | None:
        """Record a bar's close and its equity, USDT; return the breach if it latches now, else None."""
        day = (at_ms - 1) // DAY_MS  # a close at midnight ends its day: the next one begins with this equity
        if day != self.day:
            self.day, self.day_began, self.day_risk = day, self._equity, self.risk
        self._equity, self.best = equity, max(self.best, equity)
        lost_today, lost_in_all = _lost(equity, self.day_began), _lost(equity, self.best)
        if lost_today >= self.limits.daily_loss:
            return self._latch(Breach("DAILY_LOSS", self.limits.daily_loss, lost_today))
        if self.limits.daily_vols is not None and lost_today >= self.limits.of_day(self.day_risk):
            return self._latch(Breach("DAILY_VOLS", self.limits.daily_vols, lost_today / self.day_risk))
        if lost_in_all >= self.limits.drawdown:
            return self._latch(Breach("DRAWDOWN", self.limits.drawdown, lost_in_all))
        return None

    def trip(
        self, before: int, after: int, worth: float, risk: float = math.inf, entry_costs: float = 0.0
    ) -> Breach | None:
        """Record a change of position; return the breach if it latches now, None if none does or one has before.

        Args:
            before: Side until now: -1, 0 or 1.
            after: Side from now on: -1, 0 or 1.
            worth: Equity after the change, costs paid, USDT.
            risk: The attribute `risk` of the new position.
            entry_costs: What opening it has cost, USDT: the new trip pays this part of `worth`, not the old one.
        """
        if before == after:
            return None
        worth += entry_costs
        self.risk = risk if after else 0.0
        self.day_risk = max(self.day_risk, self.risk)
        if before:
            self.losses = self.losses + 1 if worth < self._trip_began else 0
        self._trip_began = worth
        if self.losses >= self.limits.losses:
            return self._latch(Breach("LOSSES", self.limits.losses, self.losses))
        return None

    def may_open(
        self, coins: float, price: float, mark: float, now_ms: float, forecast_vol: float = math.nan
    ) -> Breach | None:
        """Return the breach that forbids opening a position; None if it is allowed, and then it counts as an order.

        Args:
            coins: Signed.
            price: Expected fill price, USDT.
            mark: Mark price, USDT; NaN if unknown, which forbids the position.
            now_ms: The exchange's clock, UTC milliseconds.
            forecast_vol: Forecast volatility; NaN if unknown, which forbids the position if `daily_vols` is set.
        """
        if self.latched is not None:
            return self.latched
        if self.limits.daily_vols is not None and not 0.0 < forecast_vol < math.inf:
            return Breach("UNFORESEEN", self.limits.daily_vols, forecast_vol)
        most = self.limits.notional * max(self.capital, self._equity)
        if not abs(coins) * price <= most * 1.001:  # a thousandth more: a full position may fill a tick away
            return Breach("NOTIONAL", most, abs(coins) * price)
        if not abs(price / mark - 1) <= self.limits.band:  # NaN is refused too, as above
            return Breach("BAND", self.limits.band, abs(price / mark - 1))
        while self._orders_ms and self._orders_ms[0] <= now_ms - HOUR_MS:
            self._orders_ms.popleft()
        if len(self._orders_ms) >= self.limits.orders_per_hour:
            return Breach("RATE", self.limits.orders_per_hour, len(self._orders_ms) + 1)
        self._orders_ms.append(now_ms)
        return None

    def state(self) -> dict[str, Any]:
        """Return the state for `resume`, as JSON values."""
        return {
            "equity": self._equity, "best": self.best, "day": self.day, "day_began": self.day_began,
            "trip_began": self._trip_began, "losses": self.losses, "orders_ms": list(self._orders_ms),
            "risk": _said(self.risk), "day_risk": _said(self.day_risk), "latched": self.latched,
        }  # fmt: skip

    def resume(self, state: Mapping[str, Any], worth: float | None = None) -> None:
        """Continue from a stored state.

        Args:
            state: From `state` of an earlier book of the same account and market.
            worth: Present equity of this book's ledger, USDT, if the stored state belongs to another ledger: its
                equities are scaled to it, so losses stay the same shares. None if the ledger is the same.

        Raises:
            ValueError: The state is not valid.
        """
        numbers = {name: float(state[name]) for name in ("equity", "best", "day_began", "trip_began")}
        if not (all(map(math.isfinite, numbers.values())) and numbers["best"] > 0):
            raise ValueError(f"equities must be finite, were {numbers}")
        day, losses, orders_ms = int(state["day"]), int(state["losses"]), [float(ms) for ms in state["orders_ms"]]
        latched = Breach(*state["latched"]) if state["latched"] is not None else None
        # States of older versions lack these: the fixed limit alone applies until a position is opened.
        risk, day_risk = (math.inf if (known := state.get(name)) is None else known for name in ("risk", "day_risk"))
        if not (risk >= 0.0 and day_risk >= 0.0):
            raise ValueError(f"what a position was forecast to move must be >= 0, was {risk} and {day_risk}")
        scale = 1.0
        if worth is not None:
            if not numbers["equity"] > 0:
                raise ValueError("nothing was left")
            scale, numbers["trip_began"] = worth / numbers["equity"], numbers["equity"]
            risk = 0.0  # the new ledger has no position yet
        self.best, self.day_began = numbers["best"] * scale, numbers["day_began"] * scale
        self._equity, self._trip_began = numbers["equity"] * scale, numbers["trip_began"] * scale
        self.day, self.losses, self.latched = day, losses, latched
        self.risk, self.day_risk = risk, day_risk
        self._orders_ms = deque(orders_ms)

    def rearm(self) -> None:
        """Clear the latched breach; losses count from the present equity on. Called when a person re-arms."""
        self.latched, self.losses = None, 0
        self.best = self.day_began = self._equity
        self.day_risk = self.risk

    def _latch(self, breach: Breach) -> Breach | None:
        if self.latched is not None:
            return None
        self.latched = breach
        return breach


def _lost(equity: float, of: float) -> float:
    """Return the share that is lost; all of it where there was nothing to lose."""
    return 1 - equity / of if of > 0.0 else 1.0


def _said(risk: float) -> float | None:
    """Return a risk as a JSON value: None for infinity, which JSON does not have."""
    return risk if math.isfinite(risk) else None
