"""A session with orders in a process of its own, which may kill itself at one point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.champion.version_selector import VersionChoice
from tasks.exchange.connection import Link
from tasks.exchange.gateway import Gateway
from tasks.exchange.trading_account import TradingAccount
from tasks.execution.backtest import BacktestConfig
from tasks.execution.orders import Status
from tasks.journal.journal import Journal
from tasks.live.halts import Halts
from tasks.live.order_gateway import OrderGateway
from tasks.live.session_start import open_session
from tests.live.conftest import MARKET, QUICK, SOURCE, make_model
from tests.live.killed_child import die_when
from tests.live.order_rig import CAPITAL, DESK, KEY, NO_LIMITS

POINTS = (
    "order submitted", "order sent", "order acknowledged", "purchase booked", "sale booked", "close leg filled",
    "fill journalled", "decision journalled",
)  # fmt: skip
"""After what a process dies: at the first one from a bar on."""


def plant(point: str, bar_ms: int) -> None:
    """Let this process die at a point."""
    if point in ("order submitted", "order acknowledged", "close leg filled"):

        def written(self: Journal, account: str, start_ms: int, order: Any, *more: Any) -> bool:
            is_submitted = order.status is Status.SUBMITTING
            is_it = {
                "order submitted": is_submitted,
                "order acknowledged": not is_submitted,
                "close leg filled": order.leg.reduces and order.is_settled,
            }
            return start_ms >= bar_ms and is_it[point]

        Journal.order = die_when(written, Journal.order, after=True)  # type: ignore[method-assign]
    elif point == "order sent":
        of_then = lambda self, *args: die_from[0]  # noqa: E731
        die_from = [False]
        decided = Journal.decided

        def note_bar(self: Journal, market: str, candle: Any, origin: str, decisions: Any) -> None:
            decided(self, market, candle, origin, decisions)
            die_from[0] |= candle[0] >= bar_ms

        Journal.decided = note_bar  # type: ignore[method-assign]
        TradingAccount.place = die_when(of_then, TradingAccount.place, after=True)  # type: ignore[method-assign]
    elif point in ("purchase booked", "sale booked"):
        side = "Buy" if point == "purchase booked" else "Sell"
        booked = lambda self, account, start_ms, order, news: (  # noqa: E731
            start_ms >= bar_ms and news.side == side and not order.leg.reduces
        )
        Journal.execution = die_when(booked, Journal.execution, after=True)  # type: ignore[method-assign]
    elif point == "fill journalled":
        filled = lambda self, opens: any(bar.start_ms >= bar_ms and bar.opened.fill for _, bar in opens)  # noqa: E731
        Journal.opened = die_when(filled, Journal.opened, after=True)  # type: ignore[method-assign]
    elif point == "decision journalled":
        changes = lambda self, market, candle, origin, decisions: (  # noqa: E731
            candle[0] >= bar_ms and decisions[0][1].wanted != decisions[0][1].position
        )
        Journal.decided = die_when(changes, Journal.decided, after=True)  # type: ignore[method-assign]


def hold(asked: dict[str, Any]) -> None:
    """Hold the session; whoever plays the bars waits for the file `ready`."""
    plant(asked["point"], asked["bar_ms"])
    model, path = make_model(backtest=BacktestConfig(initial_capital=CAPITAL)), Path(asked["path"])
    with Gateway("sandbox", source=SOURCE, url=asked["url"], requests_per_s=1e6) as gateway, Journal(path) as journal:
        link = Link(gateway=gateway, url=asked["url"])
        with (
            OrderGateway(
                link, KEY, "tests", Halts.of(path.parent), limits=NO_LIMITS, desk_timing=DESK, recv_window_ms=500,
                timeout_s=(1.0, 0.3),
            ) as orders,
            open_session(
                link, {MARKET: VersionChoice(model)}, journal, mode="sandbox", orders=orders, timing=QUICK,
                bars=asked["bars"],
            ) as session,
        ):  # fmt: skip
            session.look_every_s = 0.05
            session.run(Path(asked["ready"]).touch)
