"""Events of an account's private stream: orders and executions. Positions are the sum of the executions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from storage.schema import one_line
from tasks.exchange.wire_values import BadMessage, moment, name_in, number, price, required, unsigned
from tasks.execution.orders import Execution, Reported

_FILLS = frozenset({"Filled", "PartiallyFilled", "PartiallyFilledCanceled", "Cancelled"})
"""Statuses of an order that mean nothing without how much of it was filled."""

PRIVATE_TOPICS = ("order", "execution")


class AccountReconnected(NamedTuple):
    """A private connection was made; messages since the end of the previous one are lost.

    Attributes:
        generation: Counts the connections, from 1.
    """

    generation: int
    received_ns: int


class OrderNews(NamedTuple):
    """A report on an order.

    Attributes:
        link_id: The id that its sender (we or somebody else) chose; empty for none.
        parent: For a stop that was attached to an order, that order's link id; else empty.
        order_id: The exchange's id.
        is_stop: Whether it is the stop-loss of a whole position, as attached to an order that opens one.
    """

    symbol: str
    link_id: str
    parent: str
    order_id: str
    news: Reported
    received_ns: int
    is_stop: bool = False


class ExecutionNews(NamedTuple):
    """One booking of the account: a fill, a funding payment or a liquidation.

    Attributes:
        link_id: Link id of the order; empty if it has none.
        order_id: The exchange's id of the order.
        kind: Bybit's execType: Trade, Funding, AdlTrade, BustTrade ...
        side: Buy or Sell; empty where the exchange does not say.
        fill: Quantity, price and fee; for funding only the fee counts.
        time_ms: Time of the booking, UTC milliseconds.
        is_stop: Whether a position's stop-loss caused it.
        fee_coin: Coin in which the fee was paid.
    """

    symbol: str
    link_id: str
    order_id: str
    kind: str
    side: str
    fill: Execution
    time_ms: int
    received_ns: int
    is_stop: bool = False
    fee_coin: str = "USDT"

    @property
    def moves(self) -> bool:
        """Whether it changes the position; funding changes only cash."""
        return self.kind != "Funding" and self.fill.quantity > 0


PrivateEvent = AccountReconnected | OrderNews | ExecutionNews


def decode_private(message: Mapping[str, Any], received_ns: int) -> list[PrivateEvent]:
    """Return the events of a private message in their order; only those of category linear.

    Raises:
        BadMessage: The topic was not subscribed, or a field is missing or not a number.
    """
    topic = str(message.get("topic")).partition(".")[0]
    if topic not in PRIVATE_TOPICS:
        raise BadMessage(f"topic {topic[:80]} was not subscribed")
    read = read_order if topic == "order" else read_execution
    try:
        return [read(row, received_ns) for row in message["data"] if row.get("category", "linear") == "linear"]
    except (KeyError, TypeError, AttributeError) as err:
        raise BadMessage(f"{topic}: {type(err).__name__} {err}") from err


def read_order(row: Mapping[str, Any], received_ns: int) -> OrderNews:
    """Return the order report of a row.

    Raises:
        BadMessage: A number is malformed, or the status says that something was filled and no field how much.
        KeyError: A field is missing.
    """
    order_id, told = name_in(row, "orderId"), str(row["orderStatus"])
    if told in _FILLS:
        required(row, "cumExecQty")
    news = Reported(
        order_id=order_id,
        told=told,
        executed=unsigned(row, "cumExecQty"),
        updated_ms=moment(row, "updatedTime"),
        why=one_line(row.get("rejectReason") or "", 80),
    )
    link_id, parent = name_in(row, "orderLinkId"), name_in(row, "parentOrderLinkId")
    is_stop = row.get("stopOrderType") == "StopLoss" and not link_id
    return OrderNews(str(row["symbol"]), link_id, parent, order_id, news, received_ns, is_stop)


def read_execution(row: Mapping[str, Any], received_ns: int) -> ExecutionNews:
    """Return the execution of a row; of what moves no coins, as funding, only the fee counts.

    A trade has a side. What else moves coins (Delivery, BustTrade ...) is returned without one too: that it happened
    must not be lost.

    Raises:
        BadMessage: A number is malformed, a trade has no side or quantity, or the fee is more than what was traded.
        KeyError: A field is missing.
    """
    kind = name_in(row, "execType") or "Trade"
    side = str(row.get("side")) if row.get("side") in ("Buy", "Sell") else ""
    quantity = (unsigned if kind == "Funding" else required)(row, "execQty")
    is_moved = kind != "Funding" and (quantity != 0 or kind == "Trade")
    if is_moved:
        price(row.get("execPrice"))  # which is kept as decimal
    fill = Execution(name_in(row, "execId"), quantity, unsigned(row, "execPrice"), number(row, "execFee"))
    link_id, order_id = name_in(row, "orderLinkId"), name_in(row, "orderId")
    time_ms = moment(row, "execTime")
    is_stop, fee_coin = row.get("stopOrderType") == "StopLoss", str(row.get("feeCurrency") or "USDT")[:20]
    if not fill.exec_id or (kind == "Trade" and not side) or (is_moved and quantity <= 0):
        told = str(row.get("side") or "")[:40]
        raise BadMessage(f"an execution must be of an id, a side and a quantity > 0, was {told!r} of {quantity}")
    if fee_coin == "USDT" and (worth := quantity * fill.price) and abs(fill.fee) > worth:
        raise BadMessage(f"a fee must be less than what was traded, was {fill.fee} for {quantity} at {fill.price}")
    return ExecutionNews(
        str(row["symbol"]), link_id, order_id, kind, side, fill, time_ms, received_ns, is_stop, fee_coin
    )
