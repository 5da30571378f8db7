"""What a run shows in the Prefect UI, written as in the report.

One key for each thing and market, so that the UI keeps its history. The verdict stands on the page of the run that
somebody started or a schedule did; the evidence behind it on that of the step that made it.
"""

from collections.abc import Iterable, Mapping, Sequence

from prefect.artifacts import LinkArtifact, MarkdownArtifact, TableArtifact, create_table_artifact

from storage.schema import Market, Source, VersionRef, source_slug
from storage.settings import Settings
from storage.written import cell_text
from tasks.runs.overall import root_run

_COLUMNS = 3  # more do not fit beside each other on a run's page


def page_key(what: str, source: Source, market: Market) -> str:
    """Return what, source and market as Prefect allows them in an artifact's key: lower case, digits and dashes."""
    return f"{what}-{source_slug(source)}-{market.slug}".lower()


def put_table(key: str, rows: Iterable[Mapping[str, object]], about: str) -> None:
    """Show a table on the page of the step that made it.

    `key` is lower case, digits and dashes; three columns at most; `about` is one line above it.
    """
    create_table_artifact(_cells(rows), key=key, description=about)


def show_table(what: str, source: Source, market: Market, rows: Iterable[Mapping[str, object]], about: str) -> None:
    """Show a table under the key of `what`, a word or two with dashes, for the market; the rest as in `put_table`."""
    put_table(page_key(what, source, market), rows, f"{about}: {market} from {source}")


def show_verdict(source: Source, market: Market, version: VersionRef, markdown: str, location: str) -> None:
    """Show a version's verdict on the page of the run that was started, and where its report lies.

    That is a link, or for who has no server that shows reports, the `location` of the file.
    """
    root, about = root_run(), f"{market} from {source}, version {version.version}"
    link = report_link(version)
    where = f"[The whole report]({link})" if link else f"**The whole report**\n\n`{location}`"
    key = page_key("verdict", source, market)
    MarkdownArtifact(markdown=f"{markdown}\n\n{where}", key=key, description=about, flow_run_id=root).create()
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


def panel_link(source: Source) -> str:
    """Return where a browser finds all markets of a source side by side; nothing where no server shows reports."""
    served = Settings.from_environment().reports_url
    return f"{served}/{source}" if served else ""


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
