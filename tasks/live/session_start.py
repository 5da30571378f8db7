"""How a session begins: its lock, its clock, what REST knows of the past, its accounts and its streams."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from storage.locks import exclusive
from storage.schema import Candles, ClockError, Instrument, Market, Source, StoreError, source_slug
from storage.settings import pasteable
from tasks.champion.serving import ServedModel
from tasks.champion.version_selector import ChooseVersion, VersionChoice
from tasks.exchange.connection import Link
from tasks.exchange.gateway import Gateway
from tasks.exchange.private_events import PrivateEvent
from tasks.exchange.stream import QUEUE_EVENTS, PublicStream
from tasks.exchange.stream_events import Event
from tasks.exchange.stream_socket import StreamTiming
from tasks.execution.paper import BROKERS, Ledger, open_bar
from tasks.journal.journal import Journal
from tasks.journal.journal_rows import Decision
from tasks.live.account import Account
from tasks.live.exchange_time import DataTime, ExchangeTime
from tasks.live.market_session import MarketSession
from tasks.live.order_account import OrderAccount
from tasks.live.order_gateway import OrderGateway
from tasks.live.rest_feed import RestFeed
from tasks.live.session import Session
from tasks.live.session_config import SessionConfig
from tasks.market.features import WARM_UP
from tasks.strategy.recipe import Recipe

_SPARE_BARS = 200  # beyond what makes a market ready
_USUAL_BARS = WARM_UP + Recipe().network_config.context - 2  # where nothing decides: who takes over is to be ready
_CLOCK_MS = 500  # a session does not begin with a clock that is further off
_OF_FILLS = ("tick_size", "qty_step", "min_qty", "min_notional", "max_market_qty")  # of an instrument
_REPLAY_EVENTS = 32  # some two bars: a replay's clock waits, so that REST is never far ahead of the stream


def one_session(
    folder: Path, source: Source, markets: Sequence[Market], stack: ExitStack, account: str | None = None
) -> None:
    """Hold each market's lock for as long as `stack` is open: two sessions would trade each other's decisions.

    Args:
        stack: Holds the locks.
        account: Whose orders it sends, demo or the like: a position there is of one session, whatever its interval.
            None for none.

    Raises:
        StoreBusyError: Another process has a session of one of them; the text names it.
    """
    for market in markets:
        path = folder / "locks" / f"session-{source_slug(source)}-{market.slug}"
        stack.enter_context(exclusive(path, f"a session of {market} from {source}", 0.0))
        if account is not None:
            path = folder / "locks" / f"orders-{account}-{market.category}-{market.symbol}"
            stack.enter_context(exclusive(path, f"a session that sends orders of {market.symbol} to {account}", 0.0))


@contextmanager
def open_session(
    link: Link,
    versions: Mapping[Market, VersionChoice],
    journal: Journal,
    *,
    mode: str,
    config: SessionConfig = SessionConfig(),
    orders: OrderGateway | None = None,
    timing: StreamTiming = StreamTiming(),
    choose: ChooseVersion | None = None,
    bars: int | None = None,
    stop: threading.Event | None = None,
    on_decision: Callable[[MarketSession, Decision], object] = lambda market, decision: None,
    on_note: Callable[[str], object] = lambda line: None,
) -> Iterator[Session]:
    """Connect a session to an exchange: resumed from its journal, or warmed up from the exchange's past.

    Args:
        versions: What decides in each market, and what watches there.
        journal: Empty, or of this very session.
        mode: signal only says what it would hold; paper fills on paper; any other sends orders.
        orders: Where orders go; None where none are sent.
        choose: Says which version decides in each market now; None where that never changes.
        bars: After how many bars it ends; None goes on until `stop`.
        stop: Set by whoever wants it to end.
        on_decision: Is given each decision when it is safe.
        on_note: Is told what a person would want to know, one line each.

    Raises:
        ClockError: This machine's clock is more than 0.5 s away from the exchange's.
        Rejected: The exchange knows no such market.
        StoreError: The journal is of another session, or of fills that the exchange's rules of today do not allow.
    """
    feed = RestFeed(gateway=link.gateway, on_note=on_note)
    clock: ExchangeTime = DataTime() if link.is_replay else ExchangeTime(_checked_offset(link.gateway))
    markets = []
    capital = config.capital / len(versions) if config.capital else None  # each version's own
    for market, chosen in versions.items():
        instrument = link.gateway.instrument(market)
        own, shadows = _accounts(market, instrument, chosen, journal, mode, orders, capital)
        markets.append(
            MarketSession(
                market, own, shadows=shadows, instrument=instrument, journal=journal, feed=feed, time=clock,
                config=config, bars=bars, on_decision=on_decision,
            )
        )  # fmt: skip
    journal.agree(_facts(markets, journal, link, mode, config, orders, on_note))
    for one in markets:
        if not one.resume():
            one.warm_up(*_past(feed, one, on_note))
        if orders is not None and isinstance(one.own, OrderAccount):
            orders.admit(one.own, one.market)
    with ExitStack() as stack:
        events: queue.Queue[Event | PrivateEvent] = queue.Queue(_REPLAY_EVENTS if link.is_replay else QUEUE_EVENTS)
        if orders is not None:
            stack.enter_context(orders.stream(events, timing, on_note))
        categories = sorted({market.category for market in versions})
        for category in categories:
            stack.enter_context(
                PublicStream(
                    [market for market in versions if market.category == category], exchange=link.exchange,
                    url=link.stream_url, events=events, timing=timing, patient=link.is_replay, ban=link.gateway.ban,
                    on_note=on_note,
                )
            )  # fmt: skip
        yield Session(
            markets, events, journal, time=clock, config=config, choose=choose,
            compare_clocks=None if link.is_replay else partial(clock_offset_ms, link.gateway),
            streams=len(categories), stop=stop, on_note=on_note,
        )  # fmt: skip


def _accounts(
    market: Market,
    instrument: Instrument,
    chosen: VersionChoice,
    journal: Journal,
    mode: str,
    orders: OrderGateway | None,
    capital: float | None,
) -> tuple[Account, list[Account]]:
    """Return the session's own account of a market, and those of the versions that watch there."""
    held: dict[str, float] = journal.reader().facts().get("capital", {})  # what a session that goes on began with

    def ledger(name: str, model: ServedModel | None) -> Ledger:
        usual = (model.recipe if model else Recipe()).backtest.initial_capital
        return Ledger(held.get(name, usual) if capital is None else capital)

    def on_paper(name: str, model: ServedModel | None) -> Account:
        return Account(name, instrument, ledger(name, model), broker=BROKERS.get(mode, open_bar))

    if orders is not None:
        own: Account = orders.account(market, instrument, ledger(market.slug, chosen.model), journal)
    else:
        own = on_paper(market.slug, chosen.model)
    own.decide_by(chosen.model, chosen.why_none)
    shadows = []
    for model in chosen.shadows:
        shadows.append(on_paper(f"{market.slug}@{model.ref.version}", model))
        shadows[-1].decide_by(model)
    return own, shadows


