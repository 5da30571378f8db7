"""Events of an account that its program does not cause: orders by hand, auto-deleveraging, transfers of money."""

from __future__ import annotations

import copy
from decimal import Decimal

from tasks.sandbox.desk import Desk
from tasks.sandbox.order_record import VenueOrder


class Outside:
    """Controls for events of an account that its program does not cause."""

    def __init__(self, desk: Desk, key: str) -> None:
        self._desk = desk
        self._account = desk.accounts[key]

    def order(self, symbol: str, side: str, qty: str, **more: str) -> VenueOrder:
        """Trade by hand: place a market order without a link id, which is filled at once, in hedge mode too.

        Raises:
            Refusal: It breaks a rule.
        """
        given = {"category": "linear", "symbol": symbol, "side": side, "qty": qty, "orderType": "Market"} | more
        with self._desk.caught_up():
            return copy.deepcopy(self._desk.create(self._account, given, by_hand=True))

    def size(self, symbol: str) -> Decimal:
        """Return the position in a symbol, signed coins."""
        with self._desk.caught_up():
            return self._account.position(symbol).size

    def deleverage(self, symbol: str, qty: str) -> None:
        """Let the exchange close coins of a position by auto-deleveraging (ADL), at the mark price, without a fee."""
        market, account, coins = self._desk.market, self._account, Decimal(qty)
        with self._desk.caught_up():
            position, mark = account.position(symbol), market.marks[symbol]
            assert 0 < coins <= abs(position.size), f"{qty} of {position.size} coins"
            side = "Sell" if position.size > 0 else "Buy"
            order = market.system_order(symbol, coins, side=side, price=mark, create_type="CreateByAdl_PassThrough")
            account.add(order)
            said = market.trade(account, order, mark, coins, Decimal(0), kind="AdlTrade")
            self._desk.tell(account, said + market.after(account, order))

    def set_leverage(self, symbol: str, leverage: str) -> None:
        """Change a symbol's leverage."""
        with self._desk.caught_up():
            position = self._account.position(symbol)
            position.leverage, position.updated_ms = Decimal(leverage), self._desk.market.now_ms
            self._desk.tell(self._account, [self._desk.market.position_said(self._account, position)])

    def set_hedge(self, hedge: bool) -> None:
        """Change the position mode of all symbols, even with open positions."""
        with self._desk.caught_up():
            self._account.hedge = hedge

    def transfer(self, amount: str) -> None:
        """Transfer USDT into the wallet, or out of it if negative."""
        with self._desk.caught_up():
            self._account.wallet += Decimal(amount)
            self._account.transfers += Decimal(amount)
            self._desk.tell(self._account, [("wallet", self._account.wallet_row())])
