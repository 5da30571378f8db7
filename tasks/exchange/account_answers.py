"""What an account's answers say: rows, its position, what a key may do. An answer that can't be read is none."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from tasks.exchange.boot_clock import boottime_ns
from tasks.exchange.transport import Answer
from tasks.exchange.wire_values import BadMessage, number, required, rows, unsigned
from tasks.execution.orders import ZERO

T = TypeVar("T")


class Position(NamedTuple):
    """The account's position in a market.

    Attributes:
        size: Signed coins.
        leverage: As set; 0 if the exchange does not report it.
        entry: Average entry price, USDT; 0 while flat.
        stop: Price of its stop-loss, USDT; 0 for none.
    """

    size: Decimal
    leverage: Decimal
    entry: Decimal = ZERO
    stop: Decimal = ZERO


class KeyFacts(NamedTuple):
    """Permissions and account of an API key.

    Attributes:
        may_trade: Whether it may open and close positions.
        is_unified: Whether its account is a unified trading account.
        user_id: Of the account, the same for all its keys; 0 if the exchange does not report it.
    """

    may_trade: bool
    may_withdraw: bool
    is_unified: bool
    user_id: int


def read_rows(answer: Answer, read: Callable[[Mapping[str, Any], int], T], symbol: str | None = None) -> list[T]:
    """Return the rows of an answer, read by a function that is given `boottime_ns` when they came.

    Args:
        symbol: Of every row; None where rows have none.
    """
    now_ns = boottime_ns()
    return [read(row, now_ns) for row in rows(answer.result, symbol)]


def read_number(answer: Answer, name: str, symbol: str | None = None) -> Decimal | None:
    """Return one number of the first row; None where there is no row, or it does not tell it."""
    found = [required(row, name) if row.get(name) else None for row in rows(answer.result, symbol)]
    return found[0] if found else None


def read_positions(answer: Answer, symbol: str) -> list[tuple[int, Position]]:
    """Return the index (0 in one-way mode) and the position of each row; at least one.

    Raises:
        BadMessage: A row is malformed, or there is none: that does not say that the account is flat.
    """
    if not (found := rows(answer.result, symbol)):
        raise BadMessage(f"the answer holds no position in {symbol}")
    return [_position(row) for row in found]


def read_key_facts(answer: Answer) -> KeyFacts:
    """Return what an answer about the key says.

    Raises:
        BadMessage, KeyError, TypeError: A permission is missing or malformed.
    """
    told = answer.result
    contracts, wallet = (told["permissions"][name] for name in ("ContractTrade", "Wallet"))
    if not (isinstance(contracts, list) and isinstance(wallet, list)):
        raise BadMessage("permissions must be lists")
    return KeyFacts(
        may_trade={"Order", "Position"} <= set(contracts) and not number(told, "readOnly"),
        may_withdraw="Withdraw" in wallet,
        is_unified=bool(number(told, "uta") or number(told, "unified")),
        user_id=int(number(told, "userID")),
    )


def _position(row: Mapping[str, Any]) -> tuple[int, Position]:
    required(row, "size")  # an answer without one does not say that it is flat
    size, side = unsigned(row, "size"), row.get("side")
    if size and side not in ("Buy", "Sell"):
        raise BadMessage(f"a position must be of a side, was {str(side)[:40]!r} of {size}")
    rest = (unsigned(row, name) for name in ("leverage", "avgPrice", "stopLoss"))
    return int(number(row, "positionIdx")), Position(-size if side == "Sell" else size, *rest)
