"""What limits are judged by outlives a session's name, its process and a kill between two writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.api_keys import ApiKey
from storage.schema import DAY_MS
from tasks.execution.limits import LimitBook, TradingLimits
from tasks.execution.paper import Ledger
from tasks.journal.journal import Journal
from tasks.journal.journal_rows import BarOpen
from tasks.live.gates import Denied
from tasks.live.halts import Halts
from tasks.live.limits_state import LimitsState
from tasks.live.order_account import OrderAccount
from tasks.live.order_gateway import OrderGateway
from tasks.sandbox.faults import Fault, Match
from tests.live.conftest import MARKET, WAIT_S, Rig
from tests.live.desk import INSTRUMENT
from tests.live.order_rig import ACCOUNT, KEY, NO_LIMITS, Trader
from tests.live.test_sized_session import SIZED
from tests.sandbox import actions

OPEN = Callable[..., Rig]
LIMITS = TradingLimits(daily_loss=0.02, drawdown=0.10, losses=3, orders_per_hour=2)
VOLS = replace(LIMITS, daily_vols=3.0)


@pytest.fixture
def recall(tmp_path: Path) -> Callable[..., tuple[LimitsState, LimitBook]]:
    """Return what gives the book of a session without a journal, as its home remembers it."""

    def recall(
        session: str, capital: float = 1_000.0, key: ApiKey = KEY, limits: TradingLimits = LIMITS
    ) -> tuple[LimitsState, LimitBook]:
        memory = LimitsState.of(tmp_path / "risk", key, 0, MARKET, session)
        with Journal(tmp_path / f"{session}.sqlite") as journal:
            return memory, memory.recall(limits, capital, journal.reader(), MARKET, MARKET.slug)[0]

    return recall


@pytest.mark.promise(17)
def test_loss_of_a_day_is_not_forgotten_by_a_session_of_another_name_and_capital(recall: Any) -> None:
    memory, book = recall("one")
    assert book.close(DAY_MS + 1, 990.0) is None  # 1 % lost today
    memory.keep(book, 0, 0)
    _, other = recall("other", capital=50_000.0)
    assert other.close(DAY_MS + 1, 50_000 * 0.991) is None
    breach = other.close(DAY_MS + 2, 50_000 * 0.9898)
    assert breach is not None
    assert (breach.code, breach.found) == ("DAILY_LOSS", pytest.approx(1 - 0.99 * 0.9898))
    _, fresh = recall("other", capital=50_000.0, key=ApiKey("sandbox", "ANOTHERKEY", "ANOTHERSECRET"))
    assert fresh.close(DAY_MS + 2, 50_000 * 0.9898) is None  # another account


@pytest.mark.promise(17)
def test_unit_of_the_day_is_not_forgotten_by_a_session_of_another_name(recall: Any) -> None:
    memory, book = recall("one", limits=VOLS)
    book.close(DAY_MS + 1, 1_000.0)
    book.trip(0, 1, 1_000.0, 0.002)
    memory.keep(book, 0, 0)
    _, other = recall("other", capital=50_000.0, limits=VOLS)
    assert (other.risk, other.day_risk) == (0.0, 0.002)
    assert other.close(DAY_MS + 1, 50_000 * 0.9941) is None
    assert str(other.close(DAY_MS + 2, 50_000 * 0.9939)).startswith("DAILY_VOLS: ")


@pytest.mark.promise(17)
def test_losing_streak_drawdown_and_orders_of_the_hour_are_remembered(recall: Any) -> None:
    memory, book = recall("one")
    for worth in (999.0, 998.0):
        book.trip(0, 1, worth + 1.0)
        book.trip(1, 0, worth)
    for day, worth in enumerate((990.0, 975.0, 960.0, 945.0, 930.0, 915.0)):
        book.close((day + 1) * DAY_MS, worth)
    now_ms = 7 * DAY_MS
    for _ in range(2):
        assert book.may_open(1.0, 100.0, 100.0, now_ms) is None
    memory.keep(book, 0, 0)
    _, other = recall("other")
    assert other.losses == 2
    assert str(other.may_open(1.0, 100.0, 100.0, now_ms + 1)).startswith("RATE")
    assert str(other.close(now_ms, 983.0)).startswith("DRAWDOWN")
    other.rearm()
    other.trip(0, -1, 983.0)
    memory.keep(book, 0, 0)
    _, other = recall("other")
    other.trip(0, -1, 1_000.0)
    assert str(other.trip(-1, 0, 999.0)).startswith("LOSSES")


def test_file_holds_no_key_and_nobody_else_may_read_it(recall: Any, tmp_path: Path) -> None:
    memory, book = recall("one")
    memory.keep(book, 0, 0)
    (path,) = (tmp_path / "risk").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert KEY.key not in path.name + path.read_text()
    assert KEY.secret not in path.read_text()


@pytest.mark.promise(15)
@pytest.mark.parametrize("text", ["", "{", "[" * 9_000, "{}", '{"session": 1}', "null"])
def test_damaged_file_denies_until_a_person_removes_it(recall: Any, text: str, tmp_path: Path) -> None:
    memory, book = recall("one")
    memory.keep(book, 0, 0)
    memory.path.write_text(text)
    with pytest.raises(Denied, match=r"RISK: .* can't be read .*; look into it, and remove it to begin anew"):
        recall("one")
    memory.path.unlink()
    assert recall("one")[1].best == 1_000.0


@pytest.mark.promise(17)
def test_another_key_of_the_same_account_goes_on_with_its_book(open_rig: OPEN) -> None:
    other = ApiKey("sandbox", "ANOTHERKEY", "ANOTHERSECRET")
    rig = open_rig(accounts=[ACCOUNT, replace(ACCOUNT, key=other.key, secret=other.secret)])

    def account(key: ApiKey, session: str) -> OrderAccount:
        with (
            OrderGateway(rig.link, key, session, Halts.of(rig.path.parent)) as orders,
            Journal(rig.path.with_name(f"{session}.sqlite")) as journal,
        ):
            return orders.account(MARKET, INSTRUMENT, Ledger(1_000.0), journal)

    def lose(own: OrderAccount) -> None:
        own.limit_book.trip(0, 1, 1_000.0)
        own.limit_book.trip(1, 0, 999.0)
        own.remember(own.limit_book, 0, 0)

    def says(user_id: int) -> None:
        said = actions.result_fields({"userID": user_id})
        rig.sandbox.follow([Fault(Match(path="/v5/user/query-api", times=None), said)])

    says(7)
    lose(account(KEY, "one"))
    assert account(other, "two").limit_book.losses == 1
    says(8)
    assert account(other, "three").limit_book.losses == 0  # another account
    says(0)
    lose(account(KEY, "four"))  # nobody says whose it is
    says(9)
    assert account(KEY, "five").limit_book.losses == 1
    assert account(other, "six").limit_book.losses == 1
    says(0)
    lose(account(KEY, "seven"))
    says(9)
    with pytest.raises(Denied, match=r"RISK: .*-9-linear-.* are both of this account, .*; look into them, and remove"):
        account(KEY, "eight")


@pytest.mark.promise(17)
def test_latch_of_a_day_s_loss_is_known_to_a_session_of_another_name(open_rig: OPEN) -> None:
    trader = Trader(open_rig, limits=replace(NO_LIMITS, daily_loss=1e-6))
    trader.hold(24)
    (line,) = trader.alerts
    assert "DAILY_LOSS" in line
    for session in ("tests", "another"):
        memory = LimitsState.of(trader.halts.folder.with_name("risk"), KEY, ACCOUNT.user_id, MARKET, session)
        with Journal(trader.rig.path.with_name(f"{session}.sqlite")) as journal:
            book, _ = memory.recall(trader.limits, trader.capital, journal.reader(), MARKET, MARKET.slug)
        assert book.latched is not None
        assert book.latched.code == "DAILY_LOSS"


@pytest.mark.parametrize("recipe", [{}, SIZED], ids=["nothing is forecast", "risk is foreseen"])
def test_restarted_session_counts_what_was_written_after_the_book_was(open_rig: OPEN, recipe: dict[str, Any]) -> None:
    trader = Trader(open_rig, recipe=recipe)
    memory = LimitsState.of(trader.halts.folder.with_name("risk"), KEY, ACCOUNT.user_id, MARKET, "tests")
    early: list[bytes] = []
    market = trader.hold(14, lambda bar, market: early.append(memory.path.read_bytes()) if bar == 6 else None)
    whole = market.own.limit_book.state()

    def again() -> dict[str, Any]:
        with trader.rig.reader() as reader:
            return memory.recall(NO_LIMITS, trader.capital, reader, MARKET, MARKET.slug)[0].state()

    assert again() == whole
    memory.path.write_bytes(early[0])
    assert again() | {"orders_ms": []} == whole | {"orders_ms": []}
    memory.path.unlink()
    assert again() | {"orders_ms": []} == whole | {"orders_ms": []}


def test_orders_of_an_hour_are_counted_over_restarts(open_rig: OPEN) -> None:
    trader = Trader(open_rig, limits=replace(NO_LIMITS, orders_per_hour=1))
    for bars in (4, 6, 8, 10):
        trader.hold(bars, patience_s=1.0)
    opens = [one for one in trader.account.orders.values() if not one.reduce_only and one.trigger is None]
    assert len(opens) == 1
    assert trader.check().causes["RATE"] >= 1


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.promise(17)
def test_loss_whose_process_died_before_its_book_was_kept_latches_the_next_one(
    open_rig: OPEN, monkeypatch: pytest.MonkeyPatch
) -> None:
    trader, take = Trader(open_rig, limits=replace(NO_LIMITS, losses=1)), OrderAccount.apply

    def die_at_a_loss(own: OrderAccount, bar: BarOpen) -> None:  # its row is in the journal already
        before, after = own.ledger.side, bar.opened.ledger
        worth = after.equity(bar.quote.first) + bar.opened.entry_costs
        if before and after.side != before and worth < own.limit_book._trip_began:
            raise Killed
        take(own, bar)

    with monkeypatch.context() as patch:
        patch.setattr(OrderAccount, "apply", die_at_a_loss)
        with pytest.raises(Killed):
            trader.hold(40)
    trader.playing.join(WAIT_S)
    assert trader.halts.read("sandbox", MARKET) is None
    orders = len(trader.account.orders)
    market = trader.hold(trader.closed + 4)
    later = list(trader.account.orders.values())[orders:]
    halt = trader.halts.read("sandbox", MARKET)
    assert halt is not None
    assert halt.why.startswith("LOSSES: ")
    assert [line.partition("is halted: ")[2] for line in trader.alerts] == [halt.why]
    assert (market.own.ledger.side, [one for one in later if not one.reduce_only]) == (0, [])
    trader.check()
