"""The public stream as a session reads it: real pybit over real sockets, events equal to candles, endings clean."""

from __future__ import annotations

import gc
import json
import queue
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import websocket

from storage.schema import Candles, ConfigError, Market
from tasks.exchange.stream import PublicStream
from tasks.exchange.stream_events import (
    BookTop,
    ConfirmedBar,
    Decoder,
    Event,
    FormingBar,
    Reconnected,
    SubscriptionRefused,
    Ticker,
    Trade,
    topics_of,
)
from tasks.exchange.stream_socket import StreamTiming
from tasks.exchange.wire_values import BadMessage
from tests.attack.wire import handshake

START_MS = 1_735_689_600_000
STEP_MS = 300_000
WAIT_S = 30.0  # for what comes in milliseconds; only a failure waits so long
MARKET = Market()
KLINE = "kline.5.SYNTHUSDT"
OPENSSL = shutil.which("openssl") or ""
ONCE = StreamTiming(first_wait_s=60.0)
QUICK = StreamTiming(first_wait_s=0.01, max_wait_s=0.1, jitter=0.0)
MAKE = Callable[..., Candles]
OPEN = Callable[..., Any]


def at(bar: float) -> int:
    return START_MS + int(STEP_MS * bar)


@pytest.fixture
def open_public() -> Iterator[Callable[..., PublicStream]]:
    """Return an opener of public streams of a sandbox; they close with the test."""
    with ExitStack() as stack:

        def start(sandbox: Any, *markets: Market, timing: StreamTiming = QUICK, **options: Any) -> PublicStream:
            return stack.enter_context(
                PublicStream(markets or (MARKET,), exchange="sandbox", url=sandbox.stream_url, timing=timing, **options)
            )

        yield start


def read_until(stream: PublicStream, is_last: Callable[[Event], bool]) -> list[Event]:
    """Return the events up to the one that is the last."""
    events: list[Event] = []
    while not events or not is_last(events[-1]):
        events.append(stream.events.get(timeout=WAIT_S))
    return events


def confirms(start_ms: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, ConfirmedBar) and event.start_ms == start_ms


def test_events_of_played_bars_equal_the_candles(make_candles: MAKE, open_sandbox: OPEN, open_public: OPEN) -> None:
    candles = make_candles(40)
    sandbox = open_sandbox(candles, now_ms=at(10.1))
    stream = open_public(sandbox)
    sandbox.wait_for_subscribers(KLINE)
    sandbox.play(bars=20, bar_every_s=0).result(WAIT_S)
    events = read_until(stream, confirms(at(29)))

    bars = [event for event in events if isinstance(event, ConfirmedBar)]
    columns = ("start_ms", "open", "high", "low", "close", "volume", "turnover")
    rows = zip(*[getattr(candles[10:30], name).tolist() for name in columns], strict=True)
    assert [bar[2:9] for bar in bars] == list(rows)
    assert [bar.ts_ms for bar in bars] == [at(i + 1) for i in range(10, 30)]
    forming = {bar.start_ms: bar.open for bar in events if isinstance(bar, FormingBar)}
    assert forming == {at(i): candles.open[i] for i in range(10, 30)}
    books, trades = ([event for event in events if isinstance(event, kind)] for kind in (BookTop, Trade))
    assert all(book.bid < book.ask for book in books)
    assert {trade.price for trade in trades if trade.ts_ms == at(15)} == {candles.open[15]}
    ticker = next(event for event in events if isinstance(event, Ticker))
    assert (ticker.mark, ticker.next_funding_ms) == (candles.close[9], START_MS + 8 * 3_600_000)
    assert isinstance(events[0], Reconnected)
    assert (stream.generation, stream.counts.bad) == (1, 0)


def test_closing_leaves_no_thread_and_takes_no_time(make_candles: MAKE, open_sandbox: OPEN, open_public: OPEN) -> None:
    sandbox = open_sandbox(make_candles(5))
    before = set(threading.enumerate())
    stream = open_public(sandbox)
    sandbox.wait_for_subscribers(KLINE)
    stream.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # websocket-client leaves a refused one to gc
def test_attempts_to_connect_come_slower_and_slower_and_closing_ends_them() -> None:
    notes: queue.Queue[str] = queue.Queue()
    before = set(threading.enumerate())
    nobody = "ws://127.0.0.1:1"
    with PublicStream((MARKET,), exchange="sandbox", url=nobody, timing=QUICK, on_note=notes.put) as stream:
        waits = [float(notes.get(timeout=WAIT_S).split(" in ")[1].removesuffix(" s")) for _ in range(6)]
    assert waits == [0.0, 0.0, 0.0, 0.1, 0.1, 0.1]  # 0.01 doubles up to 0.1, told to a tenth
    assert stream.counts.failures >= 6
    assert set(threading.enumerate()) <= before
    gc.collect()


