"""The main job end to end: real pybit, real HTTP, real DuckDB, real Prefect; only the market is made up.

The job runs once for all tests; those that add to its home work on a copy, so that they may come in any order.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
from prefect.settings import get_current_settings

from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.monitor import monitor
from flows.pipeline import pipeline
from flows.retrain import retrain
from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.schema import (
    FEATURES,
    ArtifactError,
    ConfigError,
    DatasetError,
    DatasetRef,
    Market,
    QuarantineError,
    TrainingError,
)
from storage.tables import parquet_bytes, read_columns
from storage.trials import Trial, TrialLog
from tasks import training
from tasks.exchange.connection import ExchangeConfig
from tasks.execution.decision import DecisionConfig
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.quality import QualityConfig
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.sandbox.faults import Fault, Match
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tasks.strategy import out_of_sample
from tasks.strategy.leak_suite import remade_inputs
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import load_samples
from tests.flows.small_jobs import FEW_BASELINES, side_work_left_out
from tests.sandbox import actions
from tests.storage.stored import table_hash

pytestmark = pytest.mark.long
MARKET = Market()
EXCHANGE = ExchangeConfig(synthetic=SyntheticMarket(bars=6_500))
RECIPE = Recipe(
    folds=FoldConfig(folds=2),
    network=DSCConfig(hidden_channels=8, num_blocks=2, window=16, newest_step=True, linear_bypass=True),
    fit=FitConfig(epochs=1),
)


@pytest.fixture(scope="module")
def ended(prefect_api, tmp_path_factory):
    """The main job, run once on a small synthetic market: its home and the state that the run ended in."""
    home = tmp_path_factory.mktemp("job") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSC_HOME", str(home))
        patch.delenv("DSC_ARTIFACT_URL", raising=False)
        yield home, pipeline(market=MARKET, exchange=EXCHANGE, recipe=RECIPE, return_state=True)


@pytest.fixture(scope="module")
def job(ended):
    """The home of the main job and its verdict."""
    home, state = ended
    return home, state.result()


@pytest.fixture
def own_home(job, tmp_path, monkeypatch) -> Path:
    """A copy of the job's home, to add to."""
    copy = tmp_path / "home"
    shutil.copytree(job[0], copy)
    monkeypatch.setenv("DSC_HOME", str(copy))
    return copy


