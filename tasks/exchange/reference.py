"""Parse Bybit's answers other than candles: server time, trading rules, funding rates."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from storage.schema import DAY_MS, HOUR_MS, Instrument, Market, Rejected
from tasks.exchange.rest_client import RestClient
from tasks.exchange.transport import Answer, refused
from tasks.exchange.wire_values import BadMessage, milliseconds, rate, required, rows, whole

FUNDING_ROWS = 200  # the most that Bybit returns for one request

# The most common first. Bybit filters by one at a time, by default Trading; a position in a market before its launch
# must be closed too.
_STATUSES = ("Trading", "PreLaunch", "Delivering", "Closed")
_NO_LIMIT = "100000000"  # coins: more than any coin's supply in practice
# At Bybit's usual 8 hours a span is one request; for a market that pays more often it is split until its rows fit.
_FUNDING_SPAN_MS = (FUNDING_ROWS - 1) * 8 * HOUR_MS - 1

Rates = list[tuple[int, float]]


def read_time(answer: Answer) -> int:
    """Return the server's time, UTC milliseconds."""
    return milliseconds(whole(answer.result, "timeNano") // 1_000_000, "timeNano")


def find_instrument(client: RestClient, market: Market) -> Instrument:
    """Return the trading rules of a market.

    Raises:
        Rejected: Bybit has no such symbol in this category.
    """
    what = f"the rules of {market.symbol} {market.category}"
    for status in _STATUSES:
        params = {"category": market.category, "symbol": market.symbol, "status": status}
        found = client.ask(what, "get_instruments_info", params, partial(read_instrument, market=market))
        if found is not None:
            return found
    raise refused(Rejected("no such symbol", 0), client.exchange, what)


def read_instrument(answer: Answer, market: Market) -> Instrument | None:
    """Return the trading rules of `market`; None if the list is empty.

    Raises:
        BadMessage: A field is missing or unreadable, or the answer is about another symbol.
    """
    listed = rows(answer.result, market.symbol)
    if not listed:
        return None
    found, spot = listed[0], market.category == "spot"
    prices, lots = _fields(found, "priceFilter"), _fields(found, "lotSizeFilter")
    most = "maxMarketOrderQty" if spot else "maxMktOrderQty"
    return Instrument(
        symbol=market.symbol,
        category=market.category,
        status=_text(found, "status"),
        launch_ms=0 if spot else milliseconds(found.get("launchTime"), "launchTime"),
        tick_size=_limit(prices, "tickSize", positive=True),
        qty_step=_limit(lots, "basePrecision" if spot else "qtyStep", positive=True),
        min_qty=_limit(lots, "minOrderQty"),
        min_notional=_limit(lots, "minOrderAmt" if spot else "minNotionalValue", default="0"),
        funding_interval_min=0 if spot else whole(found, "fundingInterval"),
        max_market_qty=_limit(lots, most, default=_NO_LIMIT, positive=True),
    )


def read_funding(answer: Answer, symbol: str, first_ms: int, last_ms: int) -> Rates:
    """Return the stamps and rates of a funding answer, oldest first; a repeated row counts once.

    Raises:
        BadMessage: A row can't be read, is of another symbol, lies outside the range, or contradicts another one.
    """
    rates: dict[int, float] = {}
    for row in rows(answer.result, symbol):
        stamp, paid = whole(row, "fundingRateTimestamp"), rate(_text(row, "fundingRate"), "fundingRate")
        if not first_ms <= stamp <= last_ms:
            raise BadMessage(f"a funding stamp lies outside the range that was asked for: {stamp}")
        if rates.setdefault(stamp, paid) != paid:
            raise BadMessage(f"two funding rates for one stamp: {stamp}")
    return sorted(rates.items())


def collect_funding(ask: Callable[[int, int], Rates], first_ms: int, last_ms: int) -> Rates:
    """Return every rate of a range, both ends inclusive, oldest first.

    A full answer may have been truncated, and Bybit does not say at which end; so its range is requested in halves.

    Args:
        ask: Returns the rates of a range, at most FUNDING_ROWS of them.
        first_ms: Start of the range, UTC milliseconds.
        last_ms: Its end, inclusive.
    """
    rates: Rates = []
    todo = [(ms, min(ms + _FUNDING_SPAN_MS, last_ms)) for ms in range(first_ms, last_ms + 1, _FUNDING_SPAN_MS + 1)]
    while todo:
        start, end = todo.pop()
        part = ask(start, end)
        if len(part) >= FUNDING_ROWS and end - start > HOUR_MS:
            middle = (start + end) // 2
            todo += [(start, middle), (middle + 1, end)]
        else:
            # Every market pays at least once a day: an empty answer is doubtful, so it is requested once more.
            rates += part or (ask(start, end) if end - start >= DAY_MS else [])
    return sorted(rates)


def _fields(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = row.get(name)
    return found if isinstance(found, dict) else {}


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if isinstance(value, str) and value:
        return value
    raise BadMessage(f"the answer lacks {name}")


def _limit(row: Mapping[str, Any], name: str, *, default: str | None = None, positive: bool = False) -> str:
    """Return the text of a number >= 0, or > 0 where it must be `positive`; `default` if it is missing or empty."""
    if default is not None and not row.get(name):
        return default
    text, found = _text(row, name), required(row, name)
    if found < 0 or (positive and not found):
        raise BadMessage(f"{name} must be {'>' if positive else '>='} 0, was {text!r}")
    return text
