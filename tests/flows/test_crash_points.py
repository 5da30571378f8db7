"""Killed with SIGKILL at every step of a retrain, and started again: the same version, whole, and no step done twice.

One process imports everything once; for each kill it forks, the child runs the steps of `flows.retrain` in their order
without Prefect's engine and kills itself at the step that is named. So every attempt finds what earlier ones left.
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

from prefect import Task
from prefect.logging import disable_run_logger

import flows.retrain
for name, step in list(vars(flows.retrain).items()):
    if isinstance(step, Task):
        setattr(flows.retrain, name, step.fn)   # the flow's own order, without Prefect

from tasks import evaluation
evaluation.time_networks = lambda networks, on_progress: []   # half of the time, and no part of what is tested

from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.objects import ObjectStore
from storage.schema import Market, Window
from storage.settings import Settings
from storage.workfolder import WorkFolder
from tasks.connection import ExchangeConfig
from tasks.data import BarRange, QualityConfig
from tasks.execution.promotion import PromotionRule
from tasks.market.samples import FoldConfig
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.architecture import DSCConfig
from tasks.network.fit import FitConfig
from tasks.recipe import Recipe

MARKET, EXCHANGE = Market(), ExchangeConfig(synthetic=SyntheticMarket(bars=6_500))
LAX = PromotionRule(min_days=1e-9, min_trades=0, significance=0.999, drawdown_ratio=1e9, max_drawdown=1e9,
                    calibration_margin=9.0, baseline_margin=9.0, deflated_sharpe=1e-9)
RECIPE = Recipe(folds=FoldConfig(folds=2), fit=FitConfig(epochs=1), promotion=LAX,
                network=DSCConfig(hidden_channels=8, num_blocks=2, window=16, newest_step=True, linear_bypass=True))
home = Settings.from_environment().home


def retrain():
    data = flows.retrain.build_dataset(EXCHANGE, MARKET, BarRange(), QualityConfig())
    return flows.retrain.judged_version(EXCHANGE, data, flows.retrain.note_quality(data), RECIPE)


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

# Inside of publish and promote, `tests/storage/test_artifacts.py` kills at every single line.
KILLS = [
    "save fold after",
    "save baselines after",
    "save leaks after",
    "create trials after",
    "create manifest.json before",  # every other file of the version is there
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
    assert [(one["step"], one["status"]) for one in killed] == [(step, -9) for step in KILLS], done.stderr
    assert last["status"] == 0, done.stderr
    assert [one["versions"] for one in killed] == [0, 0, 0, 0, 0, 1, 1]
    assert [one["champion"] for one in killed] == [0, 0, 0, 0, 0, 0, 1]
    trained = (home / "trained.txt").read_text().split()
    assert len(trained) == len(set(trained))  # nothing that was finished is done again
    words = [key.split("-")[0] for key in trained]
    assert [words.count(word) for word in ("fold", "baselines", "latency", "leaks")] == [2, 2, 1, 1]
    models = ArtifactStore(Settings.from_environment().artifact_url)
    (version,) = models.versions(EXCHANGE.source, NAME)
    assert json.loads((home / "verdict.json").read_text()) == [str(version), True]
    assert [entry.ref for entry in models.history(EXCHANGE.source, NAME)] == [None, version]
