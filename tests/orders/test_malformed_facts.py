"""An account of which the exchange says what can't be: it is unknown then, never flat, and nothing is sent twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from time import monotonic
from typing import Any

import pytest

from storage.schema import TemporaryError
from tasks.exchange.private_events import ExecutionNews, read_execution, read_order
from tasks.exchange.wire_values import BadMessage
from tasks.execution.orders import Leg, Order, Reported, Status
from tasks.journal.journal_rows import BookedExecution
from tasks.live.halting import close_all
from tasks.sandbox.faults import Action, Fault, Match, Reply
from tests.orders.cells import ACCOUNT, EXECUTION, KEY, LIMIT_S, MARKET, OPEN, ORDER, TIMING
from tests.sandbox.outside import Outside

POSITIONS, FILLS = "/v5/position/list", "/v5/execution/list"
LISTS = ("/v5/order/realtime", "/v5/order/history")


def says(path: str, times: int | None = None, **fields: Any) -> Fault:
    """Let each row of an answer say something else; None leaves a field out, and no field at all leaves no row."""

    def spoil(reply: Reply) -> None:
        rows = reply.envelope["result"]["list"]
        reply.envelope["result"]["list"] = [
            {name: value for name, value in (row | fields).items() if value is not None} for row in rows if fields
        ]

    return Fault(Match(path=path, times=times), Action("says something else", spoil))


@pytest.mark.promise(15)
@pytest.mark.parametrize(
    "fields",
    [{}, {"size": None}, {"size": ""}, {"size": " 0"}, {"size": "0_0"}, {"size": "٠"}, {"side": ""}, {"symbol": "X"}],
)
def test_halt_never_takes_a_position_that_it_can_t_read_for_flat(open_desk: OPEN, fields: dict[str, Any]) -> None:
    here = open_desk()
    here.want("0.4")
    here.work()
    here.sandbox.follow([says(POSITIONS, **fields)])
    notes: list[str] = []
    (open_still,) = close_all(here.trading, [MARKET], within_s=0.0, on_note=notes.append)
    assert here.sandbox.account(KEY.key).positions[MARKET.symbol].size == Decimal("0.4")
    assert f"no usable answer for the position in {MARKET.symbol}" in open_still
    assert notes == []


@pytest.mark.promise(14)
@pytest.mark.parametrize("executed", [None, "", "0", "0.1"])
def test_order_that_is_said_to_be_filled_without_saying_how_much_is_not_followed_by_another(
    open_desk: OPEN, executed: str | None
) -> None:
    here = open_desk()
    silent = [says(path, 4, cumExecQty=executed) for path in LISTS]
    here.sandbox.follow([*silent, says(FILLS, 4)])
    here.want("0.4")
    here.work()
    assert (len(here.posts), here.desk.held, here.violations()) == (1, Decimal("0.4"), [])


def test_report_of_a_whole_fill_that_says_less_leaves_the_order_open() -> None:
    order = Order(link_id="dsc-1", leg=Leg("Buy", Decimal(2), False)).submitting(1)
    half = order.after(Reported("x", "Filled", Decimal(1), 5))
    assert (half.status, half.executed, half.is_settled) == (Status.PARTIAL, 1, False)
    assert half.after(Reported("x", "Filled", Decimal(2), 6)).status is Status.FILLED


@pytest.mark.parametrize(
    "fields",
    [{"side": ""}, {"side": "SELL"}, {"execQty": "-0.4"}, {"execQty": "٠.4"}, {"execPrice": "0"}, {"execId": ""},
     {"execTime": "99999999999999999"}, {"execFee": "1e10"}, {"symbol": "ETHUSDT"}],
)  # fmt: skip
def test_execution_that_can_t_be_is_booked_when_it_is_told_as_it_was(open_desk: OPEN, fields: dict[str, Any]) -> None:
    here = open_desk()
    here.sandbox.follow([says(FILLS, 6, **fields)])
    here.want("0.4")
    here.work()
    assert (len(here.posts), here.desk.held, here.violations()) == (1, Decimal("0.4"), [])


def only(kind: str, **fields: Any) -> Fault:
    """Let each execution of a kind say something else, over REST."""

    def spoil(reply: Reply) -> None:
        for row in reply.envelope["result"]["list"]:
            row |= fields if row["execType"] == kind else {}

    return Fault(Match(path=FILLS, times=None), Action("one kind says something else", spoil))


@pytest.mark.promise(15)
def test_position_that_differs_is_seen_though_an_execution_can_t_be_read(open_desk: OPEN) -> None:
    here = open_desk()
    here.want("0.4")
    here.work()
    Outside(here.sandbox.desk, KEY.key).deleverage(MARKET.symbol, "0.4")
    here.sandbox.follow([only("AdlTrade", execQty="x")])
    here.reconcile()
    said = "the exchange holds 0, the journal says 0.4; what moved it, its stop or anybody else, can't be read: "
    assert here.desk.trouble.startswith(said)
    assert "execQty must be a number, was 'x'" in here.desk.trouble
    assert (here.desk.stopped, here.desk.there) == (here.desk.trouble, 0)


def test_position_that_agrees_is_no_whole_comparison_while_an_execution_can_t_be_read(open_desk: OPEN) -> None:
    here = open_desk()
    here.want("0.4")
    here.work()
    here.sandbox.follow([only("Trade", side="")])
    here.desk.compare_soon()
    here.desk.reconcile()
    assert (here.desk.there, here.desk.trouble) == (Decimal("0.4"), "")
    assert "the exchange does not tell what the account holds" in here.desk.unknown
    here.sandbox.follow([])
    here.desk.compare_soon()
    here.desk.reconcile()
    assert (here.desk.unknown, here.desk.trouble) == ("", "")


@pytest.mark.promise(15)
def test_coins_that_move_without_a_side_are_trouble_at_once_and_in_no_book(open_desk: OPEN) -> None:
    here = open_desk()
    here.want("0.4")
    here.work()
    Outside(here.sandbox.desk, KEY.key).deleverage(MARKET.symbol, "0.4")
    here.sandbox.follow([only("AdlTrade", side="", execType="Delivery")])
    here.desk.compare_soon()
    here.desk.reconcile()
    assert here.desk.trouble.startswith("Delivery of 0.4 at ")
    assert "nobody knows which way" in here.desk.trouble
    assert (here.desk.held, here.desk.there) == (Decimal("0.4"), 0)
    assert {one.kind for one in here.journal.reader().executions(MARKET.slug)} == {"Trade"}
    here.want("0.8", bar=1)
    here.work()
    assert len(here.posts) == 1


@pytest.mark.parametrize("side", ["", "None", "Buy"])
def test_booking_that_moves_no_coins_is_harmless_and_counts_by_its_fee(open_desk: OPEN, side: str) -> None:
    here = open_desk()
    here.want("0.4")
    here.work()
    settled = {"execType": "Settle", "side": side, "execQty": "0", "execPrice": "0", "execFee": "0.2"}

    def spoil(reply: Reply) -> None:
        rows = reply.envelope["result"]["list"]
        made_up = rows[0] | settled | {"execId": "settle-1", "orderLinkId": "", "orderId": ""}
        reply.envelope["result"]["list"] = [*rows, made_up]

    here.sandbox.follow([Fault(Match(path=FILLS, times=None), Action("a settlement", spoil))])
    here.desk.compare_soon()
    here.desk.reconcile()
    assert (here.desk.trouble, here.desk.held, here.desk.unknown) == ("", Decimal("0.4"), "")
    (booked,) = (one for one in here.journal.reader().executions(MARKET.slug) if one.kind == "Settle")
    assert (booked.fill.fee, booked.change, booked.moves) == (Decimal("0.2"), 0, False)


@pytest.mark.parametrize(
    ("read", "row", "said"),
    [
        (read_execution, EXECUTION | {"execType": "Delivery", "execQty": "-1"}, "an execution must be of an id"),
        (read_execution, EXECUTION | {"execType": "Settle", "execQty": ""}, "execQty must be a number, was ''"),
        (read_execution, EXECUTION | {"side": "None"}, "an execution must be of an id, a side and a quantity > 0"),
        (read_execution, EXECUTION | {"execQty": "0"}, "an execution must be of an id, a side and a quantity > 0"),
        (read_execution, EXECUTION | {"execPrice": "1e13"}, r"a price must be in 1e-12\.\.1e\+12, was 10000000000000"),
        (read_execution, EXECUTION | {"execFee": "11"}, "a fee must be less than what was traded, was 11"),
        (read_execution, EXECUTION | {"execType": "Funding", "execFee": "11"}, "a fee must be less than what was"),
        (read_execution, EXECUTION | {"execQty": "1e21"}, r"execQty must be within 1e\+20"),
        (read_order, ORDER | {"orderStatus": "Cancelled"}, "cumExecQty must be a number, was ''"),
        (read_order, ORDER | {"cumExecQty": "-1"}, "cumExecQty must be >= 0, was -1"),
        (read_order, ORDER | {"cumExecQty": "1_0"}, "cumExecQty must be a number, was '1_0'"),
    ],
)  # fmt: skip
def test_row_that_can_t_be_is_refused(
    read: Callable[[dict[str, Any], int], ExecutionNews], row: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadMessage, match=said):
        read(row, 1)


@pytest.mark.parametrize(
    "fields",
    [{}, {"side": ""}, {"side": "None"}, {"execQty": "0"}, {"execQty": ""}, {"execPrice": "0"}, {"execPrice": None}],
)
def test_funding_needs_nothing_but_its_fee(fields: dict[str, Any]) -> None:
    told = read_execution(EXECUTION | {"execType": "Funding", "execFee": "-0.3"} | fields, 1)
    booked = BookedExecution(told.kind, told.link_id, told.side, told.time_ms, told.fill, None)
    assert (booked.fill.fee, booked.change, booked.worth) == (Decimal("-0.3"), 0, 0)
    with pytest.raises(BadMessage, match="execFee must be a number, was 'x'"):
        read_execution(EXECUTION | {"execType": "Funding", "execFee": "x"} | fields, 1)


@pytest.mark.parametrize(
    ("path", "ask", "fields"),
    [
        ("/v5/account/fee-rate", lambda trading: trading.taker_fee(MARKET), {"takerFeeRate": "free"}),
        ("/v5/account/wallet-balance", lambda trading: trading.available(), {"totalAvailableBalance": "1_000"}),
    ],
)
def test_number_of_the_account_that_is_none_is_unknown_and_no_end_of_the_session(
    open_desk: OPEN, path: str, ask: Callable[[Any], object], fields: dict[str, Any]
) -> None:
    here = open_desk()
    here.sandbox.follow([says(path, **fields)])
    with pytest.raises(TemporaryError, match="no usable answer for the"):
        ask(here.trading)


@pytest.mark.parametrize("permissions", [None, {}, {"ContractTrade": ["Order", "Position"]}, {"Wallet": None}])
def test_key_of_which_nobody_says_whether_it_may_withdraw_is_unknown(open_desk: OPEN, permissions: Any) -> None:
    here = open_desk()

    def spoil(reply: Reply) -> None:
        told = reply.envelope["result"]["permissions"]
        reply.envelope["result"]["permissions"] = permissions if permissions != {"Wallet": None} else told | permissions

    here.sandbox.follow([Fault(Match(path="/v5/user/query-api", times=None), Action("permissions", spoil))])
    with pytest.raises(TemporaryError, match="no usable answer for the key's permissions"):
        here.trading.key_facts()


def test_execution_of_the_future_hides_none_of_before_it(open_desk: OPEN) -> None:
    here = open_desk()
    here.sandbox.follow([says(FILLS, 6, execTime="99999999999999")])
    here.want("0.4")
    here.work()
    here.start()  # from the journal, where that execution stands
    Outside(here.sandbox.desk, KEY.key).order(MARKET.symbol, "Buy", "0.1")
    here.reconcile()
    assert "by no order of this session" in here.desk.trouble
    assert here.desk.held == Decimal("0.5")


@pytest.mark.promise(19)
@pytest.mark.parametrize("entry", ["", "0", None])
def test_position_without_stop_nor_price_is_to_be_closed_and_ends_no_session(
    open_desk: OPEN, open_account: ACCOUNT, entry: str | None
) -> None:
    here = open_desk()
    _, own = open_account(here)
    here.desk, own.desk.timing = own.desk, replace(TIMING, unknown_s=0.3)
    here.want("0.4")
    here.work()
    here.sandbox.follow([says(POSITIONS, avgPrice=entry)])
    give_up_s = monotonic() + LIMIT_S
    while not (said := own.poll()):
        assert monotonic() < give_up_s
    assert "0.4 had no stop at the exchange, and got none for 0.3 s (nobody says at what it was opened)" in said


@pytest.mark.promise(19)
@pytest.mark.parametrize(
    ("read", "row", "field"),
    [
        *((read_order, ORDER, field) for field in ("orderId", "orderLinkId", "parentOrderLinkId")),
        *((read_execution, EXECUTION, field) for field in ("execId", "orderId", "orderLinkId", "execType")),
    ],
)
@pytest.mark.parametrize("name", ["x" * 101, "two\nlines"])
def test_name_that_is_no_name_is_written_nowhere(
    read: Callable[..., Any], row: dict[str, str], field: str, name: str
) -> None:
    read(row | {field: "x" * 100}, 1)
    with pytest.raises(BadMessage, match=f"{field} must be a name of up to 100 characters, was "):
        read(row | {field: name}, 1)