def test_socket_that_is_gone_between_two_looks_is_connected_again(
    make_candles: MAKE, open_sandbox: OPEN, open_public: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, send = threading.Event(), websocket.WebSocketApp.send

    def fails_once(app: websocket.WebSocketApp, *args: Any, **kwargs: Any) -> None:
        if not broken.is_set():  # as websocket-client does where its reader drops the socket meanwhile
            broken.set()
            raise AttributeError("'NoneType' object has no attribute 'send'")
        send(app, *args, **kwargs)

    monkeypatch.setattr(websocket.WebSocketApp, "send", fails_once)
    notes: queue.Queue[str] = queue.Queue()
    stream = open_public(open_sandbox(make_candles(5)), on_note=notes.put)
    assert "AttributeError" in notes.get(timeout=5.0)
    assert "connected, generation=2" in notes.get(timeout=5.0)
    assert stream.counts.failures == 1


@pytest.mark.promise(19)
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # of the host that pointed, by websocket-client
def test_stream_that_is_pointed_elsewhere_is_not_followed(make_candles: MAKE, open_sandbox: OPEN) -> None:
    elsewhere, notes = open_sandbox(make_candles(5)), queue.Queue[str]()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def point() -> None:
            with closing(listener.accept()[0]) as wire:
                wire.recv(65_536)
                wire.sendall(b"HTTP/1.1 302 Found\r\nLocation: %b/v5/public/linear\r\n\r\n" % to)

        to, here = elsewhere.stream_url.encode(), f"ws://127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=point, daemon=True).start()
        with PublicStream((MARKET,), exchange="sandbox", url=here, timing=QUICK, on_note=notes.put) as stream:
            assert "the exchange points elsewhere" in notes.get(timeout=5.0)
            assert stream.generation == 0
    gc.collect()


def test_text_that_is_no_utf_8_ends_the_connection() -> None:
    notes: queue.Queue[str] = queue.Queue()

    def say(listener: socket.socket) -> None:
        with closing(listener.accept()[0]) as wire:
            wire.sendall(handshake(wire.recv(65_536)) + b"\x81\x01\xff")
            wire.recv(65_536)  # until the client hangs up

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=say, args=(listener,), daemon=True).start()
        here = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        with PublicStream((MARKET,), exchange="sandbox", url=here, timing=ONCE, on_note=notes.put) as stream:
            while "lost" not in (note := notes.get(timeout=5.0)):
                pass
            assert "UnicodeDecodeError" in note
            assert stream.events.qsize() <= 1  # that it was connected
    gc.collect()


@pytest.mark.promise(19)
@pytest.mark.skipif(not OPENSSL, reason="openssl, which makes the certificate, is not installed")
@pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")  # of both hosts, by websocket-client
def test_encrypted_stream_that_is_pointed_elsewhere_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    made = ["-keyout", key, "-out", certificate, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([OPENSSL, "req", "-x509", *made], check=True, capture_output=True)  # noqa: S603 - our own words
    monkeypatch.setenv("WEBSOCKET_CLIENT_CA_BUNDLE", certificate)
    context, asked, notes = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), list[bytes](), queue.Queue[str]()
    context.load_cert_chain(certificate, key)

    def answer(listener: socket.socket, reply: Callable[[bytes], bytes]) -> None:
        with closing(context.wrap_socket(listener.accept()[0], server_side=True)) as wire:
            asked.append(wire.recv(65_536))
            wire.sendall(reply(asked[-1]))
            wire.recv(65_536)  # until the client hangs up

    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        port, to = (one.getsockname()[1] for one in (first, second))
        pointer = f"HTTP/1.1 302 Found\r\nLocation: wss://127.0.0.1:{to}/v5/public/linear\r\n\r\n".encode()
        for listener, reply in ((first, lambda request: pointer), (second, handshake)):
            threading.Thread(target=answer, args=(listener, reply), daemon=True).start()
        url = f"wss://localhost:{port}"
        with PublicStream((MARKET,), exchange="sandbox", url=url, timing=ONCE, on_note=notes.put) as stream:
            assert "the exchange points elsewhere" in notes.get(timeout=5.0)
            assert stream.generation == 0
    assert len(asked) == 2  # the other host has been reached, and was told nothing of a subscription
    gc.collect()


def test_market_that_is_refused_is_told_and_the_other_goes_on(
    make_candles: MAKE, open_sandbox: OPEN, open_public: OPEN
) -> None:
    sandbox = open_sandbox(make_candles(30), now_ms=at(10.1))
    stream = open_public(sandbox, Market(symbol="NOSUCHUSDT"), MARKET)
    refused = read_until(stream, lambda event: isinstance(event, SubscriptionRefused))[-1]
    assert isinstance(refused, SubscriptionRefused)
    assert refused.topics == topics_of(Market(symbol="NOSUCHUSDT"))
    assert "handler not found" in refused.message
    sandbox.wait_for_subscribers(KLINE)
    sandbox.play(bars=3, bar_every_s=0)
    read_until(stream, confirms(at(12)))


