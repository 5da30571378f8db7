"""Many markets of one account in a sandbox, as a session of them has it."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from storage.schema import Market, Source
from tasks.exchange.boot_clock import boottime_s
from tasks.exchange.connection import Link
from tasks.exchange.gateway import Gateway
from tasks.execution.paper import Ledger
from tasks.journal.journal import Journal
from tasks.live.exchange_time import DataTime
from tasks.live.halts import Halts
from tasks.live.market_session import MarketSession
from tasks.live.order_account import OrderAccount
from tasks.live.order_desk import Intent
from tasks.live.order_gateway import OrderGateway
from tasks.live.rest_feed import RestFeed
from tasks.live.session_config import SessionConfig
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tasks.sandbox.venue_account import AccountSpec
from tests.orders.cells import BAR_MS, CANDLES, KEY, LIMIT_S, PRICE, STREAM, TIMING, D


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
        journal: Of all of them.
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
        self.journal = stack.enter_context(Journal(folder / "orders.sqlite"))
        self._feed = RestFeed(gateway=gateway)
        self.own: list[OrderAccount] = [
            orders.account(market, gateway.instrument(market), Ledger(1_000.0), self.journal) for market in markets
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

    def hold(self, coins: str) -> None:
        """Hold so many coins in each market."""
        for own in self.own:
            own.desk.submit_intent(Intent(BAR_MS, D(coins), PRICE, boottime_s() + LIMIT_S, D(50)))
            give_up_s = boottime_s() + LIMIT_S
            while own.desk.is_busy or own.desk.unsettled:
                assert boottime_s() < give_up_s
                own.desk.work()

    def sessions(self, config: SessionConfig) -> list[MarketSession]:
        """Return a session of each market, warmed up."""
        found = []
        for own in self.own:
            one = MarketSession(
                own.desk.market, own, instrument=own.instrument, journal=self.journal, feed=self._feed, time=DataTime(),
                config=config,
            )  # fmt: skip
            one.warm_up(CANDLES)
            found.append(one)
        return found


MANY = Callable[[int], Many]
"""Of the fixture `open_many`."""
