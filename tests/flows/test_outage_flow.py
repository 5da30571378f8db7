"""An exchange that answers nothing, or something else, ends in one clear line; the next run makes up for it."""

from functools import partial

import pytest

from flows.ingest import ingest
from flows.monitor import monitor
from storage.candles import CandleStore
from storage.schema import CandleGapError, Market
from tasks.exchange import connection
from tasks.exchange.connection import ExchangeConfig
from tasks.ingestion.quality import QualityConfig
from tasks.market.synthetic import SyntheticMarket
from tasks.sandbox.faults import Fault, Match
from tasks.sandbox.sandbox import Sandbox
from tests.sandbox import actions

MARKET = Market()
EXCHANGE = ExchangeConfig(synthetic=SyntheticMarket(bars=3_000))


@pytest.fixture
def broken(monkeypatch):
    """Return what makes every candle answer of the sandbox go wrong, until undone."""

    def answer(action):
        plan = [Fault(Match(times=None), action)]
        monkeypatch.setattr(connection, "Sandbox", partial(Sandbox, faults=plan))
        return lambda: monkeypatch.setattr(connection, "Sandbox", Sandbox)

    return answer


@pytest.mark.promise(1)
@pytest.mark.parametrize(("action", "lost"), [(actions.no_rows(), 3_000), (actions.ignored_range(), 2_001)])
def test_outage_is_no_gap_in_the_market(prefect_api, home, broken, action, lost):
    mend = broken(action)
    with pytest.raises(CandleGapError, match=rf"{lost:,} of 3,000 bars are missing .* at most 10\.00% may; run ingest"):
        ingest(market=MARKET, exchange=EXCHANGE)
    mend()
    ingest(market=MARKET, exchange=EXCHANGE)
    store = CandleStore(home / "market.duckdb")
    assert len(store.read(EXCHANGE.source, MARKET)) == 3_000
    assert store.gaps(EXCHANGE.source, MARKET) == []


def test_gaps_are_named_in_a_warning_and_a_higher_limit_goes_on_without_them(prefect_api, home, broken, caplog):
    broken(actions.missing_rows(10, 200))  # in each of the range's four windows
    with pytest.raises(CandleGapError, match=r"SYNTHUSDT linear 5m: 800 of 3,000 bars are missing \(26\.67%\)"):
        ingest(market=MARKET, exchange=EXCHANGE)
    report = ingest(market=MARKET, exchange=EXCHANGE, quality=QualityConfig(gap_limit=0.3))
    assert report.missing > 0
    assert "the tables rejected and gaps say which" in caplog.text
    assert len(CandleStore(home / "market.duckdb").read(EXCHANGE.source, MARKET)) == 2_200


def test_monitor_before_anything_is_stored_has_nothing_to_say(prefect_api, home):
    assert monitor() == []


@pytest.mark.parametrize("state", ["[]", "{", '{"bybit/x": 1}', "[" * 20_000, ""])
def test_monitor_s_memory_that_is_damaged_starts_anew(prefect_api, home, state):
    home.mkdir()
    (home / "monitor.json").write_text(state)
    assert monitor() == []
    assert (home / "monitor.json").read_text() == "{}"
    assert list(home.glob("monitor*")) == [home / "monitor.json"]
