"""One market's orders: written down before they are sent, sent once, followed until nothing more can come of them.

The desk belongs to the session's thread. An order is one request, which is waited for; what becomes of it comes over
the private stream, and is asked for where the stream says nothing. While anything is unsettled nothing else is sent.
"""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from time import monotonic
from typing import NamedTuple

from storage.schema import Market, PipelineError
from tasks.exchange.boot_clock import boottime_s
from tasks.exchange.trading_account import Protection, TradingAccount
from tasks.execution.orders import LotSize, NotFound, Order, Refused, Status, link_id, next_leg
from tasks.journal.journal import Journal
from tasks.journal.journal_rows import Cause
from tasks.live.compared_position import ComparedPosition, DeskTiming, passes

PROTECTION = Protection()

LEGS = 2
"""Orders of a kind for one decision: what the first leaves open gets one further one."""

CLOSES_LATER_S = 15.0
"""How much later than what opens may be sent what closes: what was decided to go is not kept for another bar."""

REFUSALS = 2
"""Decisions in a row whose order to close the exchange refused, after which that is trouble."""

OPEN_REFUSALS = 3
"""Decisions in a row whose order to open it refused with one code, after which somebody is told."""


class Intent(NamedTuple):
    """What one bar's decision asks for.

    Attributes:
        start_ms: Open time of the bar.
        coins: Signed position.
        price: Quote currency a coin, about.
        until_s: Of `boottime_s`: nothing is opened later; what closes may be `CLOSES_LATER_S` later.
        stop: Price of the stop that goes with an order that opens; None for none.
        stop_share: How far that is from `price`, share of it.
    """

    start_ms: int
    coins: Decimal
    price: Decimal
    until_s: float
    stop: Decimal | None
    stop_share: float | None = None


