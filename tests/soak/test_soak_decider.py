"""What serves decisions beside the soak decides as a backtest would."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import torch

from storage.artifacts import ArtifactStore
from storage.recent import write_recent
from storage.schema import Market
from storage.settings import Settings
from tasks.execution.accounting import Costs
from tasks.execution.decision import DecisionConfig
from tasks.market.features import WARM_UP
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.architecture import DSCConfig
from tasks.network.dsc import DSCTradingModel
from tasks.network.export import weights_bytes
from tasks.strategy.recipe import Recipe
from tests.champion.example_manifest import MANIFEST
from tests.soak import soak_decider
from tests.soak.soak_exchange import SOURCE

NOW = datetime(2026, 1, 4, 10, tzinfo=UTC)
NETWORK = DSCConfig(hidden_channels=16, num_blocks=2, window=12, newest_step=True, linear_bypass=True)
CANDLES = generate(SyntheticMarket(bars=WARM_UP + 100))
SIDES = {"champion": {"version": "flat"}, "challenger": {"sharpe_ratio": 1.0}}


@pytest.mark.promise(10)
@pytest.mark.parametrize(("category", "lowest"), [("linear", -1), ("spot", 0)])
def test_live_decision_never_shorts_when_the_market_is_spot(category, lowest, tmp_path, monkeypatch):
    settings, market = Settings(home=tmp_path, artifact_url=str(tmp_path / "models")), Market(category=category)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = DSCTradingModel(NETWORK)
    recipe = Recipe(network=NETWORK, costs=Costs(commission=0.0, slippage=0.0), decision=DecisionConfig())
    manifest = replace(MANIFEST, market=market, recipe=recipe.resolved).document()
    store = ArtifactStore(settings.models)
    ref = store.publish(SOURCE, market.slug, "0123abcd", {"weights.safetensors": weights_bytes(model)}, manifest, NOW)
    store.promote(SOURCE, market.slug, ref, SIDES, expected=0, now=NOW)
    monkeypatch.setattr(soak_decider, "time", SimpleNamespace(time=NOW.timestamp))
    decider, targets = soak_decider.Decider(settings, market), []
    for bars in range(WARM_UP + NETWORK.context, len(CANDLES)):
        write_recent(settings.recent, SOURCE, market, CANDLES[:bars])
        targets.append(decider.decide()["target"])
    assert (min(targets), max(targets)) == (lowest, 1)
