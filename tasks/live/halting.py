"""The way out that needs no session: latch, cancel what waits, close what is held, and say what is still open."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from time import monotonic

from storage.schema import Banned, Market, PipelineError
from tasks.exchange.trading import Protection, TradingAccount
from tasks.execution.orders import ZERO, LotSize, Order, Refused, next_leg
from tasks.live.booking import lot_size
from tasks.live.halts import Halts

ONE = Decimal(1)

_BEAT_S = 0.25
_SPARE_S = 1.0
_BANS = 2  # that are waited out


def halt(
    trading: TradingAccount,
    halts: Halts,
    environment: str,
    markets: Sequence[Market],
    why: str,
    *,
    within_s: float = 5.0,
    protection: Protection = Protection(slippage_percent=Decimal(2)),
    on_note: Callable[[str], object] = lambda line: None,
) -> list[str]:
    """Latch markets, cancel their orders and close their positions; return what is still open, one line each.

    Each market is latched before anything is asked of the exchange, and all are closed side by side. A position is
    closed by orders that can only reduce, so whoever closes it at the same time does no harm. While the exchange
    refuses this address nothing is asked of it; what is held is closed when that has ended.

    Args:
        trading: The account.
        halts: Of the home.
        environment: Of the account.
        markets: Which; the interval does not matter.
        why: One line.
        within_s: How long a market is tried beyond the time in which an order that was under way may still be taken.
        protection: How far from the best price a closing order may fill.
        on_note: Is told what was done, one line each.
    """
    for market in markets:
        latched = halts.latch(environment, market, why)
        on_note(f"{market.symbol} on {environment} is halted since {latched.at}: {latched.why}")
    watch_s = trading.recv_window_ms / 1e3 + _SPARE_S  # an order that was sent before the latch is not taken later
    closings = [_Closing(trading, market, protection, on_note, watch_s, within_s) for market in markets]
    bans = 0
    while undone := [one for one in closings if not one.is_done]:
        try:
            for one in undone:
                one.work()
        except Banned as err:
            if bans == _BANS:
                return [f"{one.market.symbol}: {err}; it is latched, run this again then" for one in undone]
            bans, left_s = bans + 1, trading.ban.left_s()
            on_note(f"{err}; what is held is closed in {left_s:.0f} s")
            for one in undone:
                one.within_s += left_s
            time.sleep(left_s)
        else:
            time.sleep(_BEAT_S)
    return [one.still_open for one in closings if one.still_open]


@dataclass
class _Closing:
    """One market that is closed, and watched until nothing that was under way can open it again.

    Attributes:
        watch_s: How long something that was under way may still be taken.
        within_s: How much longer it is tried, the exchange's refusals to answer apart.
        is_done: Whether nothing is left to do.
        still_open: What is, at the end; empty for nothing.
    """

    trading: TradingAccount
    market: Market
    protection: Protection
    on_note: Callable[[str], object]
    watch_s: float
    within_s: float
    is_done: bool = False
    still_open: str = ""
    _began_s: float = field(init=False, default_factory=monotonic)
    _lot: LotSize | None = field(init=False, default=None)
    _orders: int = field(init=False, default=0)
    _is_flat: bool = field(init=False, default=False)

    def work(self) -> None:
        """Do what is next.

        Raises:
            Banned: The exchange refuses this address.
        """
        symbol, trouble = self.market.symbol, ""
        try:
            trouble = self._close()
        except Banned:
            raise
        except PipelineError as err:
            trouble = str(err)
        spent_s = monotonic() - self._began_s
        if trouble and spent_s > self.watch_s + self.within_s:
            self.is_done = True
            self.still_open = f"{symbol}: {trouble} after {spent_s:.0f} s; it is latched, run this again"

    def _close(self) -> str:
        """Cancel, close, and return what is in the way; empty while it is flat."""
        symbol, spent_s = self.market.symbol, monotonic() - self._began_s
        if not self._is_flat:
            self.trading.cancel_all(self.market)
        size = self.trading.position(self.market).size
        if size and self._lot is None:
            self._lot = lot_size(self.trading.instrument(self.market))
        leg = next_leg(size, ZERO, self._lot, ONE) if self._lot else None
        if leg is None:
            if spent_s > self.watch_s:
                self.trading.cancel_all(self.market, stops=True)
                self.is_done = True
                dust = f"{symbol}: holds {size}, less than the exchange trades in; it is latched" if size else ""
                self.still_open = dust
                self.on_note(dust or f"{symbol} is flat and no order waits")
            elif not self._is_flat:
                self.on_note(f"{symbol} is flat after {spent_s:.1f} s; watched for {self.watch_s - spent_s:.0f} s more")
            self._is_flat = True
            return ""
        self._is_flat = False
        order = Order(link_id=f"halt-{time.time_ns()}-{self._orders}", leg=leg)
        self._orders += 1
        answer = self.trading.place(self.market, order, self.protection)
        if isinstance(answer, Refused):
            return f"holds {size}, and closing it was refused ({answer.why})"
        return f"holds {size}"
