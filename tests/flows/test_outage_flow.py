"""An exchange that answers nothing, or something else, ends in one clear line; the next run makes up for it."""

import resource
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest

from flows.ingest import ingest
from flows.monitor import monitor
from flows.retrain import retrain
from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.schema import CandleGapError, DatasetError, Market, StoreError
from tasks import monitoring
from tasks.exchange import connection
from tasks.exchange.connection import ExchangeConfig
from tasks.ingestion.quality import QualityConfig
from tasks.market.labels import LabelConfig
from tasks.market.synthetic import SyntheticMarket
from tasks.market.walk_forward import FoldConfig
from tasks.monitoring import _write_breaches
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.sandbox.faults import Fault, Match
from tasks.sandbox.sandbox import Sandbox
from tasks.strategy.recipe import Recipe
from tests.flows.small_jobs import FEW_BASELINES
from tests.sandbox import actions
from tests.storage.stored import table_hash

MARKET = Market()
EXCHANGE = ExchangeConfig(synthetic=SyntheticMarket(bars=3_000))
RECIPE = Recipe(
    labels=LabelConfig(horizon=4),
    folds=FoldConfig(folds=2),
    network=DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True),
    fit=FitConfig(epochs=1, distil=0.0),
    baselines=FEW_BASELINES,
)


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


@pytest.mark.parametrize(
    "state", ["[]", "{", '{"bybit/x": 1}', '{"bybit/x": [[]]}', '{"bybit/x": "stale"}', "[" * 20_000, ""]
)
def test_monitor_s_memory_that_is_damaged_starts_anew(prefect_api, home, state):
    home.mkdir()
    (home / "monitor.json").write_text(state)
    assert monitor() == []
    assert (home / "monitor.json").read_text() == "{}"
    assert list(home.glob("monitor*")) == [home / "monitor.json"]


@pytest.mark.promise(19)
def test_monitor_goes_on_where_its_memory_cannot_be_written(prefect_api, home, caplog):
    (home / "monitor.json").mkdir(parents=True)
    assert monitor() == []
    assert "monitor.json can't be written (Is a directory); free space, or set DSC_HOME" in caplog.text
    assert list(home.glob("monitor*")) == [home / "monitor.json"]


@pytest.mark.promise(19)
def test_two_monitors_at_once_do_not_meet(home):
    threads = [
        threading.Thread(target=lambda: [_write_breaches(home / "monitor.json", {"bybit/x": ["stale"]}) for _ in "abc"])
        for _ in range(8)
    ]
    home.mkdir()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (home / "monitor.json").read_text() == '{"bybit/x": ["stale"]}'
    assert list(home.glob("monitor*")) == [home / "monitor.json"]


@pytest.mark.promise(19)
def test_session_that_cannot_be_read_leaves_the_other_markets_to_the_monitor(prefect_api, home, monkeypatch):
    def damaged(home, source, market):
        if market == MARKET:
            raise KeyError("source")
        return []

    ingest(market=MARKET, exchange=EXCHANGE)
    longer = replace(MARKET, interval="15")
    ingest(market=longer, exchange=EXCHANGE)
    monkeypatch.setattr(monitoring, "paper_records", damaged)
    said = {found.market: found.breaches for found in monitor()}
    assert said[f"{EXCHANGE.source}/{MARKET.slug}"]["paper"] == "its paper sessions can't be read (KeyError: 'source')"
    assert "paper" not in said[f"{EXCHANGE.source}/{longer.slug}"]


@contextmanager
def no_file_beyond(most_bytes):
    """Let this process write no larger file: as on a full disk, a write fails in its midst."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.promise(1)
def test_run_on_a_full_disk_ends_in_one_line_loses_nothing_and_goes_on_when_there_is_space(
    prefect_api, home, small_jobs
):
    with (
        pytest.raises(StoreError, match="the disk is full, nothing of this step was stored") as told,
        no_file_beyond(1),
    ):
        ingest(market=MARKET, exchange=EXCHANGE)
    assert "\n" not in str(told.value)
    ingest(market=MARKET, exchange=EXCHANGE)
    store = CandleStore(home / "market.duckdb")
    stored = table_hash(store, EXCHANGE.source, MARKET)
    full = r"can't write .*/datasets/.* \(File too large\); raise the file size limit and run it again$"
    with pytest.raises(DatasetError, match=full), no_file_beyond(300_000):
        retrain(market=MARKET, exchange=EXCHANGE, recipe=RECIPE)
    assert list((home / "datasets").iterdir()) == []
    verdict = retrain(market=MARKET, exchange=EXCHANGE, recipe=RECIPE)
    assert ArtifactStore(home / "models").versions(EXCHANGE.source, MARKET.slug) == (verdict.version,)
    assert table_hash(store, EXCHANGE.source, MARKET) == stored
