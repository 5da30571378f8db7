"""Many markets of one account that nobody answers: how long the session's one thread waits, and who is asked next."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytest

from tasks.sandbox.faults import Action, Fault, FaultPlan, Match
from tests.orders.cells import KEY, LIMIT_S
from tests.orders.many_markets import MANY
from tests.sandbox import actions
from tests.sandbox.outside import Outside

CANCEL, POSITION = "/v5/order/cancel-all", "/v5/position/list"
PRIVATE = (POSITION, "/v5/execution/list", "/v5/order/realtime", "/v5/order/history")


def down(*symbols: str) -> FaultPlan:
    """Return the plan in which nobody is told of an account, or of these markets of it."""
    chosen: list[dict[str, str]] = [{"symbol": symbol} for symbol in symbols] or [{}]
    gone = actions.http_status(500)
    return [Fault(Match(path=path, params=params, times=None), gone) for path in PRIVATE for params in chosen]


@pytest.mark.promise(19)
@pytest.mark.parametrize("number", [1, 4, 16])
def test_look_at_an_account_that_nobody_answers_waits_for_one_question_however_many_markets_it_has(
    open_many: MANY, number: int
) -> None:
    here = open_many(number)
    here.sandbox.follow(down())
    assert here.look() == 3  # one question, repeated twice
    waited_s = here.time.now_s
    assert here.look() == 0
    here.time.sleep(waited_s)
    assert here.look() == 1  # whether anybody answers again
    assert (here.known, here.own[-1].desk.trouble) == ([], "")
    assert "nobody has asked" not in here.own[-1].desk.unknown
    here.sandbox.follow([])
    here.time.sleep(waited_s)
    for _ in range(2):
        here.look()
    assert len(here.known) == number


@pytest.mark.promise(19)
@pytest.mark.parametrize("damaged", [1, 3])
def test_markets_of_which_nobody_is_told_keep_no_other_one_unknown(open_many: MANY, damaged: int) -> None:
    here = open_many(5)
    symbols = [own.desk.market.symbol for own in here.own]
    here.sandbox.follow(down(*symbols[:damaged]))
    for _ in range(20 * damaged):
        here.look()
        here.time.sleep(1.0)
    assert here.known == symbols[damaged:]


@pytest.mark.promise(17)
def test_markets_are_closed_though_nobody_answers_whether_their_orders_are_cancelled(
    open_many: MANY,
) -> None:
    here = open_many(3)
    lost = Action("lost", actions.http_status(500).spoil, unseen=True)
    outside: Any = Outside(here.sandbox.desk, KEY.key)
    for own in here.own:
        outside.order(own.desk.market.symbol, "Buy", "0.3")
        own.desk.reconcile()  # somebody else's: trouble
    here.sandbox.follow([Fault(Match(path=CANCEL, method="POST", times=None), lost)])
    give_up_s = monotonic() + LIMIT_S
    while any(one.size for one in here.sandbox.account(KEY.key).positions.values()):
        assert monotonic() < give_up_s
        for own in here.own:
            own.wind_down(True)
