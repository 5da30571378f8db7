"""Windows, rules and rates through pybit, whole or with every lack named."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.schema import (
    CANDLE_COLUMNS,
    Ambiguous,
    Candles,
    ClockError,
    ConfigError,
    Market,
    Rejected,
    Source,
    Window,
)
from tasks.exchange.gateway import Gateway
from tasks.exchange.pacing import RetryPolicy
from tasks.exchange.pages import FetchedWindow
from tasks.sandbox.candle_files import file_source, read_candle_file
from tasks.sandbox.faults import KLINE_PATH, Action, Fault, FaultPlan, Match
from tasks.sandbox.listing import default_instrument
from tests.sandbox import actions

MAKE = Callable[..., Candles]
OPEN = Callable[..., Any]
START_MS = 1_735_689_600_000
STEP_MS = 300_000
MARKET = Market()
LIMIT_S = 600.0  # of a wait for a thread: a busy machine is no failure


def at(bar: float) -> int:
    return START_MS + int(STEP_MS * bar)


def fetch_all(
    gateway: Gateway, first: int, last: int, bars: int = 1_000, market: Market = MARKET
) -> list[FetchedWindow]:
    now_ms = gateway.server_time_ms()
    windows = Window.cover(market, at(first), at(last), bars)
    return sorted(gateway.fetch_windows(market, windows, now_ms), key=lambda fetched: fetched.window.first_ms)


def asked(sandbox: Any) -> list[int]:
    """Return how often each window was asked for, oldest first."""
    starts = Counter(int(one.params["start"]) for one in sandbox.requests if one.path == KLINE_PATH)
    return [times for _, times in sorted(starts.items())]


def assert_equal(candles: Candles, truth: Candles) -> None:
    for name in ("start_ms", *CANDLE_COLUMNS):
        np.testing.assert_array_equal(getattr(candles, name), getattr(truth, name), err_msg=name)


@pytest.mark.promise(1)
@pytest.mark.parametrize("policy", ["newest", "oldest"])
@pytest.mark.parametrize("interval", ["5", "15", "240", "D"])
def test_fetched_windows_equal_the_replay_whatever_the_range_policy(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN, policy: str, interval: str
) -> None:
    truth = make_candles(3_456)  # twelve days
    sandbox = open_sandbox(truth, range_policy=policy)
    fetched = fetch_all(open_gateway(sandbox), 0, 3_455, market=Market(interval=interval))
    together = Candles.join([window.candles for window in fetched])
    ratio = Market(interval=interval).interval_ms // STEP_MS
    assert together.start_ms.tolist() == truth.start_ms[::ratio].tolist()
    np.testing.assert_array_equal(together.open, truth.open[::ratio])
    np.testing.assert_array_equal(together.close, truth.close[ratio - 1 :: ratio])
    np.testing.assert_array_equal(together.high, truth.high.reshape(-1, ratio).max(axis=1))
    assert sum(len(window.missing) for window in fetched) == 0
    assert asked(sandbox) == [1] * len(fetched)


@pytest.mark.promise(1)
def test_forming_candle_is_never_fetched(make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN) -> None:
    sandbox = open_sandbox(make_candles(30), now_ms=at(20.5))
    (fetched,) = fetch_all(open_gateway(sandbox), 10, 29, bars=1_000)
    assert fetched.candles.start_ms.tolist() == [at(bar) for bar in range(10, 20)]
    assert (len(fetched.missing), asked(sandbox)) == (0, [1])


def test_window_without_a_closed_bar_is_not_asked_for(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    sandbox = open_sandbox(make_candles(30))
    window = Window(first_ms=at(30), last_ms=at(40))
    (fetched,) = open_gateway(sandbox).fetch_windows(MARKET, [window], sandbox.clock.now_ms())
    assert (len(fetched.candles), len(fetched.missing), sandbox.requests) == (0, 0, ())


@pytest.mark.promise(1)
def test_gap_in_the_replay_is_asked_for_once_more_and_then_listed(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    truth = make_candles(60)
    sandbox = open_sandbox(truth[np.r_[0:25, 31:60]])
    fetched = fetch_all(open_gateway(sandbox), 0, 59, bars=20)
    # Midnight is bar 5,785,632 since 1970: windows of 20 begin at bars 0, 8, 28 and 48.
    assert asked(sandbox) == [1, 2, 2, 1]
    assert np.concatenate([window.missing for window in fetched]).tolist() == [at(bar) for bar in range(25, 31)]
    assert_equal(Candles.join([window.candles for window in fetched]), truth[np.r_[0:25, 31:60]])


def kline_plan(*faults: Action) -> FaultPlan:
    return [Fault(Match(nth=i), action) for i, action in enumerate(faults)]


DOUBTFUL = [
    actions.no_rows(),
    actions.missing_rows(3, 4),
    actions.contradicting_rows(2),
    actions.shifted_range(-5, -5),
    actions.shifted_range(-5, 5),
    actions.ignored_range(),
    actions.set_cell(2, 4, "NaN"),
    actions.set_cell(2, 1, ""),
    actions.set_cell(2, 5, "null"),
    actions.set_cell(2, 3, None),
    actions.set_cell(2, 3, "-1"),
    actions.set_cell(2, 3, "0"),
    actions.set_cell(2, 2, "1e309"),
    actions.set_cell(2, 0, "then"),
    actions.set_cell(2, 0, str(START_MS + 1)),
    actions.high_below_low(7),
    actions.cut_row(4, 6),
]
HARMLESS = [
    actions.repeated_rows(5),
    actions.shuffled_rows(3),
    actions.gzipped(),
    actions.shifted_range(0, 1),  # the forming candle after the last one
    actions.result_fields({"colour": "blue"}),
    actions.envelope_fields({"retMsg": ""}),
    actions.clock_skew(3_600_000),
]


@pytest.mark.promise(1)
@pytest.mark.parametrize("action", DOUBTFUL, ids=lambda action: action.name)
def test_doubtful_page_is_asked_for_once_more_and_the_good_one_stands(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN, action: Action
) -> None:
    truth = make_candles(30)
    sandbox = open_sandbox(truth, faults=kline_plan(action))
    (fetched,) = fetch_all(open_gateway(sandbox), 10, 29)
    assert_equal(fetched.candles, truth[10:])
    assert (fetched.rejected, len(fetched.missing), asked(sandbox)) == ((), 0, [2])


@pytest.mark.promise(1)
@pytest.mark.parametrize("action", HARMLESS, ids=lambda action: action.name)
def test_harmless_page_is_asked_for_once(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN, action: Action
) -> None:
    truth = make_candles(30)
    sandbox = open_sandbox(truth, faults=kline_plan(action))
    (fetched,) = fetch_all(open_gateway(sandbox), 10, 29)
    assert_equal(fetched.candles, truth[10:])
    assert (fetched.rejected, len(fetched.missing), asked(sandbox)) == ((), 0, [1])


def test_second_answer_that_is_worse_does_not_replace_the_first(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    truth = make_candles(30)
    sandbox = open_sandbox(truth, faults=kline_plan(actions.missing_rows(0, 2), actions.no_rows()))
    (fetched,) = fetch_all(open_gateway(sandbox), 10, 29)
    assert_equal(fetched.candles, truth[10:28])
    assert fetched.missing.tolist() == [at(28), at(29)]


@pytest.mark.promise(2)
def test_row_that_stays_broken_is_rejected_and_its_bar_missing(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    broken = actions.set_cell(0, 2, "")
    sandbox = open_sandbox(make_candles(30), faults=kline_plan(broken, broken))
    (fetched,) = fetch_all(open_gateway(sandbox), 10, 29)
    assert [row.start_ms for row in fetched.rejected] == fetched.missing.tolist() == [at(29)]


def test_clock_that_was_told_ahead_does_not_close_the_forming_candle(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    skew = [Fault(Match(path="/v5/market/time"), actions.clock_skew(STEP_MS))]
    sandbox = open_sandbox(make_candles(30), faults=skew)
    (fetched,) = fetch_all(open_gateway(sandbox), 20, 30)
    assert fetched.candles.start_ms.tolist() == [at(bar) for bar in range(20, 30)]
    assert fetched.missing.tolist() == [at(30)]


@pytest.mark.parametrize("change", [{"symbol": "ETHUSDT"}, {"category": "spot"}, {"list": None}])
def test_page_of_another_market_is_repeated_and_then_an_error(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN, change: dict[str, Any]
) -> None:
    wrong = actions.result_fields(change)
    sandbox = open_sandbox(make_candles(30), faults=kline_plan(wrong))
    (fetched,) = fetch_all(open_gateway(sandbox), 10, 29)
    assert (len(fetched.candles), asked(sandbox)) == (20, [2])  # the answer that was of another one was none
    sandbox.follow([Fault(Match(times=None), wrong)])
    with pytest.raises(
        Ambiguous,
        match=r"no usable answer for SYNTHUSDT linear 5m candles from 2025-01-01T00:50Z \(the answer .* asked 6",
    ):
        fetch_all(open_gateway(sandbox), 10, 29)


def test_window_longer_than_one_request_is_refused(make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN) -> None:
    gateway, window = open_gateway(open_sandbox(make_candles(30))), Window(first_ms=at(0), last_ms=at(1_000))
    with pytest.raises(ConfigError, match="a window must hold at most 1000 bars, was 1001"):
        next(gateway.fetch_windows(MARKET, [window], at(2_000)))


@pytest.mark.parametrize("market", [Market(symbol="NOPEUSDT"), Market(category="spot"), Market(interval="1")])
def test_unknown_symbol_category_or_interval_is_refused_in_one_line(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN, market: Market
) -> None:
    gateway = open_gateway(open_sandbox(make_candles(30)))
    with pytest.raises(Rejected) as refusal:
        next(gateway.fetch_windows(market, [Window(first_ms=at(0), last_ms=at(0))], at(1)))
    assert str(market) in str(refusal.value)
    assert str(refusal.value).endswith("; check symbol, category and interval")
    assert refusal.value.code == 10001


def test_instrument_tells_the_rules(make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN) -> None:
    rules = open_gateway(open_sandbox(make_candles(30))).instrument(MARKET)
    assert (rules.symbol, rules.launch_ms, rules.tick_size, rules.funding_interval_min) == (
        "SYNTHUSDT",
        START_MS,
        "0.01",
        480,
    )


@pytest.mark.parametrize("action", [None, actions.result_fields({"list": []})])
def test_instrument_that_is_unknown_is_refused_by_name(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN, action: Action | None
) -> None:
    faults = [Fault(Match(path="/v5/market/instruments-info", times=None), action)] if action else []
    gateway = open_gateway(open_sandbox(make_candles(30), faults=faults))
    market = MARKET if action else Market(symbol="NOPEUSDT")
    with pytest.raises(
        Rejected, match=f"the sandbox refused the rules of {market.symbol} linear .*; check symbol, category"
    ):
        gateway.instrument(market)


@pytest.mark.parametrize("status", ["PreLaunch", "Delivering", "Closed"])
def test_instrument_that_does_not_trade_is_known(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN, status: str
) -> None:
    candles = make_candles(30)
    rules = replace(default_instrument(MARKET, START_MS, candles), status=status)
    assert open_gateway(open_sandbox(candles, instrument=rules)).instrument(MARKET) == rules


@pytest.mark.parametrize("policy", ["newest", "oldest"])
def test_funding_is_whole_and_oldest_first(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN, policy: str
) -> None:
    hour = 3_600_000
    truth = [(START_MS + hour * i, round(1e-6 * i, 6)) for i in range(1_000)]
    sandbox = open_sandbox(make_candles(10), now_ms=truth[-1][0], funding=truth, range_policy=policy)
    gateway = open_gateway(sandbox)
    assert gateway.funding("linear", "SYNTHUSDT", START_MS, truth[-1][0]) == truth
    assert gateway.funding("linear", "SYNTHUSDT", START_MS + hour, START_MS + 3 * hour) == truth[1:4]
    assert gateway.funding("spot", "SYNTHUSDT", START_MS, truth[-1][0]) == []


def test_funding_page_that_cannot_be_trusted_is_asked_for_again(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    truth = [(START_MS + 8 * 3_600_000 * i, 1e-4) for i in range(50)]
    row = {"symbol": "SYNTHUSDT", "fundingRate": "", "fundingRateTimestamp": str(START_MS)}
    bad = actions.result_fields({"list": [row]})
    path = "/v5/market/funding/history"
    plan = [Fault(Match(path=path), bad), Fault(Match(path=path, nth=1), actions.no_rows())]
    sandbox = open_sandbox(make_candles(10), now_ms=truth[-1][0], funding=truth, faults=plan)
    assert open_gateway(sandbox).funding("linear", "SYNTHUSDT", START_MS, truth[-1][0]) == truth


@pytest.mark.promise(0)
@pytest.mark.parametrize(
    ("exchange", "source"),
    [("bybit", "testnet"), ("sandbox", "bybit"), ("demo", "sandbox:0123abcd"), ("bybit", "nowhere")],
)
def test_gateway_whose_source_is_another_place_is_refused(exchange: Any, source: str) -> None:
    with pytest.raises(ConfigError, match=f"source must .*was '{source}'"):
        Gateway(exchange, source=Source(source), url="http://127.0.0.1:1" if exchange == "sandbox" else None)


def test_request_to_a_sandbox_without_an_address_never_goes_to_bybit() -> None:
    with (
        Gateway("sandbox", source=Source("sandbox:0123abcd")) as gateway,
        pytest.raises(ConfigError, match="url must be given for the sandbox, was None"),
    ):
        gateway.server_time_ms()


@pytest.mark.parametrize(("ahead_s", "words"), [(3_600, "3600 s ahead of it"), (-61, "61 s behind it")])
def test_machine_whose_clock_is_off_is_told_so(
    monkeypatch: pytest.MonkeyPatch, make_candles: MAKE, open_sandbox: OPEN, fake_time: Any, ahead_s: int, words: str
) -> None:
    sandbox = open_sandbox(make_candles(30))
    monkeypatch.setattr("pybit._http_manager.HTTP_URL", sandbox.url)  # stands in for Bybit's own host
    options: dict[str, Any] = {"clock": fake_time.clock, "sleep": fake_time.sleep, "source": Source("bybit")}
    with (
        Gateway("bybit", wall_clock_ms=lambda: sandbox.clock.now_ms() + 1_000 * ahead_s, **options) as gateway,
        pytest.raises(ClockError, match=f"must be within 60 s of Bybit's, was {words}; synchronise it"),
    ):
        gateway.server_time_ms()
    with Gateway("bybit", wall_clock_ms=lambda: sandbox.clock.now_ms() - 59_000, **options) as gateway:
        assert gateway.server_time_ms() == sandbox.clock.now_ms()


def test_first_error_withdraws_the_windows_that_wait(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    broken = [Fault(Match(nth=4, times=None), actions.ret_code(10001, "out of order"))]
    sandbox = open_sandbox(make_candles(1_000), faults=broken)
    gateway = open_gateway(sandbox, threads=2)
    with pytest.raises(Rejected, match="out of order"):
        fetch_all(gateway, 0, 999, bars=10)
    assert len(sandbox.requests) <= 1 + 4 + 2 * 2 + 1  # the time, the good ones, what was in flight; not 100 windows
    sandbox.follow(())
    assert len(fetch_all(gateway, 0, 999, bars=100)) == 11  # and the gateway goes on


def test_consumer_that_leaves_early_withdraws_even_a_wait_of_ten_minutes(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    plan = [Fault(Match(nth=1, times=None), actions.http_status(403))]
    sandbox = open_sandbox(make_candles(100), faults=plan)
    waiting = threading.Event()
    # A real wait: that it ends is what is tested. The first window is served, the next one is banned for ten minutes.
    real = {"clock": time.monotonic, "sleep": None}
    gateway = open_gateway(sandbox, threads=1, on_retry=lambda line: waiting.set(), **real)
    windows = gateway.fetch_windows(MARKET, Window.cover(MARKET, at(0), at(99), 10), sandbox.clock.now_ms())
    assert len(next(iter(windows)).candles) > 0
    assert waiting.wait(LIMIT_S)
    windows.close()  # returns at once, or the test hangs


def test_closing_the_gateway_ends_even_a_wait_of_ten_minutes(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    plan = [Fault(Match(nth=1, times=None), actions.http_status(403))]
    sandbox = open_sandbox(make_candles(100), faults=plan)
    waiting = threading.Event()
    real = {"clock": time.monotonic, "sleep": None}
    gateway = open_gateway(sandbox, threads=1, on_retry=lambda line: waiting.set(), **real)
    windows = gateway.fetch_windows(MARKET, Window.cover(MARKET, at(0), at(99), 10), sandbox.clock.now_ms())
    next(windows)
    assert waiting.wait(LIMIT_S)
    gateway.close()  # returns at once, or the test hangs


def test_windows_in_flight_are_bounded_whatever_the_consumer_does(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    sandbox = open_sandbox(make_candles(1_000))
    gateway = open_gateway(sandbox, threads=2)
    waiting = iter(Window.cover(MARKET, at(0), at(999), 10))
    windows = gateway.fetch_windows(MARKET, waiting, sandbox.clock.now_ms())  # type: ignore[arg-type]
    next(windows)
    assert len(list(waiting)) >= 100 - 2 * (2 * 2)  # as many again as are in flight were fetched and may be waiting
    windows.close()


@pytest.fixture
def all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every window that was asked for come in before the consumer looks."""
    monkeypatch.setattr(
        "tasks.exchange.gateway.wait", lambda futures, return_when=None: concurrent.futures.wait(futures)
    )


