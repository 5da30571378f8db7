"""An account whose decisions are carried out by orders: what paper does at once, over as long as the exchange takes.

The ledger is the session's own, as on paper: its start capital and what came of it. Its quantity is the exchange's
position, its cash moves by what the exchange booked. A bar's open is booked when nothing more can come of its orders;
what comes later, and funding, is booked amid the bar in a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from time import monotonic, sleep

from storage.schema import FloatArray, Instrument
from tasks.exchange.private_events import ExecutionNews, OrderNews, PositionNews
from tasks.exchange.stream_events import BookTop
from tasks.execution.accounting import size_of
from tasks.execution.orders import ZERO, LotSize
from tasks.execution.paper import Fill, Opened, Quote
from tasks.execution.risk import Breach, RiskBook
from tasks.live.account import Account, ClosedBar, FirstPrice
from tasks.live.journal import BarOpen, Decision
from tasks.live.order_desk import OrderDesk, Wanted
from tasks.live.session_config import ExchangeTime, elapsed_ms

CLOSE_S = 15.0
"""How long the end of a session waits for its last position to be closed."""

_BEAT_S = 0.05


def lot_size(instrument: Instrument) -> LotSize:
    """Return what a market trades in."""
    return LotSize(
        step=Decimal(instrument.qty_step),
        least=Decimal(instrument.min_qty),
        most=Decimal(instrument.max_market_qty),
        least_notional=Decimal(instrument.min_notional),
    )


@dataclass(eq=False)
class OrderAccount(Account):
    """A version that decides, and a ledger that follows what the exchange books.

    Attributes:
        desk: Its orders.
        risk: Its limits, and what they are judged by.
        halted: Returns why nothing may be held, whoever said so; empty while it may.
        latch: Is told of a breach that only a person undoes.
        stop_share: How far from the open the stop lies that goes with a position, share of the price; 0 for none.
    """

    desk: OrderDesk = field(kw_only=True)
    risk: RiskBook = field(kw_only=True)
    halted: Callable[[], str] = field(kw_only=True)
    latch: Callable[[str], object] = field(kw_only=True)
    stop_share: float = field(kw_only=True, default=0.0)
    pays_by_rate: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lot = lot_size(self.instrument)
        self._begun_ms = -1
        self._said = ""
        self._is_told = False

    # --- what the exchange says ---------------------------------------------------------------------------------------

    def hear(self, event: OrderNews | ExecutionNews | PositionNews) -> None:
        """Take in what the exchange says of the account."""
        self.desk.hear(event)

    def look(self) -> str:
        """Go on with what is unsettled, compare if that is due, and return why nothing more may be traded."""
        self.desk.work()
        self.desk.reconcile()
        if self.desk.trouble and not self._is_told:
            self._is_told = True
            self.latch(self.desk.trouble)
        return self.desk.trouble

    def compare_soon(self) -> None:
        """Compare with the exchange at the next look: something may have been missed."""
        self.desk.compare_soon()

    def settle(self) -> None:
        """Follow what a former process left under way to its end, as long as that takes at most."""
        self._work_until(monotonic() + CLOSE_S)
        for _ in range(3):
            self.desk.compare_soon()
            self.desk.reconcile()

    def _work_until(self, give_up_s: float) -> None:
        while (self.desk.is_busy or self.desk.unsettled) and monotonic() < give_up_s:
            self.desk.work()
            sleep(_BEAT_S)

    # --- a bar closes ------------------------------------------------------------------------------------------------

    def decide(
        self, bar: ClosedBar, candle: FloatArray, unbroken: int, step_ms: int, deadline_ms: float, trusted: bool
    ) -> Decision:
        """Step a closed bar and decide; what a limit or a person has halted wants nothing."""
        decision = super().decide(bar, candle, unbroken, step_ms, deadline_ms, trusted)
        self._tell(self.risk.close(bar.start_ms + step_ms, self.ledger.equity(bar.row[4])))
        if decision.wanted and (self.risk.latched or self.halted()):
            self.pending = decision._replace(wanted=0, cause="halted")
            self.count("halted")
        elif self.desk.unsettled and decision.wanted != decision.position:
            self.pending = decision._replace(wanted=decision.position, cause="unknown")
            self.count("unknown")
        return self.pending or decision

    def _tell(self, breach: Breach | None) -> None:
        if breach is not None:
            self.latch(str(breach))

    # --- a bar opens --------------------------------------------------------------------------------------------------

    def try_open(
        self,
        start_ms: int,
        first: FirstPrice,
        book: BookTop | None,
        time: ExchangeTime,
        deadline_ms: float,
        rate: float,
    ) -> BarOpen | None:
        """Carry out the last decision; None while the book is of before the open, or orders are under way."""
        if self.pending is None or self.opened_ms >= start_ms:
            return None
        quote, late_ms = Quote(first.price), first.at_ms - start_ms + elapsed_ms(first.received_ns)
        if self._begun_ms != start_ms:
            self._said = ""
            if self.pending.wanted != self.ledger.weight:
                if self._is_stranded or book is None or book.ts_ms < start_ms:
                    return None
                quote = Quote(first.price, book.bid, book.ask)
                late_ms = time.at(book.ts_ms, book.received_ns) - start_ms + elapsed_ms(book.received_ns)
                self._begin(start_ms, quote, deadline_ms, late_ms, max(first.received_ns, book.received_ns))
            self._begun_ms = start_ms
        self.desk.work()
        if self.desk.is_busy:
            return None
        return self._booked(start_ms, self.pending.wanted, self._said or self.desk.outcome(start_ms), quote, late_ms)

    def _begin(self, start_ms: int, quote: Quote, deadline_ms: float, late_ms: float, received_ns: int) -> None:
        wanted = self.pending.wanted if self.pending else 0
        coins = 0.0
        if wanted:
            value = self.ledger.cash + float(self.desk.held) * quote.first
            coins = size_of(wanted, value, quote.first, self._pending_rules) if value > 0 else 0.0
            if late_ms > deadline_ms:
                self._said = "stale"
            elif self.desk.trouble or self.halted():
                self._said = "halted"
            elif breach := self.risk.may_open(coins, quote.first, self.mark, start_ms + late_ms):
                self._said = breach.code
        if self._said:
            return
        steps = (Decimal(coins) / self._lot.step).to_integral_value(ROUND_HALF_EVEN)
        price = Decimal(str(quote.first))
        stop = self._stop(price, wanted)
        until_s = monotonic() + max(deadline_ms - late_ms, 0.0) / 1e3
        self.desk.want(Wanted(start_ms, steps * self._lot.step, price, until_s, stop, received_ns))

    def _stop(self, price: Decimal, wanted: int) -> Decimal | None:
        if not self.stop_share or not wanted:
            return None
        tick = Decimal(self.instrument.tick_size)
        return (price * (1 - wanted * Decimal(str(self.stop_share))) / tick).to_integral_value() * tick

    def open_unseen(self, start_ms: int, price: float, rate: float) -> BarOpen:
        """Book an open whose bar is over: what was filled until now, and nothing more is sent for it."""
        undone = self.pending is not None and self.pending.wanted != self.ledger.weight
        begun = self._begun_ms == start_ms
        self.desk.give_up()
        cause = (self._said or self.desk.outcome(start_ms) or "unknown") if begun else self.unfilled
        return self._booked(start_ms, self.ledger.weight, cause if undone else "", Quote(price), float("nan"))

    def late(self, at_ms: int, price: float, *, closes: bool = False) -> BarOpen | None:
        """Book amid a bar what the exchange has booked since its open; None where that is nothing.

        While an order is under way that waits, until the bar closes: what is decided then goes by what is held.
        """
        if not self.desk.untaken or self.desk.is_busy or (self.desk.unsettled and not closes):
            return None
        return self._booked(max(at_ms, self.opened_ms + 1), self.ledger.weight, "", Quote(price), float("nan"))

    def close_out(self, at_ms: int, quote: Quote) -> BarOpen:
        """Close the position and book it; what can't be closed in time stays, behind its stop."""
        price = Decimal(str(quote.first))
        give_up_s = monotonic() + CLOSE_S
        self.desk.want(Wanted(at_ms, ZERO, price, give_up_s, None))
        self._work_until(give_up_s)
        self.desk.give_up()
        return self._booked(at_ms, 0, "stop", quote, float("nan"))

    def _booked(self, at_ms: int, wanted: int, cause: str, quote: Quote, late_ms: float) -> BarOpen:
        """Return the row that holds everything that the exchange has booked and no row holds yet."""
        trades = [one for one in self.desk.untaken if one.moves]
        funding = float(sum((one.fill.fee for one in self.desk.untaken if not one.moves), ZERO))
        change = sum((one.change for one in trades), ZERO)
        paid = sum((one.change * one.fill.price for one in trades), ZERO)
        fee = float(sum((one.fill.fee for one in trades), ZERO))
        quantity = self.desk.held
        weight = 0 if abs(quantity) < self._lot.least else 1 if quantity > 0 else -1
        held = self.ledger.bars_held + 1 if weight == self.ledger.weight else 1
        cash = self.ledger.cash - float(paid) - fee - funding
        after = self.ledger._replace(cash=cash, quantity=float(quantity), weight=weight, bars_held=held)
        fill = None
        if trades:
            price = float(paid / change) if change else quote.first
            fill = Fill(float(change), price, fee, float(paid) - float(change) * quote.first)
        self.count(cause)
        return BarOpen(at_ms, wanted, cause, quote, 0.0, late_ms, Opened(after, fill, funding))

    def take(self, bar: BarOpen) -> None:
        """Go on with an open that is in the journal."""
        before = self.ledger.weight
        super().take(bar)
        self.desk.taken()
        self._tell(self.risk.trip(before, self.ledger.weight, self.ledger.equity(bar.quote.first)))
