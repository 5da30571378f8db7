"""One trading account as the exchange keeps it: money, positions, orders, executions. It books and shows, no more.

wallet = start + transfers + realised - fees - funding, position = sum of the executions' signed quantities
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from zlib import crc32

from storage.schema import ConfigError
from tasks.sandbox.listing import Fields
from tasks.sandbox.order_record import COIN, ZERO, Execution, Order, empty, money, text
from tasks.sandbox.tape import Side

_MARGIN_MODES = ("REGULAR_MARGIN", "ISOLATED_MARGIN", "PORTFOLIO_MARGIN")


@dataclass(frozen=True, kw_only=True)
class AccountSpec:
    """An account that a sandbox opens.

    Attributes:
        key: Of its only API key; neither part is in a repr.
        secret: What requests are signed with.
        capital: USDT in its wallet, decimal text.
        may_trade: Whether the key may do more than read.
        may_withdraw: Whether the key may take money out; it is only said, there is no such endpoint.
        margin_mode: As Bybit names it.
        unified_margin_status: 1 classic, 3 to 6 unified.
        hedge: Whether the account starts in hedge mode: it may hold a position, and takes orders by hand alone.
        leverage: Of every symbol until it is set.
        taker_fee, maker_fee: Shares of what is traded.
        tells_fees: Whether there is an answer to /v5/account/fee-rate; demo accounts have none.

    Raises:
        ConfigError: No key, no secret, an unknown margin mode, or a number that is none or too small.
    """

    key: str = field(repr=False)
    secret: str = field(repr=False)
    capital: str = "10000"
    may_trade: bool = True
    may_withdraw: bool = False
    margin_mode: str = "REGULAR_MARGIN"
    unified_margin_status: int = 5
    hedge: bool = False
    leverage: str = "10"
    taker_fee: str = "0.00055"
    maker_fee: str = "0.0002"
    tells_fees: bool = True

    def __post_init__(self) -> None:
        if not self.key or not self.secret:
            raise ConfigError("an account must have a key and a secret, one is empty")
        if self.margin_mode not in _MARGIN_MODES:
            raise ConfigError(f"margin_mode must be one of {', '.join(_MARGIN_MODES)}, was {self.margin_mode!r}")
        for name in ("capital", "leverage", "taker_fee", "maker_fee"):
            value = getattr(self, name)
            if not value.replace(".", "", 1).isdecimal():
                raise ConfigError(f"{name} must be a decimal number in text, was {value!r}")
        if Decimal(self.leverage) < 1:
            raise ConfigError(f"leverage must be >= 1, was {self.leverage!r}")

    @property
    def user_id(self) -> int:
        """What the exchange calls the account: another one for each key."""
        return crc32(self.key.encode())


@dataclass(kw_only=True)
class Position:
    """What is held of one symbol.

    Attributes:
        size: Coins, negative where short.
        value: USDT that opening them cost, or brought, >= 0.
        realised: USDT that closing has earned so far, before fees.
        stop: The order that closes it at a loss.
    """

    symbol: str
    leverage: Decimal
    size: Decimal = ZERO
    value: Decimal = ZERO
    realised: Decimal = ZERO
    stop: Order | None = None
    created_ms: int = 0
    updated_ms: int = 0
    seq: int = 0

    def closable(self, side: Side) -> Decimal:
        """Return how many coins an order of a side can close."""
        return abs(self.size) if (self.size < 0) == (side == "Buy") else ZERO

    def move(self, side: Side, qty: Decimal, price: Decimal) -> tuple[Decimal, Decimal]:
        """Trade, and return coins closed and USDT realised."""
        closed = min(qty, self.closable(side))
        freed = ZERO
        if closed:
            freed = self.value if closed == abs(self.size) else money(self.value * closed / abs(self.size))
        earned = closed * price - freed if side == "Sell" else freed - closed * price
        self.value += (qty - closed) * price - freed
        self.size += qty if side == "Buy" else -qty
        self.realised += earned
        return closed, earned

    def unrealised(self, mark: Decimal) -> Decimal:
        """Return USDT that closing at `mark` would earn, before fees."""
        return self.size * mark - (self.value if self.size > 0 else -self.value)

    def row(self, mark: Decimal, hedge: bool) -> Fields:
        """Return what Bybit shows of it at a mark price."""
        side = "" if not self.size else "Buy" if self.size > 0 else "Sell"
        return {
            "symbol": self.symbol,
            "side": side,
            "size": text(abs(self.size)),
            "avgPrice": text(money(self.value / abs(self.size))) if self.size else "0",
            "positionValue": text(self.value),
            "positionIdx": (2 if side == "Sell" else 1) if hedge else 0,
            "leverage": text(self.leverage),
            "markPrice": text(mark),
            "unrealisedPnl": text(self.unrealised(mark)) if self.size else "",
            "curRealisedPnl": text(self.realised),
            "cumRealisedPnl": text(self.realised),
            "positionIM": text(money(abs(self.size) * mark / self.leverage)) if self.size else "",
            "positionBalance": "0",
            "positionStatus": "Normal",
            "stopLoss": text(self.stop.trigger) if self.stop and self.stop.trigger else "",
            "trailingStop": "0",
            "tpslMode": "Full",
            "tradeMode": 0,
            "autoAddMargin": 0,
            "adlRankIndicator": 0,
            "isReduceOnly": False,
            "riskId": 1,
            "riskLimitValue": "2000000",
            "createdTime": str(self.created_ms),
            "updatedTime": str(self.updated_ms),
            "seq": self.seq,
            **empty("positionMM", "takeProfit", "liqPrice", "bustPrice", "sessionAvgPrice"),
            "leverageSysUpdatedTime": "",
        }


@dataclass(kw_only=True)
class Account:
    """An account's books.

    Attributes:
        wallet: USDT, without what open positions have earned.
        transfers: USDT that were moved in since the start, out if negative.
        orders: By order id, oldest first; none is ever forgotten.
        executions: Oldest first.
        positions: By symbol.
        marks: Mark prices by symbol, as they are now.
        hedge: Whether it is in hedge mode now.
    """

    spec: AccountSpec
    wallet: Decimal
    marks: Mapping[str, Decimal]
    transfers: Decimal = ZERO
    hedge: bool = False
    orders: dict[str, Order] = field(default_factory=dict)
    executions: list[Execution] = field(default_factory=list)
    positions: dict[str, Position] = field(default_factory=dict)
    _open: list[Order] = field(default_factory=list, repr=False)

    @property
    def open_orders(self) -> list[Order]:
        """Orders of which more may still become, oldest first; asked for at every trade of the market."""
        self._open = [order for order in self._open if order.is_open]
        return list(self._open)

    @property
    def unrealised(self) -> Decimal:
        """USDT that closing everything at the mark prices would earn, before fees."""
        return sum((one.unrealised(self.marks[one.symbol]) for one in self.positions.values() if one.size), ZERO)

    @property
    def initial_margin(self) -> Decimal:
        """USDT that open positions and open orders hold."""
        held = [abs(one.size) * self.marks[one.symbol] / one.leverage for one in self.positions.values() if one.size]
        asked = [
            order.leaves * order.price / self.position(order.symbol).leverage
            for order in self.open_orders
            if not order.reduce_only
        ]
        return money(sum(held + asked, ZERO))

    @property
    def available(self) -> Decimal:
        """USDT that new orders may cost."""
        return max(self.wallet + self.unrealised - self.initial_margin, ZERO)

    def position(self, symbol: str) -> Position:
        """Return what is held of a symbol, nothing included."""
        return self.positions.setdefault(symbol, Position(symbol=symbol, leverage=Decimal(self.spec.leverage)))

    def find(self, order_id: str = "", link_id: str = "") -> Order | None:
        """Return the order of an id, or else the first of a link id."""
        if order_id:
            return self.orders.get(order_id)
        return next((order for order in self.orders.values() if link_id and order.link_id == link_id), None)

    def add(self, order: Order) -> None:
        """Take an order in."""
        self.orders[order.order_id] = order
        self._open.append(order)

    def book(self, execution: Execution) -> None:
        """Take an execution's money into the wallet."""
        self.wallet += execution.realised - execution.fee
        self.executions.append(execution)

    def wallet_row(self) -> Fields:
        """Return what Bybit shows of the wallet."""
        unrealised, margin = self.unrealised, self.initial_margin
        equity = self.wallet + unrealised
        return {
            "accountType": "UNIFIED",
            "totalEquity": text(equity),
            "totalWalletBalance": text(self.wallet),
            "totalMarginBalance": text(equity),
            "totalAvailableBalance": text(self.available),
            "totalPerpUPL": text(unrealised),
            "totalInitialMargin": text(margin),
            "totalMaintenanceMargin": "0",
            **empty("accountIMRate", "accountMMRate", "accountLTV"),
            "coin": [
                {
                    "coin": COIN,
                    "equity": text(equity),
                    "usdValue": text(equity),
                    "walletBalance": text(self.wallet),
                    "unrealisedPnl": text(unrealised),
                    "cumRealisedPnl": text(sum((one.realised - one.fee for one in self.executions), ZERO)),
                    "totalPositionIM": text(margin),
                    **dict.fromkeys(("totalOrderIM", "locked", "bonus", "accruedInterest", "borrowAmount"), "0"),
                    **empty("availableToWithdraw", "availableToBorrow"),
                    "marginCollateral": True,
                    "collateralSwitch": True,
                }
            ],
        }
