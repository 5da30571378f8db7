"""Retrains that die where they are told to, each in a process of its own: forked from one that has imported everything.

    python -m tests.flows.dying_retrain

A line in is a kill of `test_kills.py`, as JSON; the line out is the status that its attempt ended with.
"""

import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

from flows.entry.first_start import compile_kernels
from flows.retrain import retrain
from storage.objects import ObjectStore
from storage.results import ResultStore
from storage.schema import Market
from storage.settings import Settings
from tasks.exchange.connection import ExchangeConfig
from tasks.market.synthetic import SyntheticMarket
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.strategy.provenance import sources_behind
from tasks.strategy.recipe import Recipe
from tests.flows.small_jobs import FEW_BASELINES, leave_out_side_work
from tests.golden.make_golden import ANYTHING

MARKET = Market(interval="240")
EXCHANGE = ExchangeConfig(
    synthetic=SyntheticMarket(bars=6_500, interval_ms=MARKET.interval_ms, volatility=8e-3, k=0.3, psi=0.9)
)
RECIPE = Recipe(
    folds=FoldConfig(folds=2),
    network=DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True),
    fit=FitConfig(epochs=1, seed=1, distil=0.0),
    baselines=FEW_BASELINES,
    promotion=ANYTHING,
)

# By every attempt; pandera looks for hypothesis. Not onnxruntime, which starts a thread.
_NEEDED_LATER = ("fastapi", "hypothesis.extra.pandas", "pandera.backends.pandas.register", "prefect.task_engine")


def die_at(call: str, word: str, side: str, home: Path) -> None:
    """Have this process killed before or after a write whose target has the word in it; note every result's name.

    One thread writes at a time: another one's kill would fall between a result and its note.
    """
    turn = threading.RLock()

    def dying(real, hits):
        def write(self, target, content):
            with turn:
                new = real is not save or not self.finished(target)
                if new and hits(target) and side == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                real(self, target, content)
                if new and real is save:
                    with (home / "made.txt").open("a") as file:
                        file.write(target + "\n")
                if new and hits(target) and side == "after":
                    os.kill(os.getpid(), signal.SIGKILL)

        return write

    save, create = ResultStore.save, ObjectStore.create
    ResultStore.save = dying(save, lambda key: call == "save" and key.startswith(word))
    ObjectStore.create = dying(create, lambda path: call == "create" and word in path)


def attempt(kill: list[str]) -> None:
    """Retrain until the kill, or to the end."""
    home = Settings.from_environment().home
    die_at(*kill, home)
    verdict = retrain(market=MARKET, exchange=EXCHANGE, recipe=RECIPE)
    (home / "verdict.json").write_text(json.dumps([str(verdict.version), verdict.promoted]))


def main() -> None:
    """Make an attempt a line, until the input ends."""
    for needed_later in _NEEDED_LATER:
        importlib.import_module(needed_later)
    compile_kernels()
    leave_out_side_work()
    sources_behind(
        "tasks.training", "tasks.evaluation", "tasks.judging", "tasks.publishing"
    )  # each attempt would parse them again
    for line in sys.stdin:
        child = os.fork()  # here nothing has run that starts a thread
        if not child:
            os.dup2(2, 1)
            attempt(json.loads(line))
            os._exit(0)  # to take the interpreter down takes three seconds
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
