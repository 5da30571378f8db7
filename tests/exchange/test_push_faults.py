"""Each fault of the stream does what its name says, to the bar or message that it is addressed to, and to no other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from storage.schema import Candles, ConfigError
from tasks.sandbox.sockets import PushTiming
from tasks.sandbox.stream_faults import AtBar, AtHandshake, AtMessage, AtSubscription, StreamPlan
from tests.exchange.raw_client import WAIT_S, RawClient
from tests.sandbox import stream_actions as act

START_MS = 1_735_689_600_000
STEP_MS = 300_000
TOPIC = "kline.5.SYNTHUSDT"
OPEN = Callable[..., Any]


def at(bar: float) -> int:
    return START_MS + int(STEP_MS * bar)


def numbers(bars: list[dict[str, Any]]) -> list[int]:
    return [(bar["start"] - START_MS) // STEP_MS for bar in bars]


@pytest.fixture
def played(make_candles: Callable[..., Candles], open_sandbox: OPEN, open_raw: OPEN) -> Callable[..., Any]:
    """Return a player of bars 5 to 14 with faults; bar 0 of a plan is bar 5."""

    def play(*faults: Any, topics: tuple[str, ...] = (TOPIC,)) -> RawClient:
        sandbox = open_sandbox(
            make_candles(20), now_ms=at(5.1), stream_faults=StreamPlan(faults), stream=PushTiming(ack_s=0)
        )
        client: RawClient = open_raw(sandbox)
        client.subscribe(*topics)
        assert client.follow(sandbox.play(bars=10, bar_every_s=0)) == 10
        return client

    return play


ALL = list(range(5, 15))


@pytest.mark.parametrize(
    ("action", "end"),
    [(act.close(code), code) for code in (1000, 1001, 1011, 1012)] + [(act.abort(), 1006)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_cut_connection_costs_the_bar_it_is_addressed_to_and_no_other(played: OPEN, action: Any, end: int):
    client = played(AtBar(4, action))
    assert client.ends == [end]
    assert numbers(client.confirmed()) == [bar for bar in ALL if bar != 9]


def test_a_cut_connection_may_cost_more_bars(played: OPEN):
    client = played(AtBar(4, act.close(1012, bars=3)))
    assert numbers(client.confirmed()) == [5, 6, 7, 8, 12, 13, 14]


def test_outage_refuses_every_handshake_until_its_bars_have_closed(played: OPEN):
    client = played(AtBar(4, act.outage(bars=3)))
    assert (client.ends, set(client.refused)) == ([1006], {503})
    assert numbers(client.confirmed()) == [5, 6, 7, 8, 12, 13, 14]


@pytest.mark.parametrize("status", [403, 429, 503])
def test_refused_handshakes_are_counted_from_the_plan_s_begin(
    make_candles: Callable[..., Candles], open_sandbox: OPEN, open_raw: OPEN, status: int
):
    plan = StreamPlan([AtHandshake(0, status, times=2), AtHandshake(3, status)])
    client = open_raw(open_sandbox(make_candles(5), stream_faults=plan))
    assert client.refused == [status] * 2
    client.connect()
    assert client.refused == [status] * 3


def test_silent_feed_says_nothing_more_answers_pings_and_the_clock_waits_for_the_next_connection(
    make_candles: Callable[..., Candles], open_sandbox: OPEN, open_raw: OPEN
):
    sandbox = open_sandbox(
        make_candles(20), now_ms=at(5.1), stream=PushTiming(repeat_s=0.01),
        stream_faults=StreamPlan([AtBar(4, act.silence(bars=2))]),
    )  # fmt: skip
    client = open_raw(sandbox)
    client.subscribe(TOPIC, "orderbook.1.SYNTHUSDT")
    client.follow(sandbox.play(bars=4, bar_every_s=0))
    stands = threading.Event()
    with sandbox.clock.heard_by(lambda: stands.set() if sandbox.clock.now_ms() >= at(11) else None):
        playing = sandbox.play(bars=6, bar_every_s=0)
        assert stands.wait(WAIT_S)
    assert client.ping_frame()  # which reads what was sent before the silence
    known = len(client.messages)
    assert client.ping_frame()
    assert client.ask({"op": "ping"})["ret_msg"] == "pong"
    assert len(client.messages) == known
    assert not playing.done()
    client.connect()
    client.follow(playing)
    assert numbers(client.confirmed()) == [5, 6, 7, 8, 11, 12, 13, 14]


def test_no_pongs_means_neither_frame_nor_text_while_messages_go_on(played: OPEN):
    assert played().ping_frame()
    client = played(AtBar(4, act.no_pongs()))
    assert numbers(client.confirmed()) == ALL
    assert not client.ping_frame()
    known = len(client.replies)
    client.send({"op": "ping"})
    assert client.ask({"op": "nothing"})["ret_msg"] == "error:invalid op"
    assert len(client.replies) == known + 1


@pytest.mark.parametrize(
    ("action", "bars"),
    [
        (act.duplicate_bar(), [5, 6, 7, 8, 9, 10, 9, 11, 12, 13, 14]),
        (act.late_bar(), [5, 6, 7, 8, 10, 9, 11, 12, 13, 14]),
        (act.confirm_twice(), [5, 6, 7, 8, 9, 9, 10, 11, 12, 13, 14]),
        (act.confirm_missing(), [5, 6, 7, 8, 10, 11, 12, 13, 14]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_bar_faults_change_the_order_of_the_confirmed_bars(played: OPEN, action: Any, bars: list[int]):
    client = played(AtBar(4, action))
    assert numbers(client.confirmed()) == bars
    whole = {bar["start"]: bar | {"timestamp": 0} for bar in played().confirmed()}
    assert all(bar | {"timestamp": 0} == whole[bar["start"]] for bar in client.confirmed())


def test_other_close_differs_in_one_bar_from_what_rest_says(played: OPEN):
    bars, truth = played(AtBar(4, act.other_close("0.37"))).confirmed(), played().confirmed()
    assert [i for i, bar in enumerate(bars) if bar != truth[i]] == [4]
    assert float(bars[4]["close"]) == pytest.approx(float(truth[4]["close"]) + 0.37)
    assert float(bars[4]["high"]) >= float(bars[4]["close"])


def test_broken_and_unknown_texts_come_before_the_message_and_take_nothing_away(played: OPEN):
    texts = act.other_text("[]"), act.other_text("null")
    client = played(
        AtBar(1, act.bad_json()), AtBar(2, act.unknown_topic()), *[AtBar(3 + i, text) for i, text in enumerate(texts)]
    )
    assert numbers(client.confirmed()) == ALL
    assert len(client.broken) == 1
    assert numbers(client.confirmed("kline.5.NOBODYASKED")) == [7]
    assert client.replies[-2:] == [[], None]


def test_burst_is_told_whole_and_before_the_bar_is_confirmed(played: OPEN):
    client = played(AtBar(4, act.burst(1_500)))
    assert numbers(client.confirmed()) == ALL
    assert len(client.messages) == len(played().messages) + 1_500


@pytest.mark.parametrize(
    "action", [act.slow_drip(size=40, pause_s=0), act.fragmented(5)], ids=lambda action: str(action.name)
)
def test_messages_in_pieces_are_the_same_messages(played: OPEN, action: Any):
    assert played(AtBar(4, action), AtBar(5, action)).messages == played().messages


def test_fault_of_a_message_is_counted_over_the_topic_that_it_names(played: OPEN):
    topics = (TOPIC, "publicTrade.SYNTHUSDT")
    clean = played(topics=topics).messages
    client = played(AtMessage(7, act.confirm_missing(), topic="publicTrade.SYNTHUSDT"), topics=topics)
    trades = [message for message in clean if message["topic"] == "publicTrade.SYNTHUSDT"]
    assert client.messages == [message for message in clean if message != trades[7]]


def test_refused_and_unanswered_subscriptions(make_candles: Callable[..., Candles], open_sandbox: OPEN, open_raw: OPEN):
    plan = StreamPlan([AtSubscription(0, "error:handler not found,topic:kline.5.SYNTHUSDT"), AtSubscription(1, None)])
    sandbox = open_sandbox(make_candles(20), now_ms=at(5.1), stream_faults=plan)
    client = open_raw(sandbox)
    request = {"op": "subscribe", "args": [TOPIC]}
    assert client.ask(request)["success"] is False
    client.send(request)
    sandbox.wait_for_subscribers(TOPIC)
    client.follow(sandbox.play(bars=3, bar_every_s=0))
    assert numbers(client.confirmed()) == [5, 6, 7]
    assert len(client.replies) == 1


def test_clock_jump_moves_the_time_that_is_told_and_no_bar(
    make_candles: Callable[..., Candles], open_sandbox: OPEN, open_raw: OPEN, open_client: OPEN
):
    plan = StreamPlan([AtBar(2, act.clock_jump(-7_000))])
    sandbox = open_sandbox(make_candles(20), now_ms=at(5.1), stream_faults=plan)
    client = open_raw(sandbox)
    client.subscribe(TOPIC)
    client.follow(sandbox.play(bars=5, bar_every_s=0))
    told = [message["ts"] for message in client.messages if message["data"][0]["confirm"]]
    assert told == [at(6), at(7), at(8) - 7_000, at(9) - 7_000, at(10) - 7_000]
    assert numbers(client.confirmed()) == [5, 6, 7, 8, 9]
    assert open_client(sandbox).get_server_time()["time"] == at(10) - 7_000


def test_following_another_plan_begins_with_the_bar_that_is_forming(
    make_candles: Callable[..., Candles], open_sandbox: OPEN, open_raw: OPEN
):
    sandbox = open_sandbox(make_candles(20), now_ms=at(5.1))
    client = open_raw(sandbox)
    client.subscribe(TOPIC)
    client.follow(sandbox.play(bars=3, bar_every_s=0))
    sandbox.follow_stream(StreamPlan([AtBar(0, act.confirm_missing())]))
    client.follow(sandbox.play(bars=3, bar_every_s=0))
    assert numbers(client.confirmed()) == [5, 6, 7, 9, 10]


def test_a_plan_with_a_negative_number_is_refused():
    with pytest.raises(ConfigError, match=r"a fault's numbers must be >= 0, was AtBar\(bar=-1"):
        StreamPlan([AtBar(-1, act.abort())])
