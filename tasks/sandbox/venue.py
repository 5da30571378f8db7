"""The sandbox's state and Bybit's rules for reading it. No HTTP here: a question is a path and parameters.

What is documented of the endpoints: https://bybit-exchange.github.io/docs/v5/market/kline and its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from storage.schema import CANDLE_COLUMNS, DAY_MS, INTERVAL_MS, MINUTE_MS, Candles, Instrument, Market
from tasks.sandbox.replay import MARK_PRICE_FIELDS, RangePolicy, Replay, decimal_text, encode_rows

Params = Mapping[str, str]
Result = dict[str, Any]

CATEGORIES = ("linear", "spot", "inverse", "option")
KLINE_FIELDS = 1 + len(CANDLE_COLUMNS)
BAD_PARAMETER = 10001

_INTERVALS = (*INTERVAL_MS, "M")
_HOUR_MS = 3_600_000


class VirtualClock:
    """The exchange's time. It stands still until someone moves it, so that a replay never runs past its file."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Return UTC milliseconds."""
        return self._now_ms

    def advance(self, ms: int) -> None:
        """Move the clock on."""
        self._now_ms += ms


class Refusal(Exception):
    """An answer with a retCode other than 0."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Venue:
    """One replayed market behind Bybit's market endpoints.

    Args:
        replay: The market's candles.
        instrument: What instruments-info says of it.
        funding: Funding stamps (UTC milliseconds) and rates.
        clock: The exchange's time.
        range_policy: Which rows come when a range holds more than `limit`.
    """

    def __init__(
        self,
        replay: Replay,
        instrument: Instrument,
        funding: Sequence[tuple[int, float]],
        clock: VirtualClock,
        range_policy: RangePolicy,
    ) -> None:
        self.clock = clock
        self._replay = replay
        self._market = replay.market
        self._instrument = instrument
        self._funding = sorted(funding)
        self._range_policy = range_policy
        self._endpoints: dict[str, Callable[[Params], Result]] = {
            "/v5/market/time": self._time,
            "/v5/market/kline": self._kline,
            "/v5/market/mark-price-kline": self._mark_price_kline,
            "/v5/market/funding/history": self._funding_history,
            "/v5/market/instruments-info": self._instruments_info,
            "/v5/market/tickers": self._tickers,
        }

    def knows(self, path: str) -> bool:
        """Return whether there is such an endpoint."""
        return path in self._endpoints

    def answer(self, path: str, params: Params) -> Result:
        """Return the envelope that answers a question; parameters that the endpoint does not know are ignored."""
        code, message, result = 0, "OK", {}
        try:
            result = self._endpoints[path](params)
        except Refusal as refusal:
            code, message = refusal.code, str(refusal)
        return {"retCode": code, "retMsg": message, "result": result, "retExtInfo": {}, "time": self.clock.now_ms()}

    def _time(self, params: Params) -> Result:
        now_ms = self.clock.now_ms()
        return {"timeSecond": str(now_ms // 1000), "timeNano": str(now_ms * 1_000_000)}

    def _kline(self, params: Params) -> Result:
        return self._candles(params, KLINE_FIELDS)

    def _mark_price_kline(self, params: Params) -> Result:
        if params.get("category") == "spot":
            raise Refusal(BAD_PARAMETER, "Category is invalid")
        return self._candles(params, MARK_PRICE_FIELDS)  # the replay knows one price: the mark is the last one

    def _candles(self, params: Params, fields: int) -> Result:
        self._require_market(params, default_category="linear")
        interval = params.get("interval", "")
        if interval not in _INTERVALS:
            raise Refusal(BAD_PARAMETER, "Invalid period!")
        if not self._replay.serves(interval):
            raise Refusal(BAD_PARAMETER, f"this replay holds candles of {self._market.interval}, ask for a multiple")
        start, end = _integer(params, "start"), _integer(params, "end")
        limit = _limit(params, default=200, most=1000)
        if start is not None and end is not None and start > end:
            raise Refusal(BAD_PARAMETER, "The start time must not be later than the end time")
        page = self._replay.page(interval, self.clock.now_ms(), start, end, limit, self._range_policy)
        return {
            "category": self._market.category,
            "symbol": self._market.symbol,
            "list": encode_rows(page, fields)[::-1],
        }

    def _funding_history(self, params: Params) -> Result:
        self._require_market(params)
        if self._market.category == "spot":
            raise Refusal(BAD_PARAMETER, "Category is invalid")
        start, end = _integer(params, "startTime"), _integer(params, "endTime")
        limit = _limit(params, default=200, most=200)
        if start is not None and end is None:
            raise Refusal(BAD_PARAMETER, "startTime needs endTime")
        last = min(self.clock.now_ms(), self.clock.now_ms() if end is None else end)
        rows = [(ms, rate) for ms, rate in self._funding if (start or 0) <= ms <= last]
        rows = rows[:limit] if start is not None and self._range_policy == "oldest" else rows[-limit:]
        named = [
            {
                "symbol": self._market.symbol,
                "fundingRate": decimal_text(rate),
                "fundingRateTimestamp": str(ms),
            }
            for ms, rate in reversed(rows)
        ]
        return {"category": self._market.category, "list": named}

    def _instruments_info(self, params: Params) -> Result:
        category, symbol = params.get("category", ""), params.get("symbol")
        if category not in CATEGORIES:
            raise Refusal(BAD_PARAMETER, "Category is invalid")
        limit = _limit(params, default=500, most=1000)
        here = category == self._market.category and symbol in (None, self._market.symbol)
        if symbol is not None and not here:
            raise Refusal(BAD_PARAMETER, f"params error: symbol invalid {symbol}")
        described = [_describe(self._instrument)] if here else []
        cursor = {} if category == "spot" else {"nextPageCursor": ""}  # spot has no pages
        return {"category": category, **cursor, "list": described[:limit]}

    def _tickers(self, params: Params) -> Result:
        self._require_market(params)
        now_ms, step_ms = self.clock.now_ms(), self._market.interval_ms
        bars = DAY_MS // step_ms + 2  # the day, the bar that it begins in, and the forming one
        day = self._replay.page(self._market.interval, now_ms, now_ms - DAY_MS, None, bars, "oldest")
        tickers = [self._ticker(day, now_ms)] if len(day) else []
        return {"category": self._market.category, "list": tickers}

    def _ticker(self, day: Candles, now_ms: int) -> Result:
        last, before, tick = day.close[-1], day.open[0], float(self._instrument.tick_size)
        ticker = {
            "symbol": self._market.symbol,
            "lastPrice": decimal_text(last),
            "bid1Price": decimal_text(round(last - tick, 8)),
            "bid1Size": "1",
            "ask1Price": decimal_text(round(last + tick, 8)),
            "ask1Size": "1",
            "prevPrice24h": decimal_text(before),
            "price24hPcnt": decimal_text(round(last / before - 1, 6)),
            "highPrice24h": decimal_text(day.high.max()),
            "lowPrice24h": decimal_text(day.low.min()),
            "volume24h": decimal_text(day.volume.sum()),
            "turnover24h": decimal_text(day.turnover.sum()),
        }
        if self._market.category == "spot":
            return ticker
        hour = min(int(np.searchsorted(day.start_ms, now_ms - _HOUR_MS)), len(day) - 1)
        interval_ms = self._instrument.funding_interval_min * MINUTE_MS
        rate = next((rate for ms, rate in reversed(self._funding) if ms <= now_ms), 0.0)
        return ticker | {
            "indexPrice": decimal_text(last),
            "markPrice": decimal_text(last),
            "prevPrice1h": decimal_text(day.open[hour]),
            "fundingRate": decimal_text(rate),
            "nextFundingTime": str((now_ms // interval_ms + 1) * interval_ms),
            "fundingIntervalHour": str(self._instrument.funding_interval_min // 60),
        }

    def _require_market(self, params: Params, default_category: str = "") -> None:
        category, symbol = params.get("category", default_category), params.get("symbol", "")
        if category not in CATEGORIES:
            raise Refusal(BAD_PARAMETER, "Category is invalid")
        if (category, symbol) != (self._market.category, self._market.symbol):
            raise Refusal(BAD_PARAMETER, f"params error: symbol invalid {symbol}")


def default_instrument(market: Market, launch_ms: int) -> Instrument:
    """Return trading rules for a replayed market: those of the documents' BTCUSDT example, with a finer tick."""
    spot = market.category == "spot"
    return Instrument(
        symbol=market.symbol,
        category=market.category,
        status="Trading",
        launch_ms=0 if spot else launch_ms,
        tick_size="0.01",
        qty_step="0.001",
        min_qty="0.001",
        min_notional="5",
        funding_interval_min=0 if spot else 480,
    )


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
        "maxOrderQty": "100000",
        "maxMktOrderQty": "10000",
    }
    return described | {
        "contractType": "LinearPerpetual" if instrument.category == "linear" else "InversePerpetual",
        "launchTime": str(instrument.launch_ms),
        "fundingInterval": instrument.funding_interval_min,
        "settleCoin": quote if instrument.category == "linear" else instrument.symbol.removesuffix(quote),
        "lotSizeFilter": lot,
    }


def _integer(params: Params, name: str) -> int | None:
    text = params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise Refusal(BAD_PARAMETER, f"{name} is invalid")
    return int(text)


def _limit(params: Params, default: int, most: int) -> int:
    limit = _integer(params, "limit")
    if limit is None:
        return default
    if not 1 <= limit <= most:
        raise Refusal(BAD_PARAMETER, f"limit must be in 1..{most}")
    return limit
