"""Limits under which an account trades: each breach is a value, and what it latches only a person undoes. Pure.

    DAILY_LOSS   lost since the UTC day began      DRAWDOWN   lost since the best close
    LOSSES       losing round trips in a row       NOTIONAL   worth of a position
    BAND         price away from the mark          RATE       orders in an hour

The first three latch: the position is closed, and nothing is opened until somebody says so. The others refuse one
position, and the next decision may be another.
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

LATCHING = frozenset({"DAILY_LOSS", "DRAWDOWN", "LOSSES"})
"""Codes after which nothing is opened until a person re-arms the account."""

_HOUR_MS = 3_600_000

Part = Annotated[float, Gt(0), Le(1), Unit("of the capital")]


@dataclass(frozen=True, kw_only=True)
class RiskLimits(Checked):
    """What an account may lose and risk.

    Attributes:
        daily_loss: Lost since the UTC day began, share of the day's first equity.
        drawdown: Lost since the best close, share of it.
        losses: Losing round trips in a row.
        notional: Worth of a position, as a multiple of the start capital, or of the equity at the last close where
            that is more: a position is a share of the equity, and what has been earned is to be traded with.
        band: How far the price that a position opens at may be from the mark price, share of it.
        orders_per_hour: Decisions that lead to orders.
    """

    daily_loss: Part = 0.02
    drawdown: Part = 0.10
    losses: Annotated[int, Ge(1)] = 5
    notional: Annotated[float, Gt(0), Le(1)] = 1.0
    band: Annotated[float, Gt(0), Le(0.5)] = 0.02
    orders_per_hour: Annotated[int, Ge(1)] = 60


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
        latched: The breach after which a person must re-arm; None for none.
    """

    limits: RiskLimits
    capital: float
    best: float = 0.0
    day: int = -1
    day_began: float = 0.0
    losses: int = 0
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
            self.day, self.day_began = at_ms // DAY_MS, self._equity
        self._equity, self.best = equity, max(self.best, equity)
        lost_today, lost_in_all = 1 - equity / self.day_began, 1 - equity / self.best
        if lost_today >= self.limits.daily_loss:
            return self._latch(Breach("DAILY_LOSS", self.limits.daily_loss, lost_today))
        if lost_in_all >= self.limits.drawdown:
            return self._latch(Breach("DRAWDOWN", self.limits.drawdown, lost_in_all))
        return None

    def trip(self, before: int, after: int, worth: float) -> Breach | None:
        """Note that a position has changed, and return what it latches, if it is new.

        Args:
            before: Weight until now.
            after: Weight from now on.
            worth: USDT that the account is worth after it, costs paid.
        """
        if before == after:
            return None
        if before:
            self.losses = self.losses + 1 if worth < self._trip_began else 0
        self._trip_began = worth
        if self.losses >= self.limits.losses:
            return self._latch(Breach("LOSSES", self.limits.losses, self.losses))
        return None

    def may_open(self, coins: float, price: float, mark: float, now_ms: float) -> Breach | None:
        """Return why a position may not be opened; None where it may, and then it is counted.

        Args:
            coins: Signed.
            price: About where it fills, USDT.
            mark: Mark price, USDT; NaN where it is not known.
            now_ms: The exchange's clock.
        """
        if self.latched is not None:
            return self.latched
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
            "latched": self.latched,
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
        scale = 1.0
        if worth is not None:
            if not numbers["equity"] > 0:
                raise ValueError("nothing was left")
            scale, numbers["trip_began"] = worth / numbers["equity"], numbers["equity"]
        self.best, self.day_began = numbers["best"] * scale, numbers["day_began"] * scale
        self._equity, self._trip_began = numbers["equity"] * scale, numbers["trip_began"] * scale
        self.day, self.losses, self.latched = day, losses, latched
        self._orders_ms = deque(orders_ms)

    def rearm(self) -> None:
        """Begin anew from what the account is worth now, because a person says so."""
        self.latched, self.losses = None, 0
        self.best = self.day_began = self._equity

    def _latch(self, breach: Breach) -> Breach | None:
        if self.latched is not None:
            return None
        self.latched = breach
        return breach