def test_queue_that_nobody_reads_loses_events_and_counts_them(
    make_candles: MAKE, open_sandbox: OPEN, open_public: OPEN
) -> None:
    sandbox = open_sandbox(make_candles(30), now_ms=at(10.1))
    stream = open_public(sandbox, events=queue.Queue(5))
    sandbox.wait_for_subscribers(KLINE)
    sandbox.play(bars=10, bar_every_s=0).result(WAIT_S)
    assert stream.events.qsize() == 5
    assert stream.counts.overflowed > 100


def test_markets_of_two_categories_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"of one category, was of \['linear', 'spot'\]"):
        PublicStream((MARKET, Market(category="spot")), exchange="bybit")


BAR = {
    "start": at(0), "end": at(1) - 1, "interval": "5", "open": "100", "close": "101", "high": "102", "low": "99",
    "volume": "5", "turnover": "500", "confirm": True, "timestamp": at(1),
}  # fmt: skip


def kline(**changes: Any) -> dict[str, Any]:
    return {"topic": KLINE, "type": "snapshot", "ts": at(1), "data": [BAR | changes]}


@pytest.mark.parametrize(
    "changes",
    [
        {"open": "NaN"}, {"open": "0"}, {"close": "-1"}, {"close": "1e309"}, {"high": "98"}, {"low": "100.5"},
        {"volume": "-1"}, {"volume": ""}, {"volume": None}, {"close": "1_01"}, {"close": 101}, {"start": at(0.5)},
        {"start": "x"}, {"interval": "15"}, {"confirm": "true"}, {"high": "1e13"}, {"low": "1e-13"},
        {"volume": "1e21"}, {"turnover": "1e21"}, {"close": "\u0661"}, {"start": 10**15},
    ],
)  # fmt: skip
def test_bar_that_no_market_could_have_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        Decoder("linear", frozenset({KLINE})).decode(kline(**changes), 0)


def test_bar_without_a_turnover_is_a_bar() -> None:
    (bar,) = Decoder("linear", frozenset({KLINE})).decode(kline(turnover=""), 7)
    assert isinstance(bar, ConfirmedBar)
    assert bar[:8] == (("linear", "SYNTHUSDT"), "5", at(0), 100.0, 102.0, 99.0, 101.0, 5.0)
    assert bar.turnover != bar.turnover


def test_message_of_another_topic_is_refused() -> None:
    with pytest.raises(BadMessage, match=r"topic kline\.1\.SYNTHUSDT was not subscribed"):
        Decoder("linear", frozenset({KLINE})).decode(kline() | {"topic": "kline.1.SYNTHUSDT"}, 0)


def test_ticker_is_put_together_from_its_changes() -> None:
    topic = "tickers.SYNTHUSDT"
    decoder = Decoder("linear", frozenset({topic}))

    def told(kind: str, **data: str) -> list[Event]:
        return decoder.decode({"topic": topic, "type": kind, "ts": 5, "data": data}, 0)

    assert told("delta", fundingRate="0.1") == []  # nothing is known yet of what this changes
    (first,) = told("snapshot", markPrice="100", fundingRate="0.0001", nextFundingTime="900")
    (second,) = told("delta", markPrice="101")
    assert first[1:4] == (100.0, 0.0001, 900)
    assert second[1:4] == (101.0, 0.0001, 900)


def test_what_a_ticker_says_beyond_its_three_fields_is_not_kept() -> None:
    topic = "tickers.SYNTHUSDT"
    decoder = Decoder("linear", frozenset({topic}))
    for place in range(100):
        data = {"markPrice": "100", f"more{place}": "x" * 10_000}
        (ticker,) = decoder.decode({"topic": topic, "type": "delta", "ts": 5, "data": data}, 0)
        assert isinstance(ticker, Ticker)
    assert decoder._tickers == {"SYNTHUSDT": {"markPrice": "100"}}


def test_crossed_book_is_refused() -> None:
    topic = "orderbook.1.SYNTHUSDT"
    data = {"b": [["101", "1"]], "a": [["101", "1"]]}
    with pytest.raises(BadMessage, match="below the ask"):
        Decoder("linear", frozenset({topic})).decode({"topic": topic, "ts": 5, "data": data}, 0)


@pytest.mark.parametrize("text", ["{", "[]", "null", "7", json.dumps({"topic": 5}), json.dumps({"topic": KLINE})])
def test_text_that_is_no_message_is_counted_and_nothing_raised(text: str) -> None:
    told: list[str] = []
    stream = PublicStream((MARKET,), exchange="bybit", on_note=told.append)
    stream._receive(text)
    assert stream.counts.bad == 1
    assert stream.events.empty()
    (line,) = told
    assert line.startswith("stream linear dropped a message (")
    for _ in range(9):
        stream._receive(text)
    assert (stream.counts.bad, len(told)) == (10, 3)  # no flood of them fills a log
