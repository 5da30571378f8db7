"""What the Prefect page of a run says of a version: tables of three columns, and the verdict with its pictures."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from storage.written import Row, written
from tasks.champion.promotion import Check
from tasks.execution.metrics import Metrics
from tasks.network.latency import LatencyRow
from tasks.reporting.canvas import MARKDOWN, png_uri
from tasks.reporting.figures import draw_training
from tasks.reporting.report import METRICS, summary_markdown
from tasks.reporting.report_data import ReportData


def checklist_rows(checks: Iterable[Check]) -> list[Row]:
    """Return the promotion rule line by line."""
    return [
        {
            "result": {True: "pass", False: "FAIL", None: "open"}[check.passed],
            "condition": check.name,
            "found": ", asked ".join(filter(None, (check.found, check.wanted))),
        }
        for check in checks
    ]


def version_tables(report: ReportData) -> Iterator[tuple[str, Sequence[Row], str]]:
    """Return the key, the rows and the title of each table about a version."""
    speed = report.speed
    yield "data-quality", report.data_quality, "What was found in the candles"
    yield "latency", [_latency_row(row) for row in (speed.model, *speed.rows)], "One prediction, one thread"
    yield "backtest", _metric_rows(report.metrics), "Unseen bars, net of costs"


def verdict_markdown(report: ReportData) -> str:
    """Return the verdict in words and pictures."""
    uri = png_uri(draw_training(report.training, report.title_label, MARKDOWN))
    return f"{summary_markdown(report)}\n![Loss of each fold's training, step by step]({uri})\n"


def _latency_row(row: LatencyRow) -> dict[str, str]:
    p50, p99 = (written(us, "us") for us in (row.p50_us, row.p99_us))
    return {"network, runtime": f"{row.name}, {row.runtime}", "median": p50, "99 of 100 within": p99}


def _metric_rows(metrics: Mapping[str, Metrics]) -> list[dict[str, str]]:
    """Return one line a metric: the model's beside that of whoever is told first after it."""
    sides = list(metrics.items())[:2]
    return [
        {"measure": what} | {who: written(getattr(side, name), style) for who, side in sides}
        for name, (what, style) in METRICS.items()
    ]