@pytest.fixture(scope="module")
def again(job, tmp_path_factory):
    """The same job once more, in a copy of its home: (that copy, verdict, how often the folds were evaluated)."""
    home = tmp_path_factory.mktemp("again") / "home"
    shutil.copytree(job[0], home)
    evaluated, real = [], out_of_sample.evaluate_folds
    with side_work_left_out(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSC_HOME", str(home))
        patch.setattr(out_of_sample, "evaluate_folds", lambda *given: evaluated.append(given) or real(*given))
        return home, pipeline(market=MARKET, exchange=EXCHANGE, recipe=RECIPE), len(evaluated)


@pytest.mark.promise(0)
def test_main_job_stores_a_version_that_carries_its_source_when_it_ends(job):
    home, verdict = job
    assert verdict.version.source == EXCHANGE.source
    stored = ArtifactStore(str(home / "models")).manifest(verdict.version)
    assert stored["source"] == EXCHANGE.source
    assert verdict.manifest.recipe == RECIPE.charged(MARKET, is_made_up=True).resolved
    assert verdict.manifest.origin == "synthetic"
    assert {"python", "torch", "duckdb", "pybit"} <= set(verdict.manifest.libraries)
    assert {"weights.safetensors", "model.onnx", "step.onnx", "report.html", "trades.parquet", "equity.parquet"} <= set(
        stored["files"]
    )
    page = Path(verdict.report).read_text()
    assert "synthetic market" in page
    assert str(EXCHANGE.source) in page


def test_folds_count_from_1_in_the_names_of_their_tasks():
    tasks = (training.prepare_fold, training.train_fold, training.train_baselines, training.train_twin)
    given = {"data": SimpleNamespace(market=MARKET), "recipe": RECIPE, "index": 0, "start": ""}
    assert [task.task_run_name(parameters=given) for task in tasks] == [
        "prepare fold 1 of SYNTHUSDT",
        f"train fold 1 of SYNTHUSDT, seed {RECIPE.fit_config.seed}",
        "train baselines of fold 1 of SYNTHUSDT",
        "train twin of fold 1 of SYNTHUSDT",
    ]


def test_version_keeps_what_its_inputs_are_worth_and_the_page_shows_it(job):
    home, verdict = job
    files = ArtifactStore(str(home / "models")).load(verdict.version, source=EXCHANGE.source).files
    worth = json.loads(files["importance.json"])
    assert {one["name"] for one in worth} == set(FEATURES[:10])  # those that its network reads
    assert [one["loss"] for one in worth] == sorted((one["loss"] for one in worth), reverse=True)
    page = files["report.html"].decode()
    assert "What each input is worth" in page
    assert f"flows.evaluate --version {verdict.version}<" in page
    assert 'id="beside"' not in page  # the first version has none before it


@pytest.mark.promise(4)
@pytest.mark.promise(6)
def test_version_carries_a_leak_report_that_passed_and_the_page_shows_it(job):
    home, verdict = job
    store = ArtifactStore(str(home / "models"))
    leaks = json.loads(store.load(verdict.version, source=EXCHANGE.source).files["leaks.json"])
    assert leaks["passed"]
    assert [check["name"] for check in leaks["checks"]] == [
        "stored inputs",
        "prefix invariance",
        "future perturbation",
        "start invariance",
        "future perturbation, predictions",
        "label span",
        "purged folds",
        "block-permuted labels",
        "train isolation",
        "random-walk null",
        "canary",
    ]
    assert "all green" in Path(verdict.report).read_text()


@pytest.mark.promise(4)
def test_dataset_whose_features_are_those_of_the_bar_after_fails_the_leak_report(job, monkeypatch):
    home, verdict = job
    monkeypatch.setenv("DSC_HOME", str(home))
    data = DatasetRef(id=verdict.manifest.dataset, source=EXCHANGE.source, market=MARKET)
    samples = load_samples(home / "datasets", data, RECIPE)
    assert remade_inputs(samples, MARKET.interval_ms, RECIPE).passed
    ahead = np.roll(samples.dataset.features, -1, axis=0)
    leaky = replace(samples, dataset=replace(samples.dataset, features=ahead))
    found = remade_inputs(leaky, MARKET.interval_ms, RECIPE)
    assert not found.passed
    assert found.found.startswith("return_1 at bar 1,998 was ")


def test_main_job_ends_with_a_table_of_what_a_person_asks_first(job):
    _, verdict = job
    lines = verdict.text((("log", "/a/log"),)).splitlines()
    assert re.fullmatch(r"NOT PROMOTED - no position is taken\. \d+ of 16 conditions hold(, 1 not run)?\.", lines[0])
    assert re.fullmatch(r"  failed: unseen days 6, asked >= 30", lines[1])
    assert any(
        re.fullmatch(r"  6 unseen days +model +(LightGBM|logistic regression) +buy and hold", one) for one in lines
    )
    assert "  ! synthetic market: says nothing about a real one" in lines
    assert [line.split()[0] for line in lines[-4:]] == ["report", "version", "log", "next"]
    assert lines[-4].split()[1] == Path(verdict.report).as_uri()
    assert lines[-3].split()[1] == str(verdict.version)


def runs_and_artifacts_of(state):
    """Return the runs of the main job and of its parts, by id, and what they show: others' are on the same server."""
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
        below = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id={"any_": [run.id]}))
        runs = {one.id: one for one in (run, *below)}
        return runs, client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id={"any_": list(runs)}))


def test_run_that_was_started_has_verdict_and_result_on_its_own_page_and_the_evidence_is_with_its_step(ended):
    runs, artifacts = runs_and_artifacts_of(ended[1])
    shown = {one.key.partition("-sandbox-")[0]: one for one in artifacts if one.key}
    where = {what: runs[one.flow_run_id].name.split()[0] for what, one in shown.items()}
    assert {what for what, flow in where.items() if flow == "pipeline"} == {"verdict", "result"}
    assert {what for what, flow in where.items() if flow == "retrain"} >= {"promotion", "backtest", "data-quality"}
    for what, one in shown.items():
        if one.type == "table":
            rows = json.loads(one.data)
            assert all(len(row) <= 3 and all(isinstance(cell, str) for cell in row.values()) for row in rows), what
    result = [row["what"] for row in json.loads(shown["result"].data)]
    failed = [check.name for check in ended[1].result().checks if check.passed is False]
    assert result[: 1 + len(failed)] == ["decision", *["failed"] * len(failed)]
    assert result[-1] == "version"


