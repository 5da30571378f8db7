"""Which bars an ingest asks for, and what it says when there are none."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from storage.schema import DAY_MS, END_OF_TIME_MS, ConfigError, Instrument, Market, Window
from tasks.ingestion.bar_range import BarRange, closed_span, refuse_end_of_market
from tasks.ingestion.quality import QualityConfig

MARKET = Market(symbol="BTCUSDT", interval="5")
STEP = MARKET.interval_ms
LAUNCH = int(datetime(2020, 3, 25, 10, 36, tzinfo=UTC).timestamp() * 1000)
INSTRUMENT = Instrument(
    symbol="BTCUSDT",
    category="linear",
    status="Trading",
    launch_ms=LAUNCH,
    tick_size="0.10",
    qty_step="0.001",
    min_qty="0.001",
    min_notional="5",
    funding_interval_min=480,
)
NOW = int(datetime(2026, 1, 4, 10, 2, 30, tzinfo=UTC).timestamp() * 1000)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def span(**changes) -> Window:
    return closed_span(MARKET, BarRange(**changes), INSTRUMENT, NOW)


def test_range_is_everything_from_the_listing_to_the_last_closed_bar_when_nothing_is_asked():
    assert span() == Window(first_ms=ms("2020-03-25T10:40"), last_ms=ms("2026-01-04T09:55"))


def test_end_is_exclusive_and_a_time_without_zone_is_utc():
    asked = span(start=datetime(2025, 1, 1), end=datetime(2025, 1, 2))
    assert asked == Window(first_ms=ms("2025-01-01T00:00"), last_ms=ms("2025-01-01T23:55"))
    assert asked.bars(STEP) == 288


def test_end_in_the_future_is_the_last_closed_bar():
    assert span(end=datetime(2027, 1, 1, tzinfo=UTC)).last_ms == ms("2026-01-04T09:55")


def test_days_count_back_from_the_end_and_never_before_the_listing():
    assert span(days=1) == Window(first_ms=ms("2026-01-03T10:00"), last_ms=ms("2026-01-04T09:55"))
    ended = span(days=1, end=datetime(2025, 1, 2, tzinfo=UTC))
    assert ended == Window(first_ms=ms("2025-01-01T00:00"), last_ms=ms("2025-01-01T23:55"))
    assert span(days=50_000).first_ms == ms("2020-03-25T10:40")


def test_moving_range_begins_where_it_did_on_most_days_and_never_later_than_asked():
    ends = [datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(365)]
    firsts = [span(days=365, end=end).first_ms for end in ends]
    asked = [ms("2024-01-02T00:00") + day * DAY_MS for day in range(365)]
    assert all(0 <= later - first < 22 * DAY_MS for first, later in zip(firsts, asked, strict=True))
    assert len(set(firsts)) == 1 + 365 // 22 + 1  # 22 days: a sixteenth


def test_days_are_refused_beside_a_start_and_outside_their_bounds():
    with pytest.raises(ConfigError, match="a range has a start or a number of days, had both"):
        BarRange(start=datetime(2025, 1, 1, tzinfo=UTC), days=3)
    with pytest.raises(ConfigError, match=r"days must be in \(0, 100000\), or None, was 0"):
        BarRange(days=0)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({}, "from the listing on"),
        ({"days": 180}, "last 180 days"),
        ({"start": datetime(2025, 1, 1, tzinfo=UTC)}, "from 2025-01-01 on"),
        ({"start": datetime(2025, 1, 1), "end": datetime(2025, 2, 1)}, "from 2025-01-01 to 2025-02-01"),
        ({"days": 2.5, "end": datetime(2025, 2, 1)}, "last 2.5 days to 2025-02-01"),
    ],
)
def test_range_is_said_in_a_few_words(asked, text):
    assert BarRange(**asked).text == text


def test_start_before_the_listing_is_refused_with_the_first_day_there_is():
    with pytest.raises(
        ConfigError, match=r"must not be before the listing, BTCUSDT was listed 2020-03-25T10:40Z, start was 2019"
    ):
        span(start=datetime(2019, 1, 1, tzinfo=UTC))


def test_listing_or_start_at_the_end_of_the_calendar_is_refused_in_one_line():
    last = "9999-12-31T23:59Z"
    with pytest.raises(ConfigError, match=f"has them from {last} to 2026-01-04T10:00Z, asked for {last} to"):
        closed_span(MARKET, BarRange(), replace(INSTRUMENT, launch_ms=END_OF_TIME_MS), NOW)
    with pytest.raises(ConfigError, match=f"asked for {last} to 2026-01-04T10:00Z"):
        span(start=datetime(9999, 12, 31, 23, 58))


def test_start_after_end_is_refused():
    with pytest.raises(
        ConfigError, match="start must be before end, was start=2025-01-02T00:00Z end=2025-01-01T00:00Z"
    ):
        BarRange(start=datetime(2025, 1, 2, tzinfo=UTC), end=datetime(2025, 1, 1, tzinfo=UTC))


def test_range_mixing_times_with_and_without_zone_is_compared_in_utc():
    with pytest.raises(ConfigError, match="start must be before end"):
        BarRange(start=datetime(2025, 1, 2), end=datetime(2025, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("start", [datetime(2026, 1, 4, 10, 0, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)])
def test_range_without_a_closed_bar_is_refused(start):
    with pytest.raises(ConfigError, match="the range must hold a closed bar; BTCUSDT has them from 2020-03-25T10:40Z"):
        span(start=start)


def test_forming_bar_is_left_out_to_the_millisecond():
    on_the_close = ms("2026-01-04T10:05")
    assert closed_span(MARKET, BarRange(), INSTRUMENT, on_the_close - 1).last_ms == ms("2026-01-04T09:55")
    assert closed_span(MARKET, BarRange(), INSTRUMENT, on_the_close).last_ms == ms("2026-01-04T10:00")


def test_weeks_open_on_mondays():
    weekly = replace(MARKET, interval="W")
    asked = closed_span(weekly, BarRange(start=datetime(2025, 1, 1, tzinfo=UTC)), INSTRUMENT, NOW)
    first = datetime.fromtimestamp(asked.first_ms / 1000, UTC)
    assert first.weekday() == 0
    assert first - datetime(2025, 1, 1, tzinfo=UTC) < timedelta(days=7)


def test_quality_config_refuses_a_share_outside_its_range():
    with pytest.raises(ConfigError, match=r"quarantine_limit must be in 0\.\.1, was 1\.5"):
        QualityConfig(quarantine_limit=1.5)
    with pytest.raises(ConfigError, match=r"gap_limit must be in 0\.\.1, was -0\.1"):
        QualityConfig(gap_limit=-0.1)


def test_market_that_trades_no_more_is_refused_with_its_last_candle_and_the_end_to_give():
    closed = replace(INSTRUMENT, status="Closed\x1b[2J")
    last = ms("2025-06-01T08:00")
    said = "its status is Closed .*; its last candle opened 2025-06-01T08:00Z, use --end 2025-06-01T08:05Z"
    with pytest.raises(ConfigError, match=said):
        refuse_end_of_market(MARKET, span(), closed, last)
    refuse_end_of_market(MARKET, span(end=datetime(2025, 6, 1, 8, 5, tzinfo=UTC)), closed, last)
    refuse_end_of_market(MARKET, span(), closed, ms("2026-01-04T09:55"))  # it is being delivered, and still quoted
    with pytest.raises(ConfigError, match="it has no candle of interval 5"):
        refuse_end_of_market(MARKET, span(), closed, None)
