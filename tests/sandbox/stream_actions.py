"""Faults of the public stream, each as a `StreamAction` for a plan (`tasks/sandbox/stream_faults.py`).

If an action has `bars`, that many bars are lost before the client can reconnect: the addressed one and those after it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from decimal import Decimal

from tasks.sandbox.stream_faults import (
    Abort,
    Close,
    Delivery,
    Frames,
    Item,
    Message,
    Pieces,
    StreamAction,
    is_confirmed,
)


def close(code: int, bars: int = 1) -> StreamAction:
    """End the connection with a close frame (1000, 1001, 1011, 1012) instead of sending the message."""
    return _ending(f"close {code}", Close(code), bars)


def abort(bars: int = 1) -> StreamAction:
    """End the connection without a close frame, which a client reports as 1006, instead of sending the message."""
    return _ending("abort", Abort(), bars)


def outage(bars: int) -> StreamAction:
    """Abort the connection and refuse at least one attempt to reconnect."""

    def spoil(delivery: Delivery) -> None:
        delivery.items, delivery.cost_bars, delivery.refuse = [Abort()], bars, True

    return StreamAction(f"outage of {bars} bars", spoil)


def silence(bars: int = 1) -> StreamAction:
    """Send nothing more on this connection, this message included; pings are still answered."""

    def spoil(delivery: Delivery) -> None:
        delivery.items, delivery.cost_bars = [], bars

    return StreamAction("silence", spoil)


def no_pongs() -> StreamAction:
    """Answer no ping on this connection any more, neither frame nor text; messages go on."""

    def spoil(delivery: Delivery) -> None:
        delivery.deaf = True

    return StreamAction("no pongs", spoil)


def duplicate_bar() -> StreamAction:
    """Send a confirmed bar once more, after its successor."""
    return StreamAction("duplicate bar", lambda delivery: delivery.later.append(delivery.text))


def late_bar() -> StreamAction:
    """Send a confirmed bar after its successor."""

    def spoil(delivery: Delivery) -> None:
        delivery.items, delivery.later = [], [delivery.text]

    return StreamAction("late bar", spoil)


def confirm_twice() -> StreamAction:
    """Confirm a bar again at once, a millisecond later."""

    def spoil(delivery: Delivery) -> None:
        again = copy.deepcopy(delivery.message)
        again["ts"] += 1
        again["data"][0]["timestamp"] += 1
        delivery.items.append(_text(again))

    return StreamAction("confirm twice", spoil)


def confirm_missing() -> StreamAction:
    """Never confirm a bar."""
    return StreamAction("confirm missing", lambda delivery: delivery.items.clear())


def other_close(add: str) -> StreamAction:
    """Confirm a bar whose close differs by `add` from that of REST, with high and low adjusted if needed."""

    def spoil(delivery: Delivery) -> None:
        other = copy.deepcopy(delivery.message)
        bar = other["data"][0]
        close_price = Decimal(bar["close"]) + Decimal(add)
        bar["close"] = format(close_price, "f")
        bar["high"] = format(max(Decimal(bar["high"]), close_price), "f")
        bar["low"] = format(min(Decimal(bar["low"]), close_price), "f")
        delivery.items = [_text(other)]

    return StreamAction(f"close {add} off", spoil)


def bad_json() -> StreamAction:
    """Send half a message before the whole one."""
    return _before("bad JSON", lambda delivery: delivery.text[: len(delivery.text) // 2])


def unknown_topic(topic: str = "kline.5.NOBODYASKED") -> StreamAction:
    """Send a message of a topic that was not subscribed before the right one."""
    return _before(f"topic {topic}", lambda delivery: _text(delivery.message | {"topic": topic}))


def other_text(text: str) -> StreamAction:
    """Send any text before the message: a list, null, an object without a topic."""
    return _before(f"text {text[:20]!r}", lambda delivery: text)


def burst(count: int = 20_000) -> StreamAction:
    """Send a message many times, as in a volatile market; a confirmed bar is sent that often as forming first."""

    def spoil(delivery: Delivery) -> None:
        wild = copy.deepcopy(delivery.message)
        if is_confirmed(wild):
            wild["data"][0]["confirm"] = False
        delivery.items = [*[_text(wild)] * count, *delivery.items]

    return StreamAction(f"burst of {count}", spoil)


def slow_drip(size: int = 16, pause_s: float = 0.002) -> StreamAction:
    """Write a message `size` bytes at a time."""
    return _instead("slow drip", lambda delivery: Pieces(delivery.text, size, pause_s))


def fragmented(count: int = 3) -> StreamAction:
    """Send a message in `count` frames."""
    return _instead("fragmented", lambda delivery: Frames(delivery.text, count))


def clock_jump(ms: int) -> StreamAction:
    """Let the time that the exchange reports jump when the bar closes; for `AtBar` only."""
    return StreamAction(f"clock jumps {ms} ms", clock_jump_ms=ms)


def _ending(name: str, item: Item, bars: int) -> StreamAction:
    def spoil(delivery: Delivery) -> None:
        delivery.items, delivery.cost_bars = [item], bars

    return StreamAction(name, spoil)


def _instead(name: str, item: Callable[[Delivery], Item]) -> StreamAction:
    def spoil(delivery: Delivery) -> None:
        delivery.items = [item(delivery)]

    return StreamAction(name, spoil)


def _before(name: str, text: Callable[[Delivery], str]) -> StreamAction:
    return StreamAction(name, lambda delivery: delivery.items.insert(0, text(delivery)))


def _text(message: Message) -> str:
    return json.dumps(message, separators=(",", ":"))
