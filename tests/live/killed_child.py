"""A session in a process of its own, which may kill itself at one point."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from storage.schema import Market
from tasks.champion.serving import ServedModel
from tasks.champion.version_selector import VersionChoice
from tasks.exchange.connection import Link
from tasks.exchange.gateway import Gateway
from tasks.exchange.stream_events import ConfirmedBar
from tasks.journal.journal import Journal
from tasks.live.account import Account
from tasks.live.market_session import MarketSession
from tasks.live.session_config import SessionConfig
from tasks.live.session_start import open_session
from tests.live.conftest import MARKET, QUICK, SOURCE, make_model


def die_when(hits: Callable[..., bool], method: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """Return a method that kills this process before or after it has done its work, when `hits` says so."""

    def dying(*args: Any) -> Any:
        now = hits(*args)
        if now and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = method(*args)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return dying


def plant(point: str, bar_ms: int) -> None:
    """Let this process die at a point of the bar that opens at `bar_ms`, or at the first fill from there on."""
    if point == "received":
        hits = lambda self, event: isinstance(event, ConfirmedBar) and event.start_ms == bar_ms  # noqa: E731
        MarketSession.on_event = die_when(hits, MarketSession.on_event, after=False)
    elif point == "stepped":
        Account.decide = die_when(lambda self, bar, *rest: bar.start_ms == bar_ms, Account.decide, after=True)
    elif point == "decision journalled":
        Journal.decided = die_when(lambda self, slug, row, *rest: row[0] == bar_ms, Journal.decided, after=True)
    elif point == "fill journalled":
        filled = lambda self, opens: any(bar.start_ms >= bar_ms and bar.opened.fill for _, bar in opens)  # noqa: E731
        Journal.opened = die_when(filled, Journal.opened, after=True)
    elif point == "taken over":
        MarketSession.take_over = die_when(lambda *args: True, MarketSession.take_over, after=True)
    elif point == "summary written":
        Journal.summarise = die_when(lambda *args: True, Journal.summarise, after=True)


def hold(asked: dict[str, Any]) -> None:
    """Hold the session; whoever plays the bars waits for the file `ready`."""
    plant(asked["point"], asked["bar_ms"])
    first, second = make_model(5), make_model(6)
    path = Path(asked["path"])

    def choose(stepped: Callable[[], int], market: Market, present: ServedModel | None) -> VersionChoice:
        return VersionChoice(second if stepped() >= asked["takeover"] else first)

    with Gateway("sandbox", source=SOURCE, url=asked["url"], requests_per_s=1e6) as gateway, Journal(path) as journal:
        link = Link(gateway=gateway, url=asked["url"])
        chooses = partial(choose, partial(journal.reader().decided, MARKET.slug))
        with open_session(
            link, {MARKET: chooses(MARKET, None)}, journal, mode="paper", config=SessionConfig(new_version_s=0.0),
            timing=QUICK, choose=chooses, bars=asked["bars"],
        ) as session:  # fmt: skip
            session.run(Path(asked["ready"]).touch)
        journal.summarise({"bars": asked["bars"]})
