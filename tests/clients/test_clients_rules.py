"""The rules by which other clients are judged: each is kept by what they should see and broken by what is wrong."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from storage.schema import Market, OperationError, Source
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tests.clients.compared_bars import Comparison, bars_of
from tests.clients.live_market import had_price

pytest.importorskip("ccxt", reason="ccxt, one of the clients, is not installed")
pytestmark = pytest.mark.oracle

CANDLES = generate(SyntheticMarket(bars=20))
TRUTH = bars_of(CANDLES)
STARTS = list(TRUTH)
ALL = range(STARTS[0], STARTS[-1] + 1)
SEEN: dict[str, Any] = {
    "ccxt_candles_equal": 2004, "ccxt_candles_differ": 0, "ccxt_watched_equal": 3, "ccxt_watched_differ": 0,
    "freqtrade_candles_equal": 2432, "freqtrade_candles_differ": 0, "freqtrade_bars_seen": 4,
    "freqtrade_bars_differ": 0, "freqtrade_bars_over_stream": 3, "freqtrade_trades": 3, "freqtrade_prices_unknown": 0,
    "freqtrade_errors": [], "requests_unknown": {},
}  # fmt: skip


def test_bars_that_are_all_the_same_differ_in_nothing():
    assert Comparison.of(TRUTH, TRUTH, ALL) == Comparison(equal=20, differ=())
    prices = {start: bar[:4] for start, bar in TRUTH.items()}
    assert Comparison.of(prices, TRUTH, ALL) == Comparison(equal=20, differ=())


@pytest.mark.parametrize("column", range(5))
def test_one_other_number_is_found(column: int):
    bar = list(TRUTH[STARTS[7]])
    bar[column] *= 1 + 1e-15
    assert Comparison.of(TRUTH | {STARTS[7]: tuple(bar)}, TRUTH, ALL) == Comparison(equal=19, differ=(STARTS[7],))


def test_a_bar_that_is_missing_is_found_where_it_is_needed():
    bars = {start: bar for start, bar in TRUTH.items() if start != STARTS[7]}
    assert Comparison.of(bars, TRUTH, ALL).differ == (STARTS[7],)
    assert Comparison.of(bars, TRUTH, range(STARTS[8], STARTS[19] + 1)).differ == ()


def test_a_bar_that_the_exchange_never_had_is_found():
    assert Comparison.of(TRUTH | {1: TRUTH[STARTS[0]]}, TRUTH, ALL) == Comparison(equal=20, differ=(1,))


def test_a_price_is_the_markets_if_a_book_at_that_time_had_it_on_that_side():
    listing = Listing(candles=CANDLES, market=Market())
    before, after = STARTS[5] + 10, STARTS[5] + 20  # between two trades, one book
    book = listing.book(before)
    assert book is not None
    ask, bid = float(book.asks[0][0]), float(book.bids[0][0])
    assert had_price(listing, "buy", ask, before, after)
    assert had_price(listing, "sell", bid, before, after)
    assert not had_price(listing, "buy", bid, before, after)
    assert not had_price(listing, "buy", ask + 0.01, before, after)
    later = listing.book(STARTS[6])
    assert later is not None
    assert not had_price(listing, "buy", float(later.asks[0][0]), before, after)
    assert had_price(listing, "buy", float(later.asks[0][0]), before, STARTS[6])


def test_everything_seen_is_missing_nothing():
    from tests.clients.__main__ import missing

    assert missing(SEEN) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, 1) for name in SEEN if "differ" in name or "unknown" in name if not isinstance(SEEN[name], dict)]
    + [(name, 0) for name in SEEN if name.rpartition("_")[2] in ("equal", "seen", "stream", "trades")]
    + [("freqtrade_errors", ["an error"]), ("requests_unknown", {"/v5/market/insurance": 3})],
)
def test_each_number_that_is_wrong_breaks_one_rule(name: str, value: Any):
    from tests.clients.__main__ import missing

    assert len(missing(SEEN | {name: value})) == 1


def test_freqtrade_that_cannot_be_had_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tests.clients.freqtrade_client import install

    (tmp_path / "empty").mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, (tmp_path / "empty").as_uri())
    with pytest.raises(OperationError, match="must come from a package index, which gave none: ") as refused:
        install(tmp_path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "env" / "installed").exists()


def test_ccxt_is_pointed_at_the_sandbox_with_all_it_has():
    import ccxt.pro

    from tests.clients.ccxt_client import ccxt_options

    def addresses(found: Any) -> list[str]:
        return [found] if isinstance(found, str) else [one for part in found.values() for one in addresses(part)]

    sandbox = Sandbox([Listing(candles=CANDLES, market=Market())], source=Source("sandbox:0123abcd"))
    known = addresses(ccxt.pro.bybit(ccxt_options(sandbox)).urls["api"])
    assert len(known) > 10
    assert {address.split(":0")[0] for address in known} == {"http://127.0.0.1", "ws://127.0.0.1"}


def test_strategies_hold_one_file_because_freqtrade_imports_them_all():
    (path,) = (Path(__file__).parent / "strategies").glob("*.py")
    (strategy,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))
    assert strategy.name == "HeldHalfAMinute"
