"""Which markets a store knows: those that are gone too."""

from storage.candles import CandleStore
from storage.schema import Market, Source, Window
from tasks.ingestion.dataset import stored_markets
from tasks.market.synthetic import SyntheticMarket, generate
from tests.storage.stored import commit_window

SOURCE = Source("bybit")
YEAR_LATER = 105_120


def store_bars(store: CandleStore, market: Market, first: int, source: Source = SOURCE) -> None:
    bars = generate(SyntheticMarket(bars=first + 3))[first:]
    span = Window(first_ms=int(bars.start_ms[0]), last_ms=int(bars.start_ms[-1]))
    commit_window(store, source, market, span, bars, (), span.last_ms + market.interval_ms)


def test_market_that_was_delisted_a_year_ago_is_among_those_that_are_stored(tmp_path):
    store = CandleStore(tmp_path / "market.duckdb")
    store_bars(store, Market(symbol="NEWUSDT"), YEAR_LATER)
    store_bars(store, Market(symbol="GONEUSDT"), 0)
    store_bars(store, Market(symbol="SPOTUSDT", category="spot"), YEAR_LATER)
    store_bars(store, Market(symbol="TESTUSDT"), YEAR_LATER, Source("testnet"))
    found = stored_markets(store, SOURCE, Market(symbol="NEWUSDT"))
    assert found == (Market(symbol="GONEUSDT"), Market(symbol="NEWUSDT"))
