"""The sandbox's public stream, seen through the real pybit client over a real socket, agrees with its REST answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from pybit.exceptions import InvalidRequestError
from pybit.unified_trading import HTTP

from storage.schema import Candles, ConfigError, Instrument, Market, Source
from tasks.sandbox.listing import Listing
from tasks.sandbox.replay import aggregate
from tasks.sandbox.sandbox import Sandbox
from tests.exchange.raw_client import WAIT_S

START_MS = 1_735_689_600_000
STEP_MS = 300_000
MAKE = Callable[..., Candles]
OPEN = Callable[..., Any]
TOPICS = ("kline.5.{}", "publicTrade.{}", "orderbook.1.{}", "tickers.{}")
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


@pytest.fixture
def four_topics(make_candles: MAKE, open_sandbox: OPEN, open_stream: OPEN) -> Callable[..., dict[str, list[Any]]]:
    """Return a player of bars 10 to 29 of a market; it returns what pybit told of each kind of topic."""

    def play(category: Any = "linear", **options: Any) -> dict[str, list[Any]]:
        told: dict[str, list[Any]] = {"kline": [], "publicTrade": [], "orderbook": [], "tickers": []}
        sandbox = open_sandbox(make_candles(40), now_ms=at(10) - 1, market=Market(category=category), **options)
        client = open_stream(sandbox, category)
        client.kline_stream(5, "SYNTHUSDT", told["kline"].append)
        client.trade_stream("SYNTHUSDT", told["publicTrade"].append)
        client.orderbook_stream(1, "SYNTHUSDT", lambda message: told["orderbook"].append(copy.deepcopy(message)))
        client.ticker_stream("SYNTHUSDT", lambda message: told["tickers"].append(copy.deepcopy(message)))
        sandbox.wait_for_subscribers(*(name.format("SYNTHUSDT") for name in TOPICS))
        sandbox.play(bars=21, bar_every_s=0).result(WAIT_S)
        return told

    return play


def test_trades_begin_a_bar_at_its_open_and_make_its_candle(four_topics: OPEN, make_candles: MAKE):
    candles, trades = make_candles(40), [message["data"][0] for message in four_topics()["publicTrade"]]
    assert len({trade["i"] for trade in trades}) == len(trades)
    assert [trade["T"] for trade in trades] == sorted(trade["T"] for trade in trades)
    for bar in range(10, 30):
        own = [trade for trade in trades if at(bar) <= trade["T"] < at(bar + 1)]
        prices = [float(trade["p"]) for trade in own]
        assert own[0]["T"] == at(bar)
        assert (prices[0], prices[-1]) == (candles.open[bar], candles.close[bar])
        assert (max(prices), min(prices)) == (candles.high[bar], candles.low[bar])
        assert sum(float(trade["v"]) for trade in own) == pytest.approx(candles.volume[bar], abs=1e-8)


def test_book_is_one_tick_wide_at_the_last_trade_and_changes_with_each(four_topics: OPEN):
    told = four_topics()
    trades = {message["ts"]: message["data"][0] for message in told["publicTrade"]}
    books = {message["ts"]: message for message in told["orderbook"][1:]}  # the first is of the subscription
    assert books.keys() == trades.keys()
    for ms, message in books.items():
        (bid, bid_size), (ask, ask_size) = message["data"]["b"][0], message["data"]["a"][0]
        assert Decimal(ask) - Decimal(bid) == Decimal("0.01")
        assert Decimal(trades[ms]["p"]) == Decimal(ask if trades[ms]["S"] == "Buy" else bid)
        assert float(bid_size) > 0 < float(ask_size)
        assert message["cts"] == ms
    updates = [message["data"]["u"] for message in told["orderbook"]]
    assert updates == list(range(updates[0], updates[0] + len(updates)))


def test_deeper_books_are_those_of_rest_and_hold_the_shallow_one(
    make_candles: MAKE, open_sandbox: OPEN, open_raw: OPEN, open_client: OPEN
):
    sandbox = open_sandbox(make_candles(20), now_ms=at(10.1))
    client, depths = open_raw(sandbox), (1, 50, 200, 1000)
    client.subscribe(*(f"orderbook.{depth}.SYNTHUSDT" for depth in depths))
    client.follow(sandbox.play(bars=2, bar_every_s=0))
    last = {message["topic"]: message["data"] for message in client.messages}
    books = [last[f"orderbook.{depth}.SYNTHUSDT"] for depth in depths]
    assert [(len(book["b"]), len(book["a"])) for book in books] == [(depth, depth) for depth in depths]
    assert {message["type"] for message in client.messages} == {"snapshot"}
    rest = open_client(sandbox).get_orderbook(category="linear", symbol="SYNTHUSDT", limit=200)["result"]
    assert {name: rest[name] for name in ("s", "b", "a", "u", "seq")} == books[2]
    bids, asks = ({book[side][0][0] for book in books} for side in "ba")
    assert (len(bids), len(asks)) == (1, 1)


def test_a_bar_is_confirmed_before_the_next_one_opens(make_candles: MAKE, open_sandbox: OPEN, open_raw: OPEN):
    sandbox = open_sandbox(make_candles(20), now_ms=at(5.9))
    client = open_raw(sandbox)
    client.subscribe(*(name.format("SYNTHUSDT") for name in TOPICS))
    client.messages.clear()
    client.follow(sandbox.play(bars=1, bar_every_s=0))
    kinds = [message["topic"].partition(".")[0] for message in client.messages if message["ts"] == at(6)]
    assert kinds == ["kline", "publicTrade", "orderbook", "tickers", "kline"]
    klines = [message for message in client.messages if message["topic"].startswith("kline")]
    closed, forming = [message["data"][0] for message in klines if message["ts"] == at(6)]
    assert (closed["confirm"], forming["confirm"]) == (True, False)
    assert (closed["start"], forming["start"]) == (at(5), at(6))


FUNDING = [(at(3 * stamp), 0.0001 * stamp) for stamp in range(14)]
QUARTERLY = Instrument(
    symbol="SYNTHUSDT", category="linear", status="Trading", launch_ms=START_MS, tick_size="0.01", qty_step="0.001",
    min_qty="0.001", min_notional="5", funding_interval_min=15,
)  # fmt: skip


def test_ticker_follows_the_trades_and_tells_the_rate_of_the_next_stamp(four_topics: OPEN):
    told = four_topics(funding=FUNDING, instrument=QUARTERLY)
    tickers = {message["ts"]: message["data"] for message in told["tickers"][1:]}
    for message in told["publicTrade"]:
        ticker = tickers[message["ts"]]
        assert ticker["lastPrice"] == ticker["markPrice"] == message["data"][0]["p"]
        stamp = int(ticker["nextFundingTime"])
        assert message["ts"] < stamp <= message["ts"] + 3 * STEP_MS
        assert float(ticker["fundingRate"]) == dict(FUNDING)[stamp]


def test_rest_shows_what_the_stream_told(make_candles: MAKE, open_sandbox: OPEN, open_raw: OPEN, open_client: OPEN):
    sandbox = open_sandbox(make_candles(40), now_ms=at(10) - 1)
    client, rest = open_raw(sandbox), open_client(sandbox)
    client.subscribe(*(name.format("SYNTHUSDT") for name in TOPICS))
    client.follow(sandbox.play(bars=13, bar_every_s=0))
    last = {message["topic"].partition(".")[0]: message for message in client.messages}
    market = {"category": "linear", "symbol": "SYNTHUSDT"}
    book = rest.get_orderbook(**market, limit=1)["result"]
    assert {name: book[name] for name in ("s", "b", "a", "u", "seq")} == last["orderbook"]["data"]
    (ticker,) = rest.get_tickers(**market)["result"]["list"]
    assert ticker.items() >= last["tickers"]["data"].items()
    bar, (row, *_) = last["kline"]["data"][0], rest_rows(rest, limit=1)
    assert row == [str(bar[name]) for name in ("start", "open", "high", "low", "close", "volume", "turnover")]


def test_spot_tells_snapshots_of_tickers_without_funding(four_topics: OPEN):
    told = four_topics("spot")
    assert {message["type"] for message in told["tickers"]} == {"snapshot"}
    assert not {"fundingRate", "markPrice", "bid1Price"} & told["tickers"][-1]["data"].keys()
    assert len(confirmed(told["kline"])) == 21


@pytest.mark.parametrize(("interval", "bars"), [("15", 7), ("60", 2), ("D", 0)])
def test_longer_bars_are_confirmed_as_rest_shows_them(
    make_candles: MAKE, open_sandbox: OPEN, open_raw: OPEN, open_client: OPEN, interval: str, bars: int
):
    sandbox = open_sandbox(make_candles(60), now_ms=at(10.1))
    client, topic = open_raw(sandbox), f"kline.{interval}.SYNTHUSDT"
    client.subscribe(topic)
    client.follow(sandbox.play(bars=22, bar_every_s=0))
    shown = open_client(sandbox).get_kline(**MARKET | {"interval": interval})["result"]["list"]
    told = [[str(bar[name]) for name in ("start", "open", "high", "low", "close")] for bar in client.confirmed(topic)]
    assert told == [row[:5] for row in shown[1 : bars + 1]][::-1]
    forming = client.messages[-1]["data"][0]
    assert [str(forming[name]) for name in ("start", "open", "high", "low", "close")] == shown[0][:5]


def test_several_markets_play_on_one_clock(make_candles: MAKE, open_sandbox: OPEN, open_raw: OPEN, open_client: OPEN):
    other = make_candles(60, seed=2)
    quarter = aggregate(make_candles(60, seed=3), "15")
    more = [
        Listing(candles=other, market=Market(symbol="OTHERUSDT")),
        Listing(candles=quarter, market=Market(symbol="SLOWUSDT", interval="15")),
        Listing(candles=other, market=Market(symbol="SYNTHUSDT", category="spot")),
    ]
    sandbox = open_sandbox(make_candles(60), now_ms=at(12.1), more=more)
    client, spot = open_raw(sandbox), open_raw(sandbox, "spot")
    client.subscribe("kline.5.SYNTHUSDT", "kline.5.OTHERUSDT", "kline.15.SLOWUSDT")
    client.follow(sandbox.play(bars=6, bar_every_s=0))
    assert len(client.confirmed()) == 6
    assert [float(bar["close"]) for bar in client.confirmed("kline.5.OTHERUSDT")] == other.close[12:18].tolist()
    assert [float(bar["close"]) for bar in client.confirmed("kline.15.SLOWUSDT")] == quarter.close[4:6].tolist()
    assert spot.subscribe("kline.5.SYNTHUSDT")["success"] is True
    rest = open_client(sandbox)
    listed = rest.get_instruments_info(category="linear")["result"]["list"]
    assert [rules["symbol"] for rules in listed] == ["SYNTHUSDT", "OTHERUSDT", "SLOWUSDT"]
    assert len(rest.get_tickers(category="linear")["result"]["list"]) == 3
    assert len(rest.get_tickers(category="spot")["result"]["list"]) == 1
    with pytest.raises(InvalidRequestError, match="this replay holds candles of 15"):
        rest.get_kline(category="linear", symbol="SLOWUSDT", interval="5")


def test_a_market_that_is_there_twice_is_refused(make_candles: MAKE):
    again = Listing(candles=make_candles(5), market=Market(interval="5"))
    with pytest.raises(ConfigError, match="each market of a sandbox must be there once"):
        Sandbox([again, again], source=Source("sandbox:0123abcd"))


def test_bars_missing_in_the_file_are_never_told(make_candles: MAKE, open_sandbox: OPEN, open_raw: OPEN):
    candles = make_candles(30)
    known = candles[np.setdiff1d(np.arange(30), [12, 13])]
    sandbox = open_sandbox(known, now_ms=at(10.1))
    client = open_raw(sandbox)
    client.subscribe(*(name.format("SYNTHUSDT") for name in TOPICS))
    client.follow(sandbox.play(bars=7, bar_every_s=0))
    assert [(bar["start"] - START_MS) // STEP_MS for bar in client.confirmed()] == [10, 11, 14, 15, 16]
    assert not [message for message in client.messages if at(12) < message["ts"] < at(14)]


def test_a_slow_client_holds_the_clock_up_and_misses_nothing(
    make_candles: MAKE, open_sandbox: OPEN, open_stream: OPEN, open_client: OPEN
):
    sandbox = open_sandbox(make_candles(60), now_ms=at(10.1))
    rest, seen = open_client(sandbox), []

    def dawdle(message: dict[str, Any]) -> None:
        if message["data"][0]["confirm"]:
            times = [rest.get_server_time()["time"] for _ in range(20)]  # a clock that did not wait would be bars ahead
            seen.append((message["data"][0]["end"] + 1, times))

    open_stream(sandbox).kline_stream(5, "SYNTHUSDT", dawdle)
    sandbox.wait_for_subscribers("kline.5.SYNTHUSDT")
    sandbox.play(bars=10, bar_every_s=0).result(WAIT_S)
    assert [(end, set(times)) for end, times in seen] == [(at(bar), {at(bar)}) for bar in range(11, 21)]


def test_clock_moved_by_hand_tells_the_stream_too(make_candles: MAKE, open_sandbox: OPEN, open_raw: OPEN):
    sandbox = open_sandbox(make_candles(60), now_ms=at(10.1))
    client = open_raw(sandbox)
    client.subscribe("kline.5.SYNTHUSDT")
    sandbox.clock.advance(3 * STEP_MS)
    while len(client.confirmed()) < 3:
        client.read()
    assert [bar["start"] for bar in client.confirmed()] == [at(10), at(11), at(12)]


def test_playing_stops_when_it_is_cancelled_and_goes_on_from_there(
    make_candles: MAKE, open_sandbox: OPEN, open_raw: OPEN
):
    sandbox = open_sandbox(make_candles(60), now_ms=at(10.1))
    client = open_raw(sandbox)
    client.subscribe("kline.5.SYNTHUSDT")
    playing = sandbox.play(bar_every_s=0)
    while len(client.confirmed()) < 5:
        client.read()
    playing.cancel()
    client.follow(sandbox.play(bar_every_s=0))
    assert [bar["start"] for bar in client.confirmed()] == [at(bar) for bar in range(10, 60)]


def test_clock_that_keeps_real_time_never_goes_back_and_stops_at_the_last_candle(
    make_candles: MAKE, open_sandbox: OPEN, open_raw: OPEN
):
    sandbox = open_sandbox(make_candles(20), now_ms=at(10.1))
    client = open_raw(sandbox)
    client.subscribe("kline.5.SYNTHUSDT")
    times = iter([at(3), at(12.5), at(15), at(19.5), at(400)])
    sandbox.keep_time(lambda: next(times)).result(WAIT_S)
    while len(client.confirmed()) < 10:
        client.read()
    assert [bar["start"] for bar in client.confirmed()] == [at(bar) for bar in range(10, 20)]
    assert sandbox.clock.now_ms() == at(20)


def test_real_time_that_is_cancelled_stands_still(make_candles: MAKE, open_sandbox: OPEN, open_raw: OPEN):
    sandbox = open_sandbox(make_candles(20), now_ms=at(10.1))
    client = open_raw(sandbox)
    client.subscribe("kline.5.SYNTHUSDT")
    keeping = sandbox.keep_time(lambda: at(12.5))
    while len(client.confirmed()) < 2:
        client.read()
    keeping.cancel()
    assert sandbox.clock.now_ms() == at(12.5)


@pytest.mark.parametrize("move", [Sandbox.play, Sandbox.keep_time])
def test_a_sandbox_that_is_not_open_cannot_play(make_candles: MAKE, move: Callable[[Sandbox], Any]):
    with pytest.raises(ConfigError, match="must be open before its clock can play"):
        move(Sandbox([Listing(candles=make_candles(5), market=Market())], source=Source("sandbox:0123abcd")))
