"""Whatever goes wrong: what comes back is the sandbox's truth, or is named as missing, rejected or implausible."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from storage.schema import CANDLE_COLUMNS, Candles, Market, PipelineError, TemporaryError, Window
from tasks.exchange.pacing import RetryPolicy
from tasks.exchange.pages import FetchedWindow
from tasks.sandbox.faults import Action, Fault, FaultPlan, Match
from tests.sandbox import actions

MAKE = Callable[..., Candles]
OPEN = Callable[..., Any]
START_MS = 1_735_689_600_000
STEP_MS = 300_000
MARKET = Market()
BARS, WINDOW_BARS = 160, 20
FAULTS = 14


def wire_faults(rng: random.Random) -> list[Action]:
    """Return what makes a request fail as a whole."""
    return [
        actions.rate_limit(rng.choice([None, 2_000, -2_000, 90_000])),
        actions.http_status(rng.choice([429, 500, 502, 503, 504])),
        actions.ret_code(rng.choice([10000, 10016])),
        actions.ret_code("0"),
        actions.envelope_fields({"retCode": None}),
        actions.body(rng.choice([b"{}", b"[]", b"null", b"", b"<html></html>"])),
        actions.truncated(),
        actions.delivery(rng.choice(["reset", "short", "chunk"])),
        actions.result_fields({"symbol": "ETHUSDT"}),
        actions.result_fields({"category": "inverse"}),
    ]


def page_faults(rng: random.Random) -> list[Action]:
    """Return what leaves an answer readable but not right, or right but odd."""
    row, column = rng.randrange(WINDOW_BARS), rng.randrange(1, 6)
    return [
        actions.no_rows(),
        actions.repeated_rows(rng.randrange(1, 9)),
        actions.contradicting_rows(rng.randrange(1, 4)),
        actions.missing_rows(row, rng.randrange(1, 9)),
        actions.shuffled_rows(row),
        actions.shifted_range(*rng.choice([(-3, -3), (2, 2), (-4, 4), (0, 1), (-1, 0)])),
        actions.ignored_range(),
        actions.set_cell(row, column, rng.choice(["NaN", "", "null", None, "-1", "0", "1e309", "x", [1]])),
        actions.set_cell(row, 0, rng.choice(["", "now", str(START_MS + 1), None])),
        actions.high_below_low(row),
        actions.cut_row(row, rng.randrange(7)),
        actions.gzipped(),
        actions.clock_skew(rng.choice([-7 * STEP_MS, 7 * STEP_MS])),
        actions.result_fields({"colour": "blue"}),
    ]


def assert_true_or_named(fetched: FetchedWindow, truth: Candles, now_ms: int) -> None:
    """Check a window against the replay, row by row."""
    starts, window = fetched.candles.start_ms, fetched.window
    assert (np.diff(starts) > 0).all()
    assert ((starts >= window.first_ms) & (starts <= window.last_ms) & (starts + STEP_MS <= now_ms)).all()
    expected = [ms for ms in range(window.first_ms, window.last_ms + 1, STEP_MS) if ms + STEP_MS <= now_ms]
    assert sorted([*starts.tolist(), *fetched.missing.tolist()]) == expected
    true_rows = {
        ms: [getattr(truth, name)[i] for name in CANDLE_COLUMNS] for i, ms in enumerate(truth.start_ms.tolist())
    }
    for i, ms in enumerate(starts.tolist()):
        row = [getattr(fetched.candles, name)[i] for name in CANDLE_COLUMNS]
        assert row == true_rows.get(ms) or is_implausible(row), row
    assert all(row.reason and row.raw for row in fetched.rejected)


def is_implausible(row: Sequence[float]) -> bool:
    """Return whether a candle contract must refuse the row."""
    open_, high, low, close, volume, _ = row
    sane = np.isfinite(row[:5]).all() and 0 < low <= min(open_, close) <= max(open_, close) <= high and volume >= 0
    return not sane


@pytest.fixture
def fetch(make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN) -> Callable[..., Any]:
    """Return a function that fetches a market with gaps while a plan of faults goes on."""

    def run(rng: random.Random, plan: FaultPlan, **options: Any) -> tuple[list[FetchedWindow], Candles, Any]:
        whole = make_candles(BARS, seed=rng.randrange(1_000))
        lost = rng.randrange(BARS)
        truth = whole[np.setdiff1d(np.arange(BARS), np.arange(lost, lost + rng.randrange(6)))]
        sandbox = open_sandbox(truth, range_policy=rng.choice(["newest", "oldest"]))
        gateway = open_gateway(sandbox, threads=rng.randint(1, 4), **options)
        now_ms = gateway.server_time_ms()
        sandbox.follow(plan)
        # One bar beyond the last closed one, as a caller may who does not look at the clock.
        windows = Window.cover(MARKET, START_MS, START_MS + BARS * STEP_MS, WINDOW_BARS)
        return list(gateway.fetch_windows(MARKET, windows, now_ms)), truth, sandbox

    return run


@pytest.mark.promise(1)
@pytest.mark.parametrize("seed", range(40))
def test_any_schedule_of_faults_brings_truth_or_names_what_is_not(fetch: OPEN, seed: int) -> None:
    rng = random.Random(seed)
    chosen = [rng.choice(rng.choice([wire_faults, page_faults])(rng)) for _ in range(FAULTS)]
    plan = [Fault(Match(nth=nth), action) for nth, action in zip(rng.sample(range(24), FAULTS), chosen, strict=True)]
    # Whichever thread is served when, all of the faults together never use up one question's attempts.
    fetched, truth, sandbox = fetch(rng, plan, retry=RetryPolicy(attempts=FAULTS + 1, budget_s=1e9))
    now_ms = sandbox.clock.now_ms()
    assert len(fetched) == 9  # 160 bars from the middle of a window of 20 on
    for window in fetched:
        assert_true_or_named(window, truth, now_ms)
    # Each fault costs at most one more request, a window with a gap one more, two windows may share the gap.
    assert len(sandbox.requests) <= 1 + len(fetched) + FAULTS + 2


@pytest.mark.promise(1)
@pytest.mark.parametrize("seed", range(14))
def test_market_that_lies_for_ever_is_never_believed(fetch: OPEN, seed: int) -> None:
    rng = random.Random(100 + seed)
    action = page_faults(rng)[seed]
    fetched, truth, sandbox = fetch(rng, [Fault(Match(times=None), action)])
    for window in fetched:
        assert_true_or_named(window, truth, sandbox.clock.now_ms())
    assert len(sandbox.requests) <= 1 + 2 * len(fetched)


@pytest.mark.parametrize("seed", range(10))
def test_exchange_that_fails_for_ever_ends_in_one_line_within_the_budget(fetch: OPEN, seed: int) -> None:
    rng = random.Random(200 + seed)
    action = wire_faults(rng)[seed]
    with pytest.raises(TemporaryError, match=r"asked 8 times in \d+ s\); ") as end:
        fetch(rng, [Fault(Match(times=None), action)], retry=RetryPolicy(attempts=8, budget_s=1e9))
    assert "\n" not in str(end.value)
    assert len(str(end.value)) < 300


@pytest.mark.promise(1)
def test_window_asked_for_twice_comes_back_the_same(make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN) -> None:
    sandbox = open_sandbox(make_candles(BARS))
    gateway, window = open_gateway(sandbox), Window(first_ms=START_MS, last_ms=START_MS + 99 * STEP_MS)
    first, second = gateway.fetch_windows(MARKET, [window] * 2, sandbox.clock.now_ms())
    for name in ("start_ms", *CANDLE_COLUMNS):
        assert np.array_equal(getattr(first.candles, name), getattr(second.candles, name))


def test_ban_in_the_middle_holds_everyone_and_loses_nothing(fetch: OPEN, fake_time: Any) -> None:
    fetched, truth, sandbox = fetch(random.Random(7), [Fault(Match(nth=3), actions.http_status(403))])
    for window in fetched:
        assert_true_or_named(window, truth, sandbox.clock.now_ms())
    assert 600 <= sum(fake_time.slept) < 10 * 600
    assert sum(len(window.candles) for window in fetched) == len(truth)


def test_refusal_in_the_middle_ends_the_run(fetch: OPEN) -> None:
    with pytest.raises(PipelineError, match=r"refused SYNTHUSDT linear 5m candles from .* \(10029: refused\)"):
        fetch(random.Random(8), [Fault(Match(nth=3), actions.ret_code(10029))])
