"""The sandbox's public stream, seen through the real pybit client over a real socket, agrees with its REST answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pybit.unified_trading import HTTP

from storage.schema import Candles

START_MS = 1_735_689_600_000
STEP_MS = 300_000
WAIT_S = 30.0  # for what comes in milliseconds; only a failure waits so long
MAKE = Callable[..., Candles]
OPEN = Callable[..., Any]
MARKET = {"category": "linear", "symbol": "SYNTHUSDT", "interval": "5"}


def at(bar: float) -> int:
    return START_MS + int(STEP_MS * bar)


def candle_rows(candles: Candles) -> list[tuple[float, ...]]:
    columns = ("start_ms", "open", "high", "low", "close", "volume", "turnover")
    return list(zip(*[getattr(candles, name).tolist() for name in columns], strict=True))


def confirmed(messages: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    names = ("start", "open", "high", "low", "close", "volume", "turnover")
    bars = [message["data"][0] for message in messages if message["data"][0]["confirm"]]
    return [tuple(float(bar[name]) for name in names) for bar in bars]


def rest_rows(client: HTTP, **params: Any) -> list[list[str]]:
    rows: list[list[str]] = client.get_kline(**MARKET, **params)["result"]["list"]
    return rows


def test_bars_played_arrive_confirmed_and_equal_the_replay(make_candles: MAKE, open_sandbox: OPEN, open_stream: OPEN):
    candles = make_candles(60)
    sandbox = open_sandbox(candles, now_ms=at(10.1))
    messages: list[dict[str, Any]] = []
    open_stream(sandbox).kline_stream(5, "SYNTHUSDT", messages.append)
    sandbox.wait_for_subscribers("kline.5.SYNTHUSDT")
    assert sandbox.play(bars=40, bar_every_s=0).result(WAIT_S) == 40
    assert confirmed(messages) == candle_rows(candles[10:50])
    assert sandbox.clock.now_ms() == at(50)


def test_play_without_a_number_of_bars_stops_at_the_last_candle(make_candles: MAKE, open_sandbox: OPEN):
    sandbox = open_sandbox(make_candles(20), now_ms=at(5.5))
    assert sandbox.play(bar_every_s=0).result(WAIT_S) == 15
    assert sandbox.clock.now_ms() == at(20)
    assert sandbox.play(bar_every_s=0).result(WAIT_S) == 0


def test_a_confirmed_bar_is_closed_over_rest_and_the_next_open_is_known(
    make_candles: MAKE, open_sandbox: OPEN, open_stream: OPEN, open_client: OPEN
):
    candles = make_candles(30)
    sandbox = open_sandbox(candles, now_ms=at(10.1))
    client, seen = open_client(sandbox), []

    def ask(message: dict[str, Any]) -> None:
        if message["data"][0]["confirm"]:  # asked on the reader's thread, before the clock moves on
            seen.append((message["data"][0], rest_rows(client, limit=2)))

    open_stream(sandbox).kline_stream(5, "SYNTHUSDT", ask)
    sandbox.wait_for_subscribers("kline.5.SYNTHUSDT")
    sandbox.play(bars=15, bar_every_s=0).result(WAIT_S)
    assert len(seen) == 15
    for i, (bar, (forming, closed)) in enumerate(seen, start=10):
        names = ("start", "open", "high", "low", "close", "volume", "turnover")
        assert [str(bar[name]) for name in names] == closed
        assert forming[0] == str(at(i + 1))
        assert [float(price) for price in forming[1:5]] == [candles.open[i + 1]] * 4
