"""One session from its first bar to its summary: versions chosen, bars stepped, journal replayed."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from storage.api_keys import ApiKey
from storage.artifacts import ArtifactStore
from storage.recent import read_recent
from storage.schema import Market, PipelineError, Source, UnreachableError
from storage.settings import Settings, pasteable
from storage.snapshots import load_dataset
from tasks.champion.expiry import ExpiryRule
from tasks.champion.manifest import read_manifest
from tasks.champion.version_selector import VersionChoice, VersionSelector
from tasks.exchange.connection import Link, connect_stream
from tasks.execution.orders import ZERO
from tasks.journal.journal import Journal
from tasks.journal.journal_reader import JournalReader
from tasks.journal.journal_rows import Decision
from tasks.live.account_record import PredictHistory
from tasks.live.gates import Denied, gate
from tasks.live.halts import Halts
from tasks.live.market_session import MarketSession
from tasks.live.order_gateway import OrderGateway
from tasks.live.outcome import SessionResult, market_numbers, session_numbers
from tasks.live.session import Session
from tasks.live.session_plan import SessionPlan, session_path
from tasks.live.session_review import differing, replayed
from tasks.live.session_start import one_session, open_session
from tasks.sandbox.venue_account import AccountSpec


def run_session(
    plan: SessionPlan,
    settings: Settings,
    predict: PredictHistory,
    *,
    on_decision: Callable[[MarketSession, Decision], object] = lambda market, decision: None,
    on_note: Callable[[str], object] = lambda line: None,
    on_stop: Callable[[], object] = lambda: None,
    on_open: Callable[[Journal], object] = lambda journal: None,
    on_alert: Callable[[str], object] = lambda line: None,
) -> SessionResult:
    """Step markets as their bars close, until so many have or somebody stops it; then replay them.

    Args:
        on_decision: Is given each decision when it is safe.
        on_note: Is told what a person would want to know, one line each.
        on_stop: Is called when Ctrl-C or SIGTERM asks the session to end.
        on_open: Is given the journal before the first bar.
        on_alert: Is told of what halts a market, one line each.

    Raises:
        Denied: Orders are asked for, and something that they need is missing; the code says what.
        StoreBusyError: Another process has a session of one of the markets.
        StoreError: The session's journal can't be written, or is of another session.
        UnreachableError: The store of the versions can't be read.
        ConfigError: The version is of another source or market, or a candle file ends too early.
    """
    plan, store = plan.named(), ArtifactStore(settings.models)
    selector = VersionSelector(
        store=store, source=plan.exchange.source, version=plan.version, shadows=plan.shadows,
        real_money=plan.mode == "live", expiry=ExpiryRule(retrain_hours=settings.retrain_hours),
    )  # fmt: skip
    path = session_path(settings.prepare_home(), plan.name)
    outlives = plan.sends_orders and not plan.has_own_account  # what is held then is there without the session too
    with ExitStack() as stack:
        one_session(settings.home, selector.source, plan.markets, stack, plan.mode if outlives else None)
        if outlives:
            stack.enter_context(_telling_of(plan, path, on_alert))
        held = _held(plan, path) if outlives else {}
        chosen = _chosen(plan, selector, path, on_note)
        key, halts = None, Halts.of(settings.home)
        if plan.sends_orders:
            key = gate(plan, chosen, halts, held)
            on_note(plan.config.orders.describe(plan.config.limits))
        journal = stack.enter_context(Journal(path))
        stepped = min(journal.reader().decided(market.slug) for market in plan.markets)
        bars = max((plan.most_bars or 0) - stepped, 0)  # still to step, of a session that ends by itself
        link = stack.enter_context(_connected(plan, settings, chosen, key, journal, bars, on_note))
        orders = None
        if key is not None:
            orders = stack.enter_context(
                OrderGateway(
                    link, key, plan.name, halts, limits=plan.config.limits, config=plan.config.orders, on_alert=on_alert
                )
            )
        stop = stack.enter_context(stopped_by_signals(on_stop))
        on_open(journal)
        with open_session(
            link, chosen, journal, mode=plan.mode, config=plan.config, orders=orders, choose=selector.refresh,
            bars=plan.most_bars, stop=stop, on_decision=on_decision, on_note=on_note,
        ) as session:  # fmt: skip
            session.run(lambda: _play(link, plan, bars))
        numbers = _numbers(session, link, store, journal.reader(), predict, on_note)
        journal.summarise(numbers)
    return SessionResult(name=plan.name, mode=plan.mode, journal=str(path), numbers=numbers)


def _chosen(
    plan: SessionPlan, selector: VersionSelector, path: Path, on_note: Callable[[str], object]
) -> dict[Market, VersionChoice]:
    """Return what decides and watches in each market, and say so."""
    known = _watching(path)
    try:
        chosen = {market: selector.at_start(market, known.get(market.slug)) for market in plan.markets}
    except UnreachableError as err:
        if plan.sends_orders:
            raise Denied("CHAMPION", f"nobody knows it: {err}; nothing is traded") from err
        raise
    for market, one in chosen.items():
        beside = f", {len(one.shadows)} beside it" if one.shadows else ""
        on_note(f"session of {market}: {one.model.ref if one.model else one.why_none}{beside}")
    if plan.version == "champion":
        on_note(f"a champion expires after {selector.expiry}")
    return chosen


def _connected(
    plan: SessionPlan,
    settings: Settings,
    chosen: Mapping[Market, VersionChoice],
    key: ApiKey | None,
    journal: Journal,
    bars: int,
    on_note: Callable[[str], object],
) -> AbstractContextManager[Link]:
    """Return the connection to the exchange; a sandbox of the session's own has its account too."""
    store, source = ArtifactStore(settings.models), plan.exchange.source
    begin_ms = max(_begins_ms(settings, store, source, market, chosen[market], journal) for market in plan.markets)
    accounts = []
    if key is not None and plan.has_own_account:
        each = [model.recipe.backtest.initial_capital for model, *_ in chosen.values() if model]
        accounts = [AccountSpec(key=key.key, secret=key.secret, capital=str(plan.config.capital or sum(each)))]
    return connect_stream(plan.exchange, plan.markets, begin_ms, bars, on_note, accounts, settings.bans)


