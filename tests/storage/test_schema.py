"""The shared vocabulary: sources, markets, intervals, hashes, columns."""

import hashlib
from datetime import UTC, datetime
from typing import get_args

import numpy as np
import pytest

from storage.schema import (
    INTERVAL_MS,
    WINDOW_BARS,
    CandleGapError,
    Candles,
    ConfigError,
    Instrument,
    Interval,
    Market,
    PipelineError,
    RateLimited,
    Rejected,
    StoreBusyError,
    StoreError,
    TemporaryError,
    Window,
    content_hash,
    parse_source,
    sandbox_source,
    utc_text,
)

NEW_YEAR = 1_735_689_600_000  # 2025-01-01


@pytest.mark.promise(0)
@pytest.mark.parametrize("text", ["bybit", "testnet", "demo", "sandbox:0123abcd"])
def test_source_is_taken_when_it_is_one_of_the_four_kinds(text):
    assert parse_source(text) == text


@pytest.mark.promise(0)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "Bybit",
        "bybit ",
        "sandbox",
        "sandbox:",
        "sandbox:0123abc",
        "sandbox:0123ABCD",
        "bybit\n",
        "sandbox:0/../abc",
    ],
)
def test_source_is_refused_when_it_is_anything_else(text):
    with pytest.raises(ConfigError, match=r"source must be bybit, testnet, demo or sandbox:<8 hex digits>, was '"):
        parse_source(text)


@pytest.mark.promise(0)
def test_sandbox_source_is_the_hash_of_what_is_replayed():
    # The length of the one part (3, eight bytes, little-endian) comes before the part.
    expected = hashlib.sha256(b"\x03\0\0\0\0\0\0\0abc").hexdigest()[:8]
    assert sandbox_source(b"abc") == f"sandbox:{expected}"
    assert sandbox_source(b"abd") != sandbox_source(b"abc")
    assert parse_source(sandbox_source(b"abc")) == sandbox_source(b"abc")


def test_content_hash_differs_when_the_same_bytes_are_split_elsewhere():
    assert content_hash([b"ab", b"c"]) != content_hash([b"a", b"bc"])
    assert content_hash([b"abc", b""]) != content_hash([b"abc"])
    assert content_hash([]) == hashlib.sha256().hexdigest()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("symbol", "btcusdt", r"symbol must be upper-case letters, digits and dashes such as BTCUSDT, was 'btcusdt'"),
        ("symbol", "../BTC", r"symbol must be .* was '\.\./BTC'"),
        ("category", "option", r"category must be linear or spot, which pay in quote currency, was 'option'"),
        ("category", "inverse", r"category must be linear or spot, which pay in quote currency, was 'inverse'"),
        ("interval", "7", r"interval must be one of 1 3 5 15 30 60 120 240 360 720 D W, was '7'"),
        ("interval", "M", r"interval must be one of .* D W, was 'M'"),
    ],
)
def test_market_is_refused_when_a_part_breaks_its_rule(field, value, message):
    with pytest.raises(ConfigError, match=message):
        Market(**{field: value})


def test_market_is_named_in_texts_and_in_file_names():
    assert str(Market(symbol="BTCUSDT", interval="5")) == "BTCUSDT linear 5m"
    assert str(Market(symbol="BTCUSDT", interval="D")) == "BTCUSDT linear D"
    assert Market(symbol="ETHUSDC", category="spot", interval="W").slug == "spot-ETHUSDC-W"


def test_every_interval_has_its_milliseconds():
    assert tuple(INTERVAL_MS) == get_args(Interval)


@pytest.mark.parametrize("interval", INTERVAL_MS)
def test_floor_is_the_open_of_the_bar_when_asked_inside_it(interval):
    market = Market(interval=interval)
    now = int(datetime(2026, 1, 7, 13, 47, 11, tzinfo=UTC).timestamp() * 1000)  # a Wednesday
    opened = datetime.fromtimestamp(market.floor(now) / 1000, UTC)
    assert 0 <= now - market.floor(now) < market.interval_ms
    if interval == "W":
        assert opened == datetime(2026, 1, 5, tzinfo=UTC)  # the Monday
    elif interval == "D":
        assert opened == datetime(2026, 1, 7, tzinfo=UTC)
    else:
        minutes = opened.hour * 60 + opened.minute
        assert minutes % int(interval) == 0
        assert (opened.date(), opened.second) == (datetime(2026, 1, 7, tzinfo=UTC).date(), 0)


