"""A market that was just listed is served by its pool's network, if such networks forecast markets they never saw."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.evaluate import evaluate
from flows.retrain import retrain
from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.schema import DatasetRef, Market, Window
from tasks.exchange.connection import ExchangeConfig
from tasks.judging import markets_to_hold_out
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.strategy.promotion_rule import PromotionRule
from tasks.strategy.recipe import Recipe
from tests.flows.small_jobs import FEW_BASELINES, side_work_left_out
from tests.storage.stored import commit_window

pytestmark = pytest.mark.long
BARS, NEWEST = 7_200, 2_600  # of the pool's markets; of the listing, of which 2,000 warm up the features
POOL = ("ONEUSDT", "SIXUSDT", "TWOUSDT")
LISTED = Market(symbol="NEWUSDT", interval="60")
EXCHANGE = ExchangeConfig(synthetic=SyntheticMarket(bars=BARS, interval_ms=LISTED.interval_ms))
RECIPE = Recipe(
    folds=FoldConfig(folds=1, test_share=0.3),
    network=DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True, risk_head=True),
    fit=FitConfig(epochs=1),
    baselines=FEW_BASELINES,
    promotion=PromotionRule(calibration_margin=0.1),  # a network that small is no better calibrated
    pool=POOL,
)


def store_candles(home: Path, symbol: str, kind: str, seed: int, first: int = 0) -> None:
    market = replace(LISTED, symbol=symbol)
    bars = generate(replace(EXCHANGE.synthetic, kind=kind, seed=seed))[first:]
    span = Window(first_ms=int(bars.start_ms[0]), last_ms=int(bars.start_ms[-1]))
    store, now_ms = CandleStore(home / "market.duckdb"), span.last_ms + market.interval_ms
    commit_window(store, EXCHANGE.source, market, span, bars, (), now_ms)


def served(home: Path, kind: str):
    """Return what the retrain of a new listing came to, beside three older markets of a kind."""
    for number, symbol in enumerate(POOL):
        store_candles(home, symbol, kind, seed=number)
    store_candles(home, LISTED.symbol, kind, seed=9, first=BARS - NEWEST)
    return retrain(market=LISTED, exchange=EXCHANGE, recipe=RECIPE)


@pytest.fixture(scope="module")
def listed(prefect_api, tmp_path_factory):
    """By kind of market, its home and the verdict."""
    found = {}
    with side_work_left_out(), pytest.MonkeyPatch.context() as patch:
        for name in ("DSC_ARTIFACT_URL", "DSC_DASK_ADDRESS"):
            patch.delenv(name, raising=False)
        for kind in ("null", "drift"):
            home = tmp_path_factory.mktemp(kind) / "home"
            home.mkdir()
            patch.setenv("DSC_HOME", str(home))
            found[kind] = home, served(home, kind)
        yield found


@pytest.mark.promise(13)
def test_listing_is_promoted_where_networks_foresaw_markets_they_never_saw(listed):
    _, verdict = listed["drift"]
    assert verdict.promoted
    assert verdict.checks[0].found.startswith("3 of 3, worst ")
    assert all(check.passed for check in verdict.checks)


@pytest.mark.promise(13)
def test_listing_is_kept_apart_where_nothing_can_be_forecast(listed):
    _, verdict = listed["null"]
    assert not verdict.promoted
    assert verdict.champion == "flat"


def test_terminal_and_report_say_that_others_taught_its_network(listed):
    home, verdict = listed["drift"]
    said = "New listing: no bar of it taught its network"
    assert said in verdict.text()
    store = ArtifactStore(str(home / "models"))
    assert said in store.read(verdict.version, "report.html").decode()


def test_risk_of_a_listing_is_judged_by_markets_that_networks_never_saw(listed):
    home, verdict = listed["drift"]
    assert {check.found[:4] for check in verdict.manifest.risk[:-1]} <= {f"{held} of" for held in range(4)}
    assert verdict.manifest.risk[-1].name == "own days do not refute it"
    page = ArtifactStore(str(home / "models")).read(verdict.version, "report.html").decode()
    assert "Risk of markets that networks never saw" in page
    assert all(f"{symbol}, this model" in page for symbol in POOL)


@pytest.mark.promise(8)
def test_listings_version_gives_its_numbers_again(listed):
    home, verdict = listed["drift"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSC_HOME", str(home))
        again = evaluate(version=str(verdict.version))
    assert (again.differences, again.parity) == ((), 0.0)


def test_networks_are_trained_once_and_of_a_listing_with_a_champion_nobody_is_asked(listed):
    networks = len(POOL) + 1  # each without one, and the pool's
    for kind, asked in (("null", len(POOL)), ("drift", 0)):
        home, verdict = listed[kind]
        assert len([*(home / "work").glob("start-*")]) == networks
        manifest = verdict.manifest
        data = DatasetRef(id=manifest.dataset, source=EXCHANGE.source, market=LISTED)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DSC_HOME", str(home))
            assert len(markets_to_hold_out(data, manifest.recipe)) == asked
