"""What a session needs to send orders: the account that they go to, whether it is fit, and who carries them out."""

import queue
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.api_keys import ApiKey, Environment
from storage.schema import Instrument, Market, Rejected
from tasks.exchange.account_answers import KeyFacts
from tasks.exchange.bans import Ban
from tasks.exchange.connection import Link
from tasks.exchange.stream import PrivateStream
from tasks.exchange.stream_socket import StreamTiming
from tasks.exchange.trading_account import Protection, TradingAccount
from tasks.exchange.transport import Exchange
from tasks.execution.accounting import COMMISSION
from tasks.execution.limits import TradingLimits
from tasks.execution.paper import Ledger
from tasks.journal.journal import Journal
from tasks.live.booking import lot_size
from tasks.live.compared_position import DeskTiming
from tasks.live.gates import Denied
from tasks.live.halts import Halts
from tasks.live.limits_state import LimitsState
from tasks.live.order_account import OrderAccount
from tasks.live.order_desk import OrderDesk
from tasks.live.session_config import OrderConfig

DESK_TIMING = DeskTiming()
TRADING_LIMITS = TradingLimits()

ONE = Decimal(1)
_ACCOUNTS: Mapping[Environment, Exchange] = {
    "sandbox": "sandbox", "demo": "demo", "testnet": "testnet", "live": "bybit",
}  # fmt: skip
_CROSS = "REGULAR_MARGIN"


def account_of(key: ApiKey, url: str | None = None, bans: Path | None = None, **options: Any) -> TradingAccount:
    """Return the trading account that a key opens.

    Args:
        key: Its environment says where.
        url: Where a sandbox listens; None elsewhere.
        bans: Where the home's bans lie; None: no other process is told of one.
        options: Of `TradingAccount`.
    """
    exchange = _ACCOUNTS[key.environment]
    return TradingAccount(exchange, key, **{"url": url, "ban": Ban.of(bans, exchange, url)} | options)


class OrderGateway:
    """An account that orders go to, for as long as the `with` block lasts.

    Args:
        session: Name of the session, for the orders' ids.
        limits: What an account may lose and risk.
        on_alert: Is told of what latches, one line each.
        desk_timing: When the exchange is asked about them.
        account_options: Of `TradingAccount`.
    """

    def __init__(
        self,
        link: Link,
        key: ApiKey,
        session: str,
        halts: Halts,
        *,
        limits: TradingLimits = TRADING_LIMITS,
        on_alert: Callable[[str], object] = lambda line: None,
        config: OrderConfig = OrderConfig(),
        desk_timing: DeskTiming = DESK_TIMING,
        **account_options: Any,
    ) -> None:
        self.trading = account_of(key, link.url, bans=link.bans, **account_options)
        self._link, self._key, self.session = link, key, session
        self._config, self._desk_timing = config, desk_timing
        self._needed = 0.0
        self._stream: PrivateStream | None = None
        self._halts, self._limits, self._on_alert = halts, limits, on_alert

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.trading.__exit__(kind, error, trace)

    def stream(self, events: queue.Queue[Any], timing: StreamTiming, on_note: Callable[[str], object]) -> PrivateStream:
        """Return the account's stream, which puts into the session's queue, as the session begins to run."""
        self.trading.take_turns()
        self._stream = PrivateStream(
            self._key, exchange=self.trading.exchange, url=self._link.stream_url, events=events, timing=timing,
            patient=self._link.is_replay, ban=self.trading.ban, on_note=on_note,
        )  # fmt: skip
        return self._stream

    def account(self, market: Market, instrument: Instrument, ledger: Ledger, journal: Journal) -> OrderAccount:
        """Return the session's own account of a market, whose decisions are carried out by orders.

        Raises:
            Denied: The account is not fit to trade this market.
        """
        if market.category != "linear" or not market.symbol.endswith("USDT"):
            raise Denied(
                "CATEGORY", f"orders are sent for USDT perpetuals alone, was {market.symbol} {market.category}"
            )
        environment = self._key.environment

        def halted() -> str:
            halt = self._halts.read(environment, market)
            return halt.why if halt else ""

        began_ms = journal.reader().facts().get("began_ms", {}).get(market.slug)
        desk = OrderDesk(
            market.slug, market, self.session, trading=self.trading, journal=journal, lot=lot_size(instrument),
            begin_ms=began_ms or self._link.gateway.server_time_ms(), timing=self._desk_timing, halted=halted,
            protection=Protection(slippage_percent=Decimal(str(self._config.slippage_percent))),
        )  # fmt: skip

        def latch(why: str) -> None:
            self._halts.latch(environment, market, why)

        user_id = self._facts.user_id if self._facts else 0
        memory = LimitsState.of(self._halts.folder.with_name("risk"), self._key, user_id, market, self.session)
        limit_book, breach = memory.recall(self._limits, ledger.cash, journal.reader(), market, market.slug)
        own = OrderAccount(
            market.slug, instrument, ledger, desk=desk, config=self._config, halted=halted, latch=latch,
            limit_book=limit_book, remember=memory.keep,
            alert=lambda line: self._on_alert(f"{market} on {environment}: {line}"),
            stream_down_s=lambda: self._stream.down_s if self._stream else 0.0,
        )  # fmt: skip
        if breach is not None:  # the process that met it died before it had halted the market
            own.halt(str(breach))
        return own

    def admit(self, own: OrderAccount, market: Market) -> None:
        """Prove that the account is fit to trade a market, and let what a former process left come to its end.

        What the session itself holds is no reason to stay away: in trouble, it is wound down as while a session runs.

        Raises:
            Denied: It is not, or the exchange holds something else than the journal says; the code says why.
            TemporaryError: The exchange does not tell what its key, position or balance is.
        """
        if self._facts is not None:
            self._admit_key(self._facts)
        try:
            position = self.trading.position(market)
        except Rejected as err:
            raise Denied("ACCOUNT", str(err)) from err
        if position.leverage != ONE:
            self.trading.set_leverage(market, ONE)
        if why := own.too_dear(float(own.rules[COMMISSION])):
            raise Denied("COSTS", why)
        holds = bool(own.desk.held or own.desk.unsettled)
        own.settle(self._link.gateway.server_time_ms())
        if own.desk.trouble:
            own.halt(own.desk.trouble)
            if not (holds and own.desk.there):
                raise Denied("RECONCILIATION", own.desk.trouble)
            return
        available = self.trading.available()
        # All markets draw on one account; what an order has opened that no row of the ledger holds yet is paid too.
        self._needed += 0.0 if own.is_open else own.ledger.cash
        if available is None or float(available) < self._needed:
            said = "can't be read" if available is None else f"is {available} USDT"
            raise Denied(
                "CAPITAL", f"the session starts with {self._needed:g} USDT, what is available {said}; give --capital"
            )

    @cached_property
    def _facts(self) -> KeyFacts | None:
        """What the exchange says of the key; None where it does not: on demo, where no key is worth anything."""
        try:
            return self.trading.key_facts()
        except Rejected:
            if self._key.environment != "demo":
                raise
            return None

    def _admit_key(self, facts: KeyFacts) -> None:
        if facts.may_withdraw:
            raise Denied("KEY", "this key may withdraw; make one that may only trade")
        if not facts.may_trade:
            raise Denied("KEY", "this key may not trade contracts; make one that may")
        if not facts.is_unified:
            raise Denied("ACCOUNT", "classic accounts are not traded; upgrade to a unified account")
        if (mode := self.trading.margin_mode()) != _CROSS:
            raise Denied("MARGIN", f"margin mode must be cross ({_CROSS}), was {mode or 'not told'}")
