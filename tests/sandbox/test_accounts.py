"""Accounts over REST, asked by pybit: leverage and mode, what is shown of the past, funding, and who sees what."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from storage.schema import ConfigError, Market
from tasks.sandbox.listing import Listing
from tasks.sandbox.venue_account import AccountSpec
from tests.sandbox.conftest import FLAT, SPEC, START_MS, STEP_MS, candles_of
from tests.sandbox.outside import Outside
from tests.sandbox.trader import LIMIT_BUY, MARKET_BUY, SYMBOL, only_position, refused

OPEN = Callable[..., Any]


def test_leverage_is_set_once(desk: Any) -> None:
    _, client = desk
    asked = {"category": "linear", "symbol": SYMBOL}
    refused(client.set_leverage, 110043, **asked, buyLeverage="1", sellLeverage="1.00")
    refused(client.set_leverage, 10001, **asked, buyLeverage="2", sellLeverage="3")
    refused(client.set_leverage, 10001, **asked, buyLeverage="101", sellLeverage="101")
    client.set_leverage(**asked, buyLeverage="2", sellLeverage="2")
    assert only_position(client)["leverage"] == "2"
    client.place_order(**MARKET_BUY | {"qty": "150"})
    assert "not enough" in refused(client.set_leverage, 110007, **asked, buyLeverage="1", sellLeverage="1")


def test_account_in_hedge_mode_shows_a_position_by_its_side(open_sandbox: OPEN, open_client: OPEN) -> None:
    sandbox = open_sandbox(accounts=[dataclasses.replace(SPEC, hedge=True)])
    Outside(sandbox.desk, SPEC.key).order(SYMBOL, "Sell", "2")
    client = open_client(sandbox)
    (row,) = client.get_positions(category="linear", settleCoin="USDT")["result"]["list"]
    assert (row["positionIdx"], row["side"], row["size"]) == (2, "Sell", "2")
    rows = client.get_positions(category="linear", symbol=SYMBOL)["result"]["list"]
    assert sorted((row["positionIdx"], row["size"]) for row in rows) == [(1, "0"), (2, "2")]


def test_positions_of_a_coin_are_the_open_ones_alone(open_sandbox: OPEN, open_client: OPEN) -> None:
    second = Listing(candles=candles_of([FLAT] * 5), market=Market(symbol="OTHERUSDT"))
    client = open_client(open_sandbox(more=[second]))
    refused(client.get_positions, 10001, category="linear")
    assert client.get_positions(category="linear", settleCoin="USDT")["result"]["list"] == []
    client.place_order(**MARKET_BUY | {"symbol": "OTHERUSDT"})
    (row,) = client.get_positions(category="linear", settleCoin="USDT")["result"]["list"]
    assert (row["symbol"], row["size"]) == ("OTHERUSDT", "1")
    assert only_position(client)["size"] == "0"


def test_realtime_shows_open_orders_then_closed_ones_on_request_or_by_id(desk: Any) -> None:
    _, client = desk
    closed = client.place_order(**MARKET_BUY, orderLinkId="closed")["result"]["orderId"]
    still = client.place_order(**LIMIT_BUY, orderLinkId="open")["result"]["orderId"]

    def ids(**asked: Any) -> list[str]:
        rows = client.get_open_orders(category="linear", **asked)["result"]["list"]
        return [row["orderId"] for row in rows]

    assert ids(symbol=SYMBOL) == [still]
    assert ids(symbol=SYMBOL, openOnly=1) == [closed]
    assert ids(symbol=SYMBOL, orderLinkId="closed") == [closed]
    assert ids(settleCoin="USDT", orderId=still) == [still]
    refused(client.get_open_orders, 10001, category="linear")


def test_history_shows_what_is_over_in_pages_and_the_cursor_goes_back_as_it_is(desk: Any) -> None:
    _, client = desk
    made = [client.place_order(**MARKET_BUY | {"qty": "0.1"})["result"]["orderId"] for _ in range(5)]
    client.place_order(**LIMIT_BUY)
    found, cursor = [], ""
    for size in (2, 2, 1):
        page = client.get_order_history(category="linear", symbol=SYMBOL, limit=2, cursor=cursor)["result"]
        assert len(page["list"]) == size
        client.place_order(**MARKET_BUY | {"qty": "0.1"})  # what is new moves no page
        found += [row["orderId"] for row in page["list"]]
        cursor = page["nextPageCursor"]
    assert (found, cursor) == (made[::-1], "")
    refused(client.get_order_history, 10001, category="linear", limit=51)
    refused(client.get_order_history, 10001, category="linear", cursor="x")


def test_history_and_executions_go_back_seven_days_at_a_time(open_sandbox: OPEN, open_client: OPEN) -> None:
    sandbox = open_sandbox(candles=candles_of([FLAT] * 3_000))
    client = open_client(sandbox)
    client.place_order(**MARKET_BUY)
    week_ms = 7 * 86_400_000
    since_ms = sandbox.clock.now_ms()
    sandbox.clock.advance(week_ms + 1)
    for ask in (client.get_order_history, client.get_executions):
        assert ask(category="linear")["result"]["list"] == []
        assert len(ask(category="linear", startTime=since_ms)["result"]["list"]) == 1
        assert len(ask(category="linear", startTime=since_ms, endTime=since_ms)["result"]["list"]) == 1
        refused(ask, 10001, category="linear", startTime=since_ms, endTime=since_ms + week_ms + 1)


def test_executions_are_found_by_order_symbol_and_kind(desk: Any) -> None:
    _, client = desk
    first = client.place_order(**MARKET_BUY, orderLinkId="one")["result"]["orderId"]
    client.place_order(**MARKET_BUY | {"side": "Sell"}, orderLinkId="two")

    def links(**asked: Any) -> list[str]:
        rows = client.get_executions(category="linear", **asked)["result"]["list"]
        return [row["orderLinkId"] for row in rows]

    assert links(symbol=SYMBOL) == ["two", "one"]
    assert links(orderId=first) == ["one"]
    assert links(orderLinkId="two") == ["two"]
    assert links(execType="Trade", limit=1) == ["two"]
    assert links(execType="Funding") == []
    rows = client.get_executions(category="linear")["result"]["list"]
    assert len({row["execId"] for row in rows}) == 2
    assert rows[0]["seq"] > rows[1]["seq"]


def test_funding_is_cash_alone_and_the_long_pays_at_the_mark_price(open_sandbox: OPEN, open_client: OPEN) -> None:
    stamp = START_MS + 3 * STEP_MS
    path = [FLAT, FLAT, FLAT, (102.0, 103.0, 102.0, 103.0), (103.0, 103.0, 103.0, 103.0)]
    sandbox = open_sandbox(
        candles=candles_of(path), funding=[(START_MS, 0.01), (stamp, 0.001), (stamp + STEP_MS, 0.001)]
    )
    client = open_client(sandbox)
    client.place_order(**MARKET_BUY | {"qty": "2"})
    before = sandbox.account(SPEC.key).wallet
    sandbox.clock.move_to(stamp - 1)
    assert sandbox.account(SPEC.key).wallet == before
    sandbox.clock.move_to(stamp)
    (row,) = client.get_executions(category="linear", symbol=SYMBOL, execType="Funding")["result"]["list"]
    assert (row["execQty"], row["execPrice"], row["execFee"], row["feeRate"]) == ("2", "102", "0.204", "0.001")
    assert (row["orderLinkId"], row["side"], row["execTime"]) == ("", "Buy", str(stamp))
    assert sandbox.account(SPEC.key).wallet == before - Decimal("0.204")
    assert only_position(client)["size"] == "2"
    client.place_order(**MARKET_BUY | {"side": "Sell", "qty": "2"})
    sandbox.clock.advance(STEP_MS)  # flat at the next stamp
    assert len(client.get_executions(category="linear", execType="Funding")["result"]["list"]) == 1


def test_short_gets_what_the_long_pays(open_sandbox: OPEN) -> None:
    other = AccountSpec(key="another", secret="another")  # noqa: S106  # it opens a sandbox alone
    sandbox = open_sandbox(accounts=[SPEC, other], funding=[(START_MS + 2 * STEP_MS, -0.0003)])
    Outside(sandbox.desk, SPEC.key).order(SYMBOL, "Buy", "7")
    Outside(sandbox.desk, other.key).order(SYMBOL, "Sell", "7")
    sandbox.clock.advance(STEP_MS)
    paid = [sandbox.account(key).executions[-1].fee for key in (SPEC.key, other.key)]
    assert paid == [Decimal("-0.21"), Decimal("0.21")]  # 7 * 100 * 0.0003


def test_accounts_do_not_see_each_other(open_sandbox: OPEN, open_client: OPEN) -> None:
    other = AccountSpec(key="another", secret="another", capital="500", leverage="1")  # noqa: S106  # likewise
    sandbox = open_sandbox(accounts=[SPEC, other])
    client, stranger = open_client(sandbox), open_client(sandbox, other)
    client.place_order(**LIMIT_BUY, orderLinkId="bar-1")
    assert stranger.get_open_orders(category="linear", symbol=SYMBOL)["result"]["list"] == []
    stranger.place_order(**LIMIT_BUY, orderLinkId="bar-1")
    refused(stranger.place_order, 110007, **LIMIT_BUY | {"qty": "10"})


def test_account_says_what_it_is(open_sandbox: OPEN, open_client: OPEN) -> None:
    spec = dataclasses.replace(SPEC, margin_mode="PORTFOLIO_MARGIN", unified_margin_status=1, may_withdraw=True)
    client = open_client(open_sandbox(accounts=[spec]))
    info = client.get_account_info()["result"]
    assert (info["marginMode"], info["unifiedMarginStatus"]) == ("PORTFOLIO_MARGIN", 1)
    key = client.get_api_key_information()["result"]
    assert (key["apiKey"], key["readOnly"], key["secret"], key["uta"]) == (SPEC.key, 0, "", 0)
    assert key["permissions"]["Wallet"] == ["AccountTransfer", "Withdraw"]
    refused(client.get_wallet_balance, 10001, accountType="SPOT")
    fees = client.get_fee_rates(category="linear", symbol=SYMBOL)["result"]["list"]
    assert fees == [{"symbol": SYMBOL, "takerFeeRate": "0.00055", "makerFeeRate": "0.0002"}]


def test_demo_tells_no_fees(open_sandbox: OPEN, open_client: OPEN) -> None:
    client = open_client(open_sandbox(accounts=[dataclasses.replace(SPEC, tells_fees=False)]))
    refused(client.get_fee_rates, 10001, category="linear", symbol=SYMBOL)


def test_world_outside_moves_an_account_without_its_client(desk: Any) -> None:
    sandbox, client = desk
    outside = Outside(sandbox.desk, SPEC.key)
    outside.order(SYMBOL, "Buy", "3")
    outside.deleverage(SYMBOL, "1")
    outside.transfer("-1000")
    outside.set_leverage(SYMBOL, "5")
    account = sandbox.account(SPEC.key)
    assert [(one.exec_type, one.moved) for one in account.executions] == [("Trade", 3), ("AdlTrade", -1)]
    assert outside.size(SYMBOL) == account.positions[SYMBOL].size == 2
    assert account.wallet == 9_000 - sum(one.fee for one in account.executions)
    assert only_position(client)["leverage"] == "5"
    assert {order.link_id for order in account.orders.values()} == {""}
    outside.set_hedge(True)
    refused(client.place_order, 10001, **MARKET_BUY)


def test_snapshot_is_a_copy(desk: Any) -> None:
    sandbox, client = desk
    before = sandbox.account(SPEC.key)
    client.place_order(**MARKET_BUY)
    assert (before.orders, before.wallet) == ({}, 10_000)
    before.wallet = Decimal(0)
    assert sandbox.account(SPEC.key).wallet == Decimal("9999.945")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"key": ""}, "a key and a secret"),
        ({"margin_mode": "CROSS"}, "margin_mode must be REGULAR_MARGIN, ISOLATED_MARGIN or PORTFOLIO_MARGIN, was"),
    ],
)
def test_account_that_can_not_be_is_refused(wrong: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(SPEC, **wrong)


def test_two_accounts_of_one_key_are_refused(open_sandbox: OPEN) -> None:
    with pytest.raises(ConfigError, match="one key is there twice"):
        open_sandbox(accounts=[SPEC, SPEC])


def test_neither_key_nor_secret_is_in_a_repr() -> None:
    assert SPEC.key not in repr(SPEC)
    assert SPEC.secret not in repr(SPEC)
