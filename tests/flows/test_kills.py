"""Killed with SIGKILL at every step of a retrain, and started again: one whole version, and no step done twice.

Every attempt is a process of its own on Prefect's real engine, and dies inside the step that is named. Inside of
publish and promote, `tests/storage/test_store_faults.py` kills at every single line.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.schema import Window
from tasks.champion.looks import looked_at
from tasks.market.synthetic import generate
from tests.flows.dying_retrain import EXCHANGE, MARKET
from tests.storage.stored import commit_window

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]

# What is written, by the first word of a work key or by a part of an object's path; and on which side of it to die.
KILLS = [
    ("save", "fold", "after"),
    ("save", "baselines", "after"),
    ("save", "leaks", "after"),
    ("save", "latency", "before"),
    ("create", "trials", "after"),
    ("create", "looks", "after"),
    ("save", "fold", "after"),  # those of the first seed are there: it is the second one's
    ("create", "manifest.json", "before"),  # every other file of the version is there
    ("create", "champion", "before"),
    ("create", "champion", "after"),
]


@pytest.mark.promise(13)
def test_retrain_killed_at_every_step_ends_with_one_whole_version_promoted_once(prefect_api, home, tmp_path):
    candles = generate(EXCHANGE.synthetic)
    window = Window(first_ms=int(candles.start_ms[0]), last_ms=int(candles.start_ms[-1]))
    store, now_ms = CandleStore(home / "market.duckdb"), window.last_ms + MARKET.interval_ms
    commit_window(store, EXCHANGE.source, MARKET, window, candles, (), now_ms)
    models = ArtifactStore(str(home / "models"))
    seen = []
    command = [sys.executable, "-m", "tests.flows.dying_retrain"]
    environment = os.environ | {"PREFECT_API_URL": get_current_settings().api.url}
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(  # noqa: S603
            command, cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        ) as attempts,
    ):  # fmt: skip
        for kill in [*KILLS, ("", "", "")]:
            print(json.dumps(kill), file=attempts.stdin, flush=True)
            ended = attempts.stdout.readline().strip()
            assert ended == str(-signal.SIGKILL if kill[0] else 0), (kill, (tmp_path / "errors").read_text())
            versions = models.versions(EXCHANGE.source, MARKET.slug)
            for version in versions:
                models.load(version, source=EXCHANGE.source)  # raises unless it is whole
            seen.append((len(versions), models.champion(EXCHANGE.source, MARKET.slug).ref))
    (version,) = models.versions(EXCHANGE.source, MARKET.slug)
    assert seen == [(0, None)] * 8 + [(1, None), (1, version), (1, version)]
    assert [entry.ref for entry in models.history(EXCHANGE.source, MARKET.slug)] == [None, version]
    assert looked_at(models, EXCHANGE.source, MARKET.slug).looks("ffffffff") == 1  # none at the new champion but this
    assert json.loads((home / "verdict.json").read_text()) == [str(version), True]
    made = (home / "made.txt").read_text().split()
    assert len(made) == len(set(made))  # nothing that was finished is done again
    steps = [key.split("-")[0] for key in made]
    assert [steps.count(step) for step in ("fold", "baselines", "latency", "leaks")] == [4, 2, 1, 1]
