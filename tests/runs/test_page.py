"""What a run shows: keys that Prefect takes, and cells written as in the report."""

import math
import re
from dataclasses import fields, replace

import numpy as np
import pytest

from storage.schema import Market, Source
from tasks.network.architecture import DSCConfig
from tasks.network.latency import LatencyRow
from tasks.runs import page as run_page
from tasks.runs.page import page_key, put_table
from tests.champion.example_manifest import METRICS

MARKET = Market(symbol="BTC-27MAR26", category="linear", interval="D")


@pytest.fixture
def shown(monkeypatch) -> list:
    tables: list = []
    monkeypatch.setattr(run_page, "create_table_artifact", lambda rows, key, description: tables.append(rows))
    return tables


def test_key_has_lower_case_letters_digits_and_dashes_only():
    key = page_key("data-quality", Source("sandbox:0123abcd"), MARKET)
    assert key == "data-quality-sandbox-0123abcd-linear-btc-27mar26-d"
    assert re.fullmatch(r"[a-z0-9-]+", key)


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (math.inf, "undefined"),
        (-math.inf, "undefined"),
        (math.nan, "undefined"),
        (None, "undefined"),
        (np.float64(0.123456789), "0.1235"),
        (1_234_567.0, "1,234,567.00"),
        (np.int64(-7), "\N{MINUS SIGN}7"),
        (131_040, "131,040"),
        (True, "yes"),
        ("text", "text"),
    ],
)
def test_cell_is_text_as_the_report_writes_it_and_never_infinite(value, cell, shown):
    put_table("what", [{"found": value}], "about")
    assert shown == [[{"found": cell}]]


def test_what_is_neither_number_nor_text_fails_here_and_not_in_the_browser(shown):
    with pytest.raises(TypeError):
        put_table("what", [{"found": [1.0]}], "about")


def test_table_that_is_too_wide_for_a_page_is_refused(shown):
    with pytest.raises(ValueError, match="a table must have 3 columns at most, had 4: a, b, c, d"):
        put_table("what", [dict.fromkeys("abcd", 1)], "about")


def test_metrics_are_the_models_beside_holding_with_their_units():
    sides = {
        "this model": replace(METRICS, total_return=0.0431, num_trades=1_204, calmar=2.0),
        "buy and hold": replace(METRICS, total_return=-0.271, num_trades=1, calmar=None),
        "flat": replace(METRICS, total_return=0.0, num_trades=0),
    }
    space, minus = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}"
    rows = {row.pop("measure"): row for row in run_page._metric_rows(sides)}
    assert len(rows) == len(fields(METRICS))
    assert rows["total return, net"] == {"this model": f"+4.31{space}%", "buy and hold": f"{minus}27.10{space}%"}
    assert rows["round trips"] == {"this model": "1,204", "buy and hold": "1"}
    assert rows["Calmar ratio (from 90 days on)"] == {"this model": "2.00", "buy and hold": "undefined"}


def test_latency_is_what_and_how_long():
    row = LatencyRow(
        name="separable", config=DSCConfig(), runtime="engine", parameters=4_000, macs=100_000, p50_us=1.25, p95_us=2.0,
        p99_us=1_200.0,
    )  # fmt: skip
    assert run_page._latency_row(row) == {
        "network, runtime": "separable, engine",
        "median": "1.2\N{NO-BREAK SPACE}µs",
        "99 of 100 within": "1,200.0\N{NO-BREAK SPACE}µs",
    }
