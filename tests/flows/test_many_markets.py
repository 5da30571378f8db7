"""Many markets: in one process, and on a Dask cluster of workers that share nothing but the artifact URL."""
# ruff: noqa: S603 - every process that is started is our own

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import duckdb
import fsspec
import pytest
from cyclopts import Token
from prefect import flow

from flows.entry.parameters import Symbols
from flows.ingest import ingest
from flows.pipeline import pipeline, retrain_market
from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.schema import ClusterError, ConfigError, DatasetRef, Market, MarketsError, Window
from tasks.exchange.connection import ExchangeConfig
from tasks.fan_out import alone_on_equal_code, distinct, run_each
from tasks.ingestion.bar_range import BarRange
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.strategy.provenance import project_hash
from tasks.strategy.recipe import Recipe
from tests.flows import small_jobs
from tests.flows.small_jobs import FEW_BASELINES, side_work_left_out
from tests.storage.stored import commit_window

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
MARKET = Market()
EXCHANGE = ExchangeConfig(synthetic=SyntheticMarket(bars=4_500))
RECIPE = Recipe(
    folds=FoldConfig(folds=2),
    network=DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True),
    fit=FitConfig(epochs=1, distil=0.0),
    baselines=FEW_BASELINES,
)
JOB = {"market": MARKET, "exchange": EXCHANGE, "recipe": RECIPE}
# What a version holds besides times of day and timings, which no two machines share.
CONTENT = ("weights.safetensors", "predictions.parquet", "equity.parquet", "trades.parquet", "backtest.json")


def content(store: ArtifactStore, name: str) -> dict:
    (ref,) = store.versions(EXCHANGE.source, name)
    files = store.load(ref, source=EXCHANGE.source).files
    return {file: files[file] for file in CONTENT} | {"hash": ref.version[-8:]}


@pytest.fixture(scope="module")
def one_machine(prefect_api, tmp_path_factory):
    """Two markets in this process, the candles of one damaged: the flow's error, and the store of the versions."""
    home = tmp_path_factory.mktemp("one") / "home"
    with side_work_left_out(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSC_HOME", str(home))
        for name in ("DSC_ARTIFACT_URL", "DSC_DASK_ADDRESS"):
            patch.delenv(name, raising=False)
        store_a_bar_twice(home, Market(symbol="BADUSDT"))
        with pytest.raises(MarketsError) as caught:
            pipeline(symbols=("BADUSDT", "ONEUSDT"), **JOB)
    return str(caught.value), ArtifactStore(str(home / "models"))


def store_a_bar_twice(home: Path, market: Market) -> None:
    """Damage one market's candles as no ingest could."""
    first = EXCHANGE.synthetic.start_ms
    bar = generate(EXCHANGE.synthetic)[:1]
    window = Window(first_ms=first, last_ms=first)
    commit_window(
        CandleStore(home / "market.duckdb"), EXCHANGE.source, market, window, bar, (), first + market.interval_ms
    )
    with duckdb.connect(home / "market.duckdb") as con:
        con.execute("insert into candles from candles")


class Cluster:
    """A Dask scheduler on 127.0.0.1 and its workers: processes with a folder each, and no home in common."""

    def __init__(self, folder: Path, port: int, **environment: str) -> None:
        self.address = f"tcp://127.0.0.1:{port}"
        self._folder, self._environment, self._children = folder, environment, []
        scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", str(port))
        while scheduler.poll() is None:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)

    def start(self, kind: str, *arguments: str, **environment: str) -> subprocess.Popen:
        elsewhere = self._folder / f"host-{len(self._children)}"
        elsewhere.mkdir(parents=True)
        own = {"DSC_HOME": str(elsewhere / "home"), "PYTHONPATH": str(ROOT), **self._environment, **environment}
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments, "--no-dashboard"]
        with (elsewhere / "log").open("wb") as log:
            child = subprocess.Popen(
                command, cwd=elsewhere, env=os.environ | own, stdout=log, stderr=log, start_new_session=True
            )
        self._children.append(child)
        return child

    def start_worker(self, **environment: str) -> subprocess.Popen:
        arguments = ("--nthreads", "1", "--no-nanny", "--preload", small_jobs.__name__)
        return self.start("worker", self.address, *arguments, **environment)

    def close(self) -> None:
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def test_one_markets_failure_ends_the_flow_failed_and_stops_no_other(one_machine):
    error, store = one_machine
    assert error.startswith("1 of 2 markets failed, the others are done: BADUSDT linear 5m (StoreError: ")
    assert len(store.versions(EXCHANGE.source, "linear-ONEUSDT-5")) == 1
    assert store.versions(EXCHANGE.source, "linear-BADUSDT-5") == ()


