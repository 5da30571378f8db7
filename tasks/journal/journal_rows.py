"""What a journal's rows are, as objects: a decision, an open, an execution."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from storage.schema import FloatArray
from tasks.execution.orders import Execution
from tasks.execution.paper import Opened, Quote

DIRECTIONS = {-1: "short", 0: "flat", 1: "long"}
"""What a weight is called."""

UNKNOWN_CHAMPION, KNOWN_CHAMPION = "champion unknown", "champion known"
OF_DOUBT = frozenset({UNKNOWN_CHAMPION, KNOWN_CHAMPION, "resumed"})
"""Kinds of notes, the last of which says whether it is known who a market's champion is."""

_STAYS = {(0, 0): "stay flat", (1, 1): "stay long", (-1, -1): "stay short"}
_GOES = {0: "close", 1: "go long", -1: "go short"}


class Decision(NamedTuple):
    """What one closed bar led to.

    Attributes:
        start_ms: Open time of the bar.
        version: Which decided.
        values: (F + 6,) features, vol, probabilities, foreseen volatility, NaN where unknown, and the share that a
            position which is opened then takes of the usual one; a journal of before has neither of the last two.
        position: Weight held at the close.
        bars_held: For how many bars.
        target: What the rule says, from that position.
        wanted: What is attempted at the next open: the target, or the position where `cause` forbids it.
        cause: Why the target is not attempted: late, stale, deadline, missed bars, restart, clock, champion, stop;
            with orders halted, unknown or stream; else empty.
        lacks: Why there is no expected return; empty where there is one.
        mu: Expected return of a long position over the horizon; NaN where there is none.
        cost: Of a round trip, share of the price; NaN likewise.
        late_ms: From the bar's close until its step began, on the exchange's clock.
        feed_ms: From the exchange's stamp to receipt; NaN where the two clocks have nothing in common.
        queue_us: From receipt to the beginning of the step.
        step_us: From there until the decision stood.
    """

    start_ms: int
    version: str
    values: FloatArray
    position: int
    bars_held: int
    target: int
    wanted: int
    cause: str
    lacks: str
    mu: float
    cost: float
    late_ms: float
    feed_ms: float
    queue_us: float
    step_us: float

    @property
    def reason(self) -> str:
        """Why the rule says so, one line."""
        if self.lacks:
            return self.lacks
        verb = _STAYS.get((self.position, self.target)) or _GOES[self.target]
        return f"{verb}: mu {1e4 * self.mu:+.1f} bp, round trip {1e4 * self.cost:.1f} bp"


class BarOpen(NamedTuple):
    """What the account did at a bar's open.

    Attributes:
        start_ms: Open time of the bar.
        wanted: What was traded to; with orders what was decided, whatever came of it.
        cause: Why what was decided was not attempted; else empty. With orders: why it was not done as a whole.
        quote: What an order met.
        rate: Sum of the funding rates due.
        late_ms: From the bar's open to the fill, on the exchange's clock.
        opened: Ledger after it, fill, funding.
    """

    start_ms: int
    wanted: int
    cause: str
    quote: Quote
    rate: float
    late_ms: float
    opened: Opened


class BookedExecution(NamedTuple):
    """A row of what the exchange has booked.

    Attributes:
        kind: Trade, Funding, AdlTrade ...
        link_id: Of the order; empty for none of ours.
        side: Buy or Sell.
        time_ms: When, UTC milliseconds.
        fill: Quantity, price, fee.
        booked_ms: The row of `opens` whose ledger holds it; None while none does.
    """

    kind: str
    link_id: str
    side: str
    time_ms: int
    fill: Execution
    booked_ms: int | None

    @property
    def moves(self) -> bool:
        """Whether it changes the position; funding moves cash alone."""
        return self.kind != "Funding"

    @property
    def change(self) -> Decimal:
        """Signed coins."""
        return self.fill.quantity * (self.moves if self.side == "Buy" else -self.moves)

    @property
    def worth(self) -> Decimal:
        """Quote currency that was traded."""
        return self.fill.quantity * self.fill.price * self.moves
