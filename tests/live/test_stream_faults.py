"""What goes wrong on the stream: a session decides as it would have without, or says why it did not trade."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tasks.journal.journal_rows import BarOpen, Decision
from tasks.sandbox.stream_faults import AtBar, AtHandshake, AtMessage, AtSubscription, StreamPlan
from tests.live.conftest import CANDLES, FIRST, MARKET, QUICK, STEP_MS, Rig
from tests.sandbox import stream_actions as act

pytestmark = pytest.mark.long
BARS, AT = 70, 30
KLINE, TRADES = f"kline.{MARKET.interval}.{MARKET.symbol}", f"publicTrade.{MARKET.symbol}"
BOOK, TICKERS = f"orderbook.1.{MARKET.symbol}", f"tickers.{MARKET.symbol}"
OPEN = Callable[..., Rig]
PINGING = replace(QUICK, ping_interval_s=0.2, ping_timeout_s=0.1)
SOON_DEAD = replace(QUICK, silence_s=2.0)


@dataclass(frozen=True)
class AccountRecord:
    """What a journal says of a session's own bars."""

    decisions: list[Decision]
    opens: list[BarOpen]


def told(rig: Rig) -> AccountRecord:
    with rig.reader() as reader:
        return AccountRecord(reader.decisions(MARKET.slug), reader.opens(MARKET.slug))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, module_rig: OPEN) -> AccountRecord:
    rig = module_rig()
    rig.run(BARS)
    assert sum(bar.opened.fill is not None for bar in told(rig).opens) >= 5
    return told(rig)


def check(rig: Rig, undisturbed: AccountRecord, *, equal: bool, revised: Sequence[int] = ()) -> AccountRecord:
    """Check every bar: stepped once, features unbroken, each difference with a cause that a replay believes."""
    found = told(rig)
    assert [one.start_ms for one in found.decisions] == [one.start_ms for one in undisturbed.decisions]
    again = rig.replayed(reference=CANDLES, funding=[])
    assert again.unexplained == 0, again.differences
    assert (again.bars, again.missing) == (BARS, 0)
    assert [one.start_ms for one in again.differences if one.cause == "revised"] == list(revised)
    if not revised:
        for one, other in zip(found.decisions, undisturbed.decisions, strict=True):
            np.testing.assert_allclose(one.values, other.values, rtol=0, atol=1e-9)
    if equal:
        assert facts(found) == facts(undisturbed)
        assert [bar.opened for bar in found.opens] == [bar.opened for bar in undisturbed.opens]
    else:  # up to the first that was not traded all is the same, and whatever was not traded says why
        first = next((i for i, one in enumerate(found.decisions) if one.cause), len(found.decisions))
        opens = next((i for i, one in enumerate(found.opens) if one.cause), len(found.opens))
        same = min(first, opens, AT if revised else BARS)
        assert facts(found)[:same] == facts(undisturbed)[:same]
    return found


def facts(one: AccountRecord) -> list[tuple[Any, ...]]:
    return [
        (d.start_ms, d.version, d.position, d.bars_held, d.target, d.wanted, d.cause, d.reason) for d in one.decisions
    ]


HARMLESS = {
    "duplicate": AtBar(AT, act.duplicate_bar()),
    "confirmed twice": AtBar(AT, act.confirm_twice()),
    "bad JSON": AtBar(AT, act.bad_json()),
    "unknown topic": AtBar(AT, act.unknown_topic()),
    "a list": AtBar(AT, act.other_text("[]")),
    "null": AtBar(AT, act.other_text("null")),
    "an object without a topic": AtBar(AT, act.other_text('{"op": "nothing"}')),
    "a candle of nonsense": AtBar(
        AT,
        act.other_text(
            json.dumps({"topic": KLINE, "type": "snapshot", "ts": 1, "data": [{"start": 7, "open": "NaN"}]})
        ),
    ),
    "a book upside down": AtBar(
        AT,
        act.other_text(
            json.dumps({"topic": BOOK, "type": "snapshot", "ts": 1, "data": {"b": [["9", "1"]], "a": [["8", "1"]]}})
        ),
    ),
    "slow drip": AtBar(AT, act.slow_drip()),
    "fragmented frames": AtBar(AT, act.fragmented(5)),
    "burst of 20,000": AtBar(AT, act.burst(20_000)),
    "lost trade": AtMessage(40, act.confirm_missing(), topic=TRADES),
    "lost ticker": AtMessage(40, act.confirm_missing(), topic=TICKERS),
}
"""Faults that change nothing at all."""


