"""The rows of a journal as objects: a decision, an open, an execution."""

from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from storage.schema import FloatArray
from tasks.execution.orders import Execution
from tasks.execution.paper import Opened, Quote

DIRECTIONS = {-1: "short", 0: "flat", 1: "long"}
"""Names of the sides."""


class Cause(StrEnum):
    """Why an account has something else than a backtest of its candles; a code of `limits.py` is one too."""

    # A decision that was not taken over, at a bar's close.
    DEADLINE = "deadline"  # it was stepped too late
    LATE = "late"  # the same, and by the feed alone; a replay tells the two apart
    MISSED_BARS = "missed bars"  # a later bar had closed already
    CLOCK = "clock"  # nobody knew the exchange's time
    CHAMPION = "champion"  # nobody knew who it was
    STREAM = "stream"  # nobody heard of the account; at an open too
    # One that was not carried out, at an open.
    STALE = "stale"  # first price or book came too late, or no time was left for an order
    RESTART = "restart"  # it had been taken by an earlier process
    STOP = "stop"  # the session ended
    REJECTED = "rejected"  # the exchange refused an order
    PARTIAL = "partial"  # it filled less than was asked
    ABSENT = "absent"  # it never had the order
    # What was to be opened could have no stop; in capitals as the codes of limits, which refuse too.
    NO_STOP = "NO_STOP"
    # At both.
    UNKNOWN = "unknown"  # nobody could tell in time what an order had become
    HALTED = "halted"  # by a limit, a person or trouble; also a position that a halt of the home has moved
    # A position that no order of the session has moved.
    STOP_OUT = "stop-out"  # its stop at the exchange
    FOREIGN = "foreign"  # anybody else
    # What a comparison finds, as `attribution.py` lets it in.
    ROUNDING = "rounding"  # to the exchange's steps, ticks and minima
    REVISED = "revised"  # candles that the exchange shows otherwise today
    GAP = "gap"  # a backtest closes at the first open behind one; a session holds until features are missing
    FUNDING = "funding"  # rates of the stream, or bookings, in place of the history's
    PRICE = "price"  # what the first price and the book were, in place of the candle's open
    FEE = "fee"  # charged otherwise than the version was judged at
    SLIPPAGE = "slippage"  # everything as the exchange booked it


UNKNOWN_CHAMPION, KNOWN_CHAMPION = "champion unknown", "champion known"
OF_DOUBT = frozenset({UNKNOWN_CHAMPION, KNOWN_CHAMPION, "resumed"})
"""Kinds of notes; the newest one of a market tells whether its champion is known."""

_STAYS = {(0, 0): "stay flat", (1, 1): "stay long", (-1, -1): "stay short"}
_GOES = {0: "close", 1: "go long", -1: "go short"}


class Decision(NamedTuple):
    """The decision at one closed bar.

    Attributes:
        start_ms: Open time of the bar, UTC milliseconds.
        values: (F + 6,) features, vol, probabilities, forecast volatility, NaN where unknown, and the size of a
            position opened by this decision as a share of the full one; older journals lack the last two.
        position: Side held at the close.
        bars_held: Bars for which it has been held.
        target: Side that the decision rule chooses from that position.
        wanted: Side that is attempted at the next open: the target, or the position if `cause` forbids a change.
        cause: Why the target is not attempted, a `Cause`; else empty.
        lacks: Why there is no expected return; empty if there is one.
        mu: Expected return of a long position over the horizon; NaN if there is none.
        cost: Cost of a round trip, share of the price; NaN if `mu` is.
        late_ms: Time from the bar's close to the start of its processing, on the exchange's clock.
        feed_ms: Time from the exchange's stamp to receipt; NaN if the two clocks can't be compared.
        queue_us: Time from receipt to the start of processing.
        step_us: Time from the start of processing to the decision.
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
        """The reason of the target, one line."""
        if self.lacks:
            return self.lacks
        verb = _STAYS.get((self.position, self.target)) or _GOES[self.target]
        return f"{verb}: mu {1e4 * self.mu:+.1f} bp, round trip {1e4 * self.cost:.1f} bp"


class BarOpen(NamedTuple):
    """What an account did at a bar's open.

    Attributes:
        start_ms: Open time of the bar, UTC milliseconds.
        wanted: Side after the open; with orders the side that was decided, even if it was not reached.
        cause: Why the decision was not attempted, a `Cause`; else empty. With orders: why it was not fully executed,
            also a code of `limits.py`.
        rate: Sum of the funding rates due.
        late_ms: Time from the bar's open to the fill, on the exchange's clock.
    """

    start_ms: int
    wanted: int
    cause: str
    quote: Quote
    rate: float
    late_ms: float
    opened: Opened


class BookedExecution(NamedTuple):
    """One booking of the exchange.

    Attributes:
        kind: Bybit's execType: Trade, Funding, AdlTrade ...
        link_id: Link id of the order; empty if it is not ours.
        side: Buy or Sell; empty where the exchange does not say and no coins moved.
        time_ms: Time of the booking, UTC milliseconds.
        booked_ms: `start_ms` of the row of `opens` whose ledger includes it; None while none does.
    """

    kind: str
    link_id: str
    side: str
    time_ms: int
    fill: Execution
    booked_ms: int | None

    @property
    def moves(self) -> bool:
        """Whether it changes the position; funding changes only cash."""
        return self.kind != "Funding" and self.fill.quantity > 0

    @property
    def change(self) -> Decimal:
        """Change of the position, signed coins."""
        return self.fill.quantity * (self.moves if self.side == "Buy" else -self.moves)

    @property
    def worth(self) -> Decimal:
        """Traded notional, quote currency; 0 for funding."""
        return self.fill.quantity * self.fill.price * self.moves
