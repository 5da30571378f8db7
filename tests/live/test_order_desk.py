"""An order desk against the sandbox over real sockets: sent once, followed to its end, and the books agree."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from decimal import Decimal
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from storage.api_keys import ApiKey
from storage.schema import Market, Source
from tasks.exchange.private_events import AccountReconnected
from tasks.exchange.stream import PrivateStream, StreamTiming
from tasks.exchange.trading import TradingAccount
from tasks.execution.orders import LotSize, Status
from tasks.live.journal import Journal
from tasks.live.order_desk import DeskTiming, OrderDesk, Wanted
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.sandbox.account import AccountSpec
from tasks.sandbox.faults import CREATE_PATH, Action, Fault, FaultPlan, Match
from tasks.sandbox.sandbox import Sandbox

D = Decimal
MARKET = Market()
CANDLES = generate(SyntheticMarket(bars=300))
PRICE = D(str(CANDLES.close[-1]))
KEY = ApiKey("sandbox", "KEYFORTESTS", "SECRETFORTESTS")
LOT = LotSize(step=D("0.001"), least=D("0.001"), most=D(100), least_notional=D(5))
QUICK = DeskTiming(first_s=0.05, most_s=0.1, reconcile_s=0.0, differ_s=0.02)
WINDOW_MS = 300
LIMIT_S = 60.0  # for what takes a second; only a failure waits so long


class Rig:
    """A sandbox with one account, a client of it, and a desk between them.

    Attributes:
        sandbox: Its clock stands still.
        desk: The desk.
    """

    def __init__(self, path: Path, stack: ExitStack, faults: FaultPlan, **options: Any) -> None:
        self._path, self._stack, self._events = path, stack, queue.Queue[Any]()
        spec = AccountSpec(key=KEY.key, secret=KEY.secret, **options)
        self.sandbox = stack.enter_context(
            Sandbox(CANDLES, market=MARKET, source=Source("sandbox:0123abcd"), accounts=[spec], faults=faults)
        )
        self.trading = stack.enter_context(
            TradingAccount(
                "sandbox", KEY, url=self.sandbox.url, timeout_s=(1.0, 0.5), recv_window_ms=WINDOW_MS
            )
        )  # fmt: skip
        self._absence_ms = 0
        self.start()

    def start(self) -> None:
        """Begin, or begin again, as after a kill."""
        self._journal = self._stack.enter_context(Journal(self._path))
        self.desk = OrderDesk(
            MARKET.slug, MARKET, "tests", trading=self.trading, journal=self._journal, lot=LOT,
            begin_ms=self.sandbox.clock.now_ms(), timing=QUICK,
        )  # fmt: skip

    def listen(self) -> None:
        """Hear the private stream."""
        timing = StreamTiming(first_wait_s=0.01, max_wait_s=0.05, jitter=0.0)
        stream = PrivateStream(
            KEY, exchange="sandbox", url=self.sandbox.stream_url, events=self._events, timing=timing
        )  # fmt: skip
        self._stack.enter_context(stream)
        assert isinstance(self._events.get(timeout=LIMIT_S), AccountReconnected)

    def want(self, coins: str, bar: int = 0) -> None:
        """Ask for a position at the open of a bar."""
        start_ms = int(CANDLES.start_ms[-1]) + bar * MARKET.interval_ms
        self.desk.want(Wanted(start_ms, D(coins), PRICE, monotonic() + LIMIT_S, None))

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
                self.desk.hear(self._events.get(timeout=0.01))

    @property
    def posts(self) -> list[str]:
        """Link ids of every order that was sent."""
        return [one.params["orderLinkId"] for one in self.sandbox.requests if one.path == CREATE_PATH]

    @property
    def orders(self) -> list[Any]:
        """Of the journal."""
        return [order for _, order in self._journal.reader().orders(MARKET.slug)]

    def agree(self) -> None:
        """Assert that journal and exchange say the same, to the last digit."""
        account = self.sandbox.account(KEY.key)
        theirs = {order.link_id: order for order in account.orders.values() if order.link_id}
        ours = {order.link_id: order for order in self.orders}
        taken = {name for name, order in ours.items() if order.status not in (Status.REJECTED, Status.ABSENT)}
        assert taken == {name for name, order in theirs.items() if order.status != "Rejected" or name in taken}
        for name in taken:
            assert ours[name].known == theirs[name].filled
        executed = {one.exec_id: one for one in account.executions}
        booked = {one.fill.exec_id: one.fill for one in self._journal.reader().executions(MARKET.slug)}
        assert booked.keys() == executed.keys()
        for name, fill in booked.items():
            assert (fill.quantity, fill.price, fill.fee) == (
                executed[name].qty,
                executed[name].price,
                executed[name].fee,
            )
        position = account.positions.get(MARKET.symbol)
        assert self.desk.held == (position.size if position else 0)
        assert len(self.posts) == len(set(self.posts)) or Status.ABSENT in {order.status for order in self.orders}


@pytest.fixture
def open_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    with ExitStack() as stack:
        yield lambda faults=(), **options: Rig(tmp_path / "orders.sqlite", stack, faults, **options)


def fault(action: Action) -> list[Fault]:
    return [Fault(Match(path=CREATE_PATH, method="POST"), action)]


@pytest.mark.parametrize("streams", [True, False])
def test_position_is_opened_flipped_and_closed(open_rig: Callable[..., Rig], streams: bool) -> None:
    rig = open_rig()
    if streams:
        rig.listen()
    for bar, coins, posts in ((0, "0.4", 1), (1, "-0.3", 3), (2, "0", 4), (3, "0", 4)):
        rig.want(coins, bar)
        rig.work()
        assert rig.desk.held == D(coins)
        assert len(rig.posts) == posts
        assert rig.desk.outcome(int(CANDLES.start_ms[-1]) + bar * MARKET.interval_ms) == ""
    rig.agree()
    rig.desk.reconcile()
    assert rig.desk.trouble == ""
    assert [order.leg.reduces for order in rig.orders] == [False, True, False, True]


@pytest.mark.parametrize("delivery", ["reset", "never", "short"])
def test_order_whose_answer_is_lost_is_found_and_not_sent_again(open_rig: Callable[..., Rig], delivery: str) -> None:
    rig = open_rig(fault(Action("lost", lambda reply: setattr(reply, "delivery", delivery))))
    rig.want("0.4")
    rig.work()
    assert (rig.desk.held, len(rig.posts)) == (D("0.4"), 1)
    rig.agree()
