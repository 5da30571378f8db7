"""The search end to end on stored candles: what it prints, what it keeps, and that it judges nothing."""

import io

import pytest

from flows.ingest import ingest
from flows.search import search
from storage.schema import Market
from storage.trials import Candidate, Trial, TrialLog
from tasks.exchange.connection import ExchangeConfig
from tasks.market.synthetic import SyntheticMarket
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.runs.display import showing
from tasks.strategy import candidates as tried
from tasks.strategy.candidates import SearchSpace
from tasks.strategy.recipe import Recipe

MARKET, FOLDS = Market(), 2
EXCHANGE = ExchangeConfig(synthetic=SyntheticMarket(bars=6_500))
BASE = DSCConfig(hidden_channels=8, num_blocks=1, window=16, linear_bypass=True)
RECIPE = Recipe(folds=FoldConfig(folds=FOLDS), network=BASE, fit=FitConfig(epochs=1, distil=0.0))
SPACE = SearchSpace(
    kernel_sizes=(5,), num_blocks=(), hidden_channels=(), windows=(), blocks=("standard",), scales=(), seeds=(7, 8)
)
NETWORKS, SEEDS = 3, 2  # the base, its longer kernel, its standard twin


@pytest.fixture(scope="module")
def searched(prefect_api, tmp_path_factory):
    """(home, the table, how many trainings it took, the table of a second search, how many that took)."""
    home = tmp_path_factory.mktemp("search") / "home"
    trained, fit = [], tried.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSC_HOME", str(home))
        patch.delenv("DSC_ARTIFACT_URL", raising=False)
        patch.setattr(tried, "fit", lambda network, *rest: trained.append(network) or fit(network, *rest))
        ingest(market=MARKET, exchange=EXCHANGE)
        tables, counts, shown = [], [], io.StringIO()
        for _ in range(2):
            with showing(shown):
                tables.append(search(market=MARKET, exchange=EXCHANGE, recipe=RECIPE, space=SPACE))
            counts.append(len(trained))
        (home / "shown").write_text(shown.getvalue())
        yield home, tables, counts


def test_search_prints_every_network_once_best_first(searched):
    _, (table, _), _ = searched
    header, *rows = [line.split("  ") for line in table.splitlines()]
    assert header[0] == "network"
    assert len({row[0] for row in rows}) == len(rows) == NETWORKS
    column = table.splitlines()[0].index("log-loss")
    losses = [float(line[column:].split()[0]) for line in table.splitlines()[1:]]
    assert losses == sorted(losses)
    assert all(0.5 < loss < 1.5 for loss in losses)


def test_search_says_where_it_is(searched):
    home, _, _ = searched
    stages = [line.partition(" ... ")[0] for line in (home / "shown").read_text().splitlines() if " ... " in line]
    assert stages == ["1/2 dataset", "2/2 networks"] * 2


def test_second_search_finds_every_training_in_the_log(searched):
    _, (first, second), counts = searched
    assert counts == [NETWORKS * SEEDS * FOLDS] * 2
    strip = [[line.split("  ")[0] for line in table.splitlines()] for table in (first, second)]
    assert strip[0] == strip[1]


def test_search_trades_nothing_and_publishes_nothing(searched):
    home, _, _ = searched
    assert TrialLog(str(home / "models"), Trial).entries(EXCHANGE.source, MARKET.slug) == ()
    assert not list((home / "models").rglob("manifest.json"))
    found = TrialLog(str(home / "models"), Candidate).entries(EXCHANGE.source, MARKET.slug)
    assert [candidate.origin for candidate in found] == ["synthetic"] * NETWORKS * SEEDS
