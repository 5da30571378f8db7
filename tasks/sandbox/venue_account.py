"""One trading account of the exchange: wallet, positions, orders, executions. Bookkeeping and output only.

wallet = start + transfers + realised - fees - funding, position = sum of the executions' signed quantities
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal
from zlib import crc32

from storage.bounds import Checked
from storage.schema import ConfigError
from tasks.sandbox.listing import Fields
from tasks.sandbox.order_record import COIN, ZERO, VenueExecution, VenueOrder, empty, money, text
from tasks.sandbox.tape import Side

MAKER_FEE = "0.0002"
"""Share of the traded notional."""


@dataclass(frozen=True, kw_only=True)
class AccountSpec(Checked):
    """An account that a sandbox opens.

    Attributes:
        key: Its only API key; the repr shows neither key nor secret.
        secret: Secret that signs its requests.
        capital: USDT in its wallet, decimal text.
        may_trade: Whether the key may trade; otherwise it may only read.
        may_withdraw: Whether the key reports the right to withdraw; there is no such endpoint.
        margin_mode: Bybit's marginMode.
        unified_margin_status: 1 classic, 3 to 6 unified.
        hedge: Whether the account starts in hedge mode: it may have positions, but accepts only orders by hand.
        leverage: Of every symbol until it is set.
        taker_fee: Share of the traded notional.
        tells_fees: Whether /v5/account/fee-rate answers; it does not for demo accounts.

    Raises:
        ConfigError: Key or secret is missing, or the margin mode is unknown.
    """

    key: str = field(repr=False)
    secret: str = field(repr=False)
    capital: str = "10000"
    may_trade: bool = True
    may_withdraw: bool = False
    margin_mode: Literal["REGULAR_MARGIN", "ISOLATED_MARGIN", "PORTFOLIO_MARGIN"] = "REGULAR_MARGIN"
    unified_margin_status: int = 5
    hedge: bool = False
    leverage: str = "10"
    taker_fee: str = "0.00055"
    tells_fees: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.key or not self.secret:
            raise ConfigError("an account must have a key and a secret, one is empty")

    @property
    def user_id(self) -> int:
        """The exchange's id of the account, derived from its key."""
        return crc32(self.key.encode())


@dataclass(kw_only=True)
class VenuePosition:
    """A position in one symbol.

    Attributes:
        size: Coins, negative for a short.
        value: Entry value, USDT, >= 0.
        realised: Realised profit so far, USDT, before fees.
    """

    symbol: str
    leverage: Decimal
    size: Decimal = ZERO
    value: Decimal = ZERO
    realised: Decimal = ZERO
    stop: VenueOrder | None = None
    created_ms: int = 0
    updated_ms: int = 0
    seq: int = 0

    def closable(self, side: Side) -> Decimal:
        """Return how many coins an order of a side can close."""
        return abs(self.size) if (self.size < 0) == (side == "Buy") else ZERO

    def move(self, side: Side, qty: Decimal, price: Decimal) -> tuple[Decimal, Decimal]:
        """Apply a trade; return the closed coins and the realised profit, USDT."""
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
        """Return the unrealised profit at `mark`, USDT, before fees."""
        return self.size * mark - (self.value if self.size > 0 else -self.value)

    def row(self, mark: Decimal, hedge: bool) -> Fields:
        """Return Bybit's row of the position at a mark price."""
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
class VenueAccount:
    """An account's books.

    Attributes:
        wallet: USDT, without unrealised profit.
        transfers: USDT transferred in since the start; negative if out.
        orders: By order id, oldest first; never removed.
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
    orders: dict[str, VenueOrder] = field(default_factory=dict)
    executions: list[VenueExecution] = field(default_factory=list)
    positions: dict[str, VenuePosition] = field(default_factory=dict)
    _open: list[VenueOrder] = field(default_factory=list, repr=False)

    @property
    def open_orders(self) -> list[VenueOrder]:
        """Open orders, oldest first; read at every trade of the market."""
        self._open = [order for order in self._open if order.is_open]
        return list(self._open)

    @property
    def unrealised(self) -> Decimal:
        """Unrealised profit of all positions at the mark prices, USDT, before fees."""
        return sum((one.unrealised(self.marks[one.symbol]) for one in self.positions.values() if one.size), ZERO)

    @property
    def initial_margin(self) -> Decimal:
        """Initial margin of open positions and open orders, USDT."""
        held = [abs(one.size) * self.marks[one.symbol] / one.leverage for one in self.positions.values() if one.size]
        asked = [
            order.leaves * order.price / self.position(order.symbol).leverage
            for order in self.open_orders
            if not order.reduce_only
        ]
        return money(sum(held + asked, ZERO))

    @property
    def available(self) -> Decimal:
        """Balance available for new orders, USDT."""
        return max(self.wallet + self.unrealised - self.initial_margin, ZERO)

    def position(self, symbol: str) -> VenuePosition:
        """Return the position in a symbol, also if it is flat."""
        return self.positions.setdefault(symbol, VenuePosition(symbol=symbol, leverage=Decimal(self.spec.leverage)))

    def find(self, order_id: str = "", link_id: str = "") -> VenueOrder | None:
        """Return the order of an id, or else the first of a link id."""
        if order_id:
            return self.orders.get(order_id)
        return next((order for order in self.orders.values() if link_id and order.link_id == link_id), None)

    def add(self, order: VenueOrder) -> None:
        """Add an order."""
        self.orders[order.order_id] = order
        self._open.append(order)

    def book(self, execution: VenueExecution) -> None:
        """Book an execution: realised profit and fee change the wallet."""
        self.wallet += execution.realised - execution.fee
        self.executions.append(execution)

    def wallet_row(self) -> Fields:
        """Return Bybit's row of the wallet."""
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
