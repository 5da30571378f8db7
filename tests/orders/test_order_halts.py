"""A halt that comes amid an order opens nothing, and what closes goes out all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage.schema import StoreError
from tasks.exchange.boot_clock import boottime_s
from tasks.execution.paper import Quote
from tasks.live.halts import Halts
from tests.orders.cells import (
    ACCOUNT,
    CANDLES,
    KEY,
    LIMIT_S,
    MARKET,
    OPEN,
    PRICE,
)


@pytest.mark.promise(17)
def test_halt_between_two_legs_opens_nothing(open_desk: OPEN, open_account: ACCOUNT) -> None:
    here = open_desk()
    _, own = open_account(here)
    here.desk = own.desk
    here.want("0.3")
    here.work()
    here.want("-0.4", bar=1)
    here.desk.work()
    assert len(here.posts) == 2  # the close leg is under way
    Halts.of(here.journal.path.parent).latch("sandbox", MARKET, "the news")
    here.work()
    assert here.desk.outcome(int(CANDLES.start_ms[-1]) + MARKET.interval_ms) == "halted"
    assert (here.desk.held, len(here.posts)) == (0, 2)


@pytest.mark.promise(17)
@pytest.mark.parametrize("why", ["", " \n"])  # as `--why "$REASON"` gives it where nobody has set REASON
def test_halt_for_no_reason_given_opens_nothing_either(open_desk: OPEN, open_account: ACCOUNT, why: str) -> None:
    here = open_desk()
    _, own = open_account(here)
    here.desk = own.desk
    Halts.of(here.journal.path.parent).latch("sandbox", MARKET, why)
    assert own.must_be_flat == "nobody has said why"
    here.want("0.3")
    here.work()
    assert here.desk.outcome(int(CANDLES.start_ms[-1])) == "halted"
    assert (here.desk.held, len(here.posts)) == (0, 0)


@pytest.mark.promise(17)
@pytest.mark.parametrize("at", ["disk", "pace"])
@pytest.mark.parametrize("said", ["halted", "stale"])
def test_order_that_was_held_up_on_its_way_out_opens_nothing_that_may_not_be_opened_any_more(
    open_desk: OPEN, open_account: ACCOUNT, monkeypatch: pytest.MonkeyPatch, at: str, said: str
) -> None:
    here = open_desk()
    _, own = open_account(here)
    here.desk, halts = own.desk, Halts.of(here.journal.path.parent)
    here.want("0.3")
    here.work()
    write, clock = here.journal.order, "tasks.live.order_desk.boottime_s"

    def held_up(*args: Any) -> None:
        if said == "halted":
            halts.latch("sandbox", MARKET, "the news")
        else:
            monkeypatch.setattr(clock, lambda: boottime_s() + 2 * LIMIT_S)
        if at == "disk":
            write(*args)

    monkeypatch.setattr(*((here.journal, "order") if at == "disk" else (own.desk.trading._pace, "wait")), held_up)
    here.want("0", bar=1)
    here.work()
    assert (here.desk.held, len(here.posts)) == (0, 2)  # what closes goes out all the same
    halts.rearm("sandbox", MARKET)
    monkeypatch.setattr(clock, boottime_s)
    here.want("0.3", bar=2)
    here.work()
    assert (here.desk.held, len(here.posts), here.desk.trouble) == (0, 2, "")
    assert here.orders[-1].why == f"{said} before it was sent; nothing has left this machine"
    assert here.desk.outcome(int(CANDLES.start_ms[-1]) + 2 * MARKET.interval_ms) == "rejected"


@pytest.mark.promise(17)
def test_halt_that_can_t_be_written_is_told_all_the_same(
    open_desk: OPEN, open_account: ACCOUNT, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, own = open_account(open_desk())
    told = list[str]()
    own.alert = told.append

    def full(path: object, data: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("tasks.live.halts.replace_file", full)
    with pytest.raises(StoreError, match=r"the halt .* can't be written \(No space left on device\)"):
        own.halt("DAILY_LOSS: 0.03, allowed 0.02")
    assert told == ["is halted: DAILY_LOSS: 0.03, allowed 0.02"]


@pytest.mark.promise(17)
def test_end_of_a_session_closes_what_is_held_after_trouble_too(open_desk: OPEN, open_account: ACCOUNT) -> None:
    here = open_desk()
    _, own = open_account(here)
    here.desk = own.desk
    here.want("0.4")
    here.work()
    own.desk._stop("an order of somebody else")
    assert own.is_open  # though no row of its ledger says so yet
    at_ms, quote = int(CANDLES.start_ms[-1]) + 1, Quote(float(PRICE))
    own.begin_close_out(at_ms, quote, boottime_s() + LIMIT_S)
    while own.is_closing():
        pass
    booked = own.close_out(at_ms, quote)
    assert (booked.opened.ledger.side, own.is_open) == (0, False)
    assert here.sandbox.account(KEY.key).positions[MARKET.symbol].size == 0


@pytest.mark.promise(19)
def test_halt_that_is_nested_without_end_is_a_halt(tmp_path: Path) -> None:
    (tmp_path / "halts").mkdir()
    (tmp_path / "halts" / f"demo-linear-{MARKET.symbol}.json").write_text("[" * 9_000)
    halt = Halts.of(tmp_path).read("demo", MARKET)
    assert halt is not None
    assert "can't be read" in halt.why
