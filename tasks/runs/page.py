"""What a run shows in the Prefect UI, from the same plain values as the report, and written as there.

One key for each thing and market, so that the UI keeps its history. The verdict stands on the page of the run that
somebody started or a schedule did; the evidence behind it on that of the step that made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prefect.artifacts import LinkArtifact, MarkdownArtifact, TableArtifact, create_table_artifact

from storage.schema import Market, Source, VersionRef
from storage.settings import Settings
from tasks.champion.promotion import Check
from tasks.execution.metrics import Metrics
from tasks.network.latency import LatencyRow
from tasks.reporting.canvas import png
from tasks.reporting.figures import training_figure
from tasks.reporting.markup import cell_text, data_uri, written
from tasks.reporting.report import METRICS, summary_markdown
from tasks.reporting.report_data import ReportData
from tasks.runs.overall import root_run

_WIDTH = 760  # points: what a Markdown view shows without shrinking it
_COLUMNS = 3  # more do not fit beside each other on a run's page


def page_key(what: str, source: Source, market: Market) -> str:
    """Return what, source and market as Prefect allows them in an artifact's key: lower case, digits and dashes."""
    return f"{what}-{source}-{market.slug}".replace(":", "-").lower()


def put_table(key: str, rows: Iterable[Mapping[str, object]], about: str) -> None:
    """Show a table on the page of the step that made it.

    Args:
        key: Lower case, digits and dashes.
        rows: Lines with the same columns, three at most.
        about: One line above it.
    """
    create_table_artifact(_cells(rows), key=key, description=about)


def show_table(what: str, source: Source, market: Market, rows: Iterable[Mapping[str, object]], about: str) -> None:
    """Show a table under the key of `what` for the market.

    Args:
        what: A word or two, lower case with dashes.
        source: Where the candles come from.
        market: The market.
        rows: Lines with the same columns, three at most.
        about: One line above it.
    """
    put_table(page_key(what, source, market), rows, f"{about}: {market} from {source}")


def show_checklist(source: Source, market: Market, conditions: Iterable[Check], champion: str) -> None:
    """Show the promotion rule line by line."""
    rows = [
        {
            "result": {True: "pass", False: "FAIL", None: "open"}[c.passed],
            "condition": c.name,
            "found, asked": ", ".join(filter(None, (c.found, c.wanted))),
        }
        for c in conditions
    ]
    show_table("promotion", source, market, rows, f"Promotion rule against champion {champion}")


def show_version(report: ReportData, version: VersionRef, location: str) -> None:
    """Show a version: verdict with its pictures, data quality, backtest, latency, and where the report lies.

    Args:
        report: What its page says.
        version: Its name in the store.
        location: Where that page is.
    """
    source, market, speed = report.ref.source, report.manifest.market, report.speed
    show_table("data-quality", source, market, report.data_quality, "What was found in the candles")
    rows = map(_latency_row, (speed.model, *speed.rows))
    show_table("latency", source, market, rows, "One prediction, one thread")
    show_table("backtest", source, market, _metric_rows(report.metrics), "Unseen bars, net of costs")
    root, about = root_run(), f"{market} from {source}, version {report.ref.version}"
    link = report_link(version)
    where = f"[The whole report]({link})" if link else f"**The whole report**\n\n`{location}`"
    MarkdownArtifact(
        markdown=f"{summary_markdown(report)}{_training_picture(report)}\n\n{where}",
        key=page_key("verdict", source, market),
        description=about,
        flow_run_id=root,
    ).create()
    if link:
        key = page_key("report", source, market)
        LinkArtifact(link=link, link_text="The whole report", key=key, description=about, flow_run_id=root).create()


def show_result(source: Source, market: Market, lines: Sequence[tuple[str, str]]) -> None:
    """Show what a run came to, name and value, on the page of the run that was started."""
    rows = _cells({"what": name, "found": value} for name, value in lines)
    about = f"What the run came to: {market} from {source}"
    TableArtifact(
        table=rows, key=page_key("result", source, market), description=about, flow_run_id=root_run()
    ).create()


def report_link(version: VersionRef) -> str:
    """Return where a browser finds the report of a version; nothing where no server shows reports."""
    served = Settings.from_environment().reports_url
    return f"{served}/{version}" if served else ""


def _cells(rows: Iterable[Mapping[str, object]]) -> list[dict[str, str]]:
    table = [{name: _written(value) for name, value in row.items()} for row in rows]
    wide = max((len(row) for row in table), default=0)
    if wide > _COLUMNS:
        raise ValueError(f"a table must have {_COLUMNS} columns at most, had {wide}: {', '.join(table[0])}")
    return table


def _written(value: object) -> str:
    """Return a cell as the report writes it; what is neither number nor text fails here and not in the browser."""
    if value is None or isinstance(value, str | bool | int):
        return cell_text(value)
    return cell_text(float(value))  # type: ignore[arg-type]  # NumPy's numbers


def _latency_row(row: LatencyRow) -> dict[str, str]:
    p50, p99 = (written(us, "us") for us in (row.p50_us, row.p99_us))
    return {"network, runtime": f"{row.name}, {row.runtime}", "median": p50, "99 of 100 within": p99}


def _metric_rows(metrics: Mapping[str, Metrics]) -> list[dict[str, str]]:
    """Return one line a metric: the model's beside that of whoever is told first after it."""
    sides = list(metrics.items())[: _COLUMNS - 1]
    return [
        {"measure": what} | {who: written(getattr(side, name), style) for who, side in sides}
        for name, (what, style) in METRICS.items()
    ]


def _training_picture(report: ReportData) -> str:
    uri = data_uri(png(training_figure(report.training, report.title_label, _WIDTH)), "png")
    return f"\n![Loss of each fold's training, step by step]({uri})\n"
