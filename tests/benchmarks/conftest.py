"""How every benchmark measures, and what becomes of it: rounds in turn, medians, one table, one JSON file.

A round times each side once, side by side, so that a busy machine slows all of them alike; a figure is the ratio of
the medians, and its spread the quartiles of the rounds' own ratios. pytest-benchmark runs and times the first side;
what it sets up before each of its rounds times the others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from storage.schema import FloatArray
from storage.settings import Settings
from tasks.network.architecture import DSCConfig, preset
from tasks.network.dsc import DSCTradingModel
from tasks.network.engine import Engine
from tasks.network.export import open_session
from tasks.network.folding import fold
from tasks.network.latency import machine_fingerprint
from tasks.network.members import joined, member_config
from tasks.network.onnx_graphs import onnx_plain, onnx_window

FILE_NAME = "bench.json"
QUICK_FILE_NAME = "bench-quick.json"  # so that a quick run never replaces the figures of a whole one


class Side(NamedTuple):
    """One way to do the work.

    Attributes:
        call: Does `units` of it.
        calls: How often in a round: enough to dwarf the clock and the first cold call.
        units: What one call is worth; times are per unit.
    """

    call: Callable[[], object]
    calls: int = 1
    units: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Times:
    """Seconds per unit of every side, round by round."""

    seconds: Mapping[str, FloatArray]

    def median_us(self, side: str) -> float:
        return float(np.median(self.seconds[side])) * 1e6

    def quiet_us(self, side: str) -> float:
        """The quickest tenth's: what a side takes where no neighbour of a shared machine slows the core."""
        return float(np.percentile(self.seconds[side], 10)) * 1e6

    def ratio(self, longer: str, shorter: str) -> float:
        """How many times `shorter`'s time `longer` takes."""
        return self.median_us(longer) / self.median_us(shorter)

    def quartiles(self, longer: str, shorter: str) -> tuple[float, float]:
        low, high = np.percentile(self.seconds[longer] / self.seconds[shorter], [25, 75])
        return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: a figure, its bar if it has one, and what it was taken from."""

    number: int
    key: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    work: str
    quartiles: tuple[float, float] | None = None
    rounds: int = 0
    medians_us: Mapping[str, float] = field(default_factory=dict)
    beside: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        low = -np.inf if self.at_least is None else self.at_least
        high = np.inf if self.at_most is None else self.at_most
        return bool(low <= self.value <= high)

    @property
    def bar(self) -> str:
        if self.at_least is None and self.at_most is None:
            return "stated"
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


def compare(number: int, key: str, times: Times, longer: str, shorter: str, work: str, **rest: Any) -> Line:
    """Return the ratio of two sides' medians; `rest` holds its bar and what stands beside it."""
    return Line(
        number=number,
        key=key,
        value=times.ratio(longer, shorter),
        work=work,
        quartiles=times.quartiles(longer, shorter),
        rounds=len(times.seconds[longer]),
        medians_us={side: times.median_us(side) for side in times.seconds},
        **rest,
    )


