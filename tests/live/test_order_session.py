"""A whole session whose decisions are carried out by orders on the sandbox: books, causes, stops, restarts."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from storage.api_keys import ApiKey
from tasks.execution.risk import RiskLimits
from tasks.live.halts import Halts
from tasks.live.order_desk import DeskTiming
from tasks.live.orders import Orders
from tasks.sandbox.account import AccountSpec
from tests.live.conftest import MARKET, Rig

KEY = ApiKey("sandbox", "KEYFORTESTS", "SECRETFORTESTS")
SPEC = {"key": KEY.key, "secret": KEY.secret, "capital": "20000", "taker_fee": "0.000001"}
TIMING = DeskTiming(first_s=0.3, most_s=1.0, reconcile_s=2.0, differ_s=0.1)
LIMITS = RiskLimits(daily_loss=1.0, drawdown=1.0, losses=1_000)
OPEN = Callable[..., Rig]
BARS = 40


def hold(rig: Rig, bars: int = BARS, **options: Any) -> Any:
    """Hold a session and return it, closed."""
    with (
        Orders(
            rig.link, KEY, "tests", Halts.of(rig.path.parent), limits=LIMITS, desk_timing=TIMING, recv_window_ms=2_000
        ) as orders,
        rig.session(bars, mode="demo", orders=orders, **options) as session,
    ):
        session.run(lambda: rig.play(bars, bar_every_s=0.25))
    return session


def test_session_trades_what_it_decides_and_its_books_are_the_exchange_s(open_rig: OPEN) -> None:
    rig = open_rig(accounts=[AccountSpec(**SPEC)])
    session = hold(rig)
    (market,) = session.markets.values()
    assert not market.halted, market.halted
    account = rig.sandbox.account(KEY.key)
    with rig.reader() as reader:
        fills, booked = reader.fills(MARKET.slug), reader.executions(MARKET.slug)
        decisions, opens = reader.decisions(MARKET.slug), reader.opens(MARKET.slug)
        orders = [order for _, order in reader.orders(MARKET.slug)]
    assert len(decisions) == BARS
    assert len(fills) >= 5
    assert {one.fill.exec_id for one in booked} == {one.exec_id for one in account.executions}
    assert len({order.link_id for order in orders}) == len(orders) == len(account.orders) - stops(account)
    ledger = market.own.ledger
    position = account.positions.get(MARKET.symbol)
    assert Decimal(str(ledger.quantity)) == (position.size if position else 0)
    assert ledger.cash + ledger.quantity * market.close == pytest.approx(
        float(account.wallet + account.unrealised) - 10_000.0, abs=0.01
    )
    assert {bar.cause for bar in opens} <= {"", "partial", "unknown"}  # the last where a bar is over before its fill


def stops(account: Any) -> int:
    return sum(order.parent_link_id != "" for order in account.orders.values())
