"""Random sequences: of news on the pure order, and of wishes, faults and kills over sockets."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import sleep
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.execution.test_orders import Exchange
from tests.orders.cells import MARKET, Desk
from tests.sandbox.order_actions import FAULTS, order_fault

IS_PROOF = bool(os.environ.get("DSC_ORDERS_JSON"))  # `make orders`; the suite has fewer of each
PURE, OVER_SOCKETS = (1_000, 40) if IS_PROOF else (50, 4)
MEETS = [name for name in FAULTS if name not in ("foreign order", "deleveraged")]  # after those nothing is traded


class Counted(Exchange):
    """The pure machine, whose sequences are counted."""

    ended: ClassVar[list[int]] = []

    def teardown(self) -> None:
        super().teardown()
        self.ended.append(self.posts)


class OverSockets(RuleBasedStateMachine):
    """A desk that is told to hold this and that, beside an exchange that fails and a process that dies."""

    ended: ClassVar[list[tuple[list[str], int]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.here = Desk(Path(folder) / "orders.sqlite", self.stack)
        self.here.listen()
        self.bar, self.is_down = 0, False

    @rule(coins=st.integers(-4, 4))
    def want(self, coins: int) -> None:
        self.here.want(f"{coins / 10:.1f}", self.bar)
        self.here.work()
        self.bar += 1

    @rule(fault=st.sampled_from(MEETS), nth=st.integers(0, 1))
    def meet(self, fault: str, nth: int) -> None:
        self.here.sandbox.follow(order_fault(fault, MARKET.symbol, nth=nth, parts=2, late_s=0.6))

    @rule(coins=st.integers(-4, 4))
    def die_while_it_is_sent(self, coins: int) -> None:
        self.here.want(f"{coins / 10:.1f}", self.bar)
        self.here.desk.work()
        self.here.start()
        self.is_down = True  # the next process does not listen at first
        self.here.want(f"{coins / 10:.1f}", self.bar)
        self.here.work()
        self.bar += 1

    @precondition(lambda self: self.is_down)
    @rule()
    def listen(self) -> None:
        self.here.listen()
        self.is_down = False

    @rule()
    def reconcile(self) -> None:
        self.here.reconcile()

    def teardown(self) -> None:
        try:
            sleep(self.here.trading.ban.left_s())
            self.here.reconcile()
            self.ended.append((self.here.violations(), len(self.here.sent_again)))
            assert self.ended[-1] == ([], 0)
        finally:
            self.stack.close()


def note(found: dict[str, Any], sequences: int, violations: int = 0, duplicates: int = 0) -> None:
    for name, count in (("sequences", sequences), ("violations", violations), ("duplicate_orders", duplicates)):
        found[name] = found.get(name, 0) + count


@pytest.mark.promise(15)
def test_random_news_of_an_order_is_understood(found: dict[str, Any]) -> None:
    few = settings(max_examples=PURE, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(Counted, settings=few)
    note(found, len(Counted.ended))
    assert len(Counted.ended) >= PURE


@pytest.mark.promise(14)
def test_random_wishes_faults_and_kills_leave_the_exchange_s_books(found: dict[str, Any]) -> None:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    few = settings(max_examples=OVER_SOCKETS, stateful_step_count=5, deadline=None, suppress_health_check=slow)
    run_state_machine_as_test(OverSockets, settings=few)
    note(
        found,
        len(OverSockets.ended),
        sum(len(violations) for violations, _ in OverSockets.ended),
        sum(duplicates for _, duplicates in OverSockets.ended),
    )
    found["over_sockets"] = len(OverSockets.ended)
    assert len(OverSockets.ended) >= OVER_SOCKETS