class Ledger:
    """What was measured in this run."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.tables: dict[str, list[dict[str, Any]]] = {}

    def enter(self, *lines: Line) -> None:
        """Keep lines, met or missed, and fail the test that measured them where one was missed."""
        self.lines += lines
        missed = [
            f"{line.key} must be {line.bar}, was {line.value:.4g} ({line.work})" for line in lines if not line.met
        ]
        assert not missed, "; ".join(missed)

    def document(self) -> dict[str, Any]:
        figures = {line.key: line.value for line in self.lines}
        details = {line.key: asdict(line) | {"met": line.met} for line in self.lines}
        return {"machine": machine_fingerprint()} | figures | self.tables | {"details": details}

    def table(self) -> Iterator[str]:
        yield f"{'#':>2}  {'figure':<22}{'measured':>10}  {'bar':<9}{'met':<5}{'quartiles':<18}medians"
        for line in sorted(self.lines, key=lambda line: (line.number, line.key)):
            spread = f"{line.quartiles[0]:.4g} .. {line.quartiles[1]:.4g}" if line.quartiles else ""
            medians = ", ".join(f"{side} {_duration(us)}" for side, us in line.medians_us.items())
            met = "yes" if line.met else "NO"
            yield f"{line.number:>2}  {line.key:<22}{line.value:>10.4g}  {line.bar:<9}{met:<5}{spread:<18}{medians}"
            for name, value in line.beside.items():
                yield f"{'':>26}beside: {name} {value if isinstance(value, str) else f'{value:.4g}'}"
        for name, rows in self.tables.items():
            yield ""
            yield name
            header = list(rows[0])
            yield "  " + "".join(f"{column:>16}" for column in header)
            for row in rows:
                cells = (f"{row[column]:,.2f}" if isinstance(row[column], float) else row[column] for column in header)
                yield "  " + "".join(f"{cell:>16}" for cell in cells)


_LEDGER = pytest.StashKey[Ledger]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEDGER] = Ledger()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ledger = config.stash[_LEDGER]
    if not ledger.lines:
        return
    settings = Settings.from_environment()
    path = settings.prepare_home() / (QUICK_FILE_NAME if config.option.markexpr else FILE_NAME)
    path.write_text(json.dumps(ledger.document(), indent=1) + "\n")
    terminalreporter.section("speed: ratios of medians, rounds in turn, one thread unless said")
    for text in ledger.table():
        terminalreporter.write_line(text)
    machine = machine_fingerprint()
    terminalreporter.write_line("")
    terminalreporter.write_line(f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; {path}")


@pytest.fixture(scope="session")
def ledger(request: pytest.FixtureRequest) -> Ledger:
    return request.config.stash[_LEDGER]


@pytest.fixture
def race(benchmark: BenchmarkFixture) -> Callable[..., Times]:
    """Return what times sides by name in turn, round after round, on one thread of torch."""
    torch.set_num_threads(1)

    def run(sides: Mapping[str, Side], rounds: int, *, warm: bool = True) -> Times:
        (first, ours), *others = sides.items()
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for side in sides.values() if warm else ():
            side.call()

        def time_others() -> None:
            for name, side in others:
                start = time.perf_counter()
                _repeat(side)
                taken[name].append(time.perf_counter() - start)

        benchmark.pedantic(lambda: _repeat(ours), setup=time_others, rounds=rounds)
        taken[first] = list(benchmark.stats.stats.data)
        return Times(seconds={name: np.array(taken[name]) / (side.calls * side.units) for name, side in sides.items()})

    return run


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network with random weights, which leave about half of its channels at 0 as training does, and its bars."""

    config: DSCConfig
    model: DSCTradingModel
    weights: Mapping[str, Any]
    bars: FloatArray

    @classmethod
    def of(cls, name: str, bars: int, **changes: Any) -> Network:
        config = replace(preset(name), padding="history", **changes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            members = [DSCTradingModel(member_config(config)) for _ in range(config.members)]
            model = joined(members, config) if len(members) > 1 else members[0].eval()  # as training leaves it
        weights = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        table = np.random.default_rng(7).normal(size=(bars, config.input_features))
        return cls(config=config, model=model, weights=weights, bars=table)

    def engine(self, markets: int = 1) -> Engine:
        """An engine whose every market has seen its context."""
        engine = Engine.from_weights(self.config, self.weights, markets)
        for market in range(markets):
            engine.warm_up(self.bars[: self.config.context], market)
        return engine

    def onnx(self, *, folded: bool = False) -> Any:
        graph = onnx_window(fold(self.config, self.weights)) if folded else onnx_plain(self.config, self.weights)
        return open_session(graph)

    @property
    def window(self) -> torch.Tensor:
        """(1, F, context): the newest one."""
        return torch.from_numpy(self.bars[-self.config.context :].T.copy()).float()[None]


@pytest.fixture(scope="session")
def make_network() -> Callable[..., Network]:
    return Network.of


@pytest.fixture(scope="session")
def side() -> type[Side]:
    return Side


@pytest.fixture(scope="session")
def line() -> type[Line]:
    return Line


@pytest.fixture(scope="session", name="compare")
def compare_fixture() -> Callable[..., Line]:
    return compare


def _repeat(side: Side) -> None:
    for _ in repeat(None, side.calls):
        side.call()


def _duration(microseconds: float) -> str:
    for limit, unit in ((1e3, "us"), (1e6, "ms")):
        if microseconds < limit:
            return f"{microseconds / limit * 1e3:.3g} {unit}"
    return f"{microseconds / 1e6:.3g} s"