def _facts(
    markets: Sequence[MarketSession],
    journal: Journal,
    link: Link,
    mode: str,
    config: SessionConfig,
    orders: OrderGateway | None,
    on_note: Callable[[str], object],
) -> dict[str, Any]:
    """Return what a journal says of its session at the start, and must say again when that goes on.

    Raises:
        StoreError: It was begun under other rules of the exchange.
    """
    begun = {one.market.slug: one.own.desk.begin_ms for one in markets if isinstance(one.own, OrderAccount)}
    return {
        "mode": mode,
        "source": link.gateway.source,
        "capital": {one.name: one.ledger.cash for market in markets for one in market.accounts},
        "deadline_ms": {one.market.slug: config.deadline_share * one.market.interval_ms for one in markets},
        "instruments": {one.market.slug: _as_agreed(journal, one, on_note) for one in markets},
        **({"session": orders.session, "began_ms": begun} if orders is not None else {}),
    }


def _as_agreed(journal: Journal, one: MarketSession, on_note: Callable[[str], object]) -> dict[str, Any]:
    """Return the exchange's rules of a market as they were when the session began; what has changed since is said.

    Raises:
        StoreError: By what has changed, the fills before it could not be computed again, or those after it.
    """
    now = asdict(one.instrument)
    agreed: dict[str, Any] = journal.reader().facts().get("instruments", {}).get(one.market.slug, now)
    changed = {name: f"{name} {agreed.get(name)} -> {new}" for name, new in now.items() if agreed.get(name) != new}
    if not changed:
        return now
    if binding := [said for name, said in changed.items() if name in _OF_FILLS]:
        raise StoreError(
            f"{one.market}: the exchange has changed what fills must keep to since this session began "
            f"({', '.join(binding)}), so it can't go on; close what it holds (an account's: {pasteable('flows.halt')}, "
            "then the same with --rearm) and start another one, under another --session"
        )
    on_note(f"{one.market}: the exchange has changed its rules since this session began: {', '.join(changed.values())}")
    return agreed


def _past(feed: RestFeed, one: MarketSession, on_note: Callable[[str], object]) -> tuple[Candles, int]:
    """Return the candles that make the next bar ready, and from where on they were asked for.

    They are a few more than that: a halt among them has no features.
    """
    bars = (one.history_bars or _USUAL_BARS) + _SPARE_BARS
    now_ms = feed.gateway.server_time_ms()
    first_ms = max(one.market.floor(now_ms) - bars * one.market.interval_ms, one.instrument.launch_ms, 0)
    first_ms = one.market.ceil(first_ms)
    candles = feed.closed_since(one.market, first_ms).candles
    on_note(f"{one.market}: warmed up with {len(candles)} candles of {bars}")
    return candles, first_ms


def _checked_offset(gateway: Gateway) -> float:
    offset_ms = clock_offset_ms(gateway)
    if abs(offset_ms) > _CLOCK_MS:
        raise ClockError(
            f"this machine's clock must be within {_CLOCK_MS} ms of the exchange's, was {abs(offset_ms):.0f} ms "
            f"{'behind' if offset_ms > 0 else 'ahead'}; synchronise it (NTP)"
        )
    return offset_ms


def clock_offset_ms(gateway: Gateway) -> float:
    """Return the exchange's clock minus this machine's, milliseconds."""
    before_ns = time.time_ns()
    now_ms = gateway.server_time_ms()
    return now_ms - (before_ns + time.time_ns()) / 2e6
