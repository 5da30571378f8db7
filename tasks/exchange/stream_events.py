"""Events of the public stream as named tuples. Each message is parsed once, checked, and stamped on arrival.

    kline.<interval>.<symbol>   ConfirmedBar, FormingBar
    orderbook.1.<symbol>        BookTop
    publicTrade.<symbol>        Trade
    tickers.<symbol>            Ticker, from the snapshot and the deltas after it

The stream itself adds Reconnected and Refused. `ts_ms` is the exchange's stamp, UTC milliseconds; `received_ns` is this
machine's `boottime_ns` when the message had arrived, before it was parsed.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from storage.schema import INTERVAL_MS, Category, Market
from tasks.exchange.wire_values import BadMessage, amount, milliseconds, price, rate

_TICKER_FIELDS = ("markPrice", "fundingRate", "nextFundingTime")

Key = tuple[Category, str]
"""Category and symbol, which identify a market within a stream."""


class _Bar(NamedTuple):
    """Prices in quote currency per coin, volume in coins, turnover in quote currency."""

    key: Key
    interval: str
    start_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    turnover: float
    ts_ms: int
    received_ns: int


class ConfirmedBar(_Bar):
    """A bar that has closed."""

    __slots__ = ()


class FormingBar(_Bar):
    """The current, still open bar; only its open price is final."""

    __slots__ = ()


class BookTop(NamedTuple):
    """Best bid and ask with their sizes, in coins."""

    key: Key
    bid: float
    bid_size: float
    ask: float
    ask_size: float
    ts_ms: int
    received_ns: int


class Trade(NamedTuple):
    """One trade; `ts_ms` is when it happened."""

    key: Key
    price: float
    size: float
    ts_ms: int
    received_ns: int


class Ticker(NamedTuple):
    """Mark price, and the funding rate and time of the next funding stamp; both 0 if the exchange sends none."""

    key: Key
    mark: float
    funding_rate: float
    next_funding_ms: int
    ts_ms: int
    received_ns: int


class Reconnected(NamedTuple):
    """A connection was made; messages since the end of the previous one are lost.

    Attributes:
        stream: Category of its markets.
        generation: Counts the connections, from 1.
    """

    stream: str
    generation: int
    received_ns: int


class SubscriptionRefused(NamedTuple):
    """The exchange refused these topics; they are not subscribed again."""

    topics: tuple[str, ...]
    message: str
    received_ns: int


Event = ConfirmedBar | FormingBar | BookTop | Trade | Ticker | Reconnected | SubscriptionRefused


def topics_of(market: Market) -> tuple[str, ...]:
    """Return the topics of a market that a session needs."""
    symbol = market.symbol
    return f"kline.{market.interval}.{symbol}", f"orderbook.1.{symbol}", f"publicTrade.{symbol}", f"tickers.{symbol}"


class Decoder:
    """Reads the messages of one connection."""

    def __init__(self, category: Category, topics: frozenset[str]) -> None:
        self._category = category
        self._topics = topics
        self._tickers: dict[str, dict[str, Any]] = {}

    def decode(self, message: Mapping[str, Any], received_ns: int) -> list[Event]:
        """Return the events of a message in their order.

        Raises:
            BadMessage: The topic was not subscribed, a field is missing or its value is impossible.
        """
        topic = message.get("topic")
        if not isinstance(topic, str) or topic not in self._topics:
            raise BadMessage(f"topic {str(topic)[:80]} was not subscribed")
        kind, _, rest = topic.partition(".")
        detail, _, symbol = rest.rpartition(".")
        key: Key = (self._category, symbol)
        try:
            data, ts_ms = message["data"], milliseconds(message["ts"])
            if kind == "kline":
                return [_bar(key, detail, row, ts_ms, received_ns) for row in data]
            if kind == "orderbook":
                return [_book(key, data, ts_ms, received_ns)]
            if kind == "publicTrade":
                return [_trade(key, row, received_ns) for row in data]
            return self._ticker(key, message, ts_ms, received_ns)
        except (KeyError, TypeError, IndexError, AttributeError) as err:
            raise BadMessage(f"{topic}: {type(err).__name__} {err}") from err

    def _ticker(self, key: Key, message: Mapping[str, Any], ts_ms: int, received_ns: int) -> list[Event]:
        fields = self._tickers.setdefault(key[1], {})
        if message["type"] == "snapshot":
            fields.clear()
        told = message["data"]
        fields |= {name: told[name] for name in _TICKER_FIELDS if name in told}
        if not fields.get("markPrice"):  # spot has none; a delta may come before its snapshot
            return []
        paid, stamp = rate(fields.get("fundingRate") or "0"), milliseconds(fields.get("nextFundingTime") or "0")
        return [Ticker(key, price(fields["markPrice"]), paid, stamp, ts_ms, received_ns)]


def _bar(key: Key, interval: str, row: Mapping[str, Any], ts_ms: int, received_ns: int) -> Event:
    start_ms = milliseconds(row["start"])
    market = Market(symbol=key[1], category=key[0], interval=interval) if interval in INTERVAL_MS else None  # type: ignore[arg-type]
    if row["interval"] != interval or market is None or market.floor(start_ms) != start_ms:
        raise BadMessage(f"a bar of interval {interval} can't open at {start_ms} with interval {row['interval']!r}")
    open_, high, low, close = (price(row[name]) for name in ("open", "high", "low", "close"))
    if not low <= min(open_, close) <= max(open_, close) <= high:
        raise BadMessage(f"high and low must lie around open and close, were {high} {low} {open_} {close}")
    volume, turnover = amount(row["volume"]), amount(row["turnover"]) if row["turnover"] else math.nan
    if type(row["confirm"]) is not bool:
        raise BadMessage(f"confirm must be true or false, was {row['confirm']!r}")
    numbers = (start_ms, open_, high, low, close, volume, turnover, ts_ms, received_ns)
    return ConfirmedBar(key, interval, *numbers) if row["confirm"] else FormingBar(key, interval, *numbers)


def _book(key: Key, data: Mapping[str, Any], ts_ms: int, received_ns: int) -> BookTop:
    (bid, bid_size), (ask, ask_size) = data["b"][0], data["a"][0]  # orderbook.1 sends snapshots of one level only
    top = BookTop(key, price(bid), amount(bid_size), price(ask), amount(ask_size), ts_ms, received_ns)
    if top.bid >= top.ask:
        raise BadMessage(f"the bid must be below the ask, were {top.bid} and {top.ask}")
    return top


def _trade(key: Key, row: Mapping[str, Any], received_ns: int) -> Trade:
    return Trade(key, price(row["p"]), amount(row["v"]), milliseconds(row["T"]), received_ns)
