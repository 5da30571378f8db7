"""Events of an account's private stream: orders and executions. Positions are the sum of the executions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from storage.schema import one_line
from tasks.exchange.stream_events import UnknownTopic
from tasks.exchange.wire_values import BadMessage, moment, number, price, required, unsigned
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
        symbol: Of its market.
        link_id: The id that its sender (we or somebody else) chose; empty for none.
        parent: For a stop that was attached to an order, that order's link id; else empty.
        order_id: The exchange's id.
        news: Its reported state.
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
        symbol: Of its market.
        link_id: Link id of the order; empty if it has none.
        order_id: The exchange's id of the order.
        kind: Bybit's execType: Trade, Funding, AdlTrade, BustTrade ...
        side: Buy or Sell.
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


PrivateEvent = AccountReconnected | OrderNews | ExecutionNews


class PrivateDecoder:
    """Reads the messages of one private connection."""

    def decode(self, message: Mapping[str, Any], received_ns: int) -> list[PrivateEvent]:
        """Return the events of a message in their order; only those of category linear.

        Raises:
            UnknownTopic: The topic was not subscribed.
            BadMessage: A field is missing or not a number.
        """
        topic = str(message.get("topic")).partition(".")[0]
        if topic not in PRIVATE_TOPICS:
            raise UnknownTopic(topic[:80])
        try:
            rows = [row for row in message["data"] if row.get("category", "linear") == "linear"]
            read = _READERS[topic]
            return [read(row, received_ns) for row in rows]
        except (KeyError, TypeError, AttributeError) as err:
            raise BadMessage(f"{topic}: {type(err).__name__} {err}") from err


def read_order(row: Mapping[str, Any], received_ns: int) -> OrderNews:
    """Return the order report of a row.

    Raises:
        BadMessage: A number is malformed, or the status says that something was filled and no field how much.
        KeyError: A field is missing.
    """
    order_id, told = str(row.get("orderId") or ""), str(row["orderStatus"])
    if told in _FILLS:
        required(row, "cumExecQty")
    news = Reported(
        order_id=order_id,
        told=told,
        executed=unsigned(row, "cumExecQty"),
        updated_ms=moment(row, "updatedTime"),
        why=one_line(row.get("rejectReason") or "", 80),
    )
    link_id, parent = (str(row.get(name) or "") for name in ("orderLinkId", "parentOrderLinkId"))
    is_stop = row.get("stopOrderType") == "StopLoss" and not link_id
    return OrderNews(str(row["symbol"]), link_id, parent, order_id, news, received_ns, is_stop)


def read_execution(row: Mapping[str, Any], received_ns: int) -> ExecutionNews:
    """Return the execution of a row; of funding only the fee counts, and the rest may be missing or 0.

    Raises:
        BadMessage: A number is malformed, the side is none, or the fee is more than what was traded.
        KeyError: A field is missing.
    """
    kind, side = str(row.get("execType") or "Trade"), str(row.get("side") or "")
    if trades := kind != "Funding":
        price(row.get("execPrice"))  # which is kept as decimal
    quantity, at = ((required if trades else unsigned)(row, name) for name in ("execQty", "execPrice"))
    fill = Execution(str(row["execId"]), quantity, at, number(row, "execFee"))
    link_id, order_id = (str(row.get(name) or "") for name in ("orderLinkId", "orderId"))
    time_ms = moment(row, "execTime")
    is_stop, fee_coin = row.get("stopOrderType") == "StopLoss", str(row.get("feeCurrency") or "USDT")[:20]
    if not fill.exec_id or (trades and (side not in ("Buy", "Sell") or quantity <= 0)):
        raise BadMessage(f"an execution must be of an id, a side and a quantity > 0, was {side[:40]!r} of {quantity}")
    if fee_coin == "USDT" and (worth := quantity * at) and abs(fill.fee) > worth:
        raise BadMessage(f"a fee must be less than what was traded, was {fill.fee} for {quantity} at {at}")
    return ExecutionNews(
        str(row["symbol"]), link_id, order_id, kind, side, fill, time_ms, received_ns, is_stop, fee_coin
    )


_READERS: dict[str, Callable[[Mapping[str, Any], int], PrivateEvent]] = {
    "order": read_order,
    "execution": read_execution,
}
