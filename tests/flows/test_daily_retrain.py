"""A retrain on another day's bars: one fold is trained, and the verdict is that of a home that knew nothing before."""

import json
from pathlib import Path

import pytest

from flows.pipeline import pipeline
from storage.artifacts import ArtifactStore
from storage.schema import Market
from tasks.exchange.connection import ExchangeConfig
from tasks.market.synthetic import SyntheticMarket
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.strategy.recipe import Recipe
from tests.flows.small_jobs import FEW_BASELINES, side_work_left_out

pytestmark = pytest.mark.long
MARKET, DAY, BARS = Market(), 288, 25 * 288
FOLDS = 3
RECIPE = Recipe(
    folds=FoldConfig(folds=FOLDS),
    network=DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True),
    fit=FitConfig(epochs=1),
    baselines=FEW_BASELINES,
)
# What a version holds besides times of day and timings.
CONTENT = ("weights.safetensors", "predictions.parquet", "equity.parquet", "trades.parquet", "backtest.json")


def exchange(bars: int) -> ExchangeConfig:
    return ExchangeConfig(synthetic=SyntheticMarket(bars=bars))


def made(home: Path) -> dict[str, int]:
    return {step: len(list((home / "work").glob(f"{step}-*"))) for step in ("start", "fold", "baselines")}


@pytest.fixture(scope="module")
def days(prefect_api, tmp_path_factory):
    """A home after a first day and after the next one, and another that begins with the next."""
    homes = [tmp_path_factory.mktemp("daily") / name for name in ("daily", "fresh")]
    found = []
    with side_work_left_out(), pytest.MonkeyPatch.context() as patch:
        patch.delenv("DSC_ARTIFACT_URL", raising=False)
        for home, bars in ((homes[0], BARS), (homes[0], BARS + DAY), (homes[1], BARS + DAY)):
            patch.setenv("DSC_HOME", str(home))
            found.append((pipeline(market=MARKET, exchange=exchange(bars), recipe=RECIPE), made(home), home))
    return found


def test_another_day_trains_one_fold_and_finds_the_others(days):
    (_, first, _), (verdict, second, home), _ = days
    assert first == dict.fromkeys(("start", "fold", "baselines"), FOLDS)
    assert {step: second[step] - first[step] for step in first} == dict.fromkeys(first, 1)
    cost = json.loads(ArtifactStore(str(home / "models")).read(verdict.version, "cost.json"))
    assert cost["found"] == sorted(
        f"{what} of fold {number}" if what else f"fold {number}, seed {RECIPE.fit_config.seed}"
        for number in (1, 2)
        for what in ("start", "baselines", "")
    )
    page = ArtifactStore(str(home / "models")).read(verdict.version, "report.html").decode()
    assert "and found: baselines of fold 1; baselines of fold 2; fold 1, seed" in page


@pytest.mark.promise(8)
def test_verdict_is_that_of_a_home_that_knew_nothing_bit_for_bit(days):
    _, daily, fresh = days
    (one, other) = (
        ArtifactStore(str(home / "models")).load(verdict.version, source=exchange(BARS).source).files
        for verdict, _, home in (daily, fresh)
    )
    assert {name: one[name] == other[name] for name in CONTENT} == dict.fromkeys(CONTENT, True)
    assert json.loads(one["baselines.json"])["table"] == json.loads(other["baselines.json"])["table"]
    assert daily[0].version.version[-8:] == fresh[0].version.version[-8:]
    assert [check.passed for check in daily[0].manifest.judgement.checks] == [
        check.passed for check in fresh[0].manifest.judgement.checks
    ]