@pytest.mark.promise(16)
@pytest.mark.parametrize("fault", HARMLESS.values(), ids=HARMLESS)
def test_session_is_the_same_when_nothing_is_lost(open_rig: OPEN, undisturbed: AccountRecord, fault: Any) -> None:
    rig = open_rig(stream_faults=StreamPlan([fault]))
    rig.run(BARS)
    check(rig, undisturbed, equal=True)


LOSSES = {
    **{f"close {code}": AtBar(AT, act.close(code)) for code in (1000, 1001, 1011, 1012)},
    "close 1012 over three bars": AtBar(AT, act.close(1012, bars=3)),
    "abort": AtBar(AT, act.abort()),
    "outage of three bars": AtBar(AT, act.outage(3)),
    "late": AtBar(AT, act.late_bar()),
    "confirm missing": AtBar(AT, act.confirm_missing()),
    "two confirms missing": (AtBar(AT, act.confirm_missing()), AtBar(AT + 1, act.confirm_missing())),
    "clock forward an hour": AtBar(AT, act.clock_jump(3_600_000)),
    "clock back a minute": AtBar(AT, act.clock_jump(-60_000)),
    "abort in the middle of a bar": AtMessage(150, act.abort(), topic=TRADES),
}
"""Faults after which bars are asked for over REST: stepped late, none is lost, and no feature starts again."""


@pytest.mark.promise(16)
@pytest.mark.parametrize("faults", LOSSES.values(), ids=LOSSES)
def test_what_the_stream_lost_is_stepped_from_rest_and_every_difference_has_a_cause(
    open_rig: OPEN, undisturbed: AccountRecord, faults: Any
) -> None:
    rig = open_rig(stream_faults=StreamPlan(faults if isinstance(faults, tuple) else [faults]))
    rig.run(BARS)
    check(rig, undisturbed, equal=False)


@pytest.mark.promise(16)
@pytest.mark.parametrize("status", [403, 429, 503])
def test_session_begins_when_the_handshake_was_refused_three_times(
    open_rig: OPEN, undisturbed: AccountRecord, status: int
) -> None:
    rig = open_rig(stream_faults=StreamPlan([AtHandshake(0, status, times=3)]))
    rig.run(BARS)
    check(rig, undisturbed, equal=True)
    assert sum("lost" in line for line in rig.notes) == 3


@pytest.mark.promise(16)
@pytest.mark.parametrize(
    ("action", "timing"), [(act.silence(), SOON_DEAD), (act.no_pongs(), PINGING)], ids=["silent", "no pongs"]
)
def test_feed_that_is_dead_without_a_word_is_replaced(
    open_rig: OPEN, undisturbed: AccountRecord, action: Any, timing: Any
) -> None:
    rig = open_rig(stream_faults=StreamPlan([AtBar(AT, action)]))
    with rig.session(BARS, timing=timing) as session:
        session.run(lambda: rig.play(BARS, bar_every_s=0.02))
    check(rig, undisturbed, equal=False)
    assert any("lost (" in line for line in rig.notes)


def test_acknowledgement_that_never_comes_stops_nothing(open_rig: OPEN, undisturbed: AccountRecord) -> None:
    rig = open_rig(stream_faults=StreamPlan([AtSubscription(0, None)]))
    rig.run(BARS)
    check(rig, undisturbed, equal=True)


def test_candle_that_rest_shows_otherwise_is_named_as_revised(open_rig: OPEN, undisturbed: AccountRecord) -> None:
    rig = open_rig(stream_faults=StreamPlan([AtBar(AT, act.other_close("0.37"))]))
    rig.run(BARS)
    check(rig, undisturbed, equal=False, revised=[int(CANDLES.start_ms[FIRST + AT])])


def test_market_whose_stream_is_refused_stops_with_the_reason(open_rig: OPEN) -> None:
    rig = open_rig(stream_faults=StreamPlan([AtSubscription(0, "error:not traded any more")]))
    with rig.session(BARS) as session:
        session.run()
    (market,) = session.markets.values()
    assert "not traded any more" in market.halted
    with rig.reader() as reader:
        ((at_ms, slug, _, said),) = reader.notes("halted")
    assert (at_ms, slug) == (int(CANDLES.start_ms[FIRST]) - STEP_MS, MARKET.slug)
    assert "not traded any more" in said
