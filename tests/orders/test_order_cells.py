"""Every fault that an order can meet, with a kill after every step: nothing is sent twice, and the books agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.orders.cells import MARKET, POINTS, run_cell
from tests.sandbox.order_actions import FAULTS, order_fault


@pytest.mark.promise(15)
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_order_is_taken_once_and_the_books_agree(tmp_path: Path, found: dict[str, Any], fault: str, point: str) -> None:
    plan = order_fault(fault, MARKET.symbol, parts=2, late_s=0.6, foreign_qty="0.1")
    here, violations = run_cell(tmp_path / "orders.sqlite", plan, point)
    found["fault_cells"] = found.get("fault_cells", 0) + 1
    found["violations"] = found.get("violations", 0) + len(violations)
    found["duplicate_orders"] = found.get("duplicate_orders", 0) + len(here.sent_again)
    assert violations == []
