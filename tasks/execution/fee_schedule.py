"""Cost of a fill by venue: the published fees of the lowest tier, and an assumed slippage.

Venues change their fees, and larger accounts pay less. A live session refuses a version that was evaluated at lower
fees than its account pays.
"""

from dataclasses import dataclass, replace
from typing import Literal

from tasks.execution.accounting import Costs

Schedule = Literal["venue", "bybit-linear", "bybit-spot", "source", "own"]


@dataclass(frozen=True, kw_only=True)
class Fees:
    """One entry of the fee schedule.

    Attributes:
        commission: Fee of a fill that takes liquidity, share of its notional.
        slippage: Half-spread and impact of a fill, share of the open.
        said_by: Where the fee is published, and when it was read.
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
    """Return the costs with commission and slippage of a schedule entry; "own" and "venue" leave them unchanged."""
    fees = SCHEDULE.get(schedule)
    return costs if fees is None else replace(costs, commission=fees.commission, slippage=fees.slippage)


def costs_text(costs: Costs, schedule: Schedule) -> str:
    """Return a text that names the schedule entry and what a fill pays."""
    named = SCHEDULE.get(schedule)
    paid = f"{1e4 * costs.commission:g} bp + {1e4 * costs.slippage:g} bp slippage a fill"
    return f"{schedule}, {paid}" + (f" ({named.said_by})" if named else "")
