"""How known answers are entered, how a mutated copy of the project is judged, and what becomes of both.

`make verify` ends with one table of the answers, one of the mutations, and both as $DSC_HOME/verify.json.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from storage.settings import Settings
from tasks.network.latency import machine_fingerprint

FILE_NAME = "verify.json"
ROOT = Path(__file__).parents[2]
KEYS = (
    "ar_edge", "gated_edge", "gated_logistic", "null_hits", "fair_null_hits", "drift_z", "mutations",
    "mutations_caught", "real_gap_5m", "real_gap_15m", "real_gap", "vol_qlike_vs_har", "vol_qlike_p_max", "vol_r2_min",
    "vol_exceed_max", "vol_vs_lightgbm_qlike", "vol_planted",
)  # fmt: skip
"""Figures that the file always names; null where this run did not measure one."""

_COPIED = ("flows", "storage", "tasks", "tests", "pyproject.toml")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One line of the table of known answers; texts as they are printed.

    Attributes:
        market: The market, or the method that is checked.
        what: What is compared.
        optimum: What is known: a closed form, another library's number, a nominal rate.
        reached: What the project says.
        interval: 95 % interval of that, or nothing where it is exact.
        bar: What must hold.
        met: Whether it does.
    """

    market: str
    what: str
    optimum: str
    reached: str
    interval: str = ""
    bar: str
    met: bool


class Mutation(NamedTuple):
    """One fault, planted by exchanging one text in one file, and the test that must go red."""

    name: str
    file: str
    old: str
    new: str
    test: str


class Caught(NamedTuple):
    """What became of a mutation: which tests failed, as pytest names them."""

    mutation: Mutation
    failed: tuple[str, ...]
    output: str


class Ledger:
    """What was verified in this run."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.mutations: list[Caught] = []
        self.figures: dict[str, float | int | None] = dict.fromkeys(KEYS)
        self.started = time.perf_counter()

    def enter(self, *answers: Answer, **figures: float) -> None:
        """Keep answers and figures, and fail the test that found them where one was missed."""
        self.answers += answers
        self.figures |= figures
        missed = [f"{a.market}, {a.what}: must be {a.bar}, was {a.reached}" for a in answers if not a.met]
        assert not missed, "; ".join(missed)

    def enter_mutation(self, caught: Caught) -> None:
        """Keep a mutation, and fail its test where nothing went red."""
        self.mutations.append(caught)
        self.figures["mutations"] = len(self.mutations)
        self.figures["mutations_caught"] = sum(bool(one.failed) for one in self.mutations)
        assert caught.failed, f"{caught.mutation.name}: {caught.mutation.test} stayed green\n{caught.output}"

    def document(self) -> dict[str, Any]:
        planted = [one.mutation._asdict() | {"failed": one.failed} for one in self.mutations]
        return {
            "machine": machine_fingerprint(),
            "seconds": round(time.perf_counter() - self.started, 1),
            "processor_seconds": round(processor_seconds(), 1),
            **self.figures,
            "answers": [asdict(answer) for answer in self.answers],
            "planted": planted,
        }

    def table(self) -> Iterator[str]:
        header = ("known answer", "what", "optimum", "reached", "95 % interval", "bar", "met")
        rows = [
            (a.market, a.what, a.optimum, a.reached, a.interval, a.bar, "yes" if a.met else "NO") for a in self.answers
        ]
        yield from _columns([header, *rows])
        if self.mutations:
            yield ""
            header = ("planted fault", "in", "caught by")
            rows = [
                (m.name, m.file, ", ".join(failed) if failed else f"NOTHING ({m.test} stayed green)")
                for m, failed, _ in self.mutations
            ]
            yield from _columns([header, *rows])


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def processor_seconds() -> float:
    """Return what this process and those it started have used so far: what a busy machine does not change."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


_LEDGER = pytest.StashKey[Ledger]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEDGER] = Ledger()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ledger = config.stash[_LEDGER]
    if not ledger.answers:  # `make test` plants a few faults and measures nothing
        return
    path = Settings.from_environment().prepare_home() / FILE_NAME
    before = json.loads(path.read_text()) if path.exists() else {}
    panel = {name: figure for name, figure in before.items() if name.startswith(("panel_", "pool_"))}
    found = panel | ledger.document()  # `make verify-panel` writes those first
    path.write_text(json.dumps(found, indent=1, default=lambda number: number.item()) + "\n")
    terminalreporter.section("known answers, and faults that were planted")
    for line in ledger.table():
        terminalreporter.write_line(line)
    seconds = time.perf_counter() - ledger.started
    terminalreporter.write_line(f"\n{seconds:.0f} s, {processor_seconds():.0f} s of processor time; {path}")


@pytest.fixture(scope="session")
def ledger(request: pytest.FixtureRequest) -> Ledger:
    return request.config.stash[_LEDGER]


@pytest.fixture(scope="session")
def answer() -> type[Answer]:
    return Answer


@pytest.fixture(scope="session")
def workers() -> Iterator[ThreadPoolExecutor]:
    """As many processes at a time as there are processors; each test waits for its own."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def measure(workers: ThreadPoolExecutor) -> Callable[..., Future[Any]]:
    """Return what starts the training on a market in a process of its own and promises its figures."""

    def start(script: str = "known_market.py", **asked: Any) -> Future[Any]:
        return workers.submit(_measured, script, json.dumps(asked))

    return start


@pytest.fixture(scope="session")
def plant(workers: ThreadPoolExecutor) -> Callable[[Mutation], Future[Caught]]:
    """Return what plants a fault in a copy of the project and promises which of its tests went red."""
    return lambda mutation: workers.submit(_judged, mutation)


@pytest.fixture(scope="session")
def mutation() -> type[Mutation]:
    return Mutation


def _measured(script: str, asked: str) -> Any:
    done = _python([str(Path(__file__).with_name(script)), asked], ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _judged(mutation: Mutation) -> Caught:
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder)
        for name in _COPIED:  # with the compiled code beside it: what a mutation does not touch need not be built again
            source = ROOT / name
            shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy2(source, copy / name)
        file = copy / mutation.file
        text = file.read_text()
        assert text.count(mutation.old) == 1, f"{mutation.file} must hold {mutation.old!r} once to plant a fault there"
        file.write_text(text.replace(mutation.old, mutation.new))
        done = _python(["-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *mutation.test.split()], copy)
        lines = done.stdout.splitlines()
        names = (line.partition("::")[2] for line in lines if line.startswith("FAILED "))
        failed = tuple(sorted({re.split(r"[\[ ]", name)[0] for name in names}))  # they ran in a random order
        # 1: tests were collected and run, and some failed. Anything else is a copy that does not even start.
        return Caught(mutation, failed if done.returncode == 1 else (), done.stdout[-2_000:] + done.stderr[-2_000:])


def _python(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(  # noqa: S603  # our own files, by our own interpreter
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
