"""What an account makes of answers that are not as Bybit writes them: asked again, then refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from storage.schema import Ambiguous, Market, Rejected
from tasks.exchange import rest_client, trading_account
from tasks.exchange.account_answers import Position
from tasks.exchange.trading_account import Protection, TradingAccount
from tasks.exchange.transport import Answer, Unreachable
from tasks.exchange.wire_values import BadMessage, number, unsigned
from tasks.execution.orders import Leg, Lost, Order, Refused
from tests.exchange.banned_child import KEY

MARKET = Market(symbol="BTCUSDT")
HELD = {"symbol": "BTCUSDT", "side": "Sell", "size": "2", "leverage": "1", "avgPrice": "", "positionIdx": 0}
FILL = {
    "symbol": "BTCUSDT", "execId": "1", "execQty": "1", "execPrice": "100", "execFee": "-0.1", "execTime": "5",
    "side": "Buy", "orderLinkId": "a",
}  # fmt: skip


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TradingAccount]]:
    """Return a maker of accounts to which every question gets one answer."""
    accounts = []

    def start(*rows: dict[str, Any], **result: Any) -> TradingAccount:
        answer = Answer(result={"list": list(rows), "timeNano": "7000000"} | result, time_ms=7)
        monkeypatch.setattr(rest_client, "ask", lambda *asked: answer)
        accounts.append(TradingAccount("sandbox", KEY, url="http://127.0.0.1:1"))
        accounts[-1]._questions.sleep = lambda seconds: None
        return accounts[-1]

    yield start
    for account in accounts:
        account.__exit__(None, None, None)


def test_position_is_read_with_its_side(answering: Callable[..., TradingAccount]) -> None:
    assert answering(HELD).position(MARKET) == Position(Decimal(-2), Decimal(1))
    flat = HELD | {"side": "", "size": "0"}
    assert answering(flat).position(MARKET) == Position(Decimal(0), Decimal(1))


@pytest.mark.promise(19)
@pytest.mark.parametrize(("runs", "waited_s"), [(False, 10.25), (True, 5.0)])
def test_question_that_timed_out_is_not_repeated_at_once_while_a_session_runs(
    answering: Callable[..., TradingAccount],
    fake_time: Any,
    monkeypatch: pytest.MonkeyPatch,
    runs: bool,
    waited_s: float,
) -> None:
    account = answering(HELD)
    account._questions.clock, account._questions.sleep = fake_time.clock, fake_time.sleep

    def time_out(*asked: Any) -> Answer:
        fake_time.sleep(5.0)
        raise Unreachable("no answer in time")

    monkeypatch.setattr(rest_client, "ask", time_out)
    if runs:
        account.take_turns()
    began_s = fake_time.clock()
    with pytest.raises(Unreachable, match="no answer in time"):
        account.position(MARKET)
    assert fake_time.clock() - began_s == pytest.approx(waited_s, abs=0.1)  # the wait between two is drawn


@pytest.mark.promise(15)
@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"size": "-2"}, "size must be >= 0, was -2"), ({"side": ""}, "of a side, was '' of 2"),
        ({"side": None}, "of a side, was 'None'"), ({"symbol": "ETHUSDT"}, "about symbol 'ETHUSDT', BTCUSDT was"),
        ({"size": "2_0"}, "size must be a number, was '2_0'"), ({"size": "\u0662"}, "size must be a number"),
    ],
)  # fmt: skip
def test_position_that_nobody_can_hold_is_unknown(
    answering: Callable[..., TradingAccount], changes: dict[str, Any], found: str
) -> None:
    with pytest.raises(Ambiguous, match=found):
        answering(HELD | changes).position(MARKET)


@pytest.mark.promise(15)
@pytest.mark.parametrize(
    "ask",
    [
        lambda start: start(totalAvailableBalance="1", list=[{"totalAvailableBalance": "soon"}]).available(),
        lambda start: start({"symbol": "BTCUSDT", "takerFeeRate": "low"}).taker_fee(MARKET),
        lambda start: start(readOnly="x", permissions={"ContractTrade": ["Order", "Position"]}).key_facts(),
        lambda start: start(permissions={"ContractTrade": 5}).key_facts(),
        lambda start: start(permissions={"Wallet": 5}).key_facts(),
        lambda start: start(FILL | {"execQty": "-1"}).executions(MARKET, 0),
        lambda start: start(FILL | {"execPrice": "1_0"}).executions(MARKET, 0),
    ],
)
def test_account_that_can_t_be_read_is_unknown_in_one_line(
    answering: Callable[..., TradingAccount], ask: Callable[..., object]
) -> None:
    with pytest.raises(Ambiguous, match=r"the sandbox gave no usable answer for .* \(.+; asked 3 times"):
        ask(answering)


@pytest.mark.promise(14)
@pytest.mark.parametrize(
    ("code", "kind"), [(10014, Lost), (110072, Lost), (110079, Lost), (400, Lost), (110007, Refused), (10001, Refused)]
)
def test_refusal_that_an_order_may_have_landed_before_is_no_proof(
    answering: Callable[..., TradingAccount], monkeypatch: pytest.MonkeyPatch, code: int, kind: type
) -> None:
    asked = []

    def refuse(client: object, method: str, params: dict[str, Any]) -> Answer:
        asked.append(params["orderLinkId"])
        raise Rejected("said so", code)

    account = answering()
    monkeypatch.setattr(trading_account, "ask", refuse)
    order = Order(link_id="a", leg=Leg("Buy", Decimal(1), False)).submitting(1)
    assert isinstance(account.place(MARKET, order, Protection()), kind)
    assert asked == ["a"]


def test_numbers_of_odd_form_are_none() -> None:
    for text in ("1_000", " 1", "1\n", "\u0661", "nan", "inf", "0x1", "1e400", "--1", "1e", True, [1]):
        with pytest.raises(BadMessage, match="a must be a number"):
            number({"a": text}, "a")
    assert [number({"a": text}, "a") for text in ("-1.50", "1e-8", 7, 0.1, "", None)] == [
        Decimal("-1.5"), Decimal("1e-8"), 7, Decimal("0.1"), 0, 0,
    ]  # fmt: skip
    with pytest.raises(BadMessage, match="a must be >= 0, was -1"):
        unsigned({"a": "-1"}, "a")
