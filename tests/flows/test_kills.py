"""Killed with SIGKILL at every step of a retrain, and started again: one whole version, and no step done twice.

Every attempt is a process of its own on Prefect's real engine, and dies inside the step that is named. Inside of
publish and promote, `tests/storage/test_artifacts.py` kills at every single line.
"""

import json
import os
import signal
import subprocess
import sys

import pytest
from prefect.settings import get_current_settings

from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.schema import Market, Window
from tasks.exchange.connection import ExchangeConfig
from tasks.market.synthetic import SyntheticMarket, generate

MARKET = Market(interval="240")
LAW = {"bars": 6_500, "interval_ms": MARKET.interval_ms, "volatility": 8e-3, "k": 0.3, "psi": 0.9}
EXCHANGE = ExchangeConfig(synthetic=SyntheticMarket(**LAW))

# What is written, by the first word of a work key or by a part of an object's path; and on which side of it to die.
KILLS = [
    ("save", "fold", "after"),
    ("save", "baselines", "after"),
    ("save", "latency", "before"),
    ("save", "leaks", "after"),
    ("create", "trials", "after"),
    ("save", "fold", "after"),  # those of the first seed are there: it is the second one's
    ("create", "manifest.json", "before"),  # every other file of the version is there
    ("create", "champion", "before"),
    ("create", "champion", "after"),
]

ATTEMPT = """
import json, os, signal, sys
from flows.retrain import retrain
from storage.objects import ObjectStore
from storage.results import ResultStore
from storage.schema import Market
from storage.settings import Settings
from tasks.strategy import speed
from tasks.exchange.connection import ExchangeConfig
from tasks.strategy.promotion_rule import PromotionRule
from tasks.market.samples import FoldConfig
from tasks.market.synthetic import SyntheticMarket
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.strategy.recipe import Recipe

speed.measure_latency = lambda networks, on_progress: []   # half of the time, and no part of what is tested
LAX = PromotionRule(
    min_days=1e-9, min_trades=0, significance=0.999, drawdown_ratio=1e9, max_drawdown=1e9, calibration_margin=9.0,
    baseline_margin=9.0, deflated_sharpe=1e-9,
)
NETWORK = DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True)
RECIPE = Recipe(folds=FoldConfig(folds=2), network=NETWORK, fit=FitConfig(epochs=1, seed=1), promotion=LAX)
home = Settings.from_environment().home
law, (call, word, side) = map(json.loads, sys.argv[1:])

def dying(real, hits):
    def write(self, target, content):
        new = real is not save or not self.finished(target)
        if new and hits(target) and side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, target, content)
        if new and real is save:
            with (home / "made.txt").open("a") as file:
                file.write(target + "\\n")
        if new and hits(target) and side == "after":
            os.kill(os.getpid(), signal.SIGKILL)
    return write

save, create = ResultStore.save, ObjectStore.create
ResultStore.save = dying(save, lambda key: call == "save" and key.startswith(word))
ObjectStore.create = dying(create, lambda path: call == "create" and word in path)
exchange = ExchangeConfig(synthetic=SyntheticMarket(**law))
verdict = retrain(market=Market(interval="240"), exchange=exchange, recipe=RECIPE)
(home / "verdict.json").write_text(json.dumps([str(verdict.version), verdict.promoted]))
"""


@pytest.mark.promise(13)
def test_retrain_killed_at_every_step_ends_with_one_whole_version_promoted_once(prefect_api, home):
    candles = generate(EXCHANGE.synthetic)
    window = Window(first_ms=int(candles.start_ms[0]), last_ms=int(candles.start_ms[-1]))
    CandleStore(home / "market.duckdb").commit_window(
        EXCHANGE.source, MARKET, window, candles, (), window.last_ms + MARKET.interval_ms
    )
    models = ArtifactStore(str(home / "models"))
    seen = []
    for kill in [*KILLS, ("", "", "")]:
        ended = subprocess.run(  # noqa: S603 - our own text
            [sys.executable, "-c", ATTEMPT, json.dumps(LAW), json.dumps(kill)],
            env=os.environ | {"PREFECT_API_URL": get_current_settings().api.url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == (-signal.SIGKILL if kill[0] else 0), (kill, ended.stderr)
        versions = models.versions(EXCHANGE.source, MARKET.slug)
        for version in versions:
            models.load(version, source=EXCHANGE.source)  # raises unless it is whole
        seen.append((len(versions), models.champion(EXCHANGE.source, MARKET.slug).ref))
    (version,) = models.versions(EXCHANGE.source, MARKET.slug)
    assert seen == [(0, None)] * 7 + [(1, None), (1, version), (1, version)]
    assert [entry.ref for entry in models.history(EXCHANGE.source, MARKET.slug)] == [None, version]
    assert json.loads((home / "verdict.json").read_text()) == [str(version), True]
    made = (home / "made.txt").read_text().split()
    assert len(made) == len(set(made))  # nothing that was finished is done again
    steps = [key.split("-")[0] for key in made]
    assert [steps.count(step) for step in ("fold", "baselines", "latency", "leaks")] == [4, 2, 1, 1]
