"""Many markets of one account that nobody answers: how long the session's one thread waits, and who is asked next."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from storage.schema import Market, Source
from tasks.exchange.connection import Link
from tasks.exchange.gateway import Gateway
from tasks.execution.paper import Ledger
from tasks.journal.journal import Journal
from tasks.live.halts import Halts
from tasks.live.order_account import OrderAccount
from tasks.live.order_gateway import OrderGateway
from tasks.sandbox.faults import Action, Fault, FaultPlan, Match
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tasks.sandbox.venue_account import AccountSpec
from tests.orders.cells import CANDLES, KEY, LIMIT_S, STREAM, TIMING
from tests.sandbox import actions
from tests.sandbox.outside import Outside

CANCEL, POSITION = "/v5/order/cancel-all", "/v5/position/list"
PRIVATE = (POSITION, "/v5/execution/list", "/v5/order/realtime", "/v5/order/history")


class Time:
    """Seconds that pass only where somebody waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Many:
    """Markets of one account in a sandbox, and the time that its questions take: 5 s each.

    Attributes:
        own: Each market's account, the first one first.
    """

    def __init__(self, folder: Path, stack: ExitStack, number: int) -> None:
        markets = [Market(symbol=f"C{place:02d}USDT") for place in range(number)]
        self.time = Time()
        self.sandbox = stack.enter_context(
            Sandbox(
                [Listing(candles=CANDLES, market=market) for market in markets],
                source=Source("sandbox:0123abcd"),
                accounts=[AccountSpec(key=KEY.key, secret=KEY.secret, leverage="1")],
            )
        )
        gateway = stack.enter_context(Gateway("sandbox", source=self.sandbox.source, url=self.sandbox.url))
        link, halts = Link(gateway=gateway, url=self.sandbox.url), Halts.of(folder)
        orders = stack.enter_context(
            OrderGateway(link, KEY, "tests", halts, desk_timing=replace(TIMING, reconcile_s=60.0))
        )
        questions = orders.trading._questions
        ask, questions.sleep = questions.ask, self.time.sleep

        def ask_slowly(*question: Any) -> Any:
            self.time.sleep(5.0)
            return ask(*question)

        questions.ask = ask_slowly  # type: ignore[method-assign]
        orders.stream(queue.Queue(), STREAM, lambda line: None)  # as a session that runs
        for breaker in (orders.trading._asking, orders.trading._setting):
            assert breaker is not None
            breaker._clock = lambda: self.time.now_s
        journal = stack.enter_context(Journal(folder / "orders.sqlite"))
        self.own: list[OrderAccount] = [
            orders.account(market, gateway.instrument(market), Ledger(1_000.0), journal) for market in markets
        ]

    def look(self) -> int:
        """Let each market ask what it wants to know, and return how many requests that made."""
        before = len(self.sandbox.requests)
        for own in self.own:
            own.compare_soon()
            own.poll()
        return len(self.sandbox.requests) - before

    @property
    def known(self) -> list[str]:
        """Markets whose account has been compared."""
        return [own.desk.market.symbol for own in self.own if not own.desk.unknown]


@pytest.fixture
def open_many(tmp_path: Path) -> Iterator[Callable[[int], Many]]:
    with ExitStack() as stack:
        yield lambda number: Many(tmp_path, stack, number)


def down(*symbols: str) -> FaultPlan:
    """Return the plan in which nobody is told of an account, or of these markets of it."""
    chosen: list[dict[str, str]] = [{"symbol": symbol} for symbol in symbols] or [{}]
    gone = actions.http_status(500)
    return [Fault(Match(path=path, params=params, times=None), gone) for path in PRIVATE for params in chosen]


@pytest.mark.promise(19)
@pytest.mark.parametrize("number", [1, 4, 16])
def test_look_at_an_account_that_nobody_answers_waits_for_one_question_however_many_markets_it_has(
    open_many: Callable[[int], Many], number: int
) -> None:
    here = open_many(number)
    here.sandbox.follow(down())
    assert here.look() == 3  # one question, repeated twice
    waited_s = here.time.now_s
    assert here.look() == 0
    here.time.sleep(waited_s)
    assert here.look() == 1  # whether anybody answers again
    assert (here.known, here.own[-1].desk.trouble) == ([], "")
    assert "nobody has asked" not in here.own[-1].desk.unknown
    here.sandbox.follow([])
    here.time.sleep(waited_s)
    for _ in range(2):
        here.look()
    assert len(here.known) == number


@pytest.mark.promise(19)
@pytest.mark.parametrize("damaged", [1, 3])
def test_markets_of_which_nobody_is_told_keep_no_other_one_unknown(
    open_many: Callable[[int], Many], damaged: int
) -> None:
    here = open_many(5)
    symbols = [own.desk.market.symbol for own in here.own]
    here.sandbox.follow(down(*symbols[:damaged]))
    for _ in range(20 * damaged):
        here.look()
        here.time.sleep(1.0)
    assert here.known == symbols[damaged:]


@pytest.mark.promise(17)
def test_markets_are_closed_though_nobody_answers_whether_their_orders_are_cancelled(
    open_many: Callable[[int], Many],
) -> None:
    here = open_many(3)
    lost = Action("lost", actions.http_status(500).spoil, unseen=True)
    outside: Any = Outside(here.sandbox.desk, KEY.key)
    for own in here.own:
        outside.order(own.desk.market.symbol, "Buy", "0.3")
        own.desk.reconcile()  # somebody else's: trouble
    here.sandbox.follow([Fault(Match(path=CANCEL, method="POST", times=None), lost)])
    give_up_s = monotonic() + LIMIT_S
    while any(one.size for one in here.sandbox.account(KEY.key).positions.values()):
        assert monotonic() < give_up_s
        for own in here.own:
            own.wind_down(True)
