"""The paper broker: fills a decision as the exchange would have, and books it through the backtest's accounting.

An order is decided at a bar's close and filled at the next bar's first price, worsened by the recipe's slippage,
rounded to the tick, and never better than the best bid or ask at that time. Sizes are whole steps of at least the
minimum. So a replay of the same candles with the same steps, capital and costs has the same fills. Only where the order
book was worse than the slippage does the price differ; `Quote` records the bid and ask.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from storage.schema import FloatArray
from tasks.execution.accounting import SLIPPAGE, TICK, price_of, trade_open


class Ledger(NamedTuple):
    """Cash and position of a session, kept separately from the wallet's balance.

    Attributes:
        cash: USDT.
        quantity: Signed coins.
        side: Side, -1, 0 or 1: the sign of `quantity`.
        bars_held: Bars for which `side` has been held, the bar of its fill included.
    """

    cash: float
    quantity: float = 0.0
    side: int = 0
    bars_held: int = 0

    def equity(self, price: float) -> float:
        """Return cash plus the position's value at `price`, USDT."""
        return self.cash + self.quantity * price


class Quote(NamedTuple):
    """Prices at a bar's open that determine the fill of a market order.

    Attributes:
        first: The bar's first price, USDT.
        bid: Best bid; infinite where no order book bounds the fill.
        ask: Best ask; 0 where no order book bounds the fill.
    """

    first: float
    bid: float = math.inf
    ask: float = 0.0


class Fill(NamedTuple):
    """The fill of one order.

    Attributes:
        change: Signed coins traded.
        price: As filled, USDT, slippage included.
        fee: USDT.
        slippage: USDT, against the bar's first price.
    """

    change: float
    price: float
    fee: float
    slippage: float

    @property
    def side(self) -> str:
        """Buy or Sell."""
        return "Buy" if self.change > 0 else "Sell"


class Opened(NamedTuple):
    """Result of booking a bar's open.

    Attributes:
        fill: None if nothing was traded.
        funding: USDT paid; negative if received.
    """

    ledger: Ledger
    fill: Fill | None
    funding: float

    @property
    def entry_costs(self) -> float:
        """Fee and slippage of what the fill opened, USDT: all of it from flat, of a flip its share of the coins."""
        if self.fill is None or self.fill.change * self.ledger.quantity <= 0.0:
            return 0.0
        share = min(self.ledger.quantity / self.fill.change, 1.0)
        return share * (self.fill.fee + self.fill.slippage)


def open_bar(ledger: Ledger, wanted: int, quote: Quote, funding_rate: float, rules: FloatArray) -> Opened:
    """Book one bar's open: pay the funding that is due, then trade to the side that was decided.

    Nothing is traded if `wanted`, -1, 0 or 1, is held already. `funding_rate` is the sum of the rates due since the
    open before, 0 for none; the rules are from `accounting.account_rules`.
    """
    cash, coins, traded, fee, slipped, paid = trade_open(
        ledger.cash, ledger.quantity, ledger.side, wanted, quote.first, funding_rate, rules, quote.bid, quote.ask
    )
    side = (coins > 0) - (coins < 0)
    after = Ledger(cash, coins, side, ledger.bars_held + 1 if side == ledger.side else 1)
    if traded <= 0.0:
        return Opened(after, None, paid)
    change = coins - ledger.quantity
    price = price_of(change, quote.first, rules[SLIPPAGE], rules[TICK], quote.bid, quote.ask)
    return Opened(after, Fill(change, price, fee, slipped), paid)


def watch(ledger: Ledger, wanted: int, quote: Quote, funding_rate: float, rules: FloatArray) -> Opened:
    """Trade nothing and note what would be held: the broker of a session that only gives signals."""
    held = ledger.bars_held + 1 if wanted == ledger.side else 1
    return Opened(ledger._replace(side=wanted, bars_held=held), None, 0.0)


Broker = Callable[[Ledger, int, Quote, float, FloatArray], Opened]
"""Books one bar's open, as `open_bar` does."""

BROKERS: dict[str, Broker] = {"signal": watch, "paper": open_bar}
"""By the session's mode; the other modes send orders."""
