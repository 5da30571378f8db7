"""What Bybit's documents show of an account is read, with their numbers: no bound of ours refuses it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from tasks.exchange.account_answers import Position, read_number, read_positions, read_rows
from tasks.exchange.private_events import ExecutionNews, decode_private, read_execution, read_order
from tasks.exchange.transport import Answer
from tasks.execution.orders import Execution


def document(folder: Path, page: str) -> dict[str, Any]:
    return dict(json.loads((folder / "bybit_v5" / f"{page}.json").read_text()))


def answer(folder: Path, page: str) -> Answer:
    body = document(folder, page)
    return Answer(result=body["result"], time_ms=body["time"])


def test_fee_balance_and_position_are_read(real_data: Path) -> None:
    fee = read_number(answer(real_data, "account__fee-rate__0"), "takerFeeRate", "ETHUSDT")
    balance = read_number(answer(real_data, "account__wallet-balance__0"), "totalAvailableBalance")
    assert (fee, balance) == (Decimal("0.0006"), Decimal("3.00326056"))
    position = Position(Decimal(-300), leverage=Decimal(10), entry=Decimal("27464.50441675"), stop=Decimal(0))
    assert read_positions(answer(real_data, "position__position__0"), "BTCUSD") == [(0, position)]


def test_orders_are_read(real_data: Path) -> None:
    (waiting,) = read_rows(answer(real_data, "order__open-order__0"), read_order, "ETHUSDT")
    (ended,) = read_rows(answer(real_data, "order__order-list__0"), read_order, "BTCUSDT")
    assert (waiting.link_id, waiting.news.told, waiting.news.executed) == ("test-000005", "New", 0)
    assert (ended.link_id, ended.news.told, ended.news.executed) == ("YLxaWKMiHU", "Cancelled", 0)
    assert ended.news.why == "EC_PostOnlyWillTakeLiquidity"
    (pushed,) = document(real_data, "websocket__private__order__1")["data"]
    filled = read_order(pushed, 1)
    assert (filled.symbol, filled.news.told, filled.news.executed) == ("ETH-30DEC22-1400-C", "Filled", 1)


def test_executions_are_read(real_data: Path) -> None:
    (asked,) = read_rows(answer(real_data, "order__execution__0"), read_execution, "ETHPERP")
    known = Execution("e0cbe81d-0f18-5866-9415-cf319b5dab3b", Decimal("0.1"), Decimal("1190.15"), Decimal("0.071409"))
    assert (asked.fill, asked.side, asked.kind, asked.time_ms) == (known, "Buy", "Trade", 1_672_282_722_429)
    (pushed,) = decode_private(document(real_data, "websocket__private__execution__1"), 1)
    assert isinstance(pushed, ExecutionNews)
    known = Execution("0ab1bdf7-4219-438b-b30a-32ec863018f7", Decimal("0.5"), Decimal("95900.1"), Decimal("26.3725275"))
    assert (pushed.fill, pushed.side, pushed.fee_coin) == (known, "Sell", "USDT")
