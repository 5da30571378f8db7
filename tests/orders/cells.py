"""One decision under one fault, killed at one point: what the exchange has afterwards, beside the journal."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from decimal import Decimal
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from storage.api_keys import ApiKey
from storage.schema import Instrument, Market, Source
from tasks.exchange.boot_clock import boottime_s
from tasks.exchange.connection import Link
from tasks.exchange.gateway import Gateway
from tasks.exchange.private_events import AccountReconnected
from tasks.exchange.stream import PrivateStream
from tasks.exchange.stream_socket import StreamTiming
from tasks.exchange.trading_account import TradingAccount
from tasks.execution.accounting import COMMISSION
from tasks.execution.orders import LotSize, Order, Status
from tasks.execution.paper import Ledger
from tasks.journal.journal import Journal
from tasks.live.compared_position import DeskTiming
from tasks.live.halts import Halts
from tasks.live.order_account import OrderAccount
from tasks.live.order_desk import Intent, OrderDesk
from tasks.live.order_gateway import OrderGateway
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.sandbox.faults import CREATE_PATH, FaultPlan
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tasks.sandbox.venue_account import AccountSpec

D = Decimal
MARKET = Market()
CANDLES = generate(SyntheticMarket(bars=300))
BAR_MS = int(CANDLES.start_ms[-1])
PRICE = D(str(CANDLES.close[-1]))
KEY = ApiKey("sandbox", "KEYFORTESTS", "SECRETFORTESTS")
LOT = LotSize(step=D("0.001"), least=D("0.001"), most=D(100), least_notional=D(5))
TIMING = DeskTiming(first_s=0.05, most_s=0.1, reconcile_s=0.0, differ_s=0.02, rounds=8)
STREAM = StreamTiming(first_wait_s=0.01, max_wait_s=0.05, jitter=0.0)
WINDOW_MS = 400
LIMIT_S = 60.0  # for what takes a second; only a failure waits so long

ORDER = {
    "symbol": "BTCUSDT", "orderId": "x", "orderLinkId": "dsc-1", "orderStatus": "New", "cumExecQty": "",
    "category": "linear", "rejectReason": "", "updatedTime": "0", "parentOrderLinkId": "", "avgPrice": "",
}  # fmt: skip
EXECUTION = {
    "symbol": "BTCUSDT", "execId": "e", "execQty": "0.1", "execPrice": "100", "execFee": "0", "execType": "Trade",
    "side": "Buy", "orderId": "", "orderLinkId": "", "execTime": "0", "closedSize": "", "isMaker": False,
}  # fmt: skip
"""Rows of REST, as a test spoils them."""

POINTS = (
    "decision", "intent", "submitting", "send", "answer", "acknowledged", "first part", "close leg filled", "filled",
)  # fmt: skip
"""After what a process dies."""


class Killed(BaseException):
    """The process ends here."""


class Desk:
    """A sandbox with one account, and a desk that can be killed and started again.

    Attributes:
        sandbox: Its clock stands still.
        desk: The desk.
        trading: The client.
        sent_again: Ids of orders that were sent though the exchange had them.
    """

    def __init__(
        self, path: Path, stack: ExitStack, faults: FaultPlan = (), instrument: Instrument | None = None, **options: Any
    ) -> None:
        self._path, self._stack, self._events = path, stack, queue.Queue[Any]()
        spec = AccountSpec(key=KEY.key, secret=KEY.secret, leverage="1", **options)
        self.sandbox = stack.enter_context(
            Sandbox(
                [Listing(candles=CANDLES, market=MARKET, instrument=instrument)],
                source=Source("sandbox:0123abcd"),
                accounts=[spec],
                faults=faults,
            )
        )
        self._life: ExitStack | None = None
        self.sent_again: list[str] = []
        self.start()

    def start(self) -> None:
        """Begin, or begin again, as after a kill."""
        self.stop()
        self._life = life = self._stack.enter_context(ExitStack())
        self.trading = life.enter_context(
            TradingAccount(
                "sandbox", KEY, url=self.sandbox.url, timeout_s=(1.0, 0.3), recv_window_ms=WINDOW_MS, ban_s=0.2
            )
        )  # fmt: skip
        place = self.trading.place

        def sent(market: Market, order: Order, *more: Any) -> Any:
            if any(one.link_id == order.link_id for one in self.sandbox.account(KEY.key).orders.values()):
                self.sent_again.append(order.link_id)
            return place(market, order, *more)

        self.trading.place = sent  # type: ignore[method-assign]
        self.journal = life.enter_context(Journal(self._path))
        self.desk = OrderDesk(
            MARKET.slug, MARKET, "tests", trading=self.trading, journal=self.journal, lot=LOT,
            begin_ms=self.sandbox.clock.now_ms(), timing=TIMING,
        )  # fmt: skip

    def stop(self) -> None:
        """Let go of everything that a process has."""
        if self._life is not None:
            self._life.close()
        self._life = None

    def listen(self) -> None:
        """Hear the private stream."""
        assert self._life is not None
        self._events = queue.Queue()
        stream = PrivateStream(
            KEY, exchange="sandbox", url=self.sandbox.stream_url, events=self._events, timing=STREAM
        )  # fmt: skip
        self._life.enter_context(stream)
        assert isinstance(self._events.get(timeout=LIMIT_S), AccountReconnected)

    def want(self, coins: str, bar: int = 0, stop: Decimal | None = None) -> None:
        """Ask for a position at the open of a bar."""
        start_ms = BAR_MS + bar * MARKET.interval_ms
        self.desk.submit_intent(Intent(start_ms, D(coins), PRICE, boottime_s() + LIMIT_S, stop))

    def work(self, until: Callable[[], bool] | None = None) -> None:
        """Let the desk work until it has nothing to do."""
        give_up_s = monotonic() + LIMIT_S
        until = until or (lambda: not self.desk.is_busy and not self.desk.unsettled)
        while True:
            self.desk.work()
            if until():
                return
            assert monotonic() < give_up_s, (self.desk.unsettled, self.desk.trouble)
            with suppress(queue.Empty):
                event = self._events.get(timeout=0.01)
                if not isinstance(event, AccountReconnected):
                    self.desk.on_account_event(event)

    def reconcile(self) -> None:
        """Compare until both sides agree, or that is given up."""
        for _ in range(2 * TIMING.rounds):
            self.desk.compare_soon()
            self.desk.reconcile()
            self.work()
            if self.desk.trouble or self.trading.position(MARKET).size == self.desk.held:
                return
            sleep(TIMING.differ_s)

    @property
    def posts(self) -> list[str]:
        """Link ids of every order that was sent."""
        return [one.params["orderLinkId"] for one in self.sandbox.requests if one.path == CREATE_PATH]

    @property
    def orders(self) -> list[Order]:
        """Of the journal."""
        return [order for _, order in self.journal.reader().orders(MARKET.slug)]

    def violations(self) -> list[str]:
        """Return every difference between what the exchange has and what the journal says."""
        account, found = self.sandbox.account(KEY.key), []
        theirs = {order.link_id: order for order in account.orders.values() if order.link_id.startswith("dsc-")}
        ours = {order.link_id: order for order in self.orders}
        found += [f"{name} was sent though the exchange had it" for name in self.sent_again]
        taken = Counter(order.link_id for order in account.orders.values() if order.link_id)
        found += [f"{name} was accepted {number} times" for name, number in taken.items() if number > 1]
        for name, theirs_is in theirs.items():
            ours_is = ours.get(name)
            if ours_is is None:
                found.append(f"{name} is not in the journal")
            elif (ours_is.known, ours_is.leg.quantity, ours_is.leg.side) != (
                theirs_is.filled, theirs_is.qty, theirs_is.side
            ):  # fmt: skip
                found.append(f"{name} is {theirs_is} there and {ours_is} here")
            elif ours_is.status.value != _word(theirs_is.status, theirs_is.filled == theirs_is.qty):
                found.append(f"{name} is {theirs_is.status} there and {ours_is.status} here")
        for name in ours.keys() - theirs.keys():
            if ours[name].status not in (Status.REJECTED, Status.ABSENT):
                found.append(f"{name} is {ours[name].status} here, and the exchange does not know it")
        executed = {(one.exec_id, one.qty, one.price, one.fee) for one in account.executions}
        booked = {
            (one.fill.exec_id, one.fill.quantity, one.fill.price, one.fill.fee)
            for one in self.journal.reader().executions(MARKET.slug)
        }
        if booked != executed:
            found.append(f"executions differ: {sorted(map(str, booked ^ executed))}")
        position = account.positions.get(MARKET.symbol)
        if self.desk.held != (position.size if position else 0):
            found.append(f"the exchange holds {position}, the journal says {self.desk.held}")
        return found


def _word(status: str, is_whole: bool) -> str:
    words = {"Filled": "filled", "Rejected": "rejected", "New": "acked", "PartiallyFilled": "partial"}
    return words.get(status, "filled" if is_whole else "cancelled")


OPEN = Callable[..., Desk]
"""Of the fixture `open_desk`."""


def account_of(here: Desk, stack: ExitStack, key: ApiKey = KEY) -> tuple[OrderGateway, OrderAccount]:
    """Return a session's account in the sandbox of a desk, with 5,000 USDT, and its gateway."""
    gateway = stack.enter_context(Gateway("sandbox", source=here.sandbox.source, url=here.sandbox.url))
    link = Link(gateway=gateway, url=here.sandbox.url)
    halts = Halts.of(here.journal.path.parent)
    orders = stack.enter_context(OrderGateway(link, key, "tests", halts, desk_timing=TIMING, recv_window_ms=400))
    own = orders.account(MARKET, gateway.instrument(MARKET), Ledger(5_000.0), here.journal)
    own.rules[COMMISSION] = 0.001
    return orders, own


