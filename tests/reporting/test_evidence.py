"""What the report says of folds and of two versions, against numbers worked out by hand."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np

from storage.results import canonical_json
from storage.schema import BUY, HOLD, SELL
from tasks.champion.manifest import Manifest
from tasks.execution.backtest import BacktestConfig
from tasks.market.walk_forward import Span
from tasks.reporting.evidence import compared_rows, flat_cells, fold_rows, version_cells
from tests.champion.example_manifest import MANIFEST, METRICS
from tests.reporting.example_report import example

DAY = 86_400_000


def evaluation_of(probabilities, classes, equity, entries):
    """Return two folds of four bars each behind two bars of training, a bar a day from 1970-01-01 on."""
    folds = (SimpleNamespace(test=Span(start=2, stop=6)), SimpleNamespace(test=Span(start=6, stop=10)))
    return SimpleNamespace(
        samples=SimpleNamespace(
            folds=folds,
            labels=SimpleNamespace(classes=np.concatenate([[-1, -1], classes])),
            dataset=SimpleNamespace(candles=SimpleNamespace(start_ms=DAY * np.arange(10))),
        ),
        unseen=Span(start=2, stop=10),
        folds=(SimpleNamespace(prior=np.full(3, 1 / 3)), SimpleNamespace(prior=np.array([0.25, 0.5, 0.25]))),
        probabilities=np.array(probabilities),
        money=SimpleNamespace(
            model=SimpleNamespace(
                result=SimpleNamespace(
                    equity=np.array(equity), trades=SimpleNamespace(entry_bar=np.array(entries, np.int64))
                )
            )
        ),
    )


def test_each_fold_is_scored_on_its_own_bars_when_there_are_two():
    up, down, unknown = [0.1, 0.3, 0.6], [0.6, 0.3, 0.1], [np.nan] * 3
    evaluation = evaluation_of(
        [up, up, down, unknown, up, up, down, down],
        np.array([BUY, SELL, SELL, BUY, HOLD, HOLD, -1, HOLD]),
        [100, 110, 110, 121, 110, 110, 55, 55, 66],
        [0, 3, 6],
    )
    first, second = fold_rows(evaluation, "LightGBM", {"LightGBM": np.tile([0.2, 0.5, 0.3], (8, 1))})
    shown = {
        name: str(value).replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")
        for name, value in first.items()
    }
    loss = -(2 * np.log(0.6) + np.log(0.1)) / 3  # of the three bars that the model knows
    theirs = -(np.log(0.3) + 2 * np.log(0.2)) / 3
    assert shown["fold"] == "1"
    assert shown["from"] == "1970-01-03"
    assert shown["log-loss"] == f"{loss:.5f} nat"
    assert shown["lead over the prior"] == f"{np.log(3) - loss:+.5f} nat"
    assert shown["over LightGBM"] == f"{theirs - loss:+.5f} nat"
    assert shown["direction right"] == "66.7 %"
    assert shown["net return"] == "+10.00 %"  # 100 to 110 over its four bars
    assert shown["round trips"] == "2"
    assert second["direction right"] == "undefined"  # nothing moved
    assert second["net return"].startswith("\N{MINUS SIGN}40.00")  # 110 to 66
    assert second["round trips"] == 1


def cells_of(manifest: Manifest, **skill: object):
    """Return what a version is compared by, from the files that it keeps."""
    report = example(500)
    said = {"log_loss": 1.0, "prior_log_loss": 1.05, "direction_accuracy": 0.52} | skill
    metrics = asdict(METRICS) | {"sharpe_ratio": None}
    files = {
        "backtest.json": json.dumps({"metrics": {"model": metrics}, "skill": said}).encode(),
        "latency.json": canonical_json(report.speed),
    }
    return version_cells(manifest, files.__getitem__)


def test_two_versions_stand_side_by_side_with_what_differs_in_their_recipes():
    recipe = MANIFEST.recipe
    other = replace(recipe, network=replace(recipe.network_config, members=1), backtest=BacktestConfig(fixed_coins=2.0))
    theirs = cells_of(replace(MANIFEST, recipe=other, dataset="e" * 64), direction_accuracy=None)
    rows = {
        row[""]: (row["this version"], row["champion"]) for row in compared_rows("champion", cells_of(MANIFEST), theirs)
    }
    assert rows["round trips"] == ("40", "40")
    assert rows["Sharpe ratio"] == ("undefined", "undefined")
    assert rows["direction right"] == ("52.0\N{NO-BREAK SPACE}%", "undefined")
    assert rows["latency p99 per bar"] == ("2.7\N{NO-BREAK SPACE}µs",) * 2
    assert rows["dataset"] == ("d" * 16, "e" * 16)
    assert rows["network.members"] == (recipe.network_config.members, 1)
    assert rows["backtest.fixed_coins"] == ("not set", 2.0)
    assert {"refit", "network.padding"}.isdisjoint(rows)


def test_nested_parameters_become_one_level():
    values = {"a": {"b": 1, "c": {"d": [2]}}, "e": True, "f": None}
    assert flat_cells(values) == {"a.b": 1, "a.c.d": "[2]", "e": True, "f": "not set"}
