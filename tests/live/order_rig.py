"""A session whose decisions are carried out by orders on the sandbox, played bar by bar as it can follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from time import monotonic, sleep
from typing import Any

from storage.api_keys import ApiKey
from tasks.execution.backtest import BacktestConfig
from tasks.execution.limits import TradingLimits
from tasks.live.compared_position import DeskTiming
from tasks.live.halts import Halts
from tasks.live.market_session import MarketSession
from tasks.live.order_gateway import OrderConfig, OrderGateway
from tasks.live.session import Session
from tasks.live.session_replay import Replayed
from tasks.sandbox.venue_account import AccountSpec, VenueAccount
from tests.live.conftest import MARKET, START_MS, STEP_MS, WAIT_S, Rig, make_model

KEY = ApiKey("sandbox", "KEYFORTESTS", "SECRETFORTESTS")
ACCOUNT = AccountSpec(key=KEY.key, secret=KEY.secret, capital="20000", taker_fee="0.000001", leverage="1")
DESK = DeskTiming(first_s=0.1, most_s=0.2, reconcile_s=5.0, differ_s=0.25)
NO_LIMITS = TradingLimits(daily_loss=1.0, drawdown=1.0, losses=1_000)
CAPITAL = 200.0  # USDT, so little that an order fills in one execution or two

_HALTED_S = 0.2  # that a bar of a halted market takes

Rigs = Callable[..., Rig]


class Trader:
    """Holds sessions with orders on one rig, each going on where the one before ended.

    Attributes:
        rig: Its sandbox has the account `ACCOUNT`.
        capital: USDT that the session begins with.
        closed: Bars that were played so far.
        alerts: What was told of halts.
        playing: Closes the bars of the session that was held last; it ends soon after that.
    """

    def __init__(self, open_rig: Rigs, **options: Any) -> None:
        self.capital = options.pop("capital", CAPITAL)
        model = make_model(backtest=BacktestConfig(initial_capital=self.capital), **options.pop("recipe", {}))
        self.limits, self.config = options.pop("limits", NO_LIMITS), options.pop("config", OrderConfig())
        self.rig = open_rig(model, accounts=[ACCOUNT], **options)
        self.closed = 0
        self.alerts: list[str] = []
        self._over = threading.Event()
        self.halts = Halts.of(self.rig.path.parent)

    @property
    def account(self) -> VenueAccount:
        """What the exchange has of it now."""
        return self.rig.sandbox.account(KEY.key)

    def hold(
        self,
        bars: int,
        before_bar: Callable[[int, MarketSession], object] = lambda bar, market: None,
        patience_s: float = 10.0,
        **options: Any,
    ) -> MarketSession:
        """Hold a session until `bars` have closed in all, and return its market, closed.

        Args:
            bars: Those of before a restart included.
            before_bar: Is called before each bar closes; the orders of the open before it are done by then.
            patience_s: How long a bar waits for its orders at most; then it closes, and what is not known is unknown.
            options: Of the session.
        """
        with self.session(bars, **options) as session:
            (market,) = session.markets.values()
            self._over.clear()
            given = (bars, market, before_bar, patience_s)
            self.playing = threading.Thread(target=self._play, args=given, daemon=True)
            try:
                session.run(self.playing.start)
            finally:
                self._over.set()
        self.playing.join(WAIT_S)  # a clock that still waits for the session goes on when its streams are closed
        return market

    @contextmanager
    def session(self, bars: int, **options: Any) -> Iterator[Session]:
        """Open a session."""
        with (
            OrderGateway(
                self.rig.link, KEY, "tests", self.halts, limits=self.limits, config=self.config, desk_timing=DESK,
                recv_window_ms=500, timeout_s=(1.0, 0.3), on_alert=self.alerts.append,
            ) as orders,
            self.rig.session(bars, mode="sandbox", orders=orders, **options) as session,
        ):  # fmt: skip
            session.look_every_s = 0.05
            yield session

    def _play(
        self, bars: int, market: MarketSession, before_bar: Callable[[int, MarketSession], object], patience_s: float
    ) -> None:
        """Close bars, each when the orders at its open are done, or a while has passed."""
        while self.closed < bars and not self._over.is_set():
            before_bar(self.closed, market)
            self.rig.play(1).result(WAIT_S)
            self.closed += 1
            next_ms, give_up_s = START_MS + self.closed * STEP_MS, monotonic() + patience_s
            while market.own.opened_ms < next_ms and not self._over.is_set() and monotonic() < give_up_s:
                if market.halted and monotonic() > give_up_s - patience_s + _HALTED_S:
                    break
                if self.closed == bars and market.counts.stepped >= bars:
                    break
                sleep(0.002)

    def check(self) -> Replayed:
        """Assert that the books are the exchange's to the last digit and everything is explained; return the replay."""
        account = self.account
        with self.rig.reader() as reader:
            executions, opens = reader.executions(MARKET.slug), reader.opens(MARKET.slug)
            orders = [order for _, order in reader.orders(MARKET.slug)]
        assert {(one.fill.exec_id, one.fill.quantity, one.fill.price, one.fill.fee) for one in executions} == {
            (one.exec_id, one.qty, one.price, one.fee) for one in account.executions
        }
        position = account.positions.get(MARKET.symbol)
        held = sum((one.change for one in executions), Decimal(0))
        assert held == (position.size if position else 0)
        if all(one.booked_ms is not None for one in executions):
            assert Decimal(str(opens[-1].opened.ledger.quantity)) == held if opens else not held
        theirs = {order.link_id: order for order in account.orders.values() if order.link_id.startswith("dsc-")}
        assert {order.link_id: order.known for order in orders if order.known} == {
            name: order.filled for name, order in theirs.items() if order.filled
        }
        taken = [order.link_id for order in account.orders.values() if order.link_id]
        assert len(taken) == len(set(taken))
        again = self.rig.replayed(funding=[])
        assert [one for one in again.differences if not one.cause] == []
        return again
