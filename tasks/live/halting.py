"""The way out that needs no session: latch, cancel what waits, close what is held, and say what is still open."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from time import monotonic

from storage.schema import Banned, Market, PipelineError
from tasks.exchange.trading import Protection, TradingAccount
from tasks.execution.orders import ZERO, Order, Refused, next_leg
from tasks.live.booking import lot_size
from tasks.live.halts import Halts

ONE = Decimal(1)

_BEAT_S = 0.25
_SPARE_S = 1.0


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

    Each market is latched before anything is asked of the exchange. A position is closed by orders that can only
    reduce, so whoever closes it at the same time does no harm.

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
    return [line for market in markets if (line := _close(trading, market, within_s, protection, on_note))]


def _close(
    trading: TradingAccount,
    market: Market,
    within_s: float,
    protection: Protection,
    on_note: Callable[[str], object],
) -> str:
    """Close a market, and watch it until nothing that was under way can open it again."""
    began_s, number, trouble = monotonic(), 0, ""
    watch_s = trading.recv_window_ms / 1e3 + _SPARE_S  # an order that was sent before the latch is not taken later
    is_told = False
    while True:
        spent_s = monotonic() - began_s
        try:
            trading.cancel_all(market)
            size = trading.position(market).size
            if not size and spent_s > watch_s:
                trading.cancel_all(market, stops=True)
                on_note(f"{market.symbol} is flat and no order waits")
                return ""
            if not size:
                trouble = ""
                if not is_told:
                    on_note(f"{market.symbol} is flat; watched for {watch_s - spent_s:.0f} s more")
                is_told = True
            else:
                leg = next_leg(size, ZERO, lot_size(trading.instrument(market)), ONE)
                if leg is None:
                    return f"{market.symbol}: holds {size}, less than the exchange trades in; it is latched"
                order = Order(link_id=f"halt-{time.time_ns()}-{number}", leg=leg)
                number += 1
                answer = trading.place(market, order, protection)
                trouble = f"holds {size}"
                if isinstance(answer, Refused):
                    trouble = f"holds {size}, and closing it was refused ({answer.why})"
        except Banned as err:  # asking on makes it longer
            return f"{market.symbol}: {err}; it is latched, run this again then"
        except PipelineError as err:
            trouble = str(err)
        if trouble and spent_s > watch_s + within_s:
            return f"{market.symbol}: {trouble} after {spent_s:.0f} s; it is latched, run this again"
        time.sleep(_BEAT_S)
