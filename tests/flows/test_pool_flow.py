"""Many markets with one network, from the command to the versions."""

from dataclasses import replace
from pathlib import Path

import pytest
from prefect import flow

from flows.evaluate import evaluate
from flows.pipeline import pipeline
from flows.retrain import pooled, retrain
from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.schema import Market, Window
from storage.trials import Trial, TrialLog
from tasks.champion.manifest import Manifest
from tasks.exchange.connection import ExchangeConfig
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.quality import QualityConfig
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.strategy.recipe import Recipe
from tests.flows.small_jobs import FEW_BASELINES, side_work_left_out
from tests.storage.stored import commit_window

pytestmark = pytest.mark.long
EXCHANGE = ExchangeConfig(synthetic=SyntheticMarket(bars=25 * 288))
SYMBOLS = ("ONEUSDT", "TWOUSDT")
RECIPE = Recipe(
    folds=FoldConfig(folds=2),
    network=DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True),
    fit=FitConfig(epochs=1),
    baselines=FEW_BASELINES,
    pool=("yes",),
)


@pytest.fixture(scope="module")
def ended(prefect_api, tmp_path_factory):
    """A home after a run of two markets with one network, and what each came to."""
    home = tmp_path_factory.mktemp("pool") / "home"
    with side_work_left_out(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSC_HOME", str(home))
        for name in ("DSC_ARTIFACT_URL", "DSC_DASK_ADDRESS"):
            patch.delenv(name, raising=False)
        yield home, pipeline(symbols=SYMBOLS, exchange=EXCHANGE, recipe=RECIPE)


def versions(home: Path) -> list[tuple[Manifest, bytes]]:
    store = ArtifactStore(str(home / "models"))
    refs = [ref for symbol in SYMBOLS for ref in store.versions(EXCHANGE.source, Market(symbol=symbol).slug)]
    files = [store.load(ref, source=EXCHANGE.source) for ref in refs]
    return [
        (Manifest.of(one.manifest, ref), one.files["weights.safetensors"]) for one, ref in zip(files, refs, strict=True)
    ]


def test_every_market_has_a_version_of_one_network_that_names_the_pools_datasets(ended):
    home, outcomes = ended
    (one, weights), (other, same) = versions(home)
    assert weights == same
    assert [manifest.market.symbol for manifest in (one, other)] == [*SYMBOLS]
    assert one.recipe.pool == other.recipe.pool
    assert one.recipe.pool == (f"ONEUSDT:{one.dataset}", f"TWOUSDT:{other.dataset}")
    assert all(outcome.verdict is not None for outcome in outcomes.each)


def test_trial_of_every_market_says_which_pool_it_learned_from(ended):
    home, _ = ended
    for symbol in SYMBOLS:
        (trial,) = TrialLog(str(home / "models"), Trial).entries(EXCHANGE.source, Market(symbol=symbol).slug)
        assert trial.made_from["pool"] == [*SYMBOLS]


def test_the_network_is_trained_once_for_all(ended):
    home, _ = ended
    assert len([*(home / "work").glob("start-*")]) == RECIPE.folds.folds


@pytest.mark.promise(8)
def test_a_pools_version_gives_its_numbers_again(ended):
    _, outcomes = ended
    again = evaluate(version=str(outcomes.each[1].verdict.version))
    assert (again.differences, again.parity) == ((), 0.0)


def test_market_that_can_be_brought_up_to_date_no_more_is_in_the_pool_still(ended):
    home, _ = ended
    bars = generate(EXCHANGE.synthetic)[:5_000]
    span = Window(first_ms=int(bars.start_ms[0]), last_ms=int(bars.start_ms[-1]))
    gone = Market(symbol="GONEUSDT")
    commit_window(
        CandleStore(home / "market.duckdb"), EXCHANGE.source, gone, span, bars, (), span.last_ms + gone.interval_ms
    )

    @flow
    def pool_of(pool: str) -> tuple[str, ...]:
        run = [Market(symbol=symbol) for symbol in ("ONEUSDT", "GONEUSDT", "NEVERUSDT")]
        found = pooled(EXCHANGE, run, BarRange(), QualityConfig(), replace(RECIPE, pool=(pool,)), [])
        return tuple(member.partition(":")[0] for member in found.pool)

    assert pool_of("yes") == ("GONEUSDT", "ONEUSDT")
    assert pool_of("stored") == ("GONEUSDT", "ONEUSDT", "TWOUSDT")


def test_one_market_of_a_named_pool_is_retrained_by_itself(ended):
    home, _ = ended
    started = len([*(home / "work").glob("start-*")])
    verdict = retrain(market=Market(symbol="TWOUSDT"), exchange=EXCHANGE, recipe=replace(RECIPE, pool=SYMBOLS))
    assert verdict.manifest.recipe.pool == versions(home)[0][0].recipe.pool
    assert len([*(home / "work").glob("start-*")]) == started  # the same pool, which was trained
