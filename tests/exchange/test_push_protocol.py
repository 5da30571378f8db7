"""Requests to the public stream are answered as Bybit answers them, good ones and bad ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from storage.schema import Candles, Market
from tasks.sandbox.sockets import PushTiming
from tests.exchange.raw_client import RawClient

START_MS = 1_735_689_600_000
STEP_MS = 300_000
KLINE, BOOK, TRADES = "kline.5.SYNTHUSDT", "orderbook.1.SYNTHUSDT", "publicTrade.SYNTHUSDT"
OPEN = Callable[..., Any]
OPENER = Callable[..., tuple[Any, RawClient]]


@pytest.fixture
def opened(make_candles: Callable[..., Candles], open_sandbox: OPEN, open_raw: OPEN) -> OPENER:
    """Return an opener of a sandbox whose sixth bar is forming, and of a client of its stream."""

    def start(category: Any = "linear", **timing: float) -> tuple[Any, RawClient]:
        market = Market(category=category)
        options = {"market": market, "stream": PushTiming(**{"ack_s": 0.0} | timing)}
        sandbox = open_sandbox(make_candles(20), now_ms=START_MS + 5 * STEP_MS + 1, **options)
        return sandbox, open_raw(sandbox, category)

    return start


def refused(message: str, op: str = "subscribe") -> dict[str, Any]:
    return {"success": False, "ret_msg": message, "conn_id": "sandbox-1", "req_id": "", "op": op}


@pytest.mark.parametrize(("category", "message"), [("linear", ""), ("spot", "subscribe")])
def test_subscription_is_answered_before_its_first_message(opened: OPENER, category: str, message: str):
    _, client = opened(category)
    answer = client.subscribe(KLINE)
    assert answer == {"success": True, "ret_msg": message, "conn_id": "sandbox-1", "req_id": "s", "op": "subscribe"}
    assert client.messages == []
    client.read()
    assert [bar["confirm"] for bar in client.messages[0]["data"]] == [False]


@pytest.mark.parametrize(("page", "category"), [("11", "spot"), ("12", "linear")], ids=["spot", "linear"])
def test_answers_have_the_fields_of_the_documented_ones(opened: OPENER, real_data: Path, page: str, category: str):
    documented = json.loads((real_data / "bybit_v5" / f"websocket__wss-authentication__{page}.json").read_text())
    answer = opened(category)[1].subscribe(KLINE)
    assert {name: type(value) for name, value in answer.items()} == {n: type(v) for n, v in documented.items()}
    assert answer["ret_msg"] == documented["ret_msg"]


def test_kline_message_has_the_fields_of_the_documented_one(opened: OPENER, real_data: Path):
    documented = json.loads((real_data / "bybit_v5" / "websocket__public__kline__0.json").read_text())
    _, client = opened()
    client.subscribe(KLINE)
    client.read()
    (message,) = client.messages
    ours, theirs = message["data"][0], documented["data"][0]
    assert {name: type(value) for name, value in ours.items()} == {name: type(value) for name, value in theirs.items()}
    assert set(message) == set(documented)
    assert (message["type"], ours["end"] - ours["start"]) == (documented["type"], theirs["end"] - theirs["start"])


@pytest.mark.parametrize(
    "topic",
    [
        *("kline.5.NOPEUSDT", "kline.5.synthusdt", "kline.1.SYNTHUSDT", "kline.7.SYNTHUSDT", "kline.SYNTHUSDT"),
        *("orderbook.25.SYNTHUSDT", "orderbook.SYNTHUSDT", "publicTrade.NOPEUSDT", "tickers", "order", ""),
    ],
)
def test_one_unknown_topic_fails_the_whole_request(opened: OPENER, topic: str):
    sandbox, client = opened()
    answer = client.ask({"op": "subscribe", "args": [KLINE, topic]})
    assert answer == refused(f"error:handler not found,topic:{topic}")
    client.follow(sandbox.play(bars=2, bar_every_s=0))
    assert client.messages == []


def test_topic_of_another_category_is_unknown(opened: OPENER, open_raw: OPEN):
    sandbox, _ = opened("spot")
    assert open_raw(sandbox, "linear").subscribe(KLINE)["success"] is False


def test_topic_twice_is_refused_and_the_first_goes_on(opened: OPENER):
    sandbox, client = opened()
    client.subscribe(KLINE)
    again = refused(f"error:already subscribed,topic:{KLINE}")
    assert client.ask({"op": "subscribe", "args": [KLINE]}) == again
    assert client.ask({"op": "subscribe", "args": [TRADES, TRADES]}) == again | {
        "ret_msg": f"error:already subscribed,topic:{TRADES}"
    }
    client.follow(sandbox.play(bars=2, bar_every_s=0))
    assert len(client.confirmed()) == 2


def test_spot_takes_ten_topics_a_request_and_linear_any_number(opened: OPENER):
    topics = [
        f"kline.{interval}.SYNTHUSDT" for interval in ("5", "15", "30", "60", "120", "240", "360", "720", "D", "W")
    ]
    eleven = [*topics, TRADES]
    assert opened("linear")[1].subscribe(*eleven)["success"] is True
    spot = opened("spot")[1]
    assert spot.ask({"op": "subscribe", "args": eleven}) == refused("args size >10")
    assert spot.subscribe(*topics)["success"] is True


def test_topics_of_one_connection_have_21000_characters_at_most(opened: OPENER):
    _, client = opened()
    client.subscribe(KLINE)
    assert client.ask({"op": "subscribe", "args": ["x" * 20_984]}) == refused("args length >21000")
    assert client.ask({"op": "subscribe", "args": ["x" * 20_983]})["ret_msg"].startswith("error:handler not found")


def test_text_ping_and_ping_frame_are_answered(opened: OPENER):
    _, client = opened()
    pong = {"success": True, "ret_msg": "pong", "conn_id": "sandbox-1", "req_id": "p", "op": "ping"}
    assert client.ask({"op": "ping", "req_id": "p"}) == pong
    assert client.ping_frame()


@pytest.mark.parametrize(
    ("request_text", "message", "op"),
    [
        ("hello", "Failed to decode incoming data:", ""),
        ("[]", "Failed to decode incoming data:", ""),
        ('{"op": "nope"}', "error:invalid op", "nope"),
        ("{}", "error:invalid op", "None"),
        ('{"op": "subscribe", "args": "kline.5.SYNTHUSDT"}', "error:invalid args", "subscribe"),
        ('{"op": "subscribe", "args": [5]}', "error:invalid args", "subscribe"),
    ],
)
def test_request_that_is_none_is_refused_and_the_connection_stays(
    opened: OPENER, request_text: str, message: str, op: str
):
    _, client = opened()
    answer = client.ask(request_text)
    assert answer["ret_msg"].startswith(message)
    assert (answer["success"], answer["op"]) == (False, op)
    assert client.subscribe(KLINE)["success"] is True


@pytest.mark.parametrize("path", ["/v5/public/option", "/v5/public/", "/v5/private"])
def test_stream_of_no_category_is_404(opened: OPENER, path: str):
    assert requests.get(opened()[0].url + path, timeout=60).status_code == 404


def test_too_many_connections_are_refused_with_403(opened: OPENER, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tasks.sandbox.sandbox.SOCKET_LIMIT", 2)
    sandbox, client = opened()
    client.connect()
    assert client.refused == []
    handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "User-Agent": ""}  # as nameless as the other client
    assert requests.get(f"{sandbox.url}/v5/public/linear", headers=handshake, timeout=60).status_code == 403


def test_quiet_order_book_is_repeated_with_the_same_update_number(opened: OPENER):
    _, client = opened(repeat_s=0.01)
    client.subscribe(BOOK)
    while len(client.messages) < 4:
        client.read()
    assert client.messages == [client.messages[0]] * 4


def test_client_that_takes_nothing_is_cut_off_and_the_clock_goes_on(opened: OPENER):
    sandbox, client = opened(stall_s=0.05)
    client.subscribe(KLINE)
    assert sandbox.play(bars=3, bar_every_s=0).result(30) == 3
    while not client.ends:
        client.read()
    assert client.ends == [1006]


def test_delayed_messages_are_under_way_while_answers_are_not(opened: OPENER):
    client = opened(delay_s=3_600.0)[1]
    client.subscribe(KLINE)
    client.ask({"op": "ping"})
    assert client.messages == []
    sandbox, client = opened(delay_s=0.001)
    client.subscribe(KLINE)
    client.follow(sandbox.play(bars=5, bar_every_s=0))
    assert [bar["start"] for bar in client.confirmed()] == [START_MS + bar * STEP_MS for bar in range(5, 10)]
