"""Records of orders and executions; `row` returns the REST row of one.

All amounts are Decimals: quantities in coins, prices and money in USDT. Amounts are rounded to eight decimals when they
are booked, so that books balance exactly. The stream's rows have a few more fields.
"""

from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

from tasks.sandbox.listing import Fields
from tasks.sandbox.tape import Side

ExecType = Literal["Trade", "Funding", "AdlTrade"]
Read = Literal["realtime", "history", "executions", "positions"]
"""Reads that a fault can keep from showing an order for a while."""

ZERO = Decimal(0)
OPEN_STATUSES = ("New", "PartiallyFilled", "Untriggered", "Triggered")
COIN = "USDT"

_CENT = Decimal("1e-8")


def money(amount: Decimal) -> Decimal:
    """Return an amount to the eight decimals that are booked."""
    return amount.quantize(_CENT, ROUND_HALF_EVEN)


def text(value: Decimal) -> str:
    """Return a number as Bybit writes it: no exponent, no zeros at the end."""
    return format(value.normalize(), "f") if value else "0"


def empty(*names: str) -> Fields:
    """Return fields that Bybit has and the sandbox does not fill."""
    return dict.fromkeys(names, "")


@dataclass(kw_only=True)
class VenueOrder:
    """An order, open or over.

    Attributes:
        qty: Coins, > 0.
        price: Worst price at which it may trade, also for a market order.
        stop_loss: Trigger of the stop-loss that is attached to the position it opens; None for none.
        trigger: Of a stop: the last price at which it becomes a market order; None for other orders.
        trigger_by: Price that triggers the stop, LastPrice or MarkPrice; both are the same here.
        parent_link_id: Of a stop: the link id of the order to which it was attached.
        slippage: slippageToleranceType and slippageTolerance of the request.
        last_price: Last price of the market when the order was created.
        filled: Coins traded so far.
        value: USDT paid or received for them.
        unseen: Number of further reads that do not show it.
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
    trigger_by: str = "LastPrice"
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
        """Whether it is open."""
        return self.status in OPEN_STATUSES

    @property
    def leaves(self) -> Decimal:
        """Coins that it may still trade."""
        return self.qty - self.filled if self.is_open else ZERO

    @property
    def sign(self) -> int:
        """1 for a buy, -1 for a sale."""
        return 1 if self.side == "Buy" else -1

    @property
    def rests(self) -> bool:
        """Whether its unfilled rest stays in the book."""
        return self.order_type == "Limit" and self.time_in_force == "GTC"

    def hidden_from(self, read: Read) -> bool:
        """Return whether a read must not show it yet; each call counts as a read."""
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
            "triggerBy": self.trigger_by if is_stop else "",
            "stopLoss": "" if self.stop_loss is None else text(self.stop_loss),
            "slTriggerBy": "" if self.stop_loss is None else self.trigger_by,
            **empty("takeProfit", "tpTriggerBy", "tpLimitPrice", "slLimitPrice"),
            "tpslMode": "Full" if is_stop or self.stop_loss is not None else "",
            "slippageToleranceType": self.slippage[0],
            "slippageTolerance": self.slippage[1],
            "lastPriceOnCreated": text(self.last_price),
            "createdTime": str(self.created_ms),
            "updatedTime": str(self.updated_ms),
            "smpType": "None",
            "smpGroup": 0,
            **empty("isLeverage", "orderIv", "marketUnit", "placeType", "blockTradeId", "smpOrderId"),
        }


@dataclass(frozen=True, kw_only=True)
class VenueExecution:
    """An execution of an order, or a funding payment.

    Attributes:
        side: Of the order; for funding, of the position.
        qty: Coins traded; for funding, coins held.
        price: Execution price; for funding, the mark price.
        fee: USDT paid, negative if received.
        fee_rate: Share of qty * price.
        closed: Coins of `qty` that closed a position.
        realised: Realised profit, USDT, before fees.
        order: The order in its present state; for funding none.
        leaves: Coins of the order that were still unfilled after the execution.
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
    order: VenueOrder | None = None
    leaves: Decimal = ZERO

    @property
    def order_id(self) -> str:
        """Id of the order; for funding, an id that no order has."""
        return self.order.order_id if self.order else self.exec_id

    @property
    def link_id(self) -> str:
        """Of the order."""
        return self.order.link_id if self.order else ""

    @property
    def moved(self) -> Decimal:
        """Signed change of the position, coins."""
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
            **empty("feeCurrency", "indexPrice", "underlyingPrice", "markIv", "tradeIv", "blockTradeId", "extraFees"),
        }