@pytest.mark.parametrize("interval", ["5", "W"])
def test_ceil_is_the_first_open_at_or_after(interval):
    market = Market(interval=interval)
    opened = market.floor(1_767_793_631_000)
    assert market.ceil(opened) == opened
    assert market.ceil(opened + 1) == opened + market.interval_ms
    assert market.ceil(opened - 1) == opened


def test_bars_per_year_is_365_days_of_bars():
    assert Market(interval="5").bars_per_year == 105_120
    assert Market(interval="W").bars_per_year == pytest.approx(365 / 7, rel=1e-15)


def test_window_counts_its_bars_with_both_ends():
    assert Window(first_ms=0, last_ms=0).bars(300_000) == 1
    assert Window(first_ms=0, last_ms=999 * 300_000).bars(300_000) == 1_000


def covered(market: Market, first_ms: int, last_ms: int, bars: int = WINDOW_BARS) -> list[tuple[int, int]]:
    windows = Window.cover(market, first_ms, last_ms, bars)
    return [(window.first_ms, window.last_ms) for window in windows]


def test_cover_begins_at_multiples_of_its_length_and_is_cut_to_the_range():
    # 2025-01-01 is bar 5,785,632 since 1970: windows of 1,000 begin 632 bars earlier and 368 bars later.
    market, step = Market(interval="5"), 300_000
    asked = covered(market, NEW_YEAR - 1, NEW_YEAR + 1_500 * step + 7)
    spans = [(0, 367), (368, 1_367), (1_368, 1_500)]
    assert asked == [(NEW_YEAR + first * step, NEW_YEAR + last * step) for first, last in spans]
    assert covered(market, NEW_YEAR, NEW_YEAR) == [(NEW_YEAR, NEW_YEAR)]


def test_cover_of_weeks_begins_on_mondays():
    weekly = Market(symbol="BTCUSDT", interval="W")
    (only,) = covered(weekly, NEW_YEAR, NEW_YEAR + 21 * 86_400_000)
    assert only == (1_736_121_600_000, 1_737_331_200_000)  # 2025-01-06, 2025-01-20


def test_cover_is_empty_where_the_range_holds_no_bar_and_refuses_windows_without_one():
    market = Market(interval="5")
    assert covered(market, NEW_YEAR, NEW_YEAR - 300_000) == []
    assert covered(market, NEW_YEAR + 1, NEW_YEAR + 299_999) == []
    with pytest.raises(ConfigError, match="bars must be >= 1, was 0"):
        covered(market, NEW_YEAR, NEW_YEAR, 0)


def test_time_is_written_as_utc():
    assert utc_text(1_767_520_800_000) == "2026-01-04T10:00Z"


def test_candles_are_refused_when_their_columns_differ_in_length():
    columns = dict.fromkeys(("open", "high", "low", "close", "volume", "turnover"), np.ones(2))
    with pytest.raises(ValueError, match=r"candle columns must have one length, were {'start_ms': 3, 'open': 2"):
        Candles(start_ms=np.arange(3), **columns)


def test_candles_are_sliced_and_joined_in_the_order_given(make_candles, equal):
    candles = make_candles(6)
    assert equal(Candles.join([candles[:2], candles[2:]]), candles)
    assert equal(candles[candles.start_ms > candles.start_ms[2]], candles[3:])
    assert len(Candles.join([])) == len(Candles.empty()) == 0


def test_matrix_has_the_columns_that_the_recurrences_read(make_candles):
    candles = make_candles(3)
    matrix = candles.matrix()
    assert matrix.shape == (3, 6)
    for column, name in enumerate(("start_ms", "open", "high", "low", "close", "volume")):
        assert matrix[:, column].tolist() == getattr(candles, name).tolist()


def test_error_says_by_its_class_whether_to_try_again():
    assert issubclass(StoreBusyError, TemporaryError)
    assert not issubclass(StoreError, TemporaryError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(CandleGapError, PipelineError)
    assert RateLimited("slow down", reset_ms=5).reset_ms == 5
    assert Rejected("no", code=10_001).code == 10_001


def test_values_are_frozen():
    instrument = Instrument(
        symbol="BTCUSDT",
        category="linear",
        status="Trading",
        launch_ms=0,
        tick_size="0.1",
        qty_step="0.001",
        min_qty="0.001",
        min_notional="5",
        funding_interval_min=480,
    )
    with pytest.raises(AttributeError, match="cannot assign to field 'tick_size'"):
        instrument.tick_size = "1"