def test_run_that_was_started_has_one_bar_for_all_its_steps_and_no_step_has_another(ended):
    runs, artifacts = runs_and_artifacts_of(ended[1])
    (bar,) = [one for one in artifacts if one.type == "progress"]
    assert runs[bar.flow_run_id].parent_task_run_id is None
    assert (bar.data, bar.description) == (100.0, "The whole run: done")


def test_version_keeps_the_table_of_what_the_model_had_to_beat(job):
    home, verdict = job
    store = ArtifactStore(str(home / "models"))
    document = json.loads(store.read(verdict.version, "baselines.json"))
    lines = {line["name"]: line for line in document["table"]}
    assert list(lines) == [
        "this model",
        "logistic regression",
        "LightGBM",
        "standard convolution twin",
        "prior",
        "persistence",
        "persistence reversed",
        "random timing, median of 1,000",
        "buy and hold",
        "flat",
    ]
    for name in ("logistic regression", "LightGBM", "standard convolution twin", "prior"):
        line = lines[name]
        assert line["lead"] == pytest.approx(line["log_loss"] - lines["this model"]["log_loss"], abs=1e-12)
        assert 0.0 < line["p_value"] < 1.0
    assert lines["flat"]["total_return"] == 0.0
    searched = [
        [len(fold[name]["tried"]) for name in ("logistic regression", "LightGBM")] for fold in document["folds"]
    ]
    assert searched == [[8, 8], [8, 8]]  # an equal search on every fold, with mirror images and without
    assert "Beside the baselines" in Path(verdict.report).read_text()


def test_whatever_was_worked_out_is_found_when_the_job_runs_again(job, again):
    before, after = ({path.name for path in (home / "work").iterdir()} for home in (job[0], again[0]))
    _, _, evaluated = again
    assert len([name for name in before if name.startswith("baselines-")]) == RECIPE.folds.folds
    assert {name for name in after if not name.startswith("judgement-")} == {
        name for name in before if not name.startswith("judgement-")
    }
    assert evaluated == 1  # by the backtest; baselines, judge and publisher load it by its key


@pytest.mark.promise(0)
def test_every_evaluation_is_logged_once_as_a_trial_of_its_source(job, again, own_home, small_jobs):
    before, repeated = (
        TrialLog(str(home / "models"), Trial).entries(EXCHANGE.source, MARKET.slug) for home in (job[0], again[0])
    )
    assert before
    assert repeated == before  # the same work is the same trial
    stricter = replace(RECIPE, decision=DecisionConfig(enter_margin=0.001))
    pipeline(market=MARKET, exchange=EXCHANGE, bars=BarRange(days=9_999), recipe=stricter)
    after = TrialLog(str(own_home / "models"), Trial).entries(EXCHANGE.source, MARKET.slug)
    assert len(after) == len(before) + 1  # another threshold is another trial
    (new,) = [trial for trial in after if trial not in before]
    assert new.made_from["decision"]["enter_margin"] == 0.001
    assert {trial.origin for trial in after} == {"synthetic"}
    assert new.made_from["bars"] == {"last_days": 9_999}
    assert [one.made_from["bars"] for one in before] == [{"first_day": 20_089}]  # 2025-01-01


def test_judgement_counts_the_trials_and_shows_the_leak_tests(job):
    judged = job[1].manifest.judgement
    checks = {check.name: check for check in judged.checks}
    assert checks["leak tests"].found == "all green"
    assert checks["leak tests"].passed
    assert judged.numbers.luck.trials >= 1
    assert {"deflated Sharpe ratio", "log-loss near the better baseline"} <= set(checks)


