"""Order book and risk limits of the sandbox over REST, as real clients ask for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from pybit.exceptions import InvalidRequestError

from storage.schema import Candles, Market

START_MS = 1_735_689_600_000
STEP_MS = 300_000
MAKE = Callable[..., Candles]
OPEN = Callable[..., Any]


def at(bar: float) -> int:
    return START_MS + int(STEP_MS * bar)


@pytest.mark.parametrize(
    ("category", "limit", "levels"), [("linear", None, 25), ("linear", 500, 500), ("spot", None, 1), ("spot", 200, 200)]
)
def test_orderbook_has_as_many_levels_as_asked_for_a_tick_apart(
    make_candles: MAKE, open_sandbox: OPEN, open_client: OPEN, category: Any, limit: int | None, levels: int
) -> None:
    sandbox = open_sandbox(make_candles(10), market=Market(category=category))
    client = open_client(sandbox)
    book = client.get_orderbook(category=category, symbol="SYNTHUSDT", limit=limit)["result"]
    bids, asks = ([Decimal(price) for price, _ in book[side]] for side in "ba")
    assert (len(bids), len(asks)) == (levels, levels)
    prices = [*bids[::-1], *asks]
    assert {after - before for before, after in itertools.pairwise(prices)} == {Decimal("0.01")}
    assert all(Decimal(size) >= Decimal("0.001") for side in "ba" for _, size in book[side])
    assert {name: type(value) for name, value in book.items()} == {
        "s": str, "b": list, "a": list, "ts": int, "u": int, "seq": int, "cts": int
    }  # fmt: skip
    assert book == client.get_orderbook(category=category, symbol="SYNTHUSDT", limit=limit)["result"]
    with pytest.raises(InvalidRequestError, match="limit must be in"):
        client.get_orderbook(category=category, symbol="SYNTHUSDT", limit=501)


def test_risk_limit_and_leverage_agree_and_spot_has_none(
    make_candles: MAKE, open_sandbox: OPEN, open_client: OPEN
) -> None:
    client = open_client(open_sandbox(make_candles(10)))
    answer = client.get_risk_limit(category="linear", symbol="SYNTHUSDT")["result"]
    (tier,) = answer["list"]
    assert (tier["symbol"], tier["isLowestRisk"], answer["nextPageCursor"]) == ("SYNTHUSDT", 1, "")
    assert 1 / float(tier["initialMargin"]) == float(tier["maxLeverage"])
    (rules,) = client.get_instruments_info(category="linear", symbol="SYNTHUSDT")["result"]["list"]
    assert rules["leverageFilter"]["maxLeverage"] == tier["maxLeverage"]
    with pytest.raises(InvalidRequestError, match="Category is invalid"):
        client.get_risk_limit(category="spot")


def test_before_the_first_candle_there_is_neither_book_nor_ticker(
    make_candles: MAKE, open_sandbox: OPEN, open_client: OPEN
) -> None:
    client = open_client(open_sandbox(make_candles(10), now_ms=at(-1)))
    market = {"category": "linear", "symbol": "SYNTHUSDT"}
    book = client.get_orderbook(**market)["result"]
    assert (book["b"], book["a"]) == ([], [])
    assert client.get_tickers(**market)["result"]["list"] == []


@pytest.mark.parametrize(("decimals", "tick"), [(0, "1"), (1, "0.1"), (4, "0.0001"), (8, "0.00000001"), (12, "0.01")])
def test_default_tick_is_the_grid_that_all_prices_are_on(
    make_candles: MAKE, open_sandbox: OPEN, open_client: OPEN, decimals: int, tick: str
) -> None:
    candles = make_candles(10)
    for name in ("open", "high", "low", "close"):
        column = getattr(candles, name)
        column[:] = np.round(column + 10.0**-decimals * 3, decimals)
    (rules,) = open_client(open_sandbox(candles)).get_instruments_info(category="linear")["result"]["list"]
    assert rules["priceFilter"]["tickSize"] == tick