ACCOUNT = Callable[..., tuple[OrderGateway, OrderAccount]]
"""Of the fixture `open_account`."""


def plant(desk: Desk, point: str) -> None:
    """Let the process die at a point of what comes next."""
    journal, trading = desk.journal, desk.trading
    order, execution, place = journal.order, journal.execution, trading.place

    def dies(point_is: bool) -> None:
        if point_is:
            raise Killed(point)

    def write_order(account: str, start_ms: int, one: Order, *more: Any) -> None:
        dies(point == "intent" and one.status is Status.SUBMITTING)
        order(account, start_ms, one, *more)
        dies(point == "submitting" and one.status is Status.SUBMITTING)
        dies(point == "acknowledged" and one.status not in (Status.SUBMITTING, Status.INTENT))
        dies(point == "close leg filled" and one.leg.reduces and one.is_settled)
        dies(point == "filled" and not one.leg.reduces and one.is_settled)

    def write_execution(account: str, start_ms: int, one: Order | None, booked: Any) -> None:
        execution(account, start_ms, one, booked)
        dies(point == "first part")

    def send(*args: Any) -> Any:
        if point == "send":
            sent = len(desk.posts)
            threading.Thread(target=lambda: place(*args), daemon=True).start()
            give_up_s = monotonic() + LIMIT_S
            while len(desk.posts) == sent and monotonic() < give_up_s:
                sleep(0.001)
            raise Killed(point)
        answer = place(*args)
        dies(point == "answer")
        return answer

    journal.order, journal.execution, trading.place = write_order, write_execution, send  # type: ignore[method-assign]


def run_cell(path: Path, plan: FaultPlan, point: str) -> tuple[Desk, list[str]]:
    """Flip a position under a fault, killed at a point and started again; return what is wrong afterwards."""
    with ExitStack() as stack:
        here = Desk(path, stack)
        here.listen()
        here.want("0.3")
        here.work()
        here.sandbox.follow(plan)
        plant(here, point)
        killed = False
        try:
            if point == "decision":
                raise Killed(point)
            here.want("-0.4", bar=1)
            here.work()
        except Killed:
            killed = True
        if killed:
            here.start()
            here.listen()
            here.want("-0.4", bar=1)
            here.work()
        here.reconcile()
        found = here.violations()
        outcome = here.desk.outcome(BAR_MS + MARKET.interval_ms)
        if here.desk.held != D("-0.4") and not (here.desk.trouble or outcome):
            found.append(f"{here.desk.held} is held, -0.4 was wanted, and nobody says why")
        return here, found