def test_report_sets_the_claims_beside_what_was_measured(job):
    _, verdict = job
    page = Path(verdict.report).read_text()
    assert "Claimed and measured" in page
    for number in ("36,864", "4,672", "12.3 ms", "1.8 ms", "36.8M", "4.7M", "safetensors"):
        assert number in page


@pytest.mark.promise(1)
@pytest.mark.promise(8)
def test_same_job_again_ingests_nothing_and_gives_the_same_version(job, again, own_home):
    _, verdict = job
    _, repeated, _ = again
    store = CandleStore(own_home / "market.duckdb")
    before = table_hash(store, EXCHANGE.source, MARKET)
    report = ingest(market=MARKET, exchange=EXCHANGE)
    assert (report.inserted, report.revised, report.missing) == (0, 0, 0)
    assert table_hash(store, EXCHANGE.source, MARKET) == before
    assert repeated.version == verdict.version


@pytest.mark.parametrize("step", ["tasks.strategy.fold_training.prepare", "tasks.strategy.baseline_folds.fit_baseline"])
def test_what_fails_beside_the_networks_ends_the_run_with_its_error(prefect_api, tmp_path, monkeypatch, step):
    def fails(*args, **options):
        raise TrainingError("planted")

    monkeypatch.setenv("DSC_HOME", str(tmp_path / "failing"))
    monkeypatch.setattr(step, fails)
    with pytest.raises(TrainingError, match="planted"):
        pipeline(market=MARKET, exchange=EXCHANGE, recipe=RECIPE)


def test_version_says_what_each_stage_of_its_making_took(job):
    _, verdict = job
    cost = json.loads(Path(verdict.report).with_name("cost.json").read_bytes())
    stages = {one["stage"]: one for one in cost["stages"]}
    assert list(stages) == ["networks", "baselines and leaks", "latency", "backtest", "judge", "publish"]
    assert all(one["wall_s"] > 0 and one["cpu_s"] > 0 for one in stages.values())
    assert stages["networks"]["cpu_s"] > stages["judge"]["cpu_s"]
    assert 100 < cost["peak_mb"] < 10_000


def test_stored_version_gives_its_numbers_again_when_evaluated(job, prefect_api):
    _, verdict = job
    result = evaluate(version=str(verdict.version))
    assert result.differences == ()
    assert result.parity == 0.0


@pytest.mark.promise(9)
def test_evaluation_refuses_a_version_whose_weights_were_exchanged(job, prefect_api):
    _, verdict = job
    weights = Path(verdict.report).with_name("weights.safetensors")
    content = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
            evaluate(version=str(verdict.version))
    finally:
        weights.write_bytes(content)


@pytest.mark.promise(13)
def test_first_champion_is_flat_and_both_sides_are_on_record(job):
    _, verdict = job
    assert not verdict.promoted  # a handful of days is no evidence, whatever the profit
    assert verdict.champion == "flat"
    judged = verdict.manifest.judgement
    assert {check.name for check in judged.checks if not check.passed} >= {"unseen days"}
    assert judged.numbers.champion.total_return == 0.0
    assert judged.numbers.challenger.num_trades >= 0


def test_monitor_says_what_is_stored_of_each_market(job, prefect_api, capsys):
    (health,) = monitor()
    assert health.bars == 6_500
    assert health.complaints == ()
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{health.market}: ok"
    for said in ("  champion  flat", "  drift     not measured: no champion", "  skill     not measured: no champion"):
        assert said in lines


def test_refit_publishes_weights_that_knew_every_bar_and_says_so(own_home, small_jobs):
    verdict = pipeline(market=MARKET, exchange=EXCHANGE, recipe=replace(RECIPE, refit=True))
    newest = CandleStore(own_home / "market.duckdb").read(EXCHANGE.source, MARKET).start_ms[-1]
    assert verdict.manifest.trained_until_ms == newest
    assert "the verdict belongs to the recipe" in Path(verdict.report).read_text()
    assert evaluate(version=str(verdict.version)).differences == ()


