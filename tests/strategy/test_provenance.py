"""A stored result is found again by the code that made it: what computes counts, and nothing else does."""

import ast
import json
import logging
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from storage.results import ResultStore
from storage.schema import DatasetRef, Market, OperationError, Source
from storage.settings import Settings
from tasks import evaluation
from tasks.champion.version_hash import version_hash
from tasks.execution.comparison_rows import ComparisonRow
from tasks.execution.random_positions import RandomPositions
from tasks.market.walk_forward import Fold, Span
from tasks.network.baselines import CLASSICAL
from tasks.strategy import provenance
from tasks.strategy.backtest_record import trial_key
from tasks.strategy.baseline_comparison import BaselineComparison, comparison_key
from tasks.strategy.baseline_folds import BaselineFold, baselines_key
from tasks.strategy.folds import fold_key, start_key
from tasks.strategy.provenance import project_hash, sources_behind
from tasks.strategy.recipe import Recipe

DATA = DatasetRef(id="0123456789abcdef", source=Source("bybit"), market=Market())
RECIPE = Recipe()
FOLD = Fold(
    index=0,
    train=Span(start=0, stop=3),
    validation=Span(start=4, stop=6),
    **dict.fromkeys(("test", "predicted"), Span(start=7, stop=8)),
)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The project's sources in a folder where they may be edited."""
    for package in ("tasks", "storage"):
        shutil.copytree(provenance.ROOT / package, tmp_path / "checkout" / package)
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "checkout")
    monkeypatch.setattr(provenance, "SOURCES", provenance.read_sources())
    return tmp_path / "checkout"


def edit(path):
    path.write_bytes(path.read_bytes() + b"\nCHANGED = True\n")


def edit_between_runs(path, monkeypatch):
    edit(path)
    monkeypatch.setattr(provenance, "SOURCES", provenance.read_sources())


def keys():
    return {
        "start": start_key("bars", RECIPE),
        "fold": fold_key("bars", RECIPE),
        "baselines": baselines_key("bars", RECIPE),
        "comparison": comparison_key(RECIPE, "evaluation-0", [["baselines-0"]]),
        "trial": trial_key(RECIPE, ["fold-0"]),
        "version": version_hash(DATA, RECIPE, b"weights"),
    }


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("tasks/strategy/baseline_comparison.py", {"comparison", "version"}),
        ("tasks/strategy/baseline_folds.py", {"baselines", "comparison", "version"}),
        ("tasks/execution/comparison_rows.py", {"comparison", "version"}),
        ("tasks/strategy/out_of_sample.py", {"comparison", "trial", "version"}),
        ("tasks/execution/decision.py", {"comparison", "trial", "version"}),
        ("tasks/evaluation.py", set()),
        ("tasks/publishing.py", set()),
        ("tasks/strategy/leak_suite.py", {"version"}),
        ("tasks/market/leaks.py", {"version"}),
        (
            "tasks/network/baselines.py",
            {"start", "fold", "baselines", "comparison", "trial", "version"},
        ),  # the network's teacher too
        ("tasks/network/dsc.py", {"fold", "baselines", "trial", "version"}),
        ("tasks/market/labels.py", {"start", "fold", "baselines", "comparison", "trial", "version"}),
        ("storage/schema.py", {"start", "fold", "baselines", "comparison", "trial", "version"}),
        ("storage/compiled.py", {"start", "fold", "baselines", "comparison", "trial", "version"}),
        ("tasks/reporting/templates/report.css", set()),
        ("tasks/reporting/canvas.py", set()),
        ("tasks/reporting/content.py", set()),
        ("tasks/runs/progress.py", set()),
        ("tasks/runs/page.py", set()),
        ("tasks/exchange/gateway.py", set()),
        ("storage/locks.py", set()),
    ],
)
def test_keys_change_with_the_code_that_computes_and_with_no_other(checkout, monkeypatch, file, changed):
    before = keys()
    edit_between_runs(checkout / file, monkeypatch)
    assert {name for name, key in keys().items() if key != before[name]} == changed


@pytest.mark.promise(3)
def test_results_of_the_loaded_code_keep_its_keys_when_a_file_is_edited_during_the_run(checkout, monkeypatch):
    before, machine = keys(), project_hash()
    monkeypatch.setattr(provenance, "_loaded", set())
    assert start_key("bars", RECIPE) == before["start"]  # the first of a run, after which nothing is loaded any more
    edit(checkout / "tasks" / "strategy" / "baseline_comparison.py")
    edit(checkout / "tasks" / "market" / "labels.py")
    (checkout / "tasks" / "market" / "new.py").write_text("NEW = True\n")
    assert (keys(), project_hash()) == (before, machine)


