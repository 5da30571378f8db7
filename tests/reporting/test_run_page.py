"""What the page of a run says of a version: few columns, and numbers with their units."""

from dataclasses import fields, replace

from tasks.network.architecture import DSCConfig
from tasks.network.latency import LatencyRow
from tasks.reporting import run_page
from tests.champion.example_manifest import METRICS


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
