"""What a fill costs by venue: fees of the first tier as published, and a slippage that is assumed.

A venue changes its fees, and a larger account pays less: whoever trades live is refused a version that was judged at
less than the account pays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tasks.execution.accounting import Costs

Schedule = Literal["venue", "bybit-linear", "bybit-spot", "source", "own"]


@dataclass(frozen=True, kw_only=True)
class Fees:
    """A line of the schedule.

    Attributes:
        commission: Fee of a fill that takes liquidity, share of its notional.
        slippage: Half-spread and impact of a fill, share of the open.
        said_by: Who says so, and when it was read.
    """

    commission: float
    slippage: float
    said_by: str


SCHEDULE = {
    "bybit-linear": Fees(commission=0.00055, slippage=0.0001, said_by="Bybit's fee page, perpetuals, no VIP, 2026-10"),
    "bybit-spot": Fees(commission=0.001, slippage=0.0001, said_by="Bybit's fee page, spot, no VIP, 2026-10"),
    "source": Fees(commission=0.001, slippage=0.0001, said_by="the source text's commission; slippage ours"),
}
"""Fees by name. Inverse perpetuals pay what linear ones do."""


def charged(costs: Costs, schedule: Schedule) -> Costs:
    """Return the costs with the commission and slippage of a line of the schedule; "own" are as they were."""
    fees = SCHEDULE.get(schedule)
    return costs if fees is None else replace(costs, commission=fees.commission, slippage=fees.slippage)


def costs_text(costs: Costs, schedule: Schedule) -> str:
    """Return in words what a fill pays, and by which line of the schedule."""
    named = SCHEDULE.get(schedule)
    paid = f"{1e4 * costs.commission:g} bp + {1e4 * costs.slippage:g} bp slippage a fill"
    return f"{schedule}, {paid}" + (f" ({named.said_by})" if named else "")
