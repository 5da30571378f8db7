"""Row 16: what Prefect adds to a warm ingest of many markets, from a new process to its end, on a running server."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from prefect.logging import disable_run_logger

from flows.entry.child import ROOT, end_family
from flows.entry.environment import client_environment, server_environment
from flows.entry.server import HOST, bound_socket, start_server, wait_until_up
from storage.candles import CandleStore
from storage.schema import Market
from tasks import data
from tasks.data import ingest_candles, ingest_funding
from tasks.exchange.connection import ExchangeConfig
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.quality import QualityConfig
from tasks.market.synthetic import SyntheticMarket
from tasks.runs.progress import Tell

SYMBOLS = tuple(f"M{i:02d}USDT" for i in range(20))
EXCHANGE = ExchangeConfig(synthetic=SyntheticMarket(bars=1_000))
STEP, STORED, ROUNDS = timedelta(minutes=5), 900, 2
ALLOWED_S = 8.0  # for a new process, its imports and its first contact with the server
SERVER_START_S = 180.0


@contextmanager
def silent(title: str) -> Iterator[Tell]:
    """Report progress to nobody."""
    yield lambda share, note="": None


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The environment of a flow whose server runs in a process of its own."""
    home, secret, log = tmp_path / "flow", "dsc:of-this-benchmark", tmp_path / "server.log"
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with bound_socket(HOST, 0) as listening:
        url = f"http://{HOST}:{listening.getsockname()[1]}/api"
        process = start_server(listening, server_environment(home, url, secret), log)
    wait_until_up(process, url, SERVER_START_S, log)
    yield client_environment(home, url, secret)
    end_family(process)


def test_warm_ingest_of_many_markets_costs_little_more_than_its_calls(race, ledger, line, side, server, tmp_path):
    began = datetime.fromtimestamp(EXCHANGE.synthetic.start_ms / 1000, UTC)
    flow_ends, call_ends = ((began + (STORED + i) * STEP for i in count()) for _ in range(2))

    logs = [""]

    def flow() -> None:
        command = [sys.executable, "-m", "flows.ingest", "--symbols", ",".join(SYMBOLS)]
        command += ["--synthetic.bars", str(EXCHANGE.synthetic.bars), "--end", next(flow_ends).isoformat()]
        done = subprocess.run(command, env=server, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stderr[-2_000:]
        logs.append((tmp_path / "flow/logs/run.log").read_text())

    def calls() -> None:
        bars = BarRange(end=next(call_ends))
        for symbol in SYMBOLS:
            report = ingest_candles.fn(EXCHANGE, Market(symbol=symbol), bars, QualityConfig())
            ingest_funding.fn(EXCHANGE, report)

    with pytest.MonkeyPatch.context() as patch, disable_run_logger():
        patch.setenv("DSC_HOME", str(tmp_path / "calls"))
        patch.setattr(data, "show_table", lambda *args: None)
        patch.setattr(data, "progress_of", silent)
        calls()
        flow()
        times = race({"flow": side(flow), "calls": side(calls)}, rounds=ROUNDS, warm=False)

    stored = {
        coverage.market.symbol: coverage.bars for coverage in CandleStore(tmp_path / "flow/market.duckdb").coverage()
    }
    assert stored == dict.fromkeys(SYMBOLS, STORED + ROUNDS)
    last = logs[-1].removeprefix(logs[-2])
    assert len(re.findall(r"inserted=1 ", last)) == len(SYMBOLS)  # one new bar each, and nothing else

    seconds = {name: times.median_us(name) / 1e6 for name in ("flow", "calls")}
    ledger.enter(
        line(
            number=16,
            key="prefect_ingest",
            value=(seconds["flow"] - ALLOWED_S) / seconds["calls"],
            at_most=3.0,
            work=f"one new bar of {len(SYMBOLS)} markets, {ALLOWED_S:g} s for the process taken off",
            rounds=ROUNDS,
            medians_us={name: 1e6 * value for name, value in seconds.items()},
            beside={"ms that Prefect adds a task, process included": 1e3 * (seconds["flow"] - seconds["calls"]) / 40},
        )
    )
