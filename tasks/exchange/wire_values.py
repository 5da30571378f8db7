"""What a number from Bybit may be: plain ASCII digits, finite, of a plausible size. Stream and REST read by these.

The bounds are far beyond every market of today, yet so near that no sum, product or quotient of two such numbers
leaves the range of a float. A value beyond them is a fault of whoever sent it: a message of the stream that has one is
dropped and counted, an answer of REST that has one is no answer, and what it would have said stays unknown.
"""

from __future__ import annotations

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
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")  # Python also reads "1_000", " 1" and "\u0661"


class BadMessage(ValueError):
    """A malformed message or row."""


def number(row: Mapping[str, Any], name: str) -> Decimal:
    """Return a number of a row; 0 if the field is missing or empty.

    Raises:
        BadMessage: The field is not a number of a plausible size.
    """
    return Decimal(0) if row.get(name) in (None, "") else required(row, name)


def required(row: Mapping[str, Any], name: str) -> Decimal:
    """Return a number of a row that nothing stands for where it is missing.

    Raises:
        BadMessage: The field is missing, empty, or not a number of a plausible size.
    """
    value = row.get(name)
    found = Decimal(plain(str(value) if type(value) in (int, float) else value, name))  # flags and ids are no texts
    if abs(found) > Decimal(MOST_AMOUNT):
        raise BadMessage(f"{name} must be within {MOST_AMOUNT:g}, was {found}")
    return found


def unsigned(row: Mapping[str, Any], name: str) -> Decimal:
    """Return a number of a row that has no sign: coins, a price; 0 if the field is missing or empty.

    Raises:
        BadMessage: The field is not a number >= 0 of a plausible size.
    """
    if (found := number(row, name)) < 0:
        raise BadMessage(f"{name} must be >= 0, was {found}")
    return found


def moment(row: Mapping[str, Any], name: str) -> int:
    """Return a time of a row, UTC milliseconds; 0 if the field is missing or empty.

    Raises:
        BadMessage: The field is no time.
    """
    value = row.get(name)
    return 0 if value in (None, "") else milliseconds(value)


def milliseconds(value: object) -> int:
    """Return whole milliseconds, from 1970 to the end of the calendar.

    Raises:
        BadMessage: The value is none.
    """
    if type(value) is int or (isinstance(value, str) and len(value) <= 15 and value.isascii() and value.isdecimal()):
        ms = int(value)
        if 0 <= ms <= END_OF_TIME_MS:
            return ms
    raise BadMessage(f"must be whole milliseconds, was {str(value)[:_LONGEST]!r}")


def price(value: object) -> float:
    """Return a price, quote currency per coin.

    Raises:
        BadMessage: The value is no plausible price.
    """
    found = float(plain(value))
    if not LEAST_PRICE <= found <= MOST_PRICE:
        raise BadMessage(f"a price must be in {LEAST_PRICE:g}..{MOST_PRICE:g}, was {found}")
    return found


def amount(value: object) -> float:
    """Return a number of coins, or a turnover in quote currency, >= 0.

    Raises:
        BadMessage: The value is no plausible amount.
    """
    found = float(plain(value))
    if not 0 <= found <= MOST_AMOUNT:
        raise BadMessage(f"an amount must be in 0..{MOST_AMOUNT:g}, was {found}")
    return found


def rate(value: object) -> float:
    """Return a funding rate, share of the notional.

    Raises:
        BadMessage: The value is no plausible rate.
    """
    found = float(plain(value))
    if not -1 <= found <= 1:
        raise BadMessage(f"a rate must be in -1..1, was {found}")
    return found


def plain(value: object, name: str = "it") -> str:
    """Return the text of a number that consists of plain digits.

    Raises:
        BadMessage: It is anything else.
    """
    if isinstance(value, str) and len(value) <= _LONGEST and _NUMBER.fullmatch(value):
        return value
    raise BadMessage(f"{name} must be a number, was {str(value)[:_LONGEST]!r}")