def _held(plan: SessionPlan, path: Path) -> dict[Market, str]:
    """Return what a session holds by its journal, or may: more may come of an order; of markets where it does."""
    found: dict[Market, str] = {}
    if not path.exists():
        return found
    with Journal(path) as journal:
        reader = journal.reader()
        for market in plan.markets:
            coins = sum((one.change for one in reader.executions(market.slug)), ZERO)
            open_ids = [order.link_id for _, order in reader.orders(market.slug) if order.is_unsettled]
            doubt = f", and nobody knows what becomes of order {', '.join(open_ids)}" if open_ids else ""
            if coins or open_ids:
                found[market] = f"{coins} by the journal{doubt}"
    return found


@contextmanager
def _telling_of(plan: SessionPlan, path: Path, on_alert: Callable[[str], object]) -> Iterator[None]:
    """Tell of what is held when the session that holds it is denied or fails: nobody minds it then."""
    try:
        yield
    except Exception:
        try:
            held = _held(plan, path)
        except PipelineError as err:  # the disk is full, as it may be
            held = dict.fromkeys(plan.markets, f"nobody knows what, for {err}")
        for market, what in held.items():
            close = pasteable(f"flows.halt --mode {plan.mode} --symbols {market.symbol}")
            on_alert(f"{market} on {plan.mode}: STILL OPEN: {what}; no session minds it; close it: {close}")
        raise


def _begins_ms(
    settings: Settings, store: ArtifactStore, source: Source, market: Market, chosen: VersionChoice, journal: Journal
) -> int:
    """Return where a sandbox's clock stands: after what was stepped, else after the last bar that was stored."""
    candles, _ = journal.reader().candles(market.slug)
    if not len(candles):
        if chosen.model is not None:
            candles = load_dataset(settings.datasets, read_manifest(store, chosen.model.ref).dataset).candles
        else:
            candles = read_recent(settings.recent, source, market)
    return int(candles.start_ms[-1]) + market.interval_ms if len(candles) else market.floor(time.time_ns() // 1_000_000)


def _watching(path: Path) -> dict[str, list[str]]:
    """Return the versions that watch in each market of a session that goes on, by slug; empty for a new one."""
    found: dict[str, list[str]] = {}
    if path.exists():
        with Journal(path) as journal:  # one that was killed as it began is empty, and no reader takes it
            for account in journal.reader().facts().get("capital", {}):
                slug, _, version = account.partition("@")
                found.setdefault(slug, []).extend([version] if version else [])
    return found


def _play(link: Link, plan: SessionPlan, bars: int) -> None:
    if link.sandbox is not None:
        link.sandbox.wait_for_subscribers(*(f"kline.{market.interval}.{market.symbol}" for market in plan.markets))
        # The sandbox counts its own bars, of which a market may have several in one.
        longest = max(market.interval_ms for market in plan.markets)
        shortest = min(listing.market.interval_ms for listing in link.sandbox.listings.values())
        link.sandbox.play(bars=-(-bars * longest // shortest), bar_every_s=plan.bar_every_s)


def _numbers(
    session: Session,
    link: Link,
    store: ArtifactStore,
    reader: JournalReader,
    predict: PredictHistory,
    on_note: Callable[[str], object],
) -> dict[str, Any]:
    each = []
    for one in session.markets.values():
        slug, versions = one.market.slug, {account.version for account in one.accounts[1:]}
        again = replayed(link.gateway, store, reader, one.market, predict)
        shadows = {
            name: replayed(link.gateway, store, reader, one.market, predict, f"{slug}@{name}") for name in versions
        }
        for line in differing(again):
            on_note(line)
        each.append((one, market_numbers(one, reader, again, shadows)))
    return session_numbers(each, reader)


@contextmanager
def stopped_by_signals(on_stop: Callable[[], object]) -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set while the block lasts, so that a session ends with its summary."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        on_stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
