"""The way out that needs no session: latch, cancel what waits, close what is held, and say what is still open."""

import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from time import monotonic

from storage.schema import Banned, Market, PipelineError, StoreError
from tasks.exchange.boot_clock import AWAKE_S
from tasks.exchange.trading_account import Protection, TradingAccount
from tasks.execution.orders import HALT_ID, ZERO, LotSize, Order, Refused, next_leg
from tasks.live.booking import lot_size
from tasks.live.halts import Halts

ONE = Decimal(1)

_PROTECTION = Protection(slippage_percent=Decimal(2))  # how far from the best price what closes may fill
WITHIN_S = 5.0

_BEAT_S = 0.25
_SPARE_S = 1.0
_BANS = 2  # that are waited out


def latch_all(
    halts: Halts,
    environment: str,
    markets: Sequence[Market],
    why: str,
    on_note: Callable[[str], object] = lambda line: None,
) -> list[str]:
    """Latch markets, before anything is asked of the exchange; return which could not be, one line each."""
    unlatched = []
    for market in markets:
        try:
            latched = halts.latch(environment, market, why)
        except StoreError as err:
            unlatched.append(f"{market.symbol}: {err}; a session of it may open again, so end that first")
        else:
            on_note(f"{market.symbol} on {environment} is halted since {latched.at}: {latched.why}")
    return unlatched


def close_all(
    trading: TradingAccount,
    markets: Sequence[Market],
    *,
    within_s: float = WITHIN_S,
    on_note: Callable[[str], object] = lambda line: None,
) -> list[str]:
    """Cancel the orders of markets and close their positions; return what is still open, one line each.

    All are closed side by side. A position is closed by orders that can only reduce, so whoever closes it at the same
    time does no harm. While the exchange refuses this address nothing is asked of it; what is held is closed when that
    has ended.

    Args:
        markets: Which; the interval does not matter.
        within_s: How long a market is tried beyond the time in which an order that was under way may still be taken.
        on_note: Is told what was done, one line each.
    """
    closings = [Closing(trading, market, on_note=on_note, within_s=within_s) for market in markets]
    bans = 0
    while undone := [one for one in closings if not one.is_done]:
        try:
            for one in undone:
                one.work()
        except Banned as err:
            if bans == _BANS:
                for one in undone:
                    one.end(f"{one.market.symbol}: {err}; run this again then")
                break
            bans, left_s = bans + 1, trading.ban.left_s()
            on_note(f"{err}; what is held is closed in {left_s:.0f} s")
            while left_s := trading.ban.left_s():
                time.sleep(min(left_s, AWAKE_S))
        else:
            time.sleep(_BEAT_S)
    return [one.still_open for one in closings if one.still_open]


class Closing:
    """One market that is closed, and watched until nothing that was under way can open it again.

    Args:
        on_note: Is told what was done, one line each.
        within_s: How long it is tried beyond the time in which an order that was under way may still be taken.

    Attributes:
        still_open: What is, at the end; empty for nothing.
    """

    def __init__(
        self,
        trading: TradingAccount,
        market: Market,
        *,
        on_note: Callable[[str], object],
        within_s: float = WITHIN_S,
    ) -> None:
        self.market, self.is_done, self.still_open = market, False, ""
        self._trading, self._on_note = trading, on_note
        self._within_s, self._watch_s = within_s, trading.recv_window_ms / 1e3 + _SPARE_S
        self._began_s = monotonic()
        self._until_s = self._began_s + self._watch_s + within_s
        self._lot: LotSize | None = None
        self._orders, self._is_flat = 0, False

    def work(self) -> None:
        """Do what is next.

        Raises:
            Banned: The exchange refuses this address; it may go on when that has ended.
        """
        try:
            trouble = self._close()
        except Banned:
            self._until_s = max(self._until_s, monotonic() + self._trading.ban.left_s() + self._within_s)
            raise
        except PipelineError as err:
            trouble = str(err)
        if trouble and monotonic() > self._until_s:
            spent_s = monotonic() - self._began_s
            self.end(f"{self.market.symbol}: {trouble} after {spent_s:.0f} s; run this again")

    def _close(self) -> str:
        """Cancel, close, and return what is in the way; empty while it is flat."""
        symbol, spent_s = self.market.symbol, monotonic() - self._began_s
        waits = "" if self._is_flat else self._cancel()
        size = self._trading.position(self.market).size
        if size and self._lot is None:
            self._lot = lot_size(self._trading.instrument(self.market))
        leg = next_leg(size, ZERO, self._lot, ONE) if self._lot else None
        if leg is not None:
            self._is_flat = False
            order = Order(link_id=f"{HALT_ID}{time.time_ns()}-{self._orders}", leg=leg)
            self._orders += 1
            answer = self._trading.place(self.market, order, _PROTECTION)
            return f"holds {size}" + (
                f", and closing it was refused ({answer.why})" if isinstance(answer, Refused) else ""
            )
        if waits:
            return waits
        if spent_s > self._watch_s:
            self._trading.cancel_all(self.market, stops=True)
            self.end(f"{symbol}: holds {size}, less than the exchange trades in" if size else "")
            if not size:
                self._on_note(f"{symbol} is flat and no order waits")
        elif not self._is_flat:
            watch_s = self._watch_s - spent_s
            self._on_note(f"{symbol} is flat after {spent_s:.1f} s; watched for {watch_s:.0f} s more")
        self._is_flat = True
        return ""

    def _cancel(self) -> str:
        """Cancel what waits, and return why that can't be told; what is held is closed all the same."""
        try:
            self._trading.cancel_all(self.market)
        except Banned:
            raise
        except PipelineError as err:
            return str(err)
        return ""

    def end(self, still_open: str) -> None:
        """Be done, or give up and say what is still open; empty for nothing."""
        self.is_done, self.still_open = True, still_open