class OrderDesk(ComparedPosition):
    """The orders of one account in one market.

    Args:
        name: The account's, in the journal.
        market: USDT perpetual.
        session: Name of the session, for the orders' ids.
        trading: The exchange.
        journal: Where everything is written first.
        lot: What the market trades in.
        begin_ms: As of `PositionKeeper`.
        protection: What goes with each order.
        timing: When it asks.
        halted: Returns why nothing may be opened, asked before each order that would; empty while it may.

    Attributes:
        stop_share: How far from the price the stop of the last order to open lay, share of it; None where the journal
            does not say.
        refuses_to_open: That the exchange takes no order to open, again and again; empty while it does.
    """

    def __init__(
        self,
        name: str,
        market: Market,
        session: str,
        *,
        trading: TradingAccount,
        journal: Journal,
        lot: LotSize,
        begin_ms: int,
        protection: Protection = PROTECTION,
        timing: DeskTiming,
        halted: Callable[[], str] = lambda: "",
    ) -> None:
        self.refuses_to_open = ""
        self._session, self._protection = session, protection
        self._wanted: Intent | None = None
        self._ended = (-1, "")  # the last bar whose orders came to an end, and why nothing more was sent
        self._asked: dict[str, tuple[Order, float, float]] = {}  # as it was, when it is asked for next, the wait then
        self._sent_s: dict[str, float] = {}  # when each order was sent, or first asked for by this process
        self._refusals = 0  # to close, of decisions in a row
        self._refused_opens = ("", 0)  # code of those to open, and of how many decisions in a row
        super().__init__(
            name, market, trading=trading, journal=journal, least=lot.least, begin_ms=begin_ms, timing=timing,
            halted=halted,
        )  # fmt: skip
        self._lot = lot
        self.stop_share = journal.reader().stop_share(name)

    # --- what is asked of it ------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether a decision is still being carried out."""
        return self._wanted is not None

    def submit_intent(self, wanted: Intent) -> None:
        """Begin to carry out a decision; `work` goes on with it."""
        self._wanted = wanted

    def give_up(self) -> None:
        """Send nothing more for the present decision; what is under way is followed to its end."""
        self._wanted = None

    def outcome(self, start_ms: int) -> str:
        """Return why a bar's decision was not carried out as a whole; empty where it was.

        That is unknown, rejected, partial, absent, stale (no time was left for the next order) or halted (by trouble).
        """
        if self._ended[0] == start_ms:
            return self._ended[1]
        if any(self._bars[name] == start_ms for name in self._open):
            return Cause.UNKNOWN
        statuses = {order.status for order in self.sent(start_ms)}
        if Status.REJECTED in statuses:
            return Cause.REJECTED
        return Cause.PARTIAL if Status.CANCELLED in statuses else Cause.ABSENT if Status.ABSENT in statuses else ""

    # --- what it does -------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Ask for what is unsettled; if nothing is, send what is wanted next."""
        for order in self.unsettled:
            self._ask(order)
        if self.unsettled:
            return
        self._asked.clear()
        self._sent_s.clear()
        if self._wanted is None:
            return
        due = self._next(self._wanted)
        if isinstance(due, Order):
            due = self._barred(due, self._wanted) or due
        if isinstance(due, Order):
            self._send(due, self._wanted)
        else:
            if self.sent(self._wanted.start_ms):  # whether what was opened has its stop, only the exchange knows
                self._compare_within(self.timing.differ_s)
            self._count_refusals(self._wanted.start_ms)
            self._ended, self._wanted = (self._wanted.start_ms, due), None

    def _next(self, wanted: Intent) -> Order | str:
        """Return what is sent next, or why nothing is; empty where nothing is left to do."""
        sent = self.sent(wanted.start_ms)
        if any(order.status is Status.REJECTED for order in sent):
            return Cause.REJECTED
        if absent := [order for order in sent if order.status is Status.ABSENT]:
            return absent[0]
        leg = next_leg(self.held, wanted.coins, self._lot, wanted.price)
        if leg is None:
            return ""
        ordinal = sum(order.leg.reduces == leg.reduces for order in sent)
        if ordinal >= LEGS:
            return Cause.PARTIAL
        kind = "close" if leg.reduces else "open"
        return Order(link_id=link_id(self._session, self.market.slug, wanted.start_ms, kind, ordinal), leg=leg)

    def _count_refusals(self, start_ms: int) -> None:
        """Count decisions whose order was refused: what can't be closed so must be closed in another way."""
        if self.trading.ban.left_s():  # while that lasts nobody closes anything
            return
        sent = self.sent(start_ms)
        if closes := [one for one in sent if one.leg.reduces]:
            self._refusals = self._refusals + 1 if closes[-1].status is Status.REJECTED else 0
            if self._refusals >= REFUSALS:
                self._stop(f"the exchange refuses to close {self.held} ({closes[-1].why})")
        if opens := [one for one in sent if not one.leg.reduces]:
            code = opens[-1].why.partition(":")[0] if opens[-1].status is Status.REJECTED else ""
            known, n = self._refused_opens
            # Without a number it is not the exchange that has refused it.
            n = (n * (code == known) + 1) * code.isdecimal()
            self._refused_opens, self.refuses_to_open = (code, n), ""
            if n >= OPEN_REFUSALS:
                self.refuses_to_open = f"the exchange has refused to open {n} times in a row ({opens[-1].why})"

    def _barred(self, order: Order, wanted: Intent) -> str:
        """Return why an order that is due may not be sent; empty where it may."""
        if not order.leg.reduces and (self.trouble or self._halted()):
            return Cause.HALTED
        late_s = boottime_s() - wanted.until_s
        return Cause.STALE if late_s > (CLOSES_LATER_S if order.leg.reduces else 0.0) else ""

    def _send(self, order: Order, wanted: Intent) -> None:
        order = self._keep(order.submitting(self._now_ms()))
        self._bars[order.link_id], self._sent_s[order.link_id] = wanted.start_ms, monotonic()
        if not order.leg.reduces:
            self.stop_share = wanted.stop_share
        self._journal.order(self.name, wanted.start_ms, order, None if order.leg.reduces else wanted.stop_share)
        protection = replace(self._protection, stop=wanted.stop)
        # Disk and pace may have taken long; what closes goes out all the same.
        unless = (lambda: "") if order.leg.reduces else partial(self._barred, order, wanted)
        answer = self.trading.place(self.market, order, protection, unless)
        self._learn(order, answer)
        if isinstance(answer, Refused) and answer.is_final:
            self._stop(f"the exchange refuses this key ({answer.why}); check it: of this environment, may it trade?")

    def _ask(self, order: Order) -> None:
        since_s = self._sent_s.setdefault(order.link_id, monotonic())  # by no clock that somebody may set back
        known, due_s, wait_s = self._asked.get(order.link_id, (None, 0.0, 0.0))
        if known is not order:  # something has been said of it since
            self._asked[order.link_id] = (order, boottime_s() + self.timing.first_s, self.timing.first_s)
            return
        if boottime_s() < due_s:
            return
        try:
            found = self.trading.look_up(self.market, order.link_id)
        except PipelineError as err:
            found = None  # nobody can tell: it stays as it is
            if not passes(err):
                self._stop(str(err))
        self._apply_all(found or ())
        if found == []:
            self._learn(self._orders[order.link_id], NotFound(self._now_ms()))
        if order.link_id in self._open and monotonic() - since_s > self.timing.unknown_s:
            self._stop(f"nobody can tell for {self.timing.unknown_s:g} s what has become of order {order.link_id}")
        wait_s = min(2 * wait_s, self.timing.most_s)
        self._asked[order.link_id] = (self._orders[order.link_id], boottime_s() + wait_s, wait_s)
