"""One market at a time of the exchange's clock: candles, trades, order book, ticker, trading rules."""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from storage.schema import MINUTE_MS, Candles, FloatArray, Instrument, Market
from tasks.sandbox.replay import Replay, decimal_text
from tasks.sandbox.tape import TapeTick

Fields = dict[str, Any]

_FINEST_TICK = 8  # decimals
_SIZES = 997  # a prime number, so that sizes do not repeat in step with a pattern of trades


@dataclass(frozen=True, kw_only=True)
class Book:
    """The order book after a trade: prices and sizes as Bybit writes them, best first.

    Attributes:
        update: Number of the book within its market; changes when the book does.
        time_ms: Time since when it is valid, UTC milliseconds.
    """

    bids: list[list[str]]
    asks: list[list[str]]
    update: int
    time_ms: int


@dataclass(kw_only=True, eq=False)
class Listing:
    """A market that the sandbox replays.

    Attributes:
        candles: Oldest first, at least one, on the grid of their interval: `base_interval` refuses others.
        market: Symbol, category and the interval of the candles; longer intervals are built from them.
        funding: Stamps (UTC milliseconds) and rates.
        instrument: Trading rules; None for plausible ones, with the first candle as the listing.
    """

    candles: Candles
    market: Market
    funding: Sequence[tuple[int, float]] = ()
    instrument: Instrument | None = None
    rules: Instrument = field(init=False)
    replay: Replay = field(init=False)

    def __post_init__(self) -> None:
        self.rules = self.instrument or default_instrument(self.market, int(self.candles.start_ms[0]), self.candles)
        self.replay = Replay(candles=self.candles, market=self.market, qty_step=float(self.rules.qty_step))
        self.funding = sorted(self.funding)
        self._books: dict[tuple[int, int], Book] = {}
        self._tick_size = float(self.rules.tick_size)
        self._decimals = len(self.rules.tick_size.partition(".")[2])
        self._sizes = self._level_sizes()

    @property
    def key(self) -> tuple[str, str]:
        """Category and symbol."""
        return self.market.category, self.market.symbol

    def book(self, now_ms: int, levels: int = 1) -> Book | None:
        """Return the order book, one tick wide around the last trade, or None before the first candle opens.

        The last price is the ask if the taker bought, else the bid. If the price is between two ticks, the levels of
        the book are too.
        """
        last = self.replay.last_tick(now_ms)
        if last is None:
            return None
        if (last.ordinal, levels) not in self._books:
            self._books = {(last.ordinal, levels): self._book(last, levels)}
        return self._books[last.ordinal, levels]

    def _book(self, last: TapeTick, levels: int) -> Book:
        grid = round(last.price / self._tick_size, 6)  # in ticks; rounded to remove floating-point error
        bid = math.floor(grid) - (1 if grid == math.floor(grid) and last.side == "Buy" else 0)
        sizes = itertools.islice(itertools.cycle(self._sizes), last.ordinal % len(self._sizes), None)
        pairs = [(next(sizes), next(sizes)) for _ in range(levels)]  # alternating: a level is the same at every depth
        return Book(
            bids=[[self._price(bid - depth), size] for depth, (size, _) in enumerate(pairs)],
            asks=[[self._price(bid + 1 + depth), size] for depth, (_, size) in enumerate(pairs)],
            update=last.ordinal + 1,
            time_ms=last.time_ms,
        )

    def _price(self, ticks: int) -> str:
        return f"{ticks * self._tick_size:.{self._decimals}f}"

    def quote(self, now_ms: int) -> Fields:
        """Return the part of a ticker that changes with every trade; empty before the first candle opens."""
        last, book = self.replay.last_tick(now_ms), self.book(now_ms)
        if last is None or book is None:
            return {}
        price = decimal_text(last.price)
        quote = {
            "lastPrice": price,
            "bid1Price": book.bids[0][0],
            "bid1Size": book.bids[0][1],
            "ask1Price": book.asks[0][0],
            "ask1Size": book.asks[0][1],
        }
        # A replay has only one price, so mark and index price equal the last price.
        if self.market.category == "spot":
            return quote | {"usdIndexPrice": price}
        return quote | {"indexPrice": price, "markPrice": price}

    def ticker(self, now_ms: int) -> Fields:
        """Return the row of the tickers endpoint; empty before the first candle opens."""
        quote = self.quote(now_ms)
        if not quote:
            return {}
        ticker = {"symbol": self.market.symbol, **quote}
        if self.market.category == "spot":
            return ticker
        interval_ms = self.rules.funding_interval_min * MINUTE_MS
        stamp = (now_ms // interval_ms + 1) * interval_ms
        return ticker | {
            "openInterest": "0",  # nobody holds a position in a replay; ccxt tells contracts from spot by these two
            "openInterestValue": "0",
            "fundingRate": decimal_text(self._funding_rate(stamp, now_ms)),
            "nextFundingTime": str(stamp),
        }

    def _funding_rate(self, stamp_ms: int, now_ms: int) -> float:
        """Return the rate of the next stamp, as in Bybit's ticker; the last rate if it is unknown."""
        due = next((rate for ms, rate in self.funding if ms == stamp_ms), None)
        return due if due is not None else next((rate for ms, rate in reversed(self.funding) if ms <= now_ms), 0.0)

    def _level_sizes(self) -> list[str]:
        """Return sizes for the levels of all books: a twentieth of a bar's volume, more or less."""
        step, usual = float(self.rules.qty_step), float(self.candles.volume.mean()) / 20
        seeded = random.Random(self.replay.first_ms)
        steps = [max(round(usual * seeded.lognormvariate(0.0, 0.5) / step), 1) for _ in range(_SIZES)]
        return [decimal_text(round(number * step, 8)) for number in steps]


def default_instrument(market: Market, launch_ms: int, candles: Candles) -> Instrument:
    """Return plausible trading rules: those of Bybit's documented BTCUSDT example, with the tick of the candles."""
    spot = market.category == "spot"
    return Instrument(
        symbol=market.symbol,
        category=market.category,
        status="Trading",
        launch_ms=0 if spot else launch_ms,
        tick_size=_tick_size(candles),
        qty_step="0.001",
        min_qty="0.001",
        min_notional="5",
        funding_interval_min=0 if spot else 480,
        max_market_qty="100000000" if spot else "10000",
    )


def _tick_size(candles: Candles) -> str:
    """Return the decimals that all prices have; 0.01 where they have too many to be an exchange's."""
    prices: FloatArray = np.concatenate([candles.open, candles.high, candles.low, candles.close])
    for decimals in range(_FINEST_TICK + 1):
        if np.array_equal(np.round(prices, decimals), prices):
            return format(Decimal(1).scaleb(-decimals), "f")
    return "0.01"
