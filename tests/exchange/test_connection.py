"""Which exchange a configuration opens, and under which label."""

import pytest

from storage.schema import CandleError, ConfigError, Market, Window
from tasks.exchange.connection import ExchangeConfig, connect
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox


@pytest.mark.promise(0)
def test_sources_of_different_worlds_differ(tmp_path):
    file = tmp_path / "candles.csv"
    file.write_text("start_ms,open,high,low,close,volume\n1735689600000,1,1,1,1,1\n")
    other = tmp_path / "other.csv"
    other.write_text("start_ms,open,high,low,close,volume\n1735689600000,1,1,1,1,2\n")
    funding = tmp_path / "funding.csv"
    funding.write_text("start_ms,funding_rate\n1735689600000,1e-4\n")
    sources = {
        ExchangeConfig(exchange="bybit").source,
        ExchangeConfig(exchange="testnet").source,
        ExchangeConfig(exchange="demo").source,
        ExchangeConfig().source,
        ExchangeConfig(synthetic=SyntheticMarket(seed=8)).source,
        ExchangeConfig(candles=str(file)).source,
        ExchangeConfig(candles=str(other)).source,
        ExchangeConfig(candles=str(file), funding=str(funding)).source,
    }
    assert len(sources) == 8


def test_default_is_the_sandbox_and_its_gateway_serves_the_synthetic_market():
    config = ExchangeConfig(synthetic=SyntheticMarket(bars=50))
    with connect(config, Market()) as gateway:
        instrument = gateway.instrument(Market())
        assert gateway.source == config.source
        assert instrument.launch_ms == config.synthetic.start_ms


def test_live_market_has_a_bar_for_each_interval_that_is_over_and_stays_one_source(monkeypatch):
    start_ms = 1_735_689_600_000
    now = {"s": start_ms / 1000 + 300 * 50 + 7}
    monkeypatch.setattr("tasks.exchange.connection.time.time", lambda: now["s"])
    config, market = ExchangeConfig(live=True), Market()
    seen = []
    for passed_s in (0, 60, 300):  # nothing closes within the first minute; then one bar does
        now["s"] += passed_s
        with connect(config, market) as gateway:
            now_ms = gateway.server_time_ms()
            (fetched,) = gateway.fetch_windows(market, Window.cover(market, start_ms, now_ms), now_ms)
            seen.append(fetched.candles)
        assert now_ms == int(now["s"] * 1000)
    assert [len(candles) for candles in seen] == [50, 50, 51]
    assert seen[2].close[:50].tolist() == seen[0].close.tolist()
    assert config.source == ExchangeConfig().source  # a market that has gone on is the same one


def test_live_market_that_has_no_bar_yet_is_refused():
    with (
        pytest.raises(ConfigError, match="a live market must have a closed bar, its first one opens at start_ms=99999"),
        connect(ExchangeConfig(live=True, synthetic=SyntheticMarket(start_ms=9_999_900_000_000)), Market()),
    ):
        pass


def test_running_sandbox_is_talked_to_at_its_address_under_the_label_of_its_market():
    market, law = Market(), SyntheticMarket(bars=50)
    source = ExchangeConfig(synthetic=law).source
    with Sandbox([Listing(candles=generate(law), market=market)], source=source) as sandbox:
        config = ExchangeConfig(synthetic=law, url=sandbox.url)
        for _ in range(2):  # it goes on when a run ends
            with connect(config, market) as gateway:
                assert gateway.server_time_ms() == sandbox.clock.now_ms()
        assert gateway.source == config.source == source


def test_several_names_of_one_sandbox_are_said_to_be_one_market():
    two = [Market(symbol="AAAUSDT"), Market(symbol="BBBUSDT")]
    assert ExchangeConfig().same_candles(two).startswith("AAAUSDT, BBBUSDT have the same candles")
    assert ExchangeConfig().same_candles(two[:1]) == ExchangeConfig(exchange="bybit").same_candles(two) == ""


def test_origin_is_said_in_words():
    assert ExchangeConfig().origin_detail == "drift, k=0.3, psi=0.85, seed 7"
    assert ExchangeConfig(candles="some/where/bars.parquet").origin_detail == "bars.parquet"
    assert ExchangeConfig(exchange="bybit").origin_detail == ""


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"exchange": "bybt"}, "exchange must be sandbox, bybit, testnet or demo, was 'bybt'"),
        ({"exchange": "bybit", "candles": "a.parquet"}, "a candle file is replayed by the sandbox"),
        ({"funding": "f.parquet"}, "a funding file goes with a candle file"),
        ({"exchange": "bybit", "live": True}, "only the synthetic market can be live"),
        ({"candles": "a.parquet", "live": True}, "only the synthetic market can be live"),
        (
            {"url": "http://203.0.113.7:80"},
            "url is of a sandbox on this machine, http://127.0.0.1:<port>, was 'http://203",
        ),
        ({"url": "http://127.0.0.1:80", "exchange": "bybit"}, "with exchange='bybit'; leave it out"),
        ({"requests_per_s": 121}, r"requests_per_s must be in \(0, 120\], was 121"),
        ({"threads": 0}, r"threads must be in 1\.\.32, was 0"),
    ],
)
def test_exchange_config_is_refused_when_a_value_breaks_its_rule(config, message):
    with pytest.raises(ConfigError, match=message):
        ExchangeConfig(**config)


def test_missing_candle_file_is_named(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"nowhere\.parquet"),
        connect(ExchangeConfig(candles=str(tmp_path / "nowhere.parquet")), Market()),
    ):
        pass


def test_candle_file_with_a_step_that_bybit_has_not_is_refused(tmp_path):
    file = tmp_path / "candles.csv"
    rows = "".join(f"{1735689600000 + i * 7 * 60_000},1,1,1,1,1\n" for i in range(5))
    file.write_text("start_ms,open,high,low,close,volume\n" + rows)
    with (
        pytest.raises(CandleError, match=r"at one of Bybit's intervals .*, most of these are 0:07:00 apart"),
        connect(ExchangeConfig(candles=str(file)), Market()),
    ):
        pass


@pytest.mark.parametrize("name", ["candles", "funding"])
def test_empty_name_of_a_file_is_refused_and_no_market_is_made_up_in_its_place(name):
    with pytest.raises(
        ConfigError, match="candles and funding must name a file, one is empty; name it or leave it out"
    ):
        ExchangeConfig(**{"candles": "a.csv", name: ""})


def test_what_a_candle_file_does_not_say_is_told(tmp_path):
    file = tmp_path / "candles.csv"
    file.write_text("Date,Open,High,Low,Close,Volume\n2025-01-01T00:00:00,1,1,1,1,1\n2025-01-01T00:05:00,1,1,1,1,1\n")
    notes = []
    with connect(ExchangeConfig(candles=str(file)), Market(symbol="BTCUSDT"), on_note=notes.append):
        pass
    assert notes == ["candles.csv was read so: start_ms is 'Date'; times are dates, UTC"]
