"""Limits under which an account trades: each breach is a value, and what it latches only a person undoes. Pure.

    DAILY_LOSS   lost since the UTC day began      DAILY_VOLS   the same, in units of what was foreseen
    DRAWDOWN     lost since the best close         LOSSES       losing round trips in a row
    NOTIONAL     worth of a position               BAND         price away from the mark
    RATE         orders in an hour                 UNFORESEEN   a limit in units of what nobody foresees

The first four latch: the position is closed, and nothing is opened until somebody says so. The others refuse one
position, and the next decision may be another.

The unit of a day is what its riskiest position was foreseen to move the account in 24 hours when it was opened. It is
not foreseen anew while the position is held: a market that grows wild under a position would loosen its own limit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Le, Unit

from storage.bounds import Checked
from storage.schema import DAY_MS

LATCHING = frozenset({"DAILY_LOSS", "DAILY_VOLS", "DRAWDOWN", "LOSSES"})
"""Codes after which nothing is opened until a person re-arms the account."""

_HOUR_MS = 3_600_000

Part = Annotated[float, Gt(0), Le(1), Unit("of the capital")]


@dataclass(frozen=True, kw_only=True)
class RiskLimits(Checked):
    """What an account may lose and risk.

    Attributes:
        daily_loss: Lost since the UTC day began, share of the day's first equity.
        daily_vols: The same in units of the volatility that is foreseen of the day's riskiest position over 24 hours;
            3 halts after a loss of three such. It only ever tightens `daily_loss`, and a position of which nothing is
            foreseen is not opened. None: `daily_loss` alone.
        drawdown: Lost since the best close, share of it.
        losses: Losing round trips in a row.
        notional: Worth of a position, as a multiple of the start capital, or of the equity at the last close where
            that is more: a position is a share of the equity, and what has been earned is to be traded with.
        band: How far the price that a position opens at may be from the mark price, share of it.
        orders_per_hour: Decisions that lead to orders.
    """

    daily_loss: Part = 0.02
    daily_vols: Annotated[float, Ge(1)] | None = None
    drawdown: Part = 0.10
    losses: Annotated[int, Ge(1)] = 5
    notional: Annotated[float, Gt(0), Le(1)] = 1.0
    band: Annotated[float, Gt(0), Le(0.5)] = 0.02
    orders_per_hour: Annotated[int, Ge(1)] = 60

    def of_day(self, risk: float) -> float:
        """Return what may be lost in a day, share of its first equity: in (0, daily_loss].

        Args:
            risk: What the day's riskiest position is foreseen to move the account in 24 hours, share of it; 0 where
                none was held, infinite or NaN where nobody knows.
        """
        if self.daily_vols is None or not risk > 0.0:  # NaN compares false
            return self.daily_loss
        return min(self.daily_loss, self.daily_vols * risk)


class Breach(NamedTuple):
    """A limit that does not hold.

    Attributes:
        code: Which.
        limit: What is allowed.
        found: What was found.
    """

    code: str
    limit: float
    found: float

    def __str__(self) -> str:
        return f"{self.code}: {self.found:.4g}, allowed {self.limit:g}"


@dataclass
class RiskBook:
    """What the limits are judged by: an account's equity at its closes, its round trips, its orders.

    Attributes:
        limits: The limits.
        capital: USDT that the account began with.
        best: Best equity at a close.
        day: UTC day of the last close.
        day_began: Equity with which that day began.
        losses: Losing round trips in a row.
        risk: What the position that is held was foreseen to move the account in 24 hours, share of it; 0 where none is
            held, infinite where nobody foresaw it.
        day_risk: The largest of the day.
        latched: The breach after which a person must re-arm; None for none.
    """

    limits: RiskLimits
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
        """Note a bar's close and return what it latches, if it is new.

        Args:
            at_ms: UTC milliseconds.
            equity: USDT at the close.
        """
        if at_ms // DAY_MS != self.day:
            self.day, self.day_began, self.day_risk = at_ms // DAY_MS, self._equity, self.risk
        self._equity, self.best = equity, max(self.best, equity)
        lost_today, lost_in_all = 1 - equity / self.day_began, 1 - equity / self.best
        if lost_today >= self.limits.daily_loss:
            return self._latch(Breach("DAILY_LOSS", self.limits.daily_loss, lost_today))
        if self.limits.daily_vols is not None and lost_today >= self.limits.of_day(self.day_risk):
            return self._latch(Breach("DAILY_VOLS", self.limits.daily_vols, lost_today / self.day_risk))
        if lost_in_all >= self.limits.drawdown:
            return self._latch(Breach("DRAWDOWN", self.limits.drawdown, lost_in_all))
        return None

    def trip(self, before: int, after: int, worth: float, risk: float = math.inf) -> Breach | None:
        """Note that a position has changed, and return what it latches, if it is new.

        Args:
            before: Weight until now.
            after: Weight from now on.
            worth: USDT that the account is worth after it, costs paid.
            risk: As in the attribute, of the position from now on.
        """
        if before == after:
            return None
        self.risk = risk if after else 0.0
        self.day_risk = max(self.day_risk, self.risk)
        if before:
            self.losses = self.losses + 1 if worth < self._trip_began else 0
        self._trip_began = worth
        if self.losses >= self.limits.losses:
            return self._latch(Breach("LOSSES", self.limits.losses, self.losses))
        return None

    def may_open(
        self, coins: float, price: float, mark: float, now_ms: float, foreseen_vol: float = math.nan
    ) -> Breach | None:
        """Return why a position may not be opened; None where it may, and then it is counted.

        Args:
            coins: Signed.
            price: About where it fills, USDT.
            mark: Mark price, USDT; NaN where it is not known.
            now_ms: The exchange's clock.
            foreseen_vol: Volatility that is foreseen; NaN where unknown. Looked at where a limit is in its units.
        """
        if self.latched is not None:
            return self.latched
        if self.limits.daily_vols is not None and not 0.0 < foreseen_vol < math.inf:
            return Breach("UNFORESEEN", self.limits.daily_vols, foreseen_vol)
        most = self.limits.notional * max(self.capital, self._equity)
        if abs(coins) * price > most * 1.001:  # an allowance of a thousandth: all of it, at a price a tick away
            return Breach("NOTIONAL", most, abs(coins) * price)
        if not abs(price / mark - 1) <= self.limits.band:  # NaN is refused too
            return Breach("BAND", self.limits.band, abs(price / mark - 1))
        while self._orders_ms and self._orders_ms[0] <= now_ms - _HOUR_MS:
            self._orders_ms.popleft()
        if len(self._orders_ms) >= self.limits.orders_per_hour:
            return Breach("RATE", self.limits.orders_per_hour, len(self._orders_ms) + 1)
        self._orders_ms.append(now_ms)
        return None

    def state(self) -> dict[str, Any]:
        """Return what `resume` goes on from, as JSON has it."""
        return {
            "equity": self._equity, "best": self.best, "day": self.day, "day_began": self.day_began,
            "trip_began": self._trip_began, "losses": self.losses, "orders_ms": list(self._orders_ms),
            "risk": _said(self.risk), "day_risk": _said(self.day_risk), "latched": self.latched,
        }  # fmt: skip

    def resume(self, state: Mapping[str, Any], worth: float | None = None) -> None:
        """Go on from what `state` was.

        Args:
            state: Of an earlier book of the same account and market.
            worth: What the ledger of this book is worth now, USDT, where that one was of another: its losses are taken
                over as shares. None where it was the same.

        Raises:
            ValueError: It can't be a book's.
        """
        numbers = {name: float(state[name]) for name in ("equity", "best", "day_began", "trip_began")}
        if not (all(map(math.isfinite, numbers.values())) and numbers["best"] > 0):
            raise ValueError(f"equities must be finite, were {numbers}")
        day, losses, orders_ms = int(state["day"]), int(state["losses"]), [float(ms) for ms in state["orders_ms"]]
        latched = Breach(*state["latched"]) if state["latched"] is not None else None
        # A book of before there were such says nothing: the fixed limit alone, until a position is opened.
        risk, day_risk = (math.inf if (known := state.get(name)) is None else known for name in ("risk", "day_risk"))
        if not (risk >= 0.0 and day_risk >= 0.0):
            raise ValueError(f"what a position was foreseen to move must be >= 0, was {risk} and {day_risk}")
        scale = 1.0
        if worth is not None:
            if not numbers["equity"] > 0:
                raise ValueError("nothing was left")
            scale, numbers["trip_began"] = worth / numbers["equity"], numbers["equity"]
            risk = 0.0  # it holds nothing yet
        self.best, self.day_began = numbers["best"] * scale, numbers["day_began"] * scale
        self._equity, self._trip_began = numbers["equity"] * scale, numbers["trip_began"] * scale
        self.day, self.losses, self.latched = day, losses, latched
        self.risk, self.day_risk = risk, day_risk
        self._orders_ms = deque(orders_ms)

    def rearm(self) -> None:
        """Begin anew from what the account is worth now, because a person says so."""
        self.latched, self.losses = None, 0
        self.best = self.day_began = self._equity
        self.day_risk = self.risk

    def _latch(self, breach: Breach) -> Breach | None:
        if self.latched is not None:
            return None
        self.latched = breach
        return breach


def _said(risk: float) -> float | None:
    """Return a risk as JSON has it, which knows no infinity."""
    return risk if math.isfinite(risk) else None