@pytest.mark.promise(1)
def test_killed_ingest_ends_with_the_same_table_when_it_is_started_again(job, prefect_api, tmp_path, monkeypatch):
    home, _ = job
    expected = table_hash(CandleStore(home / "market.duckdb"), EXCHANGE.source, MARKET)
    killed_home = tmp_path / "killed"
    environment = os.environ | {"DSC_HOME": str(killed_home), "PREFECT_API_URL": get_current_settings().api.url}
    store = CandleStore(killed_home / "market.duckdb")
    silent = [Fault(Match(nth=2, times=None), actions.delivery("never"))]  # from the third window on
    with Sandbox(
        [Listing(candles=generate(EXCHANGE.synthetic), market=MARKET)], source=EXCHANGE.source, faults=silent
    ) as sandbox:
        half = [
            sys.executable,
            "-m",
            "flows.ingest",
            "--synthetic.bars",
            "6500",
            "--url",
            sandbox.url,
            "--threads",
            "1",
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = subprocess.Popen(half, env=environment, **quiet)  # noqa: S603 - our own command
        while running.poll() is None and len(store.read(EXCHANGE.source, MARKET)) < 1_000:
            time.sleep(0.1)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    assert 1_000 <= len(store.read(EXCHANGE.source, MARKET)) < 6_500  # killed in the middle
    monkeypatch.setenv("DSC_HOME", str(killed_home))
    ingest(market=MARKET, exchange=EXCHANGE)
    assert table_hash(store, EXCHANGE.source, MARKET) == expected


def test_spot_is_never_shorted(prefect_api, small_jobs, home):
    bars = BarRange(start=datetime(2025, 1, 1, tzinfo=UTC))
    small = replace(RECIPE, baselines=FEW_BASELINES)
    verdict = pipeline(market=replace(MARKET, category="spot"), exchange=EXCHANGE, bars=bars, recipe=small)
    trades = read_columns(ArtifactStore(str(home / "models")).read(verdict.version, "trades.parquet"))
    assert set(trades["side"]) <= {1}
    assert [check.found for check in verdict.checks if check.name == "funding known"] == ["none due: spot"]
    with pytest.raises(ConfigError, match="when SPOTUSDT spot began; give its first day as start"):
        ingest(market=Market(symbol="SPOTUSDT", category="spot"), exchange=EXCHANGE)


@pytest.mark.promise(2)
def test_range_with_too_many_broken_rows_is_refused_by_every_run_until_the_limit_is_raised(prefect_api, home, tmp_path):
    candles = generate(replace(EXCHANGE.synthetic, bars=3_000))
    broken = np.arange(3_000) % 30 == 7
    high = np.where(broken, candles.low / 2, candles.high)
    columns = {"start_ms": candles.start_ms, "open": candles.open, "high": high, "low": candles.low}
    file = tmp_path / "candles.parquet"
    file.write_bytes(parquet_bytes(columns | {"close": candles.close, "volume": candles.volume}))
    replayed = ExchangeConfig(candles=str(file))
    for _ in range(2):
        with pytest.raises(QuarantineError, match=r"100 of 3000 rows broke the candle contract \(3\.33%\)"):
            ingest(market=MARKET, exchange=replayed)
    with pytest.raises(QuarantineError, match=r"at most 1\.00% may"):
        retrain(market=MARKET, exchange=replayed, recipe=RECIPE)
    report = ingest(market=MARKET, exchange=replayed, quality=QualityConfig(quarantine_limit=0.05))
    assert report.inserted == 0  # the good rows were stored by the first run
    stored = CandleStore(home / "market.duckdb")
    assert len(stored.read(replayed.source, MARKET)) == 2_900
    assert sum(gap.bars for gap in stored.gaps(replayed.source, MARKET)) == 100


def test_pipeline_says_what_to_do_when_there_are_too_few_bars(prefect_api, home):
    with pytest.raises(DatasetError, match=r"needs more than 2,000 bars .* has 1,500 stored; ingest more history"):
        pipeline(market=MARKET, exchange=ExchangeConfig(synthetic=SyntheticMarket(bars=1_500)), recipe=RECIPE)
    with pytest.raises(DatasetError, match="dataset too short for the folds"):
        pipeline(market=MARKET, exchange=ExchangeConfig(synthetic=SyntheticMarket(bars=2_600)), recipe=RECIPE)