def test_run_of_many_markets_leaves_a_page_of_them_all_even_if_one_failed(one_machine):
    _, store = one_machine
    (ref,) = store.versions(EXCHANGE.source, "linear-ONEUSDT-5")
    place = Path(store.place.url).parent / f"markets-{EXCHANGE.source.replace(':', '-')}.html"
    page = place.read_text(encoding="utf-8")
    assert Path(store.location(ref, "report.html")).as_uri() in page
    assert "Can't be shown" not in page


def test_ingest_of_many_markets_goes_on_after_one_that_fails(prefect_api, home):
    store_a_bar_twice(home, Market(symbol="BADUSDT"))
    with pytest.raises(MarketsError, match=r"1 of 3 markets failed, the others are done: BADUSDT linear 5m \(StoreErr"):
        ingest(symbols=("ONEUSDT", "BADUSDT", "TWOUSDT"), market=MARKET, exchange=EXCHANGE)
    stored = {found.market.symbol: found.bars for found in CandleStore(home / "market.duckdb").coverage()}
    assert stored["ONEUSDT"] == stored["TWOUSDT"] == EXCHANGE.synthetic.bars


def kill_the_first_that_has_trained_a_fold(address: str, url: str, killed: list[str]) -> None:
    """Wait for the first finished fold, then kill the worker process that goes on with its market."""
    from distributed import Client

    store = fsspec.filesystem("s3", use_listings_cache=False)
    with Client(address, set_as_default=False) as client:
        deadline = time.monotonic() + 300
        while not store.glob(f"{url}/work/fold-*.zip") and time.monotonic() < deadline:
            time.sleep(0.1)
        worker, _ = max(client.processing().items(), key=lambda item: len(item[1]))
        pid = client.run(os.getpid, workers=[worker])[worker]
        os.kill(pid, signal.SIGKILL)
        killed.append(worker)