@pytest.mark.promise(3)
def test_module_that_is_loaded_after_its_file_was_edited_is_refused(checkout, monkeypatch):
    late = "tasks.market.labels"
    monkeypatch.setattr(provenance, "_loaded", provenance.SOURCES.keys() - {late})
    monkeypatch.delitem(sys.modules, late)
    before = keys()
    edit(checkout / "tasks" / "market" / "labels.py")
    for _ in range(2):  # it stays wrong
        with pytest.raises(
            OperationError, match=r"when the run began, tasks\.market\.labels has changed; run it again"
        ):
            keys()
        monkeypatch.setitem(sys.modules, late, ModuleType(late))
    (checkout / "tasks" / "market" / "labels.py").write_bytes(provenance.SOURCES[late])
    assert keys() == before
    edit(checkout / "tasks" / "market" / "labels.py")
    assert keys() == before  # it was loaded from what the run began with


def test_modules_behind_a_number_are_those_that_import_linter_finds():
    grimp = pytest.importorskip("grimp", reason="import-linter, which brings the oracle, is not installed")
    graph = grimp.build_graph("tasks", "storage")
    for room in ("tasks.runs", "tasks.reporting"):
        for shown in (*graph.find_descendants(room), room):
            graph.remove_module(shown)
    for module in (
        f"tasks.strategy.{name}" for name in ("fold_training", "out_of_sample", "baseline_comparison", "leak_suite")
    ):
        imported = {module, *graph.find_upstream_modules(module)}
        counts = {"storage.schema", "storage.compiled", "storage.direct_call"}
        assert sources_behind(module).keys() == {
            name for name in imported if not name.startswith("storage") or name in counts
        }


def test_what_is_known_by_value_is_left_out_with_what_it_alone_imports():
    sources = sources_behind("tasks.strategy.fold_training", known=("tasks.strategy.recipe",))
    assert "tasks.network.fit" in sources
    assert not sources.keys() & {"tasks.strategy.recipe", "tasks.champion.promotion", "tasks.execution.decision"}


def table(log_loss):
    lines = [
        ComparisonRow(name=name, total_return=0.0, sharpe_ratio=None, log_loss=log_loss, lead=0.0) for name in CLASSICAL
    ]
    drawn = RandomPositions(draws=1, percentile=0.5, total_return=0.0, low=0.0, high=0.0, sharpe_ratio=None)
    return BaselineComparison(table=tuple(lines), random=drawn, facts=[])


def test_corrected_table_is_never_answered_by_an_older_one(checkout, home, monkeypatch):
    def files(found, evaluation, forecasts):
        document = {"table": [asdict(line) for line in found.table], "random": asdict(found.random), "folds": []}
        return {"baselines.json": json.dumps(document).encode(), "baselines.parquet": b""}

    part = BaselineFold(probabilities={name: np.full((1, 3), 1 / 3) for name in CLASSICAL}, facts={})
    replaced = {
        "load_evaluation": lambda work, datasets, key: SimpleNamespace(samples=SimpleNamespace(folds=(FOLD,))),
        "comparison_files": files,
        "show_table": lambda *args: None,
        "get_run_logger": lambda: logging.getLogger("test"),
    }
    ResultStore(Settings.from_environment().work).save("baselines-0", part)
    for name, stub in replaced.items():
        monkeypatch.setattr(evaluation, name, stub)

    def compared(log_loss):
        monkeypatch.setattr(evaluation, "compare_with_baselines", lambda *args: table(log_loss))
        key = evaluation.compare_baselines.fn(DATA, RECIPE, "evaluation-0", [["baselines-0"]])
        files = ResultStore(Settings.from_environment().work).read(key)
        return BaselineComparison.of(files["baselines.json"]).better_baseline.log_loss

    assert compared(0.9) == 0.9
    edit_between_runs(checkout / "tasks" / "strategy" / "baseline_comparison.py", monkeypatch)
    assert compared(0.8) == 0.8


def test_no_two_threads_parse_at_once(monkeypatch):
    """Python 3.11 counts the depth of all trees together, and a retrain of many markets has many threads."""
    parse, inside, most = ast.parse, [], []

    def watched(source):
        inside.append(source)
        most.append(len(inside))
        time.sleep(0.002)
        try:
            return parse(source)
        finally:
            inside.pop()

    provenance._imports.cache_clear()
    with monkeypatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(provenance.ast, "parse", watched)
        hashes = set(pool.map(provenance.code_behind, ["tasks.market.labels"] * 4))
    assert len(hashes) == 1
    assert max(most) == 1
