"""Topics and messages of the public stream, derived from a market's candles. No sockets here.

Each message belongs to one time of the exchange's clock. There are four topics:

    kline.<interval>.<symbol>   a closed bar (confirm true), and the forming bar at each trade
    publicTrade.<symbol>        each trade; the first of a bar is at the bar's open
    orderbook.<depth>.<symbol>  `depth` bids and asks after each trade, always as a snapshot
    tickers.<symbol>            last, mark and index price, funding; first a snapshot, then deltas

In one market and at one time they come in this order: closed bars, trade, book, ticker, forming bars. Documented at
https://bybit-exchange.github.io/docs/v5/websocket/public/kline and the pages next to it.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from storage.schema import CANDLE_COLUMNS, INTERVAL_MS
from tasks.sandbox.listing import Fields, Listing
from tasks.sandbox.replay import Row, decimal_text
from tasks.sandbox.tape import TapeTick

Message = dict[str, Any]
Kind = Literal["kline", "publicTrade", "orderbook", "tickers"]

_DEPTHS = ("1", "50", "200", "1000")


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A topic of the stream.

    Attributes:
        interval: For kline only: Bybit's code.
        depth: For orderbook only: levels of each side.
    """

    text: str
    kind: Kind
    listing: Listing
    interval: str = ""
    depth: int = 0


def find_topic(listings: Mapping[tuple[str, str], Listing], category: str, text: str) -> Topic | None:
    """Return the topic that `text` names on the stream of `category`; None if there is no such topic."""
    kind, _, rest = text.partition(".")
    detail, _, symbol = rest.rpartition(".")
    listing = listings.get((category, symbol))
    if listing is None:
        return None
    if kind == "kline" and listing.replay.serves(detail):
        return Topic(text=text, kind="kline", listing=listing, interval=detail)
    if kind == "orderbook" and detail in _DEPTHS:
        return Topic(text=text, kind="orderbook", listing=listing, depth=int(detail))
    if (kind, detail) == ("publicTrade", ""):
        return Topic(text=text, kind="publicTrade", listing=listing)
    if (kind, detail) == ("tickers", ""):
        return Topic(text=text, kind="tickers", listing=listing)
    return None


def first_messages(topic: Topic, now_ms: int) -> list[Message]:
    """Return the first message for a new subscriber, with the present state; None for trades."""
    if topic.kind == "kline":
        return _kline(topic, topic.listing.replay.forming_row(topic.interval, now_ms), now_ms, confirm=False)
    if topic.kind == "orderbook":
        return _book(topic, now_ms)
    if topic.kind == "tickers":
        return _ticker(topic, now_ms, "snapshot", topic.listing.ticker(now_ms))
    return []


def messages_at(topics: Iterable[Topic], time_ms: int) -> list[tuple[Topic, Message]]:
    """Return the messages of one market at `time_ms`, in order.

    There are only messages at the times that `Replay.next_event_ms` returns.
    """
    topics = list(topics)
    if not topics:
        return []
    found: list[tuple[Topic, Message]] = []
    klines = [topic for topic in topics if topic.kind == "kline"]
    for topic in klines:
        closed = topic.listing.replay.closing(topic.interval, time_ms)
        found += [(topic, message) for message in _kline(topic, closed, time_ms, confirm=True)]
    tick = topics[0].listing.replay.last_tick(time_ms)
    if tick is None or tick.time_ms != time_ms:
        return found
    for kind in ("publicTrade", "orderbook", "tickers"):
        for topic in topics:
            if topic.kind == kind:
                found += [(topic, message) for message in _after_trade(topic, tick)]
    for topic in klines:
        forming = topic.listing.replay.forming_row(topic.interval, time_ms)
        found += [(topic, message) for message in _kline(topic, forming, time_ms, confirm=False)]
    return found


def _after_trade(topic: Topic, tick: TapeTick) -> list[Message]:
    if topic.kind == "publicTrade":
        return [_trade(topic, tick)] if tick.size > 0 else []
    if topic.kind == "orderbook":
        return _book(topic, tick.time_ms)
    opens = tick.time_ms == topic.listing.market.floor(tick.time_ms)
    if opens or topic.listing.market.category == "spot":  # spot has only snapshots
        fields = topic.listing.ticker(tick.time_ms)
    else:
        fields = {"symbol": topic.listing.market.symbol, **topic.listing.quote(tick.time_ms)}
    return _ticker(topic, tick.time_ms, "delta", fields)


def _kline(topic: Topic, row: Row | None, time_ms: int, confirm: bool) -> list[Message]:
    if row is None:
        return []
    start_ms, *numbers = row
    data = {
        "start": start_ms,
        "end": start_ms + INTERVAL_MS[topic.interval] - 1,
        "interval": topic.interval,
        **{name: decimal_text(number) for name, number in zip(CANDLE_COLUMNS, numbers, strict=True)},
        "confirm": confirm,
        "timestamp": time_ms,
    }
    return [{"topic": topic.text, "data": [data], "ts": time_ms, "type": "snapshot"}]


def _trade(topic: Topic, tick: TapeTick) -> Message:
    trade = {
        "T": tick.time_ms,
        "s": topic.listing.market.symbol,
        "S": tick.side,
        "v": decimal_text(tick.size),
        "p": decimal_text(tick.price),
        "L": "PlusTick" if tick.side == "Buy" else "MinusTick",
        "i": str(uuid.UUID(int=(topic.listing.replay.first_ms << 64) + tick.ordinal)),
        "BT": False,
        "RPI": False,
        "seq": tick.ordinal + 1,
    }
    if topic.listing.market.category == "spot":
        del trade["L"]
    return {"topic": topic.text, "type": "snapshot", "ts": tick.time_ms, "data": [trade]}


def _book(topic: Topic, time_ms: int) -> list[Message]:
    book = topic.listing.book(time_ms, levels=topic.depth)
    if book is None:
        return []
    data = {
        "s": topic.listing.market.symbol,
        "b": book.bids,
        "a": book.asks,
        "u": book.update,
        "seq": book.update,
    }
    return [{"topic": topic.text, "type": "snapshot", "ts": time_ms, "data": data, "cts": book.time_ms}]


def _ticker(topic: Topic, time_ms: int, kind: str, fields: Fields) -> list[Message]:
    book = topic.listing.book(time_ms)
    if not fields or book is None:
        return []
    if topic.listing.market.category == "spot":
        kind, fields = "snapshot", {name: text for name, text in fields.items() if name[:3] not in ("bid", "ask")}
    return [{"topic": topic.text, "type": kind, "data": fields, "cs": book.update, "ts": time_ms}]
