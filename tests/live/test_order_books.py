"""Orders of a journal that contradict themselves, and one that seems to."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.execution.orders import Execution, Leg, Order, Status
from tasks.live.order_replay import OrderBooks
from tests.live.conftest import MARKET
from tests.live.desk import INSTRUMENT

FILL = Execution("e", Decimal("0.2"), Decimal(100), Decimal(0))


def found(status: Status, *, reduces: bool, fills: tuple[Execution, ...] = (FILL,)) -> list[Any]:
    """Return what the books say of one order over 0.4 coins of which the fills are known."""
    order = Order(
        link_id="dsc-1", leg=Leg("Sell", Decimal("0.4"), reduces), status=status, fills=fills,
        executed=sum((one.quantity for one in fills), Decimal(0)),
    )  # fmt: skip
    record: Any = SimpleNamespace(
        orders=[(0, order)], notes=[], booked={}, decisions=[], unsealed=[], session="", market=MARKET,
        instrument=INSTRUMENT,
    )  # fmt: skip
    return list(OrderBooks(record, SimpleNamespace()).rest())  # type: ignore[arg-type]


def test_order_to_close_that_the_exchange_cut_to_what_was_left_is_whole() -> None:
    assert found(Status.FILLED, reduces=True) == []


@pytest.mark.parametrize(
    ("status", "reduces", "fills"),
    [
        (Status.FILLED, False, (FILL,)), (Status.FILLED, True, ()), (Status.REJECTED, True, (FILL,)),
        (Status.ABSENT, False, (FILL,)),
    ],
)  # fmt: skip
def test_order_whose_end_is_none_has_no_cause(status: Status, reduces: bool, fills: tuple[Execution, ...]) -> None:
    ((_, what, cause, said),) = found(status, reduces=reduces, fills=fills)
    assert (what, cause) == ("order", "")
    assert f"dsc-1 is {status} with" in said
