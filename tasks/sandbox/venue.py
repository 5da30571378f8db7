"""Bybit's market endpoints on the replayed markets. No HTTP here: a request is a path and parameters.

Documented at https://bybit-exchange.github.io/docs/v5/market/kline and the pages next to it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from storage.schema import CANDLE_COLUMNS, INTERVAL_MS, Instrument
from tasks.sandbox.clock import VirtualClock
from tasks.sandbox.listing import Listing
from tasks.sandbox.replay import MARK_PRICE_FIELDS, RangePolicy, decimal_text, encode_rows

Params = Mapping[str, str]
Result = dict[str, Any]

CATEGORIES = ("linear", "spot", "inverse", "option")
KLINE_FIELDS = 1 + len(CANDLE_COLUMNS)
BAD_PARAMETER = 10001
MAX_LEVERAGE = "100.00"
MAX_LIMIT_QTY = "100000"  # coins in one order


class Refusal(Exception):
    """An answer with a retCode other than 0."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Venue:
    """The replayed markets behind Bybit's market endpoints."""

    def __init__(
        self, listings: Mapping[tuple[str, str], Listing], clock: VirtualClock, range_policy: RangePolicy
    ) -> None:
        self.clock = clock
        self._listings = listings
        self._range_policy = range_policy
        self._endpoints: dict[str, Callable[[Params], Result]] = {
            "/v5/market/time": self._time,
            "/v5/market/kline": self._kline,
            "/v5/market/mark-price-kline": self._mark_price_kline,
            "/v5/market/index-price-kline": self._mark_price_kline,
            "/v5/market/funding/history": self._funding_history,
            "/v5/market/instruments-info": self._instruments_info,
            "/v5/market/tickers": self._tickers,
            "/v5/market/orderbook": self._orderbook,
            "/v5/market/risk-limit": self._risk_limit,
        }

    def knows(self, path: str) -> bool:
        """Return whether the endpoint exists."""
        return path in self._endpoints

    def answer(self, path: str, params: Params) -> Result:
        """Return the envelope that answers a request; unknown parameters are ignored."""
        return envelope(self.clock.told_ms(), lambda: self._endpoints[path](params))

    def _time(self, params: Params) -> Result:
        told_ms = self.clock.told_ms()
        return {"timeSecond": str(told_ms // 1000), "timeNano": str(told_ms * 1_000_000)}

    def _kline(self, params: Params) -> Result:
        return self._candles(params, KLINE_FIELDS)

    def _mark_price_kline(self, params: Params) -> Result:
        if params.get("category") == "spot":
            raise Refusal(BAD_PARAMETER, "Category is invalid")
        return self._candles(params, MARK_PRICE_FIELDS)  # the replay knows one price: mark and index are the last

    def _candles(self, params: Params, fields: int) -> Result:
        listing = self._listing(params, default_category="linear")
        interval = params.get("interval", "")
        if interval not in INTERVAL_MS:
            raise Refusal(BAD_PARAMETER, "Invalid period!")
        if not listing.replay.serves(interval):
            raise Refusal(BAD_PARAMETER, f"this replay holds candles of {listing.market.interval}, ask for a multiple")
        start, end = integer(params, "start"), integer(params, "end")
        limit = row_limit(params, default=200, most=1000)
        if start is not None and end is not None and start > end:
            raise Refusal(BAD_PARAMETER, "The start time must not be later than the end time")
        page = listing.replay.page(interval, self.clock.now_ms(), start, end, limit, self._range_policy)
        return {
            "category": listing.market.category,
            "symbol": listing.market.symbol,
            "list": encode_rows(page, fields)[::-1],
        }

    def _funding_history(self, params: Params) -> Result:
        listing = self._listing(params)
        if listing.market.category == "spot":
            raise Refusal(BAD_PARAMETER, "Category is invalid")
        start, end = integer(params, "startTime"), integer(params, "endTime")
        limit = row_limit(params, default=200, most=200)
        if start is not None and end is None:
            raise Refusal(BAD_PARAMETER, "startTime needs endTime")
        last = min(self.clock.now_ms(), self.clock.now_ms() if end is None else end)
        rows = [(ms, rate) for ms, rate in listing.funding if (start or 0) <= ms <= last]
        rows = rows[:limit] if start is not None and self._range_policy == "oldest" else rows[-limit:]
        named = [
            {
                "symbol": listing.market.symbol,
                "fundingRate": decimal_text(rate),
                "fundingRateTimestamp": str(ms),
            }
            for ms, rate in reversed(rows)
        ]
        return {"category": listing.market.category, "list": named}

    def _instruments_info(self, params: Params) -> Result:
        category, listings = self._some(params)
        limit = row_limit(params, default=500, most=1000)
        status = params.get("status", "Trading")
        listings = [listing for listing in listings if listing.rules.status == status]
        cursor = {} if category == "spot" else {"nextPageCursor": ""}  # spot has no pages
        described = [_describe(listing.rules) for listing in listings]
        return {"category": category, **cursor, "list": described[:limit]}

    def _tickers(self, params: Params) -> Result:
        category, listings = self._some(params)
        tickers = [listing.ticker(self.clock.now_ms()) for listing in listings]
        return {"category": category, "list": [ticker for ticker in tickers if ticker]}

    def _orderbook(self, params: Params) -> Result:
        listing = self._listing(params)
        default, most = (1, 200) if listing.market.category == "spot" else (25, 500)
        now_ms = self.clock.now_ms()
        book = listing.book(now_ms, levels=row_limit(params, default, most))
        counts = {"u": book.update, "seq": book.update, "cts": book.time_ms} if book else {"u": 0, "seq": 0, "cts": 0}
        sides = {"b": book.bids, "a": book.asks} if book else {"b": [], "a": []}
        return {"s": listing.market.symbol, **sides, "ts": self.clock.told_ms(), **counts}

    def _risk_limit(self, params: Params) -> Result:
        category, listings = self._some(params)
        if category not in ("linear", "inverse"):
            raise Refusal(BAD_PARAMETER, "Category is invalid")
        tiers = [
            {
                "id": 1,
                "symbol": listing.market.symbol,
                "riskLimitValue": "2000000",
                "maintenanceMargin": "0.005",
                "initialMargin": "0.01",
                "isLowestRisk": 1,
                "maxLeverage": MAX_LEVERAGE,
                "mmDeduction": "",
            }
            for listing in listings
        ]
        return {"category": category, "list": tiers, "nextPageCursor": ""}

    def _listing(self, params: Params, default_category: str = "") -> Listing:
        """Return the market that the parameters name."""
        category, symbol = params.get("category", default_category), params.get("symbol", "")
        if category not in CATEGORIES:
            raise Refusal(BAD_PARAMETER, "Category is invalid")
        if (category, symbol) not in self._listings:
            raise Refusal(BAD_PARAMETER, f"params error: symbol invalid {symbol}")
        return self._listings[category, symbol]

    def _some(self, params: Params) -> tuple[str, list[Listing]]:
        """Return the requested category and its markets, or only the market that is named."""
        if "symbol" in params:
            return params.get("category", ""), [self._listing(params)]
        category = params.get("category", "")
        if category not in CATEGORIES:
            raise Refusal(BAD_PARAMETER, "Category is invalid")
        return category, [listing for key, listing in self._listings.items() if key[0] == category]


def envelope(time_ms: int, ask: Callable[[], Result]) -> Result:
    """Return Bybit's envelope with the result of `ask`, or with its refusal, at a time of the exchange's clock."""
    code, message, result = 0, "OK", {}
    try:
        result = ask()
    except Refusal as refusal:
        code, message = refusal.code, str(refusal)
    return {"retCode": code, "retMsg": message, "result": result, "retExtInfo": {}, "time": time_ms}


def _describe(instrument: Instrument) -> Result:
    quote = next((coin for coin in ("USDT", "USDC", "USD") if instrument.symbol.endswith(coin)), "")
    described: Result = {
        "symbol": instrument.symbol,
        "status": instrument.status,
        "baseCoin": instrument.symbol.removesuffix(quote),
        "quoteCoin": quote,
        "priceFilter": {"tickSize": instrument.tick_size},
    }
    if instrument.category == "spot":
        lot = {
            "basePrecision": instrument.qty_step,
            "minOrderQty": instrument.min_qty,
            "minOrderAmt": instrument.min_notional,
        }
        return described | {"lotSizeFilter": lot}
    lot = {
        "qtyStep": instrument.qty_step,
        "minOrderQty": instrument.min_qty,
        "minNotionalValue": instrument.min_notional,
        "maxOrderQty": MAX_LIMIT_QTY,
        "maxMktOrderQty": instrument.max_market_qty,
    }
    return described | {
        "contractType": "LinearPerpetual",
        "launchTime": str(instrument.launch_ms),
        "fundingInterval": instrument.funding_interval_min,
        "deliveryTime": "0",
        "leverageFilter": {"minLeverage": "1", "maxLeverage": MAX_LEVERAGE, "leverageStep": "0.01"},
        "settleCoin": quote,
        "lotSizeFilter": lot,
    }


def integer(params: Params, name: str) -> int | None:
    """Return an integer parameter; None if it is absent."""
    text = params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise Refusal(BAD_PARAMETER, f"{name} is invalid")
    return int(text)


def row_limit(params: Params, default: int, most: int) -> int:
    """Return the requested number of rows."""
    limit = integer(params, "limit")
    if limit is None:
        return default
    if not 1 <= limit <= most:
        raise Refusal(BAD_PARAMETER, f"limit must be in 1..{most}")
    return limit
