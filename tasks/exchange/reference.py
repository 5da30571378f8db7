"""Parse Bybit's answers other than candles: server time, trading rules, funding rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from storage.schema import DAY_MS, END_OF_TIME_MS, HOUR_MS, Ambiguous, Instrument, Market
from tasks.exchange.transport import Answer
from tasks.exchange.wire_values import MOST_AMOUNT, BadMessage, plain, rate

FUNDING_ROWS = 200  # the most that Bybit returns for one request
STATUSES = ("Trading", "PreLaunch", "Delivering", "Closed")
"""Statuses of a market, the most common first; Bybit filters by one at a time, by default Trading."""

_NO_LIMIT = "100000000"  # coins: more than any coin's supply in practice
# At Bybit's usual 8 hours a span is one request; for a market that pays more often it is split until its rows fit.
_FUNDING_SPAN_MS = (FUNDING_ROWS - 1) * 8 * HOUR_MS - 1

Rates = list[tuple[int, float]]


def read_time(answer: Answer) -> int:
    """Return the server's time, UTC milliseconds.

    Raises:
        Ambiguous: The answer has no valid time.
    """
    return _moment(_whole(answer.result, "timeNano") // 1_000_000, "timeNano")


def read_instrument(answer: Answer, market: Market) -> Instrument | None:
    """Return the trading rules of `market`; None if the list is empty.

    Raises:
        Ambiguous: A field is missing or unreadable, or the answer is about another symbol.
    """
    rows = _rows(answer.result)
    if not rows:
        return None
    found = rows[0]
    if found.get("symbol") != market.symbol:
        raise Ambiguous(f"the answer is about symbol {str(found.get('symbol'))[:40]!r}")
    spot = market.category == "spot"
    prices, lots = found.get("priceFilter"), found.get("lotSizeFilter")
    return Instrument(
        symbol=market.symbol,
        category=market.category,
        status=_text(found, "status"),
        launch_ms=0 if spot else _moment(_whole(found, "launchTime"), "launchTime"),
        tick_size=_limit(prices, "tickSize", positive=True),
        qty_step=_limit(lots, "basePrecision" if spot else "qtyStep", positive=True),
        min_qty=_limit(lots, "minOrderQty"),
        min_notional=_limit(lots, "minOrderAmt" if spot else "minNotionalValue", default="0"),
        funding_interval_min=0 if spot else _whole(found, "fundingInterval"),
        max_market_qty=_limit(
            lots, "maxMarketOrderQty" if spot else "maxMktOrderQty", default=_NO_LIMIT, positive=True
        ),
    )


def read_funding(answer: Answer, symbol: str, first_ms: int, last_ms: int) -> Rates:
    """Return the stamps and rates of a funding answer, oldest first; a repeated row counts once.

    Raises:
        Ambiguous: A row can't be read, is of another symbol, lies outside the range, or contradicts another one.
    """
    rates: dict[int, float] = {}
    for row in _rows(answer.result):
        stamp, paid = _whole(row, "fundingRateTimestamp"), _rate(row)
        if row.get("symbol") != symbol:
            raise Ambiguous(f"the answer is about symbol {str(row.get('symbol'))[:40]!r}")
        if not first_ms <= stamp <= last_ms:
            raise Ambiguous(f"a funding stamp lies outside the range that was asked for: {stamp}")
        if rates.setdefault(stamp, paid) != paid:
            raise Ambiguous(f"two funding rates for one stamp: {stamp}")
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


def _rows(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rows = result.get("list")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Ambiguous("the answer holds no list of rows")
    return rows


def _text(fields: object, name: str) -> str:
    value = fields.get(name) if isinstance(fields, dict) else None
    if isinstance(value, str) and value:
        return value
    raise Ambiguous(f"the answer lacks {name}")


def _moment(ms: int, name: str) -> int:
    if ms > END_OF_TIME_MS:
        raise Ambiguous(f"{name} must be a time, was {str(ms)[:40]}")
    return ms


def _whole(fields: object, name: str) -> int:
    value = fields.get(name) if isinstance(fields, dict) else None
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 19:
        return int(value)
    raise Ambiguous(f"{name} must be a whole number, was {str(value)[:40]!r}")


def _limit(fields: object, name: str, *, default: str | None = None, positive: bool = False) -> str:
    """Return the text of a number >= 0, or > 0 where it must be `positive`; `default` if it is missing or empty."""
    if default is not None and isinstance(fields, dict) and not fields.get(name):
        return default
    text = _decimal(fields, name)
    if float(text) < 0 or (positive and float(text) == 0):
        raise Ambiguous(f"{name} must be {'>' if positive else '>='} 0, was {text[:40]!r}")
    if float(text) > MOST_AMOUNT:
        raise Ambiguous(f"{name} must be within {MOST_AMOUNT:g}, was {text[:40]!r}")
    return text


def _decimal(fields: object, name: str) -> str:
    try:
        return plain(_text(fields, name), name)
    except BadMessage as err:
        raise Ambiguous(str(err)) from err


def _rate(row: Mapping[str, Any]) -> float:
    try:
        return rate(_decimal(row, "fundingRate"))
    except BadMessage as err:
        raise Ambiguous(str(err)) from err
