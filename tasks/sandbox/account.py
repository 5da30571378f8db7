"""One trading account as the exchange keeps it: money, positions, orders, executions. It books and shows, no more.

All amounts are Decimals: quantities of coins, prices and money in USDT. What has to be rounded (a fee, a share of what
was paid) is rounded to eight decimals as it is booked, so that the books balance exactly:

    wallet = start + transfers + realised - fees - funding, position = sum of the executions' signed quantities

`row` of each is what REST shows of it, in Bybit's words; the stream shows the same, but for a few fields more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from storage.schema import ConfigError
from tasks.sandbox.listing import Fields
from tasks.sandbox.tape import Side

ExecType = Literal["Trade", "Funding", "AdlTrade", "BustTrade"]
Read = Literal["realtime", "history", "executions", "positions"]
"""What may not know yet of an order that the account has."""

ZERO = Decimal(0)
OPEN_STATUSES = ("New", "PartiallyFilled", "Untriggered", "Triggered")
COIN = "USDT"

_CENT = Decimal("1e-8")
_MARGIN_MODES = ("REGULAR_MARGIN", "ISOLATED_MARGIN", "PORTFOLIO_MARGIN")


def money(amount: Decimal) -> Decimal:
    """Return an amount to the eight decimals that are booked."""
    return amount.quantize(_CENT)


def text(value: Decimal) -> str:
    """Return a number as Bybit writes it: no exponent, no zeros at the end."""
    return format(value.normalize(), "f") if value else "0"


def _empty(*names: str) -> Fields:
    return dict.fromkeys(names, "")


@dataclass(frozen=True, kw_only=True)
class AccountSpec:
    """An account that a sandbox opens.

    Attributes:
        key, secret: Of its only API key.
        capital: USDT in its wallet, decimal text.
        may_trade: Whether the key may do more than read.
        may_withdraw: Whether the key may take money out; it is only said, there is no such endpoint.
        margin_mode: As Bybit names it.
        unified_margin_status: 1 classic, 3 to 6 unified.
        hedge: Whether the account starts in hedge mode, in which it may hold a position and is served no order.
        leverage: Of every symbol until it is set.
        taker_fee, maker_fee: Shares of what is traded.
        tells_fees: Whether there is an answer to /v5/account/fee-rate; demo accounts have none.

    Raises:
        ConfigError: No key, no secret, an unknown margin mode, or a number that is none.
    """

    key: str
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


@dataclass(kw_only=True)
class Order:
    """An order, open or over.

    Attributes:
        qty: Coins, > 0.
        price: The worst that it trades at; of a market order too.
        stop_loss: Trigger of the stop that comes with the position it opens; None for none.
        trigger: Of a stop: the last price at which it becomes a market order; None for other orders.
        parent_link_id: Of a stop: the link id of the order that it came with.
        slippage: slippageToleranceType and slippageTolerance as asked for.
        last_price: When it was made.
        filled: Coins traded so far.
        value: USDT paid or received for them.
        unseen: How many more times a read does not know of it.
    """

    order_id: str
    link_id: str
    symbol: str
    side: Side
    order_type: str
    time_in_force: str
    qty: Decimal
    price: Decimal
    created_ms: int
    updated_ms: int
    seq: int
    reduce_only: bool = False
    stop_loss: Decimal | None = None
    trigger: Decimal | None = None
    parent_link_id: str = ""
    slippage: tuple[str, str] = ("UNKNOWN", "0")
    last_price: Decimal = ZERO
    create_type: str = "CreateByUser"
    status: str = "New"
    reject_reason: str = "EC_NoError"
    cancel_type: str = "UNKNOWN"
    filled: Decimal = ZERO
    value: Decimal = ZERO
    fee: Decimal = ZERO
    closed_pnl: Decimal = ZERO
    unseen: dict[Read, int] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether more may still become of it."""
        return self.status in OPEN_STATUSES

    @property
    def leaves(self) -> Decimal:
        """Coins that it may still trade."""
        return self.qty - self.filled if self.is_open else ZERO

    @property
    def sign(self) -> int:
        """1 of a buy, -1 of a sale."""
        return 1 if self.side == "Buy" else -1

    @property
    def rests(self) -> bool:
        """Whether what the book does not give stays in it."""
        return self.order_type == "Limit" and self.time_in_force in ("GTC", "PostOnly")

    def hidden_from(self, read: Read) -> bool:
        """Return whether a read does not know of it yet; asking counts."""
        left = self.unseen.get(read, 0)
        self.unseen[read] = max(left - 1, 0)
        return left > 0

    def row(self) -> Fields:
        """Return what Bybit shows of it."""
        is_stop = self.trigger is not None
        return {
            "orderId": self.order_id,
            "orderLinkId": self.link_id,
            "parentOrderLinkId": self.parent_link_id,
            "symbol": self.symbol,
            "side": self.side,
            "orderType": self.order_type,
            "timeInForce": self.time_in_force,
            "qty": text(self.qty),
            "price": text(self.price),
            "orderStatus": self.status,
            "rejectReason": self.reject_reason,
            "cancelType": self.cancel_type,
            "createType": self.create_type,
            "avgPrice": text(money(self.value / self.filled)) if self.filled else "",
            "leavesQty": text(self.leaves),
            "leavesValue": text(self.leaves * self.price),
            "cumExecQty": text(self.filled),
            "cumExecValue": text(self.value),
            "cumExecFee": text(self.fee),
            "cumFeeDetail": {COIN: text(self.fee)} if self.filled else {},
            "closedPnl": text(self.closed_pnl),
            "reduceOnly": self.reduce_only,
            "closeOnTrigger": is_stop,
            "positionIdx": 0,
            "stopOrderType": "StopLoss" if is_stop else "",
            "triggerPrice": "" if self.trigger is None else text(self.trigger),
            "triggerDirection": (2 if self.side == "Sell" else 1) if is_stop else 0,
            "triggerBy": "LastPrice" if is_stop else "",
            "stopLoss": "" if self.stop_loss is None else text(self.stop_loss),
            "slTriggerBy": "" if self.stop_loss is None else "LastPrice",
            **_empty("takeProfit", "tpTriggerBy"),
            "tpslMode": "Full" if is_stop or self.stop_loss is not None else "",
            "slippageToleranceType": self.slippage[0],
            "slippageTolerance": self.slippage[1],
            "lastPriceOnCreated": text(self.last_price),
            "createdTime": str(self.created_ms),
            "updatedTime": str(self.updated_ms),
            "smpType": "None",
            "smpGroup": 0,
            **_empty("isLeverage", "orderIv", "marketUnit", "placeType", "blockTradeId", "smpOrderId"),
        }


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Something that moved a position, or money for holding one (funding).

    Attributes:
        side: Of the order; of funding, of the position.
        qty: Coins traded, or held when funding fell.
        price: Traded at, or the mark price of funding.
        fee: USDT paid, negative where received.
        fee_rate: Share of qty * price.
        closed: Coins of them that closed a position.
        realised: USDT that closing earned, before fees.
        order: Of a trade: the order as it stands now.
        leaves: Coins that it could still trade then.
    """

    exec_id: str
    symbol: str
    side: Side
    exec_type: ExecType
    qty: Decimal
    price: Decimal
    fee: Decimal
    fee_rate: Decimal
    time_ms: int
    seq: int
    mark: Decimal
    is_maker: bool = False
    closed: Decimal = ZERO
    realised: Decimal = ZERO
    order: Order | None = None
    leaves: Decimal = ZERO

    @property
    def order_id(self) -> str:
        """Of the order; of funding, one that can't be found."""
        return self.order.order_id if self.order else self.exec_id

    @property
    def link_id(self) -> str:
        """Of the order."""
        return self.order.link_id if self.order else ""

    @property
    def moved(self) -> Decimal:
        """Coins that the position grew by; negative where it fell."""
        if self.exec_type == "Funding":
            return ZERO
        return self.qty if self.side == "Buy" else -self.qty

    def row(self) -> Fields:
        """Return what Bybit shows of it."""
        order = self.order
        return {
            "execId": self.exec_id,
            "orderId": self.order_id,
            "orderLinkId": self.link_id,
            "symbol": self.symbol,
            "side": self.side,
            "execType": self.exec_type,
            "execQty": text(self.qty),
            "execPrice": text(self.price),
            "execValue": text(self.qty * self.price),
            "execFee": text(self.fee),
            "feeRate": text(self.fee_rate),
            "execPnl": text(self.realised),
            "closedSize": text(self.closed),
            "leavesQty": text(self.leaves),
            "orderQty": text(order.qty) if order else "0",
            "orderPrice": text(order.price) if order else "0",
            "orderType": order.order_type if order else "UNKNOWN",
            "stopOrderType": "StopLoss" if order and order.trigger is not None else "UNKNOWN",
            "createType": order.create_type if order else "",
            "isMaker": self.is_maker,
            "markPrice": text(self.mark),
            "execTime": str(self.time_ms),
            "seq": self.seq,
            "isLeverage": "0",
            **_empty("feeCurrency", "indexPrice", "underlyingPrice", "markIv", "tradeIv", "blockTradeId"),
        }


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
            **_empty("positionMM", "takeProfit", "liqPrice", "bustPrice", "sessionAvgPrice"),
            **_empty("mmrSysUpdatedTime", "leverageSysUpdatedTime"),
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
        disconnect_s: Window of disconnect-cancel-all by product, seconds, as asked for; nothing acts on it.
    """

    spec: AccountSpec
    wallet: Decimal
    marks: Mapping[str, Decimal]
    transfers: Decimal = ZERO
    hedge: bool = False
    orders: dict[str, Order] = field(default_factory=dict)
    executions: list[Execution] = field(default_factory=list)
    positions: dict[str, Position] = field(default_factory=dict)
    disconnect_s: dict[str, int] = field(default_factory=dict)

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
            for order in self.orders.values()
            if order.is_open and not order.reduce_only
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
            **_empty("accountIMRate", "accountMMRate", "accountLTV"),
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
                    **_empty("availableToWithdraw", "availableToBorrow"),
                    "marginCollateral": True,
                    "collateralSwitch": True,
                }
            ],
        }
