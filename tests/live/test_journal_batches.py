"""What the exchange tells at once is safe at once, by one commit; an order that is to be sent waits for none."""

from __future__ import annotations

from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from storage.schema import StoreError
from tasks.exchange.private_events import ExecutionNews
from tasks.exchange.stream_events import Reconnected
from tasks.execution.orders import Execution, Leg, Lost, Order
from tasks.journal.journal import Journal
from tasks.journal.journal_reader import JournalReader
from tasks.live.session import Session
from tasks.live.session_config import SessionConfig
from tasks.sandbox.faults import CREATE_PATH, Action, Fault, Match, OrderTwist
from tests.live.conftest import MARKET
from tests.orders.cells import Desk

D = Decimal


def commits_of(journal: Journal) -> list[str]:
    """Return a list that grows with each commit."""
    found: list[str] = []
    journal._db.set_trace_callback(lambda sql: found.append(sql) if sql.startswith("COMMIT") else None)
    return found


def news(number: int) -> ExecutionNews:
    fill = Execution(f"e{number}", D("0.1"), D(100), D("0.01"))
    return ExecutionNews(MARKET.symbol, "", "x", "Funding", "Buy", fill, number, number)


def test_everything_that_waits_in_the_queue_is_one_commit_and_what_came_behind_it_is_not_lost(desk: Any) -> None:
    here = desk()
    journal: Journal = here.market._journal
    here.own.on_account_event = lambda event: journal.execution(MARKET.slug, -1, None, event)
    session = Session([here.market], here.events, journal, time=here.time, config=SessionConfig())
    for number in range(1, 47):
        here.events.put(news(number))
    here.events.put(behind := Reconnected("linear", 1, 1))
    commits = commits_of(journal)
    assert session._take_account(news(0)) == behind
    assert len(commits) == 1
    assert len(journal.reader().executions(MARKET.slug)) == 47


def test_order_of_47_executions_is_a_handful_of_commits(tmp_path: Path) -> None:
    with ExitStack() as stack:
        here = Desk(tmp_path / "orders.sqlite", stack)
        here.sandbox.follow(
            [Fault(Match(path=CREATE_PATH, method="POST"), Action("47 parts", twist=OrderTwist(parts=47)))]
        )
        commits = commits_of(here.journal)
        here.want("0.4")
        here.work()  # by questions alone
        assert len(here.orders[0].fills) >= 47
        assert len(commits) <= 8
        assert here.violations() == []


@pytest.mark.promise(15)
def test_order_that_is_to_be_sent_is_safe_before_the_batch_ends(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    order = Order(link_id="dsc-1", leg=Leg("Buy", D("0.4"), False)).submitting(1)
    with Journal(path) as journal, journal.together():
        journal.execution(MARKET.slug, -1, None, news(0))
        with JournalReader.of(path) as reader:
            assert reader.executions(MARKET.slug) == []
        journal.order(MARKET.slug, 0, order)
        with JournalReader.of(path) as reader:
            assert [one.link_id for _, one in reader.orders(MARKET.slug)] == ["dsc-1"]
            assert len(reader.executions(MARKET.slug)) == 1


def test_what_was_heard_before_something_failed_is_safe(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with Journal(path) as journal:
        with pytest.raises(StoreError, match="later"), journal.together():  # noqa: PT012
            journal.execution(MARKET.slug, -1, None, news(0))
            raise StoreError("later")
        with JournalReader.of(path) as reader:
            assert len(reader.executions(MARKET.slug)) == 1


def test_late_news_of_an_order_leaves_it_where_it_was_sent(tmp_path: Path) -> None:
    first, second = (Order(link_id=f"dsc-{n}", leg=Leg("Buy", D(n), False)).submitting(n) for n in (1, 2))
    with Journal(tmp_path / "j.sqlite") as journal:
        for order in (first, second, first.after(Lost("no answer"))):
            journal.order(MARKET.slug, 0, order)
        found = [order for _, order in journal.reader().orders(MARKET.slug)]
    assert [(order.link_id, order.status.value, order.why) for order in found] == [
        ("dsc-1", "unknown", "no answer"), ("dsc-2", "submitting", ""),
    ]  # fmt: skip
