"""What a run shows in the Prefect UI, from the same plain values as the report.

One key for each thing and market, so that the UI keeps its history. Cells are text or plain numbers: a table with an
infinity in it can't be shown at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from storage.schema import Market, Source
from tasks.execution.promotion import Check
from tasks.reporting.canvas import png
from tasks.reporting.figures import training_figure
from tasks.reporting.markup import data_uri, written
from tasks.reporting.report import summary_markdown
from tasks.reporting.report_data import Cell, Latency, ReportData

_WIDTH = 760  # points: what a Markdown view shows without shrinking it


def page_key(what: str, source: Source, market: Market) -> str:
    """Return what, source and market as Prefect allows them in an artifact's key: lower case, digits and dashes."""
    return f"{what}-{source}-{market.slug}".replace(":", "-").lower()


def show_table(what: str, source: Source, market: Market, rows: Iterable[Mapping[str, object]], about: str) -> None:
    """Show a table under the key of `what` for the market.

    Args:
        what: A word or two, lower case with dashes.
        source: Where the candles come from.
        market: The market.
        rows: Lines with the same columns.
        about: One line above it.
    """
    table = [{name: shown(value) for name, value in row.items()} for row in rows]
    create_table_artifact(table, key=page_key(what, source, market), description=f"{about}: {market} from {source}")


def show_checklist(source: Source, market: Market, conditions: Iterable[Check], champion: str) -> None:
    """Show the promotion rule line by line."""
    rows = [
        {
            "result": {True: "pass", False: "FAIL", None: "open"}[c.passed],
            "condition": c.name,
            "wanted": c.wanted,
            "found": c.found,
        }
        for c in conditions
    ]
    show_table("promotion", source, market, rows, f"Promotion rule against champion {champion}")


def show_version(report: ReportData, location: str) -> None:
    """Show a version: verdict with its pictures, data quality, backtest, latency, and where the report lies.

    Args:
        report: What its page says.
        location: Where that page is.
    """
    source, market = report.source, report.market
    show_table("data-quality", source, market, report.data_quality, "What was found in the candles")
    show_table("latency", source, market, map(_latency_row, report.latency), "One prediction, one thread")
    sides = [{"": side, **metrics} for side, metrics in report.metrics.items()]
    show_table("backtest", source, market, _turned(sides), "Unseen bars, net of costs")
    markdown = summary_markdown(report) + _training_picture(report) + f"\n\n**The whole report**\n\n`{location}`"
    about = f"{market} from {source}, version {report.version}"
    create_markdown_artifact(markdown, key=page_key("verdict", source, market), description=about)
    if "://" in location or location.startswith("/"):
        link = location if "://" in location else f"file://{location}"
        create_link_artifact(link, key=page_key("report", source, market), link_text=link, description=about)


def shown(value: object) -> Cell:
    """Return a value as a cell that the UI can show: numbers in six digits, None and infinity in words."""
    if value is None:
        return "undefined"
    if isinstance(value, bool | str | int):
        return value
    number = float(value)  # type: ignore[arg-type]  # what is no number should fail here
    return float(f"{number:.6g}") if math.isfinite(number) else "undefined"


def _latency_row(row: Latency) -> dict[str, Cell]:
    times = {name: written(getattr(row, name), "us") for name in ("p50_us", "p95_us", "p99_us")}
    counts = {"parameters": row.parameters, "multiply-adds": row.macs}
    return {
        "network": row.name,
        "runtime": row.runtime,
        **{k.removesuffix("_us"): v for k, v in times.items()},
        **counts,
    }


def _turned(sides: list[dict[str, Cell]]) -> list[dict[str, Cell]]:
    """Return one line for each metric and one column for each side: seven columns of numbers fit, thirty do not."""
    names = [name for name in sides[0] if name] if sides else []
    return [{"metric": name.replace("_", " "), **{str(side[""]): side[name] for side in sides}} for name in names]


def _training_picture(report: ReportData) -> str:
    if not any(len(curve.step) for curve in report.training):
        return ""
    uri = data_uri(png(training_figure(report.training, report.title_label, _WIDTH)), "png")
    return f"\n![Loss of each fold's training, step by step]({uri})\n"
