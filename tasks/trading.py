"""Trading task: one session from its first bar to its summary, and what a backtest says of the same bars."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Literal

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.artifacts import ArtifactStore
from storage.recent import read_recent
from storage.schema import (
    CLASSES,
    ArtifactError,
    ConfigError,
    FloatArray,
    IntArray,
    Market,
    Source,
    VersionRef,
)
from storage.settings import Settings
from storage.snapshots import load_dataset
from tasks.champion.expiry import ExpiryRule
from tasks.champion.manifest import read_manifest
from tasks.champion.serving import ServedModel, load_served, served_champion
from tasks.exchange.connection import ExchangeConfig, Link, connect_stream
from tasks.execution.decision import expected_return
from tasks.live.journal import Decision, Journal, JournalReader
from tasks.live.market_session import MarketSession
from tasks.live.replay import Replayed, replay
from tasks.live.session import RestFeed, Session, latency, one_session, open_session, rss_mb
from tasks.live.session_config import SessionConfig
from tasks.network.dsc import load_model
from tasks.network.inference import predict_series
from tasks.runs.display import advance, say

Mode = Literal["signal", "paper"]

SANDBOX_BARS = 2_000
"""Bars of a session on the sandbox where nobody says how many."""

DIRECTIONS = {-1: "short", 0: "flat", 1: "long"}


@dataclass(frozen=True, kw_only=True)
class SessionResult:
    """What a session came to.

    Attributes:
        name: Of the session; the same name again goes on with it.
        mode: signal or paper.
        journal: Where it is.
        numbers: As paper.json has them.
    """

    name: str
    mode: Mode
    journal: str
    numbers: Mapping[str, Any]

    @property
    def unexplained(self) -> int:
        """Differences from the backtest that have no cause."""
        return int(self.numbers.get("unexplained", 0))

    def text(self) -> str:
        """Return the summary for a terminal."""
        one = self.numbers
        lines = [
            f"session {self.name}: {one['bars']} bars stepped, {one['missing']} missing, {one['repeated']} repeated",
            f"  decisions    {one['decisions']}, {one['equal_decisions']} equal to the backtest's",
            f"  fills        {one['fills']}, {one['equal_fills']} equal to the backtest's, {one['duplicates']} twice",
            f"  features     within {one['feature_diff']:.1e}, probabilities within {one['probability_diff']:.1e}",
            f"  explained    {', '.join(f'{n} {cause}' for cause, n in one['causes'].items()) or 'nothing to explain'}",
            f"  unexplained  {one['unexplained']}",
            f"  equity       {one['equity']:,.2f} USDT, was {one['capital']:,.2f}",
            *(f"  {name:<11}  p50 {at['p50']:.0f}, p99 {at['p99']:.0f}" for name, at in one["latency"].items()),
            f"  memory       {one['rss_mb']:.0f} MB",
            f"  journal      {self.journal}",
        ]
        return "\n".join(lines)


def newest_version(exchange: ExchangeConfig, market: Market) -> VersionRef | None:
    """Return the newest stored version of a market, champion or not; None if there is none."""
    store = ArtifactStore(Settings.from_environment().artifact_url)
    return next(iter(store.versions(exchange.source, market.slug)[::-1]), None)


@task(cache_policy=NO_CACHE, task_run_name="{mode} session of {market}")
def hold_session(
    exchange: ExchangeConfig,
    market: Market,
    mode: Mode,
    version: str,
    bars: int | None,
    config: SessionConfig,
    name: str,
) -> SessionResult:
    """Step a market as its bars close, until so many have or somebody stops it; then replay it.

    Args:
        exchange: Where candles come from.
        market: Symbol, category and interval.
        mode: signal prints each decision as a line of JSON and has no broker; paper fills on paper.
        version: champion, newest, or a version's name.
        bars: After how many bars it ends; None goes on until it is stopped, on the sandbox after 2,000.
        config: The session's rules.
        name: Of the session; empty for a new one.

    Raises:
        StoreBusyError: Another process has a session of this market.
        StoreError: The session's journal can't be written, or is of another session.
    """
    return run_session(exchange, market, mode, version, bars, config, name, get_run_logger().info)


def run_session(
    exchange: ExchangeConfig,
    market: Market,
    mode: Mode,
    version: str,
    bars: int | None,
    config: SessionConfig,
    name: str,
    on_note: Callable[[str], object],
) -> SessionResult:
    """Do what `hold_session` does, and tell `on_note` in one line each what a person would want to know."""
    settings = Settings.from_environment()
    store, source = ArtifactStore(settings.artifact_url), exchange.source
    model, why = chosen_model(store, source, market, version)
    on_note(f"session of {market}: {model.ref if model else why}")
    name = name or f"{mode}-{market.slug}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    path = settings.prepare_home() / "sessions" / f"{_plain(name)}.sqlite"
    bars = bars or (SANDBOX_BARS if exchange.exchange == "sandbox" else None)

    with ExitStack() as stack:
        one_session(settings.home, source, (market,), stack)
        journal = stack.enter_context(Journal(path))
        begin_ms = _begins_ms(settings, store, source, market, model, journal)
        link = stack.enter_context(connect_stream(exchange, market, begin_ms, bars or 0, on_note))
        stop = stack.enter_context(stopped_by_signals())
        tell = _Teller(mode, market, bars)
        session = stack.enter_context(
            open_session(
                link, {market: model}, journal, mode=mode, config=config, bars=bars, stop=stop,
                on_decision=tell, on_note=on_note,
            )
        )  # fmt: skip
        session.run(lambda: _play(link, market, bars))
        again = _replayed(link, store, journal.reader(), market, source)
        numbers = _numbers(session, journal, market, again)
        journal.agree({"summary": numbers})
    if mode == "paper":
        (settings.home / "paper.json").write_text(json.dumps(numbers, indent=1) + "\n")
    for one in again.differences[:20]:
        on_note(f"differs bar={one.start_ms} what={one.what} cause={one.cause or 'unexplained'}: {one.said}")
    return SessionResult(name=name, mode=mode, journal=str(path), numbers=numbers)


def chosen_model(store: ArtifactStore, source: Source, market: Market, version: str) -> tuple[ServedModel | None, str]:
    """Return what decides, or None and why nothing does.

    Args:
        store: The versions.
        source: Where candles come from.
        market: Where it trades.
        version: champion, newest, or a version's name.

    Raises:
        ConfigError: The version is of another source or market.
        ArtifactError: The version that was named is unknown or damaged.
    """
    if version == "champion":
        try:
            served = served_champion(store, source, market.slug, time.time_ns() // 1_000_000, ExpiryRule())
            return (load_served(store, served.ref) if served.ref else None), served.reason
        except ArtifactError as err:
            return None, f"the champion can't be used ({err})"
    stored = store.versions(source, market.slug)
    if version == "newest":
        return (load_served(store, stored[-1]), "") if stored else (None, f"{market} has no version")
    ref = VersionRef.parse(version)
    if (ref.source, ref.name) != (source, market.slug):
        raise ConfigError(f"a session of {market} from {source} needs a version of both, was {version}")
    return load_served(store, ref), ""


def _begins_ms(
    settings: Settings,
    store: ArtifactStore,
    source: Source,
    market: Market,
    model: ServedModel | None,
    journal: Journal,
) -> int:
    """Return where a sandbox's clock stands: after what was stepped, else after the last bar that was stored."""
    candles, _ = journal.reader().candles(market.slug)
    if len(candles):
        return int(candles.start_ms[-1]) + market.interval_ms
    if model is not None:
        dataset = load_dataset(settings.datasets, read_manifest(store, model.ref).dataset)
        return int(dataset.candles.start_ms[-1]) + market.interval_ms
    recent = read_recent(settings.recent, source, market)
    return int(recent.start_ms[-1]) + market.interval_ms if len(recent) else market.floor(time.time_ns() // 1_000_000)


def _play(link: Link, market: Market, bars: int | None) -> None:
    if link.sandbox is not None:
        link.sandbox.wait_for_subscribers(f"kline.{market.interval}.{market.symbol}")
        link.sandbox.play(bars=bars)


class _Teller:
    """Prints decisions as JSON in signal mode; moves the display in paper mode."""

    def __init__(self, mode: Mode, market: Market, bars: int | None) -> None:
        self._mode, self._market, self._bars = mode, market, bars

    def __call__(self, session: MarketSession, decision: Decision) -> None:
        if self._mode == "signal":
            print(json.dumps(signal_line(session, decision)), flush=True)
        elif self._bars:
            advance(session.counts.stepped / self._bars, f"{session.counts.traded} fills")


def signal_line(session: MarketSession, decision: Decision) -> dict[str, Any]:
    """Return a decision as it is printed: time names the bar by its open, UTC, RFC 3339."""
    known = len(decision.values) > len(CLASSES) and bool(np.isfinite(decision.values[-len(CLASSES) :]).all())
    probabilities = decision.values[-len(CLASSES) :].tolist() if known else None
    mu = None
    if probabilities and session.model is not None:
        mu = expected_return(*probabilities[:3], float(decision.values[-len(CLASSES) - 1]), session.model.params)  # type: ignore[call-arg]
    return {
        "time": datetime.fromtimestamp(decision.start_ms / 1000, UTC).isoformat().replace("+00:00", "Z"),
        "market": str(session.market),
        "version": decision.version or None,
        "direction": DIRECTIONS[decision.target],
        "confidence": max(probabilities) if probabilities else None,
        "probabilities": dict(zip(CLASSES, probabilities, strict=True)) if probabilities else None,
        "expected_return": mu,
        "target": decision.target,
        "reason": decision.reason if not decision.cause else f"{decision.reason}; not traded: {decision.cause}",
    }


def _replayed(link: Link, store: ArtifactStore, reader: JournalReader, market: Market, source: Source) -> Replayed:
    versions = {version for _, version in reader.takeovers(market.slug) if version}
    models = {
        version: load_served(store, VersionRef(source=source, name=market.slug, version=version))
        for version in versions
    }
    candles, _ = reader.candles(market.slug)
    reference = funding = None
    with suppress(ConfigError):
        if len(candles):
            first_ms, last_ms = int(candles.start_ms[0]), int(candles.start_ms[-1])
            reference = RestFeed(gateway=link.gateway).closed_since(market, first_ms).candles
            funding = link.gateway.funding(market.category, market.symbol, first_ms, last_ms)
    instrument = link.gateway.instrument(market)
    return replay(reader, market, models, instrument, _predict, reference=reference, funding=funding)


def _predict(model: ServedModel, features: FloatArray, segment: IntArray) -> FloatArray:
    return predict_series(load_model(model.recipe.network_config, model.weights), features, segment)


def _numbers(session: Session, journal: Journal, market: Market, again: Replayed) -> dict[str, Any]:
    (one,) = session.markets.values()
    fills = [(bar.start_ms, bar.opened.fill.change) for bar in journal.reader().opens(market.slug) if bar.opened.fill]
    counts = asdict(one.counts) | {"journal_us": None}
    return {
        "market": str(market),
        "version": str(one.model.ref) if one.model else None,
        "bars": again.bars,
        "missing": again.missing,
        "repeated": one.counts.repeated,
        "decisions": again.bars,
        "fills": again.fills,
        "duplicates": len(fills) - len({start_ms for start_ms, _ in fills}),
        "unexplained": again.unexplained,
        "causes": again.numbers()["causes"] | counts["causes"],
        "equal_decisions": again.equal_decisions,
        "equal_fills": again.equal_fills,
        "feature_diff": again.feature_diff,
        "probability_diff": again.probability_diff,
        "capital": float(journal.reader().facts()["capital"][market.slug]),
        "equity": one.ledger.equity(one.close) if np.isfinite(one.close) else one.ledger.cash,
        "latency": latency(one, journal),
        "rss_mb": rss_mb(),
    }


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set while the block lasts, so that a session ends with its summary."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        say("stopping after the present bar ...")
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _plain(name: str) -> str:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"a session's name must be letters, digits, dashes and underscores, was {name!r}")
    return name


def markets_of(market: Market, symbols: Sequence[str]) -> list[Market]:
    """Return the markets that are meant: one, or one a symbol."""
    return [Market(symbol=symbol, category=market.category, interval=market.interval) for symbol in symbols] or [market]
