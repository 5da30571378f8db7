"""Which account is traded at all, and what a session says of the time in which nobody ran it."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import pytest

from storage.api_keys import ApiKey
from storage.schema import DAY_MS, Rejected
from tasks.execution.accounting import RULES
from tasks.journal.journal_rows import Decision
from tasks.live.gates import Denied
from tasks.live.order_account import OrderAccount
from tasks.live.order_gateway import OrderGateway
from tasks.sandbox.faults import Action, Fault, Match
from tests.orders.cells import ACCOUNT, KEY, MARKET, OPEN, TIMING, D, Desk
from tests.orders.test_malformed_facts import says
from tests.sandbox import actions
from tests.sandbox.outside import Outside


def test_hedge_mode_is_denied_before_any_order(open_desk: OPEN, open_account: ACCOUNT) -> None:
    here = open_desk()
    Outside(here.sandbox.desk, KEY.key).set_hedge(True)
    orders, own = open_account(here)
    with pytest.raises(Denied, match=r"ACCOUNT: .*hedge mode"):
        orders.admit(own, MARKET)
    assert len(here.posts) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"may_trade": False}, "KEY: this key may not trade"),
        ({"may_withdraw": True}, "KEY: this key may withdraw"),
        ({"margin_mode": "ISOLATED_MARGIN"}, "MARGIN: margin mode must be cross"),
        ({"unified_margin_status": 1}, "ACCOUNT: classic accounts"),
        ({"taker_fee": "0.0011"}, "COSTS: this account pays 0.0011 a fill"),
        ({"capital": "4999"}, "CAPITAL: the session starts with 5000 USDT"),
    ],
)
def test_account_that_is_not_fit_is_denied(
    open_desk: OPEN, open_account: ACCOUNT, options: dict[str, Any], said: str
) -> None:
    here = open_desk(**options)
    orders, own = open_account(here)
    with pytest.raises(Denied, match=said):
        orders.admit(own, MARKET)
    assert len(here.posts) == 0


def test_account_whose_margin_mode_is_not_told_is_denied(open_desk: OPEN, open_account: ACCOUNT) -> None:
    here = open_desk()
    silent = Action("silent", lambda reply: reply.envelope["result"].pop("marginMode"))
    here.sandbox.follow([Fault(Match(path="/v5/account/info", times=None), silent)])
    orders, own = open_account(here)
    with pytest.raises(Denied, match=r"MARGIN: margin mode must be cross .*, was not told"):
        orders.admit(own, MARKET)


def test_venue_that_tells_no_fees_is_traded_at_the_recipe_s(open_desk: OPEN, open_account: ACCOUNT) -> None:
    here = open_desk(tells_fees=False)
    orders, own = open_account(here)
    orders.admit(own, MARKET)
    assert len(own.rules) == RULES


def test_live_account_of_which_nobody_says_what_it_pays_is_denied(open_desk: OPEN, open_account: ACCOUNT) -> None:
    here = open_desk(tells_fees=False)
    orders, own = open_account(here)
    own.desk.trading.exchange = "bybit"  # real money
    with pytest.raises(Denied, match="COSTS: nobody says what this account pays a fill"):
        orders.admit(own, MARKET)


def test_position_of_somebody_else_is_denied(open_desk: OPEN, open_account: ACCOUNT) -> None:
    here = open_desk()
    Outside(here.sandbox.desk, KEY.key).order(MARKET.symbol, "Buy", "0.1")
    orders, own = open_account(here)
    with pytest.raises(Denied, match="RECONCILIATION"):
        orders.admit(own, MARKET)


@pytest.fixture
def lagging(open_desk: OPEN, open_account: ACCOUNT) -> tuple[Desk, OrderGateway, OrderAccount]:
    """An account with 0.4 coins, of which the exchange's list of positions says nothing yet; three comparisons."""
    here = open_desk()
    here.want("0.4", stop=D(50))
    here.work()
    here.sandbox.follow([says("/v5/position/list", size="0", side="")])
    orders, own = open_account(here)
    own.desk.timing = replace(TIMING, rounds=3)
    return here, orders, own


@pytest.mark.promise(15)
def test_position_that_is_told_a_little_later_than_its_fill_is_waited_for_at_the_start(
    lagging: tuple[Desk, OrderGateway, OrderAccount], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here, orders, own), waits = lagging, list[float]()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        here.sandbox.follow([])

    monkeypatch.setattr("tasks.live.order_account.sleep", wait)
    orders.admit(own, MARKET)
    assert (own.desk.trouble, own.desk.there, waits) == ("", D("0.4"), [TIMING.differ_s])


@pytest.mark.promise(15)
def test_position_that_stays_another_is_denied_after_as_many_comparisons_as_a_session_makes(
    lagging: tuple[Desk, OrderGateway, OrderAccount], monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, orders, own), waits = lagging, list[float]()
    monkeypatch.setattr("tasks.live.order_account.sleep", waits.append)
    with pytest.raises(Denied, match=r"RECONCILIATION: the exchange holds 0, the journal says 0\.4"):
        orders.admit(own, MARKET)
    assert waits == [TIMING.differ_s] * 2


@pytest.mark.promise(15)
@pytest.mark.parametrize("path", ["/v5/order/create", None])
def test_session_killed_amid_an_order_goes_on_though_the_whole_capital_is_in_its_position(
    open_desk: OPEN, open_account: ACCOUNT, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    here = open_desk([Fault(Match(path="/v5/order/create", method="POST"), actions.delivery("reset"))], capital="5000")
    here.want("0.4", stop=D(50))
    here.desk.work()
    if path is None:  # nor does anybody know at the start, however long it is asked for
        monkeypatch.setattr("tasks.live.order_account.CLOSE_S", 0.3)
        here.sandbox.follow([Fault(Match(path="/v5/order/realtime", times=None), actions.http_status(502))])
    orders, own = open_account(here)
    orders.admit(own, MARKET)
    assert own.desk.trouble == ""
    assert own.ledger.side == 0  # no row has it yet
    assert (own.desk.there, len(here.posts)) == (D("0.4"), 1)


def test_demo_that_does_not_tell_what_its_key_may_do_is_traded(open_desk: OPEN, open_account: ACCOUNT) -> None:
    silent = Fault(Match(path="/v5/user/query-api", times=None), actions.ret_code(10032, "not on demo"))
    here = open_desk([silent])
    with pytest.raises(Rejected):
        open_account(here)
    orders, own = open_account(here, ApiKey("demo", KEY.key, KEY.secret))
    orders.admit(own, MARKET)


@pytest.mark.promise(15)
@pytest.mark.parametrize(("days", "told"), [(6, False), (9, True)])
def test_session_that_nobody_ran_for_longer_than_executions_are_kept_says_what_it_does_not_know(
    open_desk: OPEN, open_account: ACCOUNT, days: int, told: bool
) -> None:
    here = open_desk()
    closed_ms = MARKET.floor(here.sandbox.clock.now_ms() - days * DAY_MS)
    last = Decision(closed_ms, "", np.empty(0), 0, 0, 0, 0, "", "flat", nan, nan, 0.0, nan, 0.0, 0.0)
    alerts: list[str] = []
    orders, own = open_account(here)
    own.alert = alerts.append
    own.resume(None, last)
    orders.admit(own, MARKET)
    notes = [said for _, _, kind, said in here.journal.reader().notes() if kind == "away"]
    assert alerts == notes
    assert [one[:43] for one in notes] == ["nobody ran this session for 9 days: what it"] * told
