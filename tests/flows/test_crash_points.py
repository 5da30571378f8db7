"""Killed with SIGKILL at every step of a retrain, and started again: the same version, whole, and no step done twice.

One process imports everything once; for each kill it forks, the child runs the steps of `flows.retrain` in their order,
without Prefect, and kills itself at the step that is named. So every attempt finds what the ones before it left.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from storage.artifacts import ArtifactStore
from storage.settings import Settings
from tasks.connection import ExchangeConfig
from tasks.market.synthetic import SyntheticMarket

EXCHANGE = ExchangeConfig(synthetic=SyntheticMarket(bars=6_500))
NAME = "linear-SYNTHUSDT-5"

STEPS = """
import json, os, signal, sys
from pathlib import Path

import prefect.artifacts
nothing = lambda *args, **kwargs: None
for name in ("create_table", "create_markdown", "create_progress", "update_progress"):
    setattr(prefect.artifacts, f"{name}_artifact", nothing)   # there is no server here

from prefect.logging import disable_run_logger

from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.objects import ObjectStore
from storage.schema import Market, Window
from storage.settings import Settings
from storage.workfolder import WorkFolder
from tasks.connection import ExchangeConfig
from tasks.data import BarRange, QualityConfig, build_dataset
from tasks.evaluation import backtest_folds, measure_latency
from tasks.execution.promotion import PromotionRule
from tasks.leak_checks import check_leaks
from tasks.market.samples import FoldConfig
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.architecture import DSCConfig
from tasks.network.fit import FitConfig
from tasks.publishing import judge_version, promote_or_keep, publish_version
from tasks.recipe import Recipe
from tasks.rivalry import compare_baselines, train_baselines
from tasks.training import train_fold

MARKET, EXCHANGE = Market(), ExchangeConfig(synthetic=SyntheticMarket(bars=6_500))
LAX = PromotionRule(min_days=1e-9, min_trades=0, significance=0.999, drawdown_ratio=1e9, max_drawdown=1e9,
                    calibration_margin=9.0, baseline_margin=9.0, deflated_sharpe=1e-9)
RECIPE = Recipe(folds=FoldConfig(folds=2), fit=FitConfig(epochs=1), promotion=LAX,
                network=DSCConfig(hidden_channels=8, num_blocks=2, window=16, newest_step=True, linear_bypass=True))
home = Settings.from_environment().home


def retrain():
    data = build_dataset.fn(EXCHANGE, MARKET, BarRange(), QualityConfig())
    models = [train_fold.fn(data, RECIPE, index) for index in range(RECIPE.models)]
    baselines = [train_baselines.fn(data, RECIPE, index) for index in range(RECIPE.folds.folds)]
    latency = measure_latency.fn(data, RECIPE, models[-1])
    leaks = check_leaks.fn(data, RECIPE, models[-1])
    backtest_folds.fn(data, RECIPE, models)
    rivals = compare_baselines.fn(data, RECIPE, models, baselines)
    judgement = judge_version.fn(data, RECIPE, models, latency, leaks, rivals)
    version = publish_version.fn(EXCHANGE, data, RECIPE, models, latency, leaks, rivals, judgement)
    return promote_or_keep.fn(version, judgement)


def note(line):
    with (home / "trained.txt").open("a") as file:
        file.write(line + "\\n")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step):
    # step: "save <key's word> before|after", "create <part of a path> before|after"; the last run has none.
    kind, what, when = step.split() if step else ("", "", "")
    save, create = WorkFolder.save, ObjectStore.create
    def dying_save(self, key, files):
        new = key not in self
        hit = kind == "save" and new and key.startswith(what)
        if hit and when == "before":
            die()
        save(self, key, files)
        if new:
            note(key)
        if hit:
            die()
    def dying_create(self, path, content):
        hit = kind == "create" and what in path
        if hit and when == "before":
            die()
        create(self, path, content)
        if hit:
            die()
    WorkFolder.save, ObjectStore.create = dying_save, dying_create


def fill():
    candles = generate(EXCHANGE.synthetic)
    window = Window(first_ms=int(candles.start_ms[0]), last_ms=int(candles.start_ms[-1]))
    CandleStore(Settings.from_environment().database).commit_window(
        EXCHANGE.source, MARKET, window, candles, (), int(candles.start_ms[-1]) + MARKET.interval_ms)


fill()
models = ArtifactStore(Settings.from_environment().artifact_url)
report = []
for step in [*json.loads(sys.argv[1]), ""]:
    child = os.fork()
    if child == 0:
        arm(step)
        with disable_run_logger():
            verdict = retrain()
        (home / "verdict.json").write_text(json.dumps([str(verdict.version), verdict.promoted]))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    versions = models.versions(EXCHANGE.source, MARKET.slug)
    for ref in versions:
        models.load(ref, source=EXCHANGE.source)          # raises unless whole
    champion = models.champion(EXCHANGE.source, MARKET.slug)
    report.append({"step": step, "status": os.waitstatus_to_exitcode(status), "versions": len(versions),
                   "champion": champion.sequence})
print(json.dumps(report))
"""

KILLS = [
    "save fold before",  # in the middle of training, as far as the store can tell
    "save fold after",
    "save fold after",  # the second fold
    "save baselines after",
    "save latency before",
    "save leaks after",
    "save backtest before",
    "create trials after",
    "save rivals after",
    "save judgement after",
    "create weights.safetensors after",  # of the version: its first file is there, its manifest is not
    "create manifest.json before",
    "create manifest.json after",
    "create champion before",
    "create champion after",
]


@pytest.mark.promise(13)
def test_retrain_killed_at_every_step_ends_with_one_whole_version_promoted_once(home: Path) -> None:
    home.mkdir()
    command = [sys.executable, "-c", STEPS, json.dumps(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own text
    assert done.returncode == 0, done.stderr
    *killed, last = json.loads(done.stdout.splitlines()[-1])
    assert [(one["step"], one["status"]) for one in killed] == [(step, -9) for step in KILLS]
    assert last["status"] == 0, done.stderr
    manifest, champion = KILLS.index("create manifest.json after"), KILLS.index("create champion after")
    assert [one["versions"] for one in killed] == [int(i >= manifest) for i in range(len(KILLS))]
    assert [one["champion"] for one in killed] == [int(i >= champion) for i in range(len(KILLS))]
    trained = (home / "trained.txt").read_text().split()
    assert len(trained) == len(set(trained))  # nothing that was finished is done again
    words = [key.split("-")[0] for key in trained]
    assert [words.count(word) for word in ("fold", "baselines", "latency", "leaks")] == [2, 2, 1, 1]
    models = ArtifactStore(Settings.from_environment().artifact_url)
    (version,) = models.versions(EXCHANGE.source, NAME)
    assert json.loads((home / "verdict.json").read_text()) == [str(version), True]
    assert [entry.ref for entry in models.history(EXCHANGE.source, NAME)] == [None, version]
