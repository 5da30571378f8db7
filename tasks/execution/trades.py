"""Round trips of a backtest, from flat to flat or from flip to flip, each leg with its costs.

They are derived from the quantities held, independently of the booking: their sum must equal the change of equity,
which checks both.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from storage.schema import FloatArray, IntArray
from tasks.execution.accounting import Costs, price_of
from tasks.execution.bars import Bars

EXITS = ("signal", "gap", "end", "ruin")
"""Why a trade ended: by decision; at the first open after a gap; at the last close; because equity was 0 or less."""
SIGNAL, GAP, END, RUIN = range(len(EXITS))


@dataclass(frozen=True, kw_only=True, eq=False)
class Trades:
    """N closed trades as columns, oldest first. Money in USDT.

    Attributes:
        entry_bar: (N,) bar at whose open it was entered.
        exit_bar: (N,) bar of the exit: at its open, or at its close where `at_close`.
        at_close: (N,) whether the exit was at the bar's close (end, ruin).
        side: (N,) 1 long, -1 short.
        quantity: (N,) coins, > 0.
        entry_price, exit_price: (N,) as filled, slippage included.
        gross: (N,) profit from the price move alone, before slippage, fees and funding.
        entry_fee, exit_fee, entry_slippage, exit_slippage: (N,) each leg's costs, >= 0.
        funding: (N,) paid; negative where received.
        exit: (N,) index into `EXITS`.
    """

    entry_bar: IntArray
    exit_bar: IntArray
    at_close: NDArray[np.bool_]
    side: IntArray
    quantity: FloatArray
    entry_price: FloatArray
    exit_price: FloatArray
    gross: FloatArray
    entry_fee: FloatArray
    exit_fee: FloatArray
    entry_slippage: FloatArray
    exit_slippage: FloatArray
    funding: FloatArray
    exit: IntArray

    def __len__(self) -> int:
        return len(self.entry_bar)

    @property
    def fees(self) -> FloatArray:
        """(N,) commission of both legs."""
        return self.entry_fee + self.exit_fee

    @property
    def slippage(self) -> FloatArray:
        """(N,) slippage of both legs."""
        return self.entry_slippage + self.exit_slippage

    @property
    def net(self) -> FloatArray:
        """(N,) profit of the trade after all costs."""
        return self.gross - self.fees - self.slippage - self.funding

    @property
    def entry_notional(self) -> FloatArray:
        """(N,) coins times entry price."""
        return self.quantity * self.entry_price

    @property
    def bars(self) -> IntArray:
        """(N,) bars held."""
        return self.exit_bar - self.entry_bar + self.at_close

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Return every column by name, net last, for a table or a file."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "net": self.net}


def list_trades(
    bars: Bars,
    quantity: FloatArray,
    funding: FloatArray,
    costs: Costs,
    contiguous: NDArray[np.bool_],
    ruined_at: int | None,
    tick: float = 0.0,
) -> Trades:
    """Return the trades that led to the quantities held.

    Args:
        bars: T bars.
        quantity: (T,) signed coins held to each bar's close.
        funding: (T,) USDT paid at each bar's open.
        contiguous: (T,) whether a decision of the bar before could be filled.
        ruined_at: Bar in which equity fell to 0 or less; None if it never did.
        tick: Fill prices are multiples of it, USDT; 0: not rounded.
    """
    last = len(quantity) - 1 if ruined_at is None else ruined_at
    held = quantity[: last + 1]
    before = np.concatenate([[0.0], held[:-1]])
    entry_bar = np.flatnonzero((held != before) & (held != 0.0))
    exit_bar = np.flatnonzero((held != before) & (before != 0.0))
    reason = np.where(contiguous[exit_bar], SIGNAL, GAP)
    if held[last] != 0.0:
        exit_bar, reason = np.append(exit_bar, last), np.append(reason, END)
    at_close = np.arange(len(exit_bar)) >= len(exit_bar) - int(held[last] != 0.0)
    if ruined_at is not None:
        reason[-1] = RUIN

    coins = np.abs(held[entry_bar])
    side = np.sign(held[entry_bar]).astype(np.int64)
    entry_open = bars.open[entry_bar]
    exit_mark = np.where(at_close, bars.close[exit_bar], bars.open[exit_bar])
    entry_price = _filled(side, entry_open, costs.slippage, tick)
    exit_price = _filled(-side, exit_mark, costs.slippage, tick)
    funded = np.concatenate([[0.0], np.cumsum(funding)])  # paid before each bar
    return Trades(
        entry_bar=entry_bar,
        exit_bar=exit_bar,
        at_close=at_close,
        side=side,
        quantity=coins,
        entry_price=entry_price,
        exit_price=exit_price,
        gross=side * coins * (exit_mark - entry_open),
        entry_fee=costs.commission * coins * entry_price,
        exit_fee=costs.commission * coins * exit_price,
        entry_slippage=coins * np.abs(entry_price - entry_open),
        exit_slippage=coins * np.abs(exit_price - exit_mark),
        funding=funded[exit_bar + 1] - funded[entry_bar + 1],  # funding at the entry's open is due before the entry
        exit=reason,
    )


def _filled(side: IntArray, price: FloatArray, slippage: float, tick: float) -> FloatArray:
    """Return (N,) the fill prices of that side, slippage and tick included, as in the accounting."""
    fills = zip(side.tolist(), price.tolist(), strict=True)
    return np.array([price_of(float(one), at, slippage, tick, np.inf, 0.0) for one, at in fills], np.float64)
