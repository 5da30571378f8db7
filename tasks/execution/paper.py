"""The paper broker: fills a decision as the exchange would have, and books it through the backtest's own accounting.

An order is decided at a bar's close and filled at the next bar's first price, worse by the recipe's slippage, on the
tick, and never better than what the book offered then. Sizes are whole steps of at least the minimum. So a replay of
the same candles with the same steps, capital and costs has the same fills; where the book was worse than the slippage,
the price differs, and `Quote` says why.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from storage.schema import FloatArray
from tasks.execution.accounting import price_of, trade_open


class Ledger(NamedTuple):
    """What a session owns: an account of its own, never a wallet's balance.

    Attributes:
        cash: USDT.
        quantity: Signed coins.
        weight: -1, 0 or 1: the sign of `quantity`.
        bars_held: Bars for which `weight` has been held, the open's own bar included.
    """

    cash: float
    quantity: float = 0.0
    weight: int = 0
    bars_held: int = 0

    def equity(self, price: float) -> float:
        """Return what it is worth at `price`, USDT."""
        return self.cash + self.quantity * price


class Quote(NamedTuple):
    """What a market order meets at a bar's open.

    Attributes:
        first: The bar's first price, USDT.
        bid: Highest price at which anybody buys; infinite where no book bounds the fill.
        ask: Lowest price at which anybody sells; 0 where no book bounds the fill.
    """

    first: float
    bid: float = math.inf
    ask: float = 0.0


class Fill(NamedTuple):
    """One order, filled.

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
    """What a bar's open did.

    Attributes:
        ledger: After it.
        fill: None where nothing traded.
        funding: USDT paid; negative where received.
    """

    ledger: Ledger
    fill: Fill | None
    funding: float


def open_bar(ledger: Ledger, wanted: int, quote: Quote, funding_rate: float, rules: FloatArray) -> Opened:
    """Let one bar open: pay the funding that is due, then trade to the wanted weight.

    Args:
        ledger: Before the open.
        wanted: -1, 0 or 1; the weight that is held trades nothing.
        quote: What an order meets.
        funding_rate: Sum of the rates due since the open before, 0 for none.
        rules: (RULES,) from `accounting.account_rules`.
    """
    cash, coins, traded, fee, slipped, paid = trade_open(
        ledger.cash, ledger.quantity, ledger.weight, wanted, quote.first, funding_rate, rules, quote.bid, quote.ask
    )
    weight = (coins > 0) - (coins < 0)
    after = Ledger(cash, coins, weight, ledger.bars_held + 1 if weight == ledger.weight else 1)
    if traded <= 0.0:
        return Opened(after, None, paid)
    change = coins - ledger.quantity
    price = price_of(change, quote.first, rules[3], rules[5], quote.bid, quote.ask)
    return Opened(after, Fill(change, price, fee, slipped), paid)