def test_windows_of_one_visit_come_in_the_order_that_they_were_asked_for(
    all_at_once: None, make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    sandbox = open_sandbox(make_candles(100))
    gateway = open_gateway(sandbox, threads=8)
    windows = Window.cover(MARKET, at(0), at(99), 10)
    (came,) = gateway.fetch_batches(MARKET, windows, sandbox.clock.now_ms())
    assert [fetched.window for fetched in came] == windows


def test_what_came_in_with_a_failure_is_yielded_before_the_error_of_the_earliest_window_is_raised(
    all_at_once: None, make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN
) -> None:
    sandbox = open_sandbox(make_candles(100))
    gateway = open_gateway(sandbox, threads=8)
    windows, came = Window.cover(MARKET, at(0), at(99), 10), []
    broken = {windows[place].first_ms: f"no {place}" for place in range(3, 9)}
    refusals = [
        Fault(Match(params={"start": str(first_ms)}, times=None), actions.ret_code(10001, why))
        for first_ms, why in broken.items()
    ]
    sandbox.follow(refusals)
    batches = gateway.fetch_batches(MARKET, windows, sandbox.clock.now_ms())

    with pytest.raises(Rejected, match="no 3"):  # noqa: PT012  # what comes before the error is what is tested
        for batch in batches:
            came += batch

    assert [fetched.window for fetched in came] == windows[:3] + windows[9:]


def test_rate_limit_met_by_one_thread_holds_all_of_them(
    make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN, fake_time: Any
) -> None:
    sandbox = open_sandbox(make_candles(400), ip_limit=10)
    # Far too fast: every limit is met, and by one thread more than once where the others are quicker.
    patient = RetryPolicy(bans=400)
    gateway = open_gateway(sandbox, requests_per_s=100_000.0, threads=4, retry=patient)
    fetched = fetch_all(gateway, 0, 399, bars=20)
    assert sum(len(window.candles) for window in fetched) == 400
    assert sum(fake_time.slept) >= 600
    # Eleven served, then at most what four threads had in flight is banned before all of them wait.
    assert len(sandbox.requests) <= 1 + 22 + 2 * 4


@pytest.mark.promise(1)
def test_real_candles_come_back_bit_for_bit(open_sandbox: OPEN, open_gateway: OPEN) -> None:
    folder = os.environ.get("DSC_TEST_DATA")
    if not folder:
        pytest.skip("needs real candles: DSC_TEST_DATA is not set")
    path = Path(folder) / "candles" / "bybit_linear_BTCUSDT_5m.parquet"
    truth = read_candle_file(path)[-10_000:]
    market = Market(symbol="BTCUSDT")
    sandbox = open_sandbox(truth, market=market, source=file_source(path))
    gateway = open_gateway(sandbox)
    now_ms = gateway.server_time_ms()
    windows = Window.cover(market, int(truth.start_ms[0]), now_ms)
    fetched = sorted(gateway.fetch_windows(market, windows, now_ms), key=lambda window: window.window.first_ms)
    assert_equal(Candles.join([window.candles for window in fetched]), truth)
    assert len(sandbox.requests) == 1 + len(windows)


def test_newest_candle_is_the_last_that_closed(make_candles: MAKE, open_sandbox: OPEN, open_gateway: OPEN) -> None:
    candles = make_candles(50)
    gateway = open_gateway(open_sandbox(candles, now_ms=int(candles.start_ms[-1]) + 100 * 300_000))
    assert gateway.newest_candle_ms(Market(), gateway.server_time_ms()) == candles.start_ms[-1]
