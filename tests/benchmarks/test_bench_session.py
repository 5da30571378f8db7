"""Rows 17 to 20: what a session adds to a decision, what a shadow does, over a real socket, and hours of 20 markets."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.schema import Market, VersionRef
from tasks.champion.serving import ServedModel
from tasks.exchange.stream_events import ConfirmedBar
from tasks.execution.paper import Ledger
from tasks.journal.journal import Journal
from tasks.live.account import Account
from tasks.live.exchange_time import DataTime
from tasks.live.market_session import MarketSession
from tasks.live.session_config import SessionConfig
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.sandbox.sockets import PushTiming
from tasks.strategy.recipe import Recipe
from tests.benchmarks import day_of_minutes
from tests.live.conftest import SOURCE, rigs
from tests.live.desk import INSTRUMENT, Rest

MARKET = Market()
SHADOWS, BARS = 10, 5_000
FEED_S, SHARE = 0.02, 0.15
A_DAY = 20 * 1_440  # bars


class Unwritten:
    """A journal that keeps nothing: what a session costs without it."""

    def decided(self, *args: Any) -> None:
        pass

    history = takeover = opened = note = decided

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()


def served(network: Any, number: int) -> ServedModel:
    return ServedModel(
        ref=VersionRef(source=SOURCE, name=MARKET.slug, version=f"20260101T000000Z-{number:08d}"),
        market=MARKET,
        recipe=replace(Recipe(), network=network.config),
        weights=network.weights,
        class_means=np.array([-1.0, 0.0, 1.0]),
    )


def session_of(network: Any, journal: Any, bars: int, shadows: int = 0) -> tuple[MarketSession, Iterator[ConfirmedBar]]:
    """Return a warm session and the bars that close next, whose opens are booked, as they are when they come."""
    candles = generate(SyntheticMarket(bars=BARS))
    accounts = []
    for number in range(1 + shadows):
        accounts.append(Account(str(number), INSTRUMENT, Ledger(10_000.0)))
        accounts[-1].decide_by(served(network, number))
    own, *others = accounts
    market = MarketSession(
        MARKET, own, shadows=others, instrument=INSTRUMENT, journal=journal, feed=Rest(candles), time=DataTime(),
        config=SessionConfig(),
    )  # fmt: skip
    market.warm_up(candles)
    span, matrix = len(candles) * MARKET.interval_ms, candles.matrix()
    events = []
    for number in range(bars):
        lap, at = divmod(number, len(matrix))
        start_ms = int(matrix[at, 0]) + (lap + 1) * span
        events.append(
            ConfirmedBar(
                (MARKET.category, MARKET.symbol), MARKET.interval, start_ms, *matrix[at, 1:6].tolist(), 0.0,
                start_ms + MARKET.interval_ms, time.monotonic_ns(),
            )
        )  # fmt: skip
    for account in market.accounts:
        account.opened_ms = 2**62
    return market, iter(events)


@pytest.mark.quick
def test_session_decides_faster_than_onnx_on_a_ready_window(
    race, ledger, compare, line, side, make_network, tmp_path: Path
) -> None:
    network = make_network("source", 400)
    window, onnx = network.window.numpy(), network.onnx()
    alone, turn = session_of(network, Unwritten(), 60_000)
    shadowed, shadows_turn = session_of(network, Unwritten(), 10_000, SHADOWS)
    with Journal(tmp_path / "bench.sqlite") as journal:
        written, written_turn = session_of(network, journal, 2_000)
        times = race(
            {
                "parsed bar to decision": side(lambda: alone.on_event(next(turn)), 1_000),
                "ONNX Runtime": side(lambda: onnx.run(None, {"window": window}), 30),
                f"with {SHADOWS} shadows": side(lambda: shadowed.on_event(next(shadows_turn)), 100),
                "with its journal": side(lambda: written.on_event(next(written_turn)), 20),
            },
            rounds=40,
        )
    assert alone.own.pending is not None
    assert np.isfinite(alone.own.pending.values[:-2]).all()  # volatility is forecast by a volatility head alone
    decision, with_shadows = times.median_us("parsed bar to decision"), times.median_us(f"with {SHADOWS} shadows")
    beside = {"us that the journal's commit adds": times.median_us("with its journal") - decision}
    ledger.enter(
        compare(  # 21 on one machine, 15 on another: much of a session's part is Python, and ONNX Runtime has none
            17, "session_vs_onnx", times, "ONNX Runtime", "parsed bar to decision", "one closed bar", at_least=10,
            beside=beside,
        ),
        line(
            number=18,
            key="shadow_vs_session",
            value=(with_shadows - decision) / SHADOWS / decision,
            at_most=1.0,
            work="a shadow's part of a bar, over the session's own",
            rounds=40,
            beside={"us a shadow and bar": (with_shadows - decision) / SHADOWS},
        ),
    )  # fmt: skip


@pytest.mark.quick
def test_session_adds_little_to_a_feed_of_20_ms(benchmark, ledger, line, tmp_path: Path) -> None:
    bars = 200
    with rigs(tmp_path) as start:
        rig = start(stream=PushTiming(delay_s=FEED_S))
        with rig.session(bars) as session:
            benchmark.pedantic(lambda: session.run(lambda: rig.play(bars, bar_every_s=0.05)), rounds=1)
        (market,) = session.markets.values()
        with rig.reader() as reader:
            own = np.array([one.queue_us + one.step_us for one in reader.decisions(MARKET.slug)])
    p50, p99 = np.percentile(own, [50, 99])
    journal = np.percentile(market.counts.journal_us, [50, 99]).tolist()
    ledger.enter(
        line(
            number=19,
            key="session_share",
            value=float(p50 / (p50 + 1e6 * FEED_S)),
            at_most=SHARE,
            work=f"of close to decision, feed {1e3 * FEED_S:g} ms",
            rounds=bars,
            medians_us={
                "own": float(p50),
                "own p99": float(p99),
                "journal": float(journal[0]),
                "journal p99": float(journal[1]),
            },
        )
    )


def test_hours_of_twenty_markets_hold_their_memory(benchmark, ledger, line, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    (here, there), (mine, its) = context.Pipe(), context.Pipe()
    exchange = context.Process(target=day_of_minutes.exchange, args=(there,), daemon=True)
    exchange.start()
    url = here.recv()
    session = context.Process(target=day_of_minutes.session, args=(its, url, tmp_path / "day.sqlite"), daemon=True)
    session.start()
    assert mine.recv() == "ready"
    here.send("play")
    stepped, missing, seen = benchmark.pedantic(mine.recv, rounds=1)
    here.send("end")
    session.join()
    exchange.join()
    (early_mb, early_threads, early_s), (late_mb, late_threads, late_s) = seen
    assert (stepped, missing) == (len(day_of_minutes.MARKETS) * day_of_minutes.MINUTES, 0)
    bars = len(day_of_minutes.MARKETS) * (day_of_minutes.MINUTES - day_of_minutes.HOUR)
    ledger.enter(
        line(
            number=20,
            key="session_day_mb",
            value=(late_mb - early_mb) * A_DAY / bars,
            at_most=5.0,
            work="MB that a day of 20 markets' minutes adds, by what all hours but the first of eight do",
            rounds=1,
            beside={"bars a second": bars / (late_s - early_s), "MB in all": late_mb},
        ),
        line(
            number=20, key="session_day_threads", value=late_threads - early_threads, at_most=0.0,
            work="threads that they add", rounds=1,
        ),
    )  # fmt: skip
