"""How much of the funding that was due in the unseen time the account of an evaluation has paid or received.

A rate that nobody stored costs nothing in a backtest, and a perpetual's funding may be all that a side earns: a net
result with a hole in it is no net result.
"""

from dataclasses import dataclass, replace
from typing import Self

from storage.schema import Market
from storage.snapshots import Dataset
from storage.trials import Origin
from tasks.execution.accounting import Costs
from tasks.market.settlements import missing_settlements
from tasks.market.walk_forward import Span


@dataclass(frozen=True, kw_only=True)
class FundingRecord:
    """The funding settlements of a span of time.

    Attributes:
        booked: How many the account booked: their rate is stored, and the recipe charges funding.
        due: How many there were: in a hole, as many as around it (`missing_settlements`).
        none_due: Why the market has no funding; empty where it has.
    """

    booked: int
    due: int
    none_due: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether nothing that was due is missing."""
        return bool(self.none_due) or self.booked == self.due

    def __add__(self, other: Self) -> Self:
        return replace(self, booked=self.booked + other.booked, due=self.due + other.due)

    def __str__(self) -> str:
        return self.none_due or f"{self.booked:,} of {self.due:,} settlements"


def funding_record(dataset: Dataset, unseen: Span, costs: Costs, origin: Origin) -> FundingRecord:
    """Return what an account on unseen bars knew of their funding."""
    first_ms, last_ms = (int(at) for at in dataset.candles.start_ms[[unseen.start, unseen.stop - 1]])
    begins, lacking = missing_settlements(dataset.funding_ms, first_ms, last_ms)  # nothing is held at the first open
    inside, missing = len(begins) - 1, int(lacking.sum())
    booked = inside if costs.funding else 0
    return FundingRecord(booked=booked, due=inside + missing, none_due=_none_due(dataset.ref.market, origin))


def _none_due(market: Market, origin: Origin) -> str:
    if market.category == "spot":
        return "none due: spot"
    if "-" in market.symbol:  # of Bybit's linear contracts those with a day in their name
        return "none due: a dated future"
    return "none due: a market that is made up" if origin == "synthetic" else ""
