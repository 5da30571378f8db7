"""What a row or a number from Bybit may be: plain ASCII digits, finite, of a plausible size. Stream and REST use it.

The bounds are far beyond every market of today, yet so near that no sum, product or quotient of two such numbers
leaves the range of a float. A value beyond them is a fault of whoever sent it: a message of the stream that has one is
dropped and counted, an answer of REST that has one is no answer, and what it would have said stays unknown.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from storage.schema import END_OF_TIME_MS

LEAST_PRICE, MOST_PRICE = 1e-12, 1e12
"""Quote currency per coin."""
MOST_AMOUNT = 1e20
"""Coins or quote currency: of an order, a bar's volume or turnover, a balance."""

_LONGEST = 40  # characters
_LONGEST_NAME = 100  # Bybit's have 45 at most
_WHOLE = re.compile(r"[0-9]{1,19}")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")  # Python also reads "1_000", " 1" and "\u0661"


class BadMessage(ValueError):
    """A malformed message, answer or row; every function of this module raises it for what it can't read."""


def rows(result: Mapping[str, Any], symbol: str | None = None) -> list[Mapping[str, Any]]:
    """Return the rows of an answer, each of `symbol`; None where rows have none."""
    found = result.get("list")
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise BadMessage("the answer holds no list of rows")
    for row in found if symbol is not None else ():
        if row.get("symbol") != symbol:
            raise BadMessage(f"the answer is about symbol {str(row.get('symbol'))[:40]!r}, {symbol} was asked for")
    return found


def number(row: Mapping[str, Any], name: str) -> Decimal:
    """Return a number of a row; 0 if the field is missing or empty."""
    return Decimal(0) if row.get(name) in (None, "") else required(row, name)


def required(row: Mapping[str, Any], name: str) -> Decimal:
    """Return a number of a row that nothing stands for where it is missing."""
    value = row.get(name)
    found = Decimal(plain(str(value) if type(value) in (int, float) else value, name))  # flags and ids are no texts
    if abs(found) > Decimal(MOST_AMOUNT):
        raise BadMessage(f"{name} must be within {MOST_AMOUNT:g}, was {found}")
    return found


def unsigned(row: Mapping[str, Any], name: str) -> Decimal:
    """Return a number of a row that has no sign: coins, a price; 0 if the field is missing or empty."""
    if (found := number(row, name)) < 0:
        raise BadMessage(f"{name} must be >= 0, was {found}")
    return found


def name_in(row: Mapping[str, Any], field: str) -> str:
    """Return the name of something in a row, such as an order's id; empty if the field is missing or empty."""
    found = str(row.get(field) or "")
    if len(found) > _LONGEST_NAME or not found.isprintable():
        raise BadMessage(f"{field} must be a name of up to {_LONGEST_NAME} characters, was {found[:_LONGEST]!r}")
    return found


def whole(row: Mapping[str, Any], name: str) -> int:
    """Return a whole number of a row, >= 0."""
    value = row.get(name)
    if (type(value) is int and value >= 0) or (isinstance(value, str) and _WHOLE.fullmatch(value)):
        return int(value)
    raise BadMessage(f"{name} must be a whole number, was {str(value)[:_LONGEST]!r}")


def moment(row: Mapping[str, Any], name: str) -> int:
    """Return a time of a row, UTC milliseconds; 0 if the field is missing or empty."""
    value = row.get(name)
    return 0 if value in (None, "") else milliseconds(value)


def milliseconds(value: object, name: str = "it") -> int:
    """Return whole milliseconds, from 1970 to the end of the calendar."""
    ms = whole({name: value}, name)
    if ms > END_OF_TIME_MS:
        raise BadMessage(f"{name} must be a time, was {str(ms)[:_LONGEST]}")
    return ms


def price(value: object) -> float:
    """Return a price, quote currency per coin."""
    return _within(value, LEAST_PRICE, MOST_PRICE, "a price")


def amount(value: object) -> float:
    """Return a number of coins, or a turnover in quote currency, >= 0."""
    return _within(value, 0, MOST_AMOUNT, "an amount")


def rate(value: object, name: str = "a rate") -> float:
    """Return a funding rate, share of the notional."""
    return _within(value, -1, 1, name)


def plain(value: object, name: str = "it") -> str:
    """Return the text of a number that consists of plain digits."""
    if isinstance(value, str) and len(value) <= _LONGEST and _NUMBER.fullmatch(value):
        return value
    raise BadMessage(f"{name} must be a number, was {str(value)[:_LONGEST]!r}")


def _within(value: object, least: float, most: float, what: str) -> float:
    found = float(plain(value, what))
    if not least <= found <= most:
        raise BadMessage(f"{what} must be in {least:g}..{most:g}, was {found}")
    return found
