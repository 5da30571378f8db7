"""A small network that trades often, a sandbox that plays its market, and a session between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.schema import FloatArray, IntArray, Market, Source, VersionRef
from tasks.champion.serving import ServedModel
from tasks.champion.version_selector import VersionChoice
from tasks.exchange.connection import Link
from tasks.exchange.gateway import Gateway
from tasks.exchange.stream_socket import StreamTiming
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig
from tasks.journal.journal import Journal
from tasks.journal.journal_reader import JournalReader
from tasks.live.session import Session
from tasks.live.session_replay import Replayed, replay
from tasks.live.session_start import open_session
from tasks.market.features import WARM_UP
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.architecture import DSCConfig
from tasks.network.dsc import DSCTradingModel, load_model
from tasks.network.inference import SeriesForecast, forecast_series
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tasks.strategy.recipe import Recipe

SOURCE = Source("sandbox:0123abcd")
MARKET = Market()
NETWORK = DSCConfig(hidden_channels=16, num_blocks=2, window=12, newest_step=True, linear_bypass=True)
FIRST = WARM_UP + NETWORK.context + 360  # bars before the session, in which no question over REST is split in two
WAIT_S = 60.0  # for what comes in milliseconds; only a failure waits so long
QUICK = StreamTiming(first_wait_s=0.01, max_wait_s=0.05, jitter=0.0)
CANDLES = generate(SyntheticMarket(bars=FIRST + 400))
START_MS = int(CANDLES.start_ms[FIRST])  # of the first bar that a session steps
STEP_MS = MARKET.interval_ms


def make_model(seed: int = 5, market: Market = MARKET, **changes: Any) -> ServedModel:
    """Return an untrained model that finds something to do on every tenth bar or so."""
    config = changes.pop("network", NETWORK)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = DSCTradingModel(config).eval()
    costs = changes.pop("costs", Costs(commission=1e-6, slippage=1e-6))
    recipe = replace(Recipe(network=config, costs=costs, backtest=BacktestConfig(initial_capital=10_000.0)), **changes)
    return ServedModel(
        ref=VersionRef(source=SOURCE, name=market.slug, version=f"20260101T000000Z-0000000{seed}"),
        market=market,
        recipe=recipe,
        weights={name: tensor.numpy() for name, tensor in network.state_dict().items()},
        class_means=np.array([-1.0, 0.0, 1.0]),
    )


def predict(model: ServedModel, features: FloatArray, segment: IntArray) -> SeriesForecast:
    """Predict history with torch, as a backtest does."""
    return forecast_series(load_model(model.recipe.network_config, model.weights), features, segment)


class Rig:
    """A sandbox at the session's first bar, and what is needed to hold a session with it.

    Attributes:
        sandbox: Its clock stands still until `play`.
        model: What decides.
        path: The journal.
    """

    def __init__(self, sandbox: Sandbox, gateway: Gateway, path: Path, model: ServedModel) -> None:
        self.sandbox, self.model, self.path = sandbox, model, path
        self.link = Link(
            gateway=gateway,
            url=sandbox.url,
            sandbox=sandbox,
        )
        self.notes: list[str] = []

    @contextmanager
    def session(self, bars: int | None, **options: Any) -> Iterator[Session]:
        """Open a session, resumed if its journal says so."""
        given: dict[str, Any] = {
            "mode": "paper",
            "timing": QUICK,
            "versions": {MARKET: VersionChoice(self.model)},
        } | options
        with Journal(self.path) as journal:
            versions = given.pop("versions")
            with open_session(self.link, versions, journal, bars=bars, on_note=self.notes.append, **given) as session:
                yield session

    def run(self, bars: int, **options: Any) -> Session:
        """Step so many bars, playing them as they are subscribed to, and return the session, closed."""
        with self.session(bars, **options) as session:
            session.run(lambda: self.play(bars))
        return session

    def play(self, bars: int, bar_every_s: float = 0.0, listens_within_s: float = WAIT_S) -> Future[int]:
        """Let so many bars close once the session listens."""
        self.sandbox.wait_for_subscribers(f"kline.{MARKET.interval}.{MARKET.symbol}", timeout_s=listens_within_s)
        return self.sandbox.play(bars=bars, bar_every_s=bar_every_s)

    def replayed(self, **options: Any) -> Replayed:
        """Compute the session again from its journal."""
        models = options.pop("models", {self.model.ref.version: self.model})
        with JournalReader.of(self.path) as reader:
            return replay(reader, MARKET, models, self.link.gateway.instrument(MARKET), predict, **options)

    def reader(self) -> Any:
        return JournalReader.of(self.path)


@contextmanager
def rigs(folder: Path) -> Iterator[Callable[..., Rig]]:
    """Give an opener of rigs; everything ends with the block, and leaves no thread."""
    before = set(threading.enumerate())
    with ExitStack() as stack:

        def start(model: ServedModel | None = None, name: str = "session", **options: Any) -> Rig:
            listing = {name: options.pop(name) for name in ("candles", "instrument", "funding") if name in options}
            listings = [Listing(**{"candles": CANDLES, "market": MARKET} | listing), *options.pop("more", ())]
            given: dict[str, Any] = {"source": SOURCE, "now_ms": START_MS, "ip_limit": 10**9} | options
            sandbox = stack.enter_context(Sandbox(listings, **given))
            gateway = stack.enter_context(Gateway("sandbox", source=SOURCE, url=sandbox.url, requests_per_s=1e6))
            return Rig(sandbox, gateway, folder / f"{name}.sqlite", model or make_model())

        yield start
    assert set(threading.enumerate()) <= before


@pytest.fixture
def open_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Return an opener of rigs that lasts for a test."""
    with rigs(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def module_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Rig]]:
    """Return an opener of rigs that lasts for a module."""
    with rigs(tmp_path_factory.mktemp("rigs")) as start:
        yield start


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return what sits down at a desk of its own (`tests/live/desk.py`), given REST and the session's options."""
    from tests.live.desk import Desk, Rest  # which stands on this file

    opened: list[Journal] = []

    def sit(rest: Rest | None = None, **options: Any) -> Desk:
        opened.append(Journal(tmp_path / f"desk-{len(opened)}.sqlite"))
        return Desk(opened[-1], rest or Rest(), **options)

    yield sit
    for journal in opened:
        journal.close()