WITHOUT_US = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flows", "tasks", "storage"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
"""
"""What makes a Python process one where this project is not installed."""


def submit(market: Market = MARKET) -> str:
    """Send one market away, whose dataset is nowhere, and return what came back."""
    data = DatasetRef(id="0" * 16, source=EXCHANGE.source, market=market)
    call = {"exchange": EXCHANGE, "data": data, "bars": BarRange(), "quality": "", "recipe": RECIPE}
    call["code"] = project_hash()

    @flow(name="away")
    def away() -> str:
        ((_, ended),) = run_each(retrain_market, {market: call})
        return f"{type(ended).__name__}: {ended}"

    return away()


@pytest.fixture(scope="module")
def clustered(prefect_api, s3_bucket, tmp_path_factory, free_port):
    """Two markets on a cluster of two workers that share only the URL, of which one is killed; and what else it said.

    It is asked before it has a worker, and once more when it is done, for a dataset that its worker does not find.
    """
    pytest.importorskip("prefect_dask", reason="DSC_DASK_ADDRESS needs prefect-dask; it is not installed")
    folder = tmp_path_factory.mktemp("cluster")
    found = SimpleNamespace(folder=folder, home=folder / "home", url=f"{s3_bucket}{folder}", killed=[])
    with contextlib.closing(Cluster(folder, free_port())) as cluster, pytest.MonkeyPatch.context() as patch:
        found.address = cluster.address
        patch.setenv("DSC_HOME", str(found.home))
        patch.setenv("DSC_DASK_ADDRESS", cluster.address)
        patch.setenv("DSC_ARTIFACT_URL", found.url)
        patch.setenv("DSC_DASK_WAIT_S", "5")
        found.without_a_worker = submit()
        patch.setenv("DSC_DASK_WAIT_S", "120")
        for _ in range(2):
            cluster.start_worker(DSC_ARTIFACT_URL=found.url)
        asked = (cluster.address, found.url, found.killed)
        killer = threading.Thread(target=kill_the_first_that_has_trained_a_fold, args=asked)
        killer.start()
        found.outcomes = pipeline(symbols=("ONEUSDT", "TWOUSDT"), **JOB)
        killer.join()
        patch.setenv("DSC_ARTIFACT_URL", str(folder / "another"))
        found.without_the_dataset = submit()
    return found


@pytest.mark.promise(8)
def test_two_workers_that_share_only_the_url_give_what_one_machine_gives_though_one_is_killed(one_machine, clustered):
    assert len(clustered.killed) == 1
    assert [outcome.error for outcome in clustered.outcomes.each] == ["", ""]
    store = ArtifactStore(clustered.url)
    assert content(store, "linear-ONEUSDT-5") == content(one_machine[1], "linear-ONEUSDT-5")
    assert content(store, "linear-TWOUSDT-5")["trades.parquet"] == content(store, "linear-ONEUSDT-5")["trades.parquet"]
    assert list(clustered.folder.glob("host-*/home/*")) == []  # no worker left anything on its own disk
    assert not (clustered.home / "models").exists()


def test_cluster_that_has_no_worker_or_no_dataset_is_said_within_the_time_limit(clustered):
    said = (
        f"ClusterError: the Dask cluster at {clustered.address} had no worker for 5 s; start one that has this package"
    )
    assert clustered.without_a_worker.startswith(said)
    assert re.match(
        rf"DatasetError: dataset 0{{16}} is not in {clustered.url}/datasets; .*DSC_ARTIFACT_URL",
        clustered.without_the_dataset,
    )


def test_cluster_that_is_not_there_is_said_within_the_time_limit(prefect_api, home, tmp_path, monkeypatch):
    pytest.importorskip("prefect_dask", reason="DSC_DASK_ADDRESS needs prefect-dask; it is not installed")
    monkeypatch.setenv("DSC_ARTIFACT_URL", str(tmp_path / "shared"))
    monkeypatch.setenv("DSC_DASK_ADDRESS", "tcp://127.0.0.1:9")
    monkeypatch.setenv("DSC_DASK_WAIT_S", "1")
    assert re.match(
        r"ClusterError: no Dask scheduler at tcp://127\.0\.0\.1:9, waited 1 s \(.*unset DSC_DASK_AD", submit()
    )


def test_scheduler_without_the_package_or_one_that_dies_is_said(prefect_api, home, tmp_path, free_port, monkeypatch):
    pytest.importorskip("prefect_dask", reason="DSC_DASK_ADDRESS needs prefect-dask; it is not installed")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "sitecustomize.py").write_text(WITHOUT_US)
    monkeypatch.setenv("DSC_ARTIFACT_URL", str(tmp_path / "shared"))
    monkeypatch.setenv("DSC_DASK_WAIT_S", "30")
    with contextlib.closing(Cluster(tmp_path / "without", free_port(), PYTHONPATH=str(bare))) as without:
        monkeypatch.setenv("DSC_DASK_ADDRESS", without.address)
        assert re.match(r"ClusterError: the Dask scheduler can't load the step; install this package there", submit())
    monkeypatch.setenv("DSC_DASK_WAIT_S", "6")
    with contextlib.closing(Cluster(tmp_path / "dying", free_port())) as dying:
        monkeypatch.setenv("DSC_DASK_ADDRESS", dying.address)
        end = threading.Timer(3.0, dying.close)
        end.start()
        assert re.match(r"ClusterError: (the Dask|no Dask) (scheduler|cluster) ", submit())
        end.join()


def test_worker_on_other_code_is_refused():
    rule = r"worker and flow must run the same code, was [0-9a-f]{16} on the worker and 0{16}"
    with pytest.raises(ClusterError, match=rule), alone_on_equal_code("0" * 64):
        pytest.fail("it was let in")


def test_symbols_become_markets_of_one_category_and_interval_and_none_twice():
    spot = Market(category="spot", interval="60")
    assert distinct(spot, ["BTCUSDT", "ETHUSDT"]) == (
        Market(symbol="BTCUSDT", category="spot", interval="60"),
        Market(symbol="ETHUSDT", category="spot", interval="60"),
    )
    with pytest.raises(ConfigError, match="symbols must be different, BTCUSDT is there more than once"):
        distinct(spot, ["BTCUSDT", "ETHUSDT", "BTCUSDT"])


def test_command_line_takes_symbols_with_commas():
    argument = get_args(Symbols)[1]
    assert argument.converter(str, [Token(value="BTCUSDT, ETHUSDT"), Token(value="XRPUSDT,")]) == (
        "BTCUSDT",
        "ETHUSDT",
        "XRPUSDT",
    )
