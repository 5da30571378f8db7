"""Answers and messages of accounts have the fields of the ones in Bybit's documents, of the same types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.conftest import SPEC
from tests.sandbox.trader import LIMIT_BUY, MARKET_BUY, SYMBOL

OPEN = Callable[..., Any]

# What the documents have and the sandbox leaves out: margin by mark price, retail price improvement, and the time of a
# system update, which REST and stream name differently; nothing is made up.
LEFT_OUT = {
    *("positionIMByMp", "positionMMByMp", "breakEvenPrice", "mmrSysUpdateTime", "mmrSysUpdatedTime"),
    *("accountIMRateByMp", "accountMMRateByMp", "totalInitialMarginByMp", "totalMaintenanceMarginByMp"),
    *("spotBorrow", "totalPositionMM", "spotHedgingQty"),
    *("rpiTakerAccess", "rpiMatchedQty", "feeCurrency", "marketUnit", "extraFees"),
}
# What the sandbox has from the documents' tables of fields, which not every one of their examples shows.
NOT_IN_EVERY_EXAMPLE = {
    *("createType", "parentOrderLinkId", "marketUnit", "slippageToleranceType", "slippageTolerance", "closedPnl"),
    *("isLeverage", "execPnl", "extraFees"),
}


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert set(theirs) - set(ours) <= LEFT_OUT
    assert set(ours) - set(theirs) <= NOT_IN_EVERY_EXAMPLE
    both = (set(ours) & set(theirs)) - LEFT_OUT
    assert {name: type(ours[name]) for name in both} == {name: type(theirs[name]) for name in both}


def documented(folder: Path, page: str) -> dict[str, Any]:
    return dict(json.loads((folder / "bybit_v5" / f"{page}.json").read_text()))


@pytest.mark.parametrize(
    ("page", "method", "params"),
    [
        ("order__create-order__0", "place_order", LIMIT_BUY | {"orderLinkId": "bar-3"}),
        ("order__open-order__0", "get_open_orders", {"symbol": SYMBOL, "orderLinkId": "bar-1"}),
        ("order__order-list__0", "get_order_history", {}),
        ("order__execution__0", "get_executions", {}),
        ("order__cancel-order__0", "cancel_order", {"symbol": SYMBOL, "orderLinkId": "bar-2"}),
        ("order__cancel-all__0", "cancel_all_orders", {"symbol": SYMBOL}),
        ("position__position__0", "get_positions", {"symbol": SYMBOL}),
        ("position__leverage__0", "set_leverage", {"symbol": SYMBOL, "buyLeverage": "2", "sellLeverage": "2"}),
        ("position__trading-stop__0", "set_trading_stop", {"symbol": SYMBOL, "stopLoss": "94", "positionIdx": 0}),
        ("account__wallet-balance__0", "get_wallet_balance", {"accountType": "UNIFIED"}),
        ("account__fee-rate__0", "get_fee_rates", {"symbol": SYMBOL}),
    ],
)
def test_answer_has_the_shape_of_the_documented_one(
    real_data: Path, open_sandbox: OPEN, open_client: OPEN, page: str, method: str, params: dict[str, Any]
) -> None:
    client, theirs = open_client(open_sandbox()), documented(real_data, page)
    client.place_order(**MARKET_BUY, orderLinkId="bar-1", stopLoss="95")
    client.place_order(**LIMIT_BUY, orderLinkId="bar-2")
    ours = getattr(client, method)(**{"category": "linear"} | params)
    compare(ours, theirs)
    compare(ours["result"], theirs["result"])
    for our_row, their_row in zip(ours["result"].get("list", [])[:1], theirs["result"].get("list", []), strict=False):
        compare(our_row, their_row)
        for our_coin, their_coin in zip(our_row.get("coin", []), their_row.get("coin", []), strict=False):
            compare(our_coin, their_coin)


@pytest.mark.parametrize("topic", ["order", "execution", "position", "wallet"])
def test_message_has_the_shape_of_the_documented_one(
    real_data: Path, open_sandbox: OPEN, open_client: OPEN, open_stream: OPEN, topic: str
) -> None:
    sandbox = open_sandbox()
    stream, theirs = open_stream(sandbox), documented(real_data, f"websocket__private__{topic}__1")
    open_client(sandbox).place_order(**MARKET_BUY)
    ours = next(message for message in stream.wait_for_end() if message["topic"] == topic)
    compare(ours, theirs)
    compare(ours["data"][0], theirs["data"][0])


def test_answers_to_auth_and_ping_have_the_fields_of_the_documented_ones(
    real_data: Path, open_sandbox: OPEN, open_raw: OPEN
) -> None:
    raw = open_raw(open_sandbox())
    compare(raw.authenticate(SPEC), documented(real_data, "websocket__wss-authentication__1"))
    compare(raw.ask({"op": "ping", "req_id": "test"}), documented(real_data, "websocket__wss-authentication__6"))
